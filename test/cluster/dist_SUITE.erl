%% The distribution layer (cnode/dist) as a peer of real BEAM nodes, through the program dist_peer.
-module(dist_SUITE).
-export([all/0, init/1]).
-export([call_and_cast_by_name_and_pid/1, multi_call/1, noproc_at_once/1, monitor_by_name_and_pid/1,
         monitor_of_a_beam_process/1, link_both_directions/1, exit_signals/1, alias_replies/1,
         late_reply_is_not_delivered/1, watcher_gone_is_told/1, rpc_allowed_and_refused/1, rex_forms/1,
         spawn_refused/1, ping_and_hidden/1, seq_trace_token_is_carried/1, calls_out/1, spawn_out/1,
         connect_errors/1, wrong_cookie_both_directions/1, name_taken/1, simultaneous_connect/1,
         killed_peer_is_noticed/1, restarted_peer_replaces_its_link/1, epmd_restart/1, large_messages/1,
         long_names/1, client_only/1, busy_queue_is_refused/1, silent_peer_is_dropped/1, short_ticktime/1,
         malformed_packets/1, huge_packet_announced/1, half_open_connections/1, deep_term/1]).
-export([echo_server/1]).

-spec all() -> [atom()].
all() ->
    [call_and_cast_by_name_and_pid, multi_call, noproc_at_once, monitor_by_name_and_pid,
     monitor_of_a_beam_process, link_both_directions, exit_signals, alias_replies,
     late_reply_is_not_delivered, watcher_gone_is_told, rpc_allowed_and_refused, rex_forms, spawn_refused,
     ping_and_hidden, seq_trace_token_is_carried, calls_out, spawn_out, connect_errors,
     wrong_cookie_both_directions, name_taken, simultaneous_connect, killed_peer_is_noticed,
     restarted_peer_replaces_its_link, epmd_restart, large_messages, long_names, client_only,
     busy_queue_is_refused, silent_peer_is_dropped, short_ticktime, malformed_packets, huge_packet_announced,
     half_open_connections, deep_term].

%% One peer and one BEAM node for all cases that do no harm.
-spec init(scope_test:config()) -> scope_test:config().
init(Config) ->
    A = scope_test:start_node(Config, a),
    {P, Scope} = peer(Config, []),
    Config#{a => A, peer => P, scope => Scope}.

peer(Config, Args) -> peer(Config, scope_test:unique_name(scope), Args).

peer(Config, Name, Args) ->
    P = scope_test:start_program(Config, scope_test:bin("dist_peer"), [atom_to_list(Name) | Args],
                                 [{"SCOPE_TEST_COOKIE", maps:get(cookie, Config)}]),
    [NameText, _Port] = scope_test:await_line(P, "^ready (\\S+) (\\d+)", 10000),
    {P, binary_to_atom(NameText)}.

port_of(Config, Node) ->
    [Short, _] = string:split(atom_to_list(Node), "@"),
    {_, Port} = lists:keyfind(Short, 1, scope_test:epmd_names(Config)),
    Port.

%% Runs a fun on the BEAM node of the suite.
on_a(#{a := Node}, Fun) -> scope_test:rpc(Node, Fun).

control(Scope, Request) -> gen_server:call({control, Scope}, Request, 20000).

actor(Scope) -> control(Scope, {actor, self()}).

next() -> next(5000).
next(Timeout) -> receive M -> M after Timeout -> error(no_message) end.
nothing() -> receive M -> error({unexpected, M}) after 100 -> ok end.

%% --- calls in --------------------------------------------------------------------------------------------------------

-spec call_and_cast_by_name_and_pid(map()) -> ok.
call_and_cast_by_name_and_pid(#{scope := Scope} = Config) ->
    on_a(Config, fun() ->
        {echo, {some, [request], #{1 := <<"x">>}}} =
            gen_server:call({echo, Scope}, {some, [request], #{1 => <<"x">>}}),
        Pid = erpc:call(Scope, erlang, whereis, [echo]),
        Scope = node(Pid),
        {echo, hello} = gen_server:call(Pid, hello),
        ok = gen_server:cast({echo, Scope}, {self(), 1}),
        {cast, 1} = next(),
        ok = gen_server:cast(Pid, {self(), 2}),
        {cast, 2} = next(),
        later = gen_server:call(Pid, {later, 20, later}),
        ok
    end).

-spec multi_call(map()) -> ok.
multi_call(#{scope := Scope} = Config) ->
    {_, Other} = peer(Config, []),
    on_a(Config, fun() ->
        {Good, Bad} = gen_server:multi_call([Scope, Other, 'none@localhost'], echo, x, 5000),
        scope_test:assert_eq(lists:sort([{Scope, {echo, x}}, {Other, {echo, x}}]), lists:sort(Good)),
        scope_test:assert_eq(['none@localhost'], Bad),
        {[], [Scope]} = gen_server:multi_call([Scope], no_such_name, x, 5000),
        ok
    end).

-spec noproc_at_once(map()) -> ok.
noproc_at_once(#{scope := Scope} = Config) ->
    on_a(Config, fun() ->
        {echo, _} = gen_server:call({echo, Scope}, x),
        {Us, {'EXIT', {noproc, _}}} =
            timer:tc(fun() -> catch gen_server:call({no_such_name, Scope}, x) end),
        true = Us < 1000000,
        Actor = actor(Scope),
        ok = control(Scope, {'end', Actor, normal}),
        {'EXIT', {noproc, _}} = (catch gen_server:call(Actor, x)),
        ok
    end).

%% --- monitors and links ----------------------------------------------------------------------------------------------

-spec monitor_by_name_and_pid(map()) -> ok.
monitor_by_name_and_pid(Config) ->
    {_, Scope} = peer(Config, []),
    on_a(Config, fun() ->
        Actor = actor(Scope),
        M1 = monitor(process, Actor),
        M2 = monitor(process, {echo, Scope}),
        M3 = monitor(process, {nobody, Scope}),
        {'DOWN', M3, process, {nobody, Scope}, noproc} = next(),
        ok = control(Scope, {'end', Actor, {because, 1}}),
        {'DOWN', M1, process, Actor, {because, 1}} = next(),
        {'EXIT', {stopped, _}} = (catch gen_server:call({echo, Scope}, stop)),
        {'DOWN', M2, process, {echo, Scope}, stopped} = next(),
        %% A demonitored process says nothing.
        Actor2 = actor(Scope),
        M4 = monitor(process, Actor2),
        true = demonitor(M4),
        {watcher_gone, Actor2, _} = next(),
        ok = control(Scope, {'end', Actor2, x}),
        nothing()
    end).

-spec monitor_of_a_beam_process(map()) -> ok.
monitor_of_a_beam_process(#{scope := Scope} = Config) ->
    on_a(Config, fun() ->
        Actor = actor(Scope),
        {P, _} = spawn_monitor(fun() -> receive {die, R} -> exit(R) end end),
        true = register(mortal, P),
        R1 = control(Scope, {monitor, Actor, P}),
        R2 = control(Scope, {monitor, Actor, {mortal, node()}}),
        R3 = control(Scope, {monitor, Actor, {nobody, node()}}),
        {down, Actor, R3, noproc} = next(),
        R4 = control(Scope, {monitor, Actor, {nobody, 'none@localhost'}}),
        {down, Actor, R4, noconnection} = next(),
        R5 = control(Scope, {monitor, Actor, P}),
        ok = control(Scope, {demonitor, R5}),
        P ! {die, [reason]},
        receive {'DOWN', _, _, P, _} -> ok end,
        {down, Actor, RA, [reason]} = next(),
        {down, Actor, RB, [reason]} = next(),
        scope_test:assert_eq(lists:sort([R1, R2]), lists:sort([RA, RB])),
        nothing()
    end).

-spec link_both_directions(map()) -> ok.
link_both_directions(#{scope := Scope} = Config) ->
    on_a(Config, fun() ->
        process_flag(trap_exit, true),
        %% We link to it, it ends.
        Actor = actor(Scope),
        true = link(Actor),
        ok = control(Scope, {'end', Actor, {shutdown, 1}}),
        {'EXIT', Actor, {shutdown, 1}} = next(),
        %% A dead one.
        true = link(Actor),
        {'EXIT', Actor, noproc} = next(),
        %% It links to us, we end.
        Actor2 = actor(Scope),
        P = spawn(fun() -> receive {die, R} -> exit(R) end end),
        ok = control(Scope, {link, Actor2, P}),
        P ! {die, gone},
        {exit, Actor2, P, gone, true} = next(),
        %% Unlinked from either side, nothing is heard.
        Actor3 = actor(Scope),
        true = link(Actor3),
        true = unlink(Actor3),
        ok = control(Scope, {link, Actor3, self()}),
        ok = control(Scope, {unlink, Actor3, self()}),
        ok = control(Scope, {'end', Actor3, boom}),
        nothing(),
        %% Linked again after an unlink.
        Actor4 = actor(Scope),
        [begin true = link(Actor4), true = unlink(Actor4) end || _ <- lists:seq(1, 50)],
        true = link(Actor4),
        ok = control(Scope, {'end', Actor4, again}),
        {'EXIT', Actor4, again} = next(),
        nothing()
    end).

-spec exit_signals(map()) -> ok.
exit_signals(#{scope := Scope} = Config) ->
    on_a(Config, fun() ->
        process_flag(trap_exit, true),
        Self = self(),
        Actor = actor(Scope),
        true = exit(Actor, kill),
        {exit, Actor, Self, kill, false} = next(),
        ok = control(Scope, {exit, Actor, self(), {some, reason}}),
        {'EXIT', Actor, {some, reason}} = next(),
        ok
    end).

-spec alias_replies(map()) -> ok.
alias_replies(#{scope := Scope} = Config) ->
    on_a(Config, fun() ->
        Actor = actor(Scope),
        Alias = control(Scope, {alias, Actor}),
        Alias ! hello,
        {message, Actor, hello} = next(),
        Bogus = make_ref(),
        ok = control(Scope, {send, self(), Bogus}),
        Bogus = next(),
        %% gen_server:call of OTP 25 uses aliases; an explicit one:
        Ref = monitor(process, {echo, Scope}, [{alias, reply_demonitor}]),
        {echo, Scope} ! {'$gen_call', {self(), [alias | Ref]}, q},
        {[alias | Ref], {echo, q}} = next(),
        ok
    end).

-spec late_reply_is_not_delivered(map()) -> ok.
late_reply_is_not_delivered(#{scope := Scope} = Config) ->
    on_a(Config, fun() ->
        {'EXIT', {timeout, _}} = (catch gen_server:call({echo, Scope}, {later, 150, x}, 50)),
        receive M -> error({late, M}) after 300 -> ok end
    end).

-spec watcher_gone_is_told(map()) -> ok.
watcher_gone_is_told(#{scope := Scope} = Config) ->
    B = scope_test:start_node(Config, b),
    BNode = scope_test:node_of(B),
    on_a(Config, fun() ->
        Actor = actor(Scope),
        pong = net_adm:ping(BNode),
        W = spawn(BNode, fun() -> monitor(process, Actor), Actor ! watching, receive x -> x end end),
        {message, Actor, watching} = next(),
        _ = os:cmd("kill -9 " ++ erpc:call(BNode, os, getpid, [])),
        {watcher_gone, Actor, W} = next(),
        ok
    end).

%% --- rpc -------------------------------------------------------------------------------------------------------------

-spec rpc_allowed_and_refused(map()) -> ok.
rpc_allowed_and_refused(#{scope := Scope} = Config) ->
    on_a(Config, fun() ->
        Scope = rpc:call(Scope, erlang, node, []),
        Scope = erpc:call(Scope, erlang, node, []),
        undefined = erpc:call(Scope, erlang, whereis, [nobody]),
        {badrpc, {'EXIT', {undef, [{os, cmd, ["ls"], []} | _]}}} = rpc:call(Scope, os, cmd, ["ls"]),
        try erpc:call(Scope, os, cmd, ["ls"]) of
            Unexpected -> error({allowed, Unexpected})
        catch
            error:{exception, undef, [{os, cmd, ["ls"], []} | _]} -> ok
        end,
        {badrpc, {'EXIT', {badarg, _}}} = rpc:call(Scope, erlang, whereis, [1]),
        ok = erpc:cast(Scope, erlang, node, []),
        true = rpc:cast(Scope, erlang, node, []),
        [{ok, Scope}] = erpc:multicall([Scope], erlang, node, []),
        {[Scope], []} = rpc:multicall([Scope], erlang, node, []),
        Key = rpc:async_call(Scope, erlang, is_alive, []),
        true = rpc:yield(Key),
        ok
    end).

-spec rex_forms(map()) -> ok.
rex_forms(#{scope := Scope} = Config) ->
    on_a(Config, fun() ->
        Scope = gen_server:call({rex, Scope}, {call, erlang, node, [], group_leader()}),
        Scope = rpc:block_call(Scope, erlang, node, []),
        {badrpc, {'EXIT', {undef, _}}} = gen_server:call({rex, Scope}, {call, a, b, [], user}),
        {badrpc, notsup} = gen_server:call({rex, Scope}, nonsense),
        Actor = actor(Scope),
        {[Scope], []} = rpc:sbcast([Scope], echo, hello),
        {[], [Scope]} = rpc:sbcast([Scope], nobody, hello),
        abcast = rpc:abcast([Scope], echo, hello),
        ok = control(Scope, {'end', Actor, normal}),
        {rex, Scope} ! {self(), features_request},
        {features_reply, Scope, [erpc]} = next(),
        ok
    end).

-spec spawn_refused(map()) -> ok.
spawn_refused(#{scope := Scope} = Config) ->
    on_a(Config, fun() ->
        process_flag(trap_exit, true),
        R = spawn_request(Scope, lists, seq, [1, 2], [monitor, link]),
        {spawn_reply, R, error, notsup} = next(),
        P = spawn(Scope, lists, seq, [1, 2]),
        true = is_pid(P),
        {'EXIT', {{exception, undef, _}, _}} = (catch erpc:call(Scope, fun() -> ok end)),
        ok
    end).

-spec ping_and_hidden(map()) -> ok.
ping_and_hidden(#{scope := Scope} = Config) ->
    on_a(Config, fun() ->
        pong = net_adm:ping(Scope),
        true = lists:member(Scope, nodes(hidden)),
        false = lists:member(Scope, nodes()),
        Links = control(Scope, links),
        {_, false} = lists:keyfind(node(), 1, Links),
        true = is_list(control(Scope, names)),
        ok
    end).

-spec seq_trace_token_is_carried(map()) -> ok.
seq_trace_token_is_carried(#{scope := Scope} = Config) ->
    on_a(Config, fun() ->
        seq_trace:set_token(label, {any, "term"}),
        seq_trace:set_token(serial, {0, 0}),
        {echo, x} = gen_server:call({echo, Scope}, x),
        {label, {any, "term"}} = seq_trace:get_token(label),
        {serial, {_, Current}} = seq_trace:get_token(serial),
        true = Current >= 2,
        %% A later answer carries it too: without one our own token would be replaced by none.
        y = gen_server:call({echo, Scope}, {later, 10, y}),
        {label, {any, "term"}} = seq_trace:get_token(label),
        seq_trace:set_token([]),
        {echo, z} = gen_server:call({echo, Scope}, z),
        [] = seq_trace:get_token(),
        ok
    end).

%% --- calls out -------------------------------------------------------------------------------------------------------

-spec echo_server(pid()) -> ok.
echo_server(Parent) ->
    true = register(beam_echo, self()),
    Parent ! ready,
    (fun Loop() ->
         receive
             {'$gen_call', _, die} -> exit(died);
             {'$gen_call', _, never} -> Loop();
             {'$gen_call', From, Q} -> gen:reply(From, {beam, Q}), Loop()
         end
     end)().

-spec calls_out(map()) -> ok.
calls_out(#{scope := Scope} = Config) ->
    on_a(Config, fun() ->
        Self = self(),
        spawn_link(fun() -> process_flag(trap_exit, true), unlink(Self), echo_server(Self) end),
        ready = next(),
        Node = node(),
        Gen = fun(Name, Request) -> control(Scope, {gen_call, Name, Node, Request, 500}) end,
        {ok, {beam, q}} = Gen(beam_echo, q),
        {error, no_such_process, _} = Gen(nobody, q),
        {error, timeout, _} = Gen(beam_echo, never),
        {error, refused, Died} = Gen(beam_echo, die),
        {_, _} = binary:match(Died, <<"died">>),
        Rpc = fun(M, F, Args) -> control(Scope, {rpc, Node, M, F, Args, 500}) end,
        {ok, [1, 2, 3]} = Rpc(lists, seq, [1, 3]),
        {error, refused, Undef} = Rpc(no_such_module, f, []),
        {_, _} = binary:match(Undef, <<"undef">>),
        {error, refused, Thrown} = Rpc(erlang, throw, [ball]),
        {_, _} = binary:match(Thrown, <<"throw: ball">>),
        {error, timeout, _} = Rpc(timer, sleep, [2000]),
        {error, unknown_node, _} = control(Scope, {rpc, 'none@localhost', erlang, node, [], 500}),
        {ok, {echo, q}} = control(Scope, {gen_call, echo, Scope, q, 500}),
        {error, no_such_process, _} = control(Scope, {gen_call, nobody, Scope, q, 500}),
        ok = control(Scope, {send, Self, to_pid}),
        to_pid = next(),
        true = register(listener, Self),
        ok = control(Scope, {send, {listener, Node}, to_name}),
        to_name = next(),
        ok
    end).

-spec spawn_out(map()) -> ok.
spawn_out(#{scope := Scope} = Config) ->
    on_a(Config, fun() ->
        Actor = actor(Scope),
        Spawn = fun(M, F, Args, Opts) -> control(Scope, {spawn, Actor, node(), M, F, Args, Opts}) end,
        {ok, P1} = Spawn(timer, sleep, [infinity], [link, monitor]),
        exit(P1, foo),
        L = lists:sort([next(), next()]),
        [{down, Actor, _, foo}, {exit, Actor, P1, foo, true}] = L,
        {ok, P2} = Spawn(timer, sleep, [infinity], [link]),
        M2 = monitor(process, P2),
        ok = control(Scope, {'end', Actor, over}),
        {'DOWN', M2, process, P2, over} = next(),
        ok
    end).

%% --- connecting ------------------------------------------------------------------------------------------------------

-spec connect_errors(map()) -> ok.
connect_errors(#{scope := Scope} = Config) ->
    Connect = fun(Node) -> on_a(Config, fun() -> control(Scope, {connect, Node}) end) end,
    ok = Connect(scope_test:node_of(maps:get(a, Config))),
    {error, unknown_node, _} = Connect('none@localhost'),
    {error, unknown_node, _} = Connect('none@no-such-host-at-all'),
    {error, bad_value, _} = Connect('none@long.name'),
    {error, bad_value, _} = Connect('nohost'),
    %% Registered, but nobody listens.
    Gone = register_raw(Config, "gone", scope_test:free_port()),
    {error, node_down, _} = Connect('gone@localhost'),
    gen_tcp:close(Gone),
    %% Another name answers.
    Other = register_raw(Config, "other", port_of(Config, scope_test:node_of(maps:get(a, Config)))),
    {error, bad_value, _} = Connect('other@localhost'),
    gen_tcp:close(Other),
    %% Something listens that never says a word, or is no node.
    {_, Hasty} = peer(Config, ["handshake_ms=300"]),
    {ok, L} = gen_tcp:listen(0, [{ip, {127, 0, 0, 1}}, binary, {active, false}]),
    {ok, LPort} = inet:port(L),
    Mute = register_raw(Config, "mute", LPort),
    {error, timeout, _} = on_a(Config, fun() -> control(Hasty, {connect, 'mute@localhost'}) end),
    Self = self(),
    spawn_link(fun() ->
                       {ok, S0} = gen_tcp:accept(L),
                       _ = gen_tcp:recv(S0, 0),
                       {ok, S} = gen_tcp:accept(L),
                       gen_tcp:send(S, <<"HTTP/1.1 400 Bad Request\r\n\r\n">>),
                       Self ! sent
               end),
    {error, malformed, _} = on_a(Config, fun() -> control(Hasty, {connect, 'mute@localhost'}) end),
    gen_tcp:close(Mute),
    %% A node that allows only others.
    Strict = scope_test:start_node(Config, strict),
    ok = scope_test:rpc(Strict, net_kernel, allow, [['someone@localhost']]),
    {error, refused, _} = Connect(scope_test:node_of(Strict)),
    ok.

%% A name in epmd with any port: the registration lives as long as the socket.
register_raw(#{epmd_port := EpmdPort}, Name, Port) ->
    {ok, S} = gen_tcp:connect({127, 0, 0, 1}, EpmdPort, [binary, {active, false}]),
    Body = <<120, Port:16, 77, 0, 6:16, 5:16, (length(Name)):16, (list_to_binary(Name))/binary, 0:16>>,
    ok = gen_tcp:send(S, [<<(byte_size(Body)):16>>, Body]),
    {ok, <<118, 0, _:32>>} = gen_tcp:recv(S, 6, 5000),
    S.

-spec wrong_cookie_both_directions(map()) -> ok.
wrong_cookie_both_directions(#{scope := Scope} = Config) ->
    Stranger = scope_test:start_node(Config, stranger, #{cookie => "other"}),
    Node = scope_test:node_of(Stranger),
    {error, auth_failed, Text} = on_a(Config, fun() -> control(Scope, {connect, Node}) end),
    nomatch = binary:match(Text, list_to_binary(maps:get(cookie, Config))),
    pang = scope_test:rpc(Stranger, net_adm, ping, [Scope]),
    Counters = on_a(Config, fun() -> control(Scope, counters) end),
    true = maps:get(handshake_auth, Counters) >= 2,
    ok = scope_test:rpc(Stranger, fun() -> true = erlang:set_cookie(list_to_atom(maps:get(cookie, Config))), ok end),
    ok = on_a(Config, fun() -> control(Scope, {connect, Node}) end).

-spec name_taken(map()) -> ok.
name_taken(#{scope := Scope} = Config) ->
    P = scope_test:start_program(Config, scope_test:bin("dist_peer"), [atom_to_list(Scope)],
                                 [{"SCOPE_TEST_COOKIE", maps:get(cookie, Config)}]),
    _ = scope_test:await_line(P, "^error: bad_value: .*running", 5000),
    1 = scope_test:await_exit(P, 5000),
    ok.

%% Both connect at the same moment, 20 times, with a name that sorts before and one that sorts after the BEAM's.
-spec simultaneous_connect(map()) -> ok.
simultaneous_connect(#{a := A} = Config) ->
    ANode = scope_test:node_of(A),
    {_, First} = peer(Config, scope_test:unique_name('A'), []),
    {_, Last} = peer(Config, scope_test:unique_name(z), []),
    %% Orders come by way of another node, so that the pair is not connected already.
    B = scope_test:start_node(Config, b),
    [begin
         scope_test:rpc(A, fun() -> erlang:disconnect_node(Scope) end),
         scope_test:rpc(B, fun() -> control(Scope, {disconnect, ANode}) end),
         scope_test:wait_until(
           fun() ->
                   not lists:member(Scope, scope_test:rpc(A, erlang, nodes, [hidden])) andalso
                       not lists:keymember(ANode, 1, scope_test:rpc(B, fun() -> control(Scope, links) end))
           end),
         Self = self(),
         spawn_link(fun() -> Self ! {a, scope_test:rpc(A, net_kernel, connect_node, [Scope])} end),
         spawn_link(fun() -> Self ! {s, scope_test:rpc(B, fun() -> control(Scope, {connect, ANode}) end)} end),
         receive {a, RA} -> true = RA after 10000 -> error({a, Round, Scope}) end,
         receive {s, RS} -> ok = RS after 10000 -> error({s, Round, Scope}) end,
         %% One link, and it works both ways.
         {echo, Round} = scope_test:rpc(A, gen_server, call, [{echo, Scope}, Round]),
         {ok, ANode} = scope_test:rpc(B, fun() -> control(Scope, {rpc, ANode, erlang, node, [], 2000}) end)
     end || Scope <- [First, Last], Round <- lists:seq(1, 20)],
    ok.

-spec killed_peer_is_noticed(map()) -> ok.
killed_peer_is_noticed(Config) ->
    {P, Scope} = peer(Config, []),
    B = scope_test:start_node(Config, b),
    BNode = scope_test:node_of(B),
    on_a(Config, fun() ->
        Actor = actor(Scope),
        process_flag(trap_exit, true),
        {ok, _} = control(Scope, {spawn, Actor, BNode, timer, sleep, [infinity], [link, monitor]}),
        ok
    end),
    ok = scope_test:kill(B),
    _ = scope_test:await_line(P, "^down b_", 5000),
    on_a(Config, fun() ->
        M = monitor(process, {echo, Scope}),
        Self = self(),
        spawn(fun() -> Self ! {'call', catch gen_server:call({echo, Scope}, never)} end),
        _ = os:cmd("kill -9 " ++ integer_to_list(scope_test:os_pid(P))),
        receive {'DOWN', M, process, _, noconnection} -> ok after 5000 -> error(unnoticed) end,
        receive {'call', {'EXIT', {{nodedown, Scope}, _}}} -> ok after 5000 -> error(unnoticed) end
    end).

%% A node that died and came back before its old link was seen to be dead.
-spec restarted_peer_replaces_its_link(map()) -> ok.
restarted_peer_replaces_its_link(Config) ->
    {P, Scope} = peer(Config, []),
    {S1, _} = raw_link(Config, Scope, "raw@localhost"),
    _ = scope_test:await_line(P, "^up raw@localhost", 5000),
    {S2, alive} = raw_link(Config, Scope, "raw@localhost"),
    _ = scope_test:await_line(P, "^down raw@localhost replaced", 5000),
    _ = scope_test:await_line(P, "^up raw@localhost", 5000),
    {error, closed} = recv_no_tick(S1),
    gen_tcp:close(S2),
    _ = scope_test:await_line(P, "^down raw@localhost connection_closed", 5000),
    ok.

-spec epmd_restart(map()) -> ok.
epmd_restart(Config) ->
    {P, Scope} = peer(Config, []),
    on_a(Config, fun() -> {echo, 1} = gen_server:call({echo, Scope}, 1), ok end),
    ok = scope_test:kill_epmd(Config),
    on_a(Config, fun() -> {echo, 2} = gen_server:call({echo, Scope}, 2), ok end),
    {error, io, _} = on_a(Config, fun() -> control(Scope, {connect, 'none@localhost'}) end),
    _ = scope_test:start_epmd(Config),
    _ = scope_test:await_line(P, "registered with epmd again", 10000),
    _ = port_of(Config, Scope),
    C = scope_test:start_node(Config, c),
    pong = scope_test:rpc(C, net_adm, ping, [Scope]),
    %% The suite's own peer and node come back by themselves, too.
    {Short, _} = {hd(string:split(atom_to_list(maps:get(scope, Config)), "@")), x},
    scope_test:wait_until(fun() -> lists:keymember(Short, 1, scope_test:epmd_names(Config)) end),
    [Base, _] = string:split(atom_to_list(scope_test:node_of(maps:get(a, Config))), "@"),
    scope_test:wait_until(fun() -> lists:keymember(Base, 1, scope_test:epmd_names(Config)) end, 20000).

-spec large_messages(map()) -> ok.
large_messages(#{scope := Scope} = Config) ->
    Size = 40 bsl 20,
    {In, Out} =
        on_a(Config, fun() ->
            {echo, x} = gen_server:call({echo, Scope}, x),
            Bin = binary:copy(<<"0123456789abcdef">>, Size div 16),
            {UsIn, Size} = timer:tc(gen_server, call, [{echo, Scope}, {size, Bin}, 30000]),
            {UsOut, Back} = timer:tc(gen_server, call, [{echo, Scope}, {big, Size}, 30000]),
            Size = byte_size(Back),
            {UsIn, UsOut}
        end),
    scope_test:log("40 MB in ~b ms, out ~b ms", [In div 1000, Out div 1000]).

-spec long_names(map()) -> ok.
long_names(Config) ->
    Name = scope_test:unique_name(scope, "127.0.0.1"),
    {_, Scope} = peer(Config, Name, ["long"]),
    L = scope_test:start_node(Config, scope_test:unique_name(l, "127.0.0.1"), #{longnames => true}),
    LNode = scope_test:node_of(L),
    pong = scope_test:rpc(L, net_adm, ping, [Scope]),
    {ok, LNode} = scope_test:rpc(L, fun() -> control(Scope, {rpc, LNode, erlang, node, [], 2000}) end),
    {error, bad_value, _} = scope_test:rpc(L, fun() -> control(Scope, {connect, a@localhost}) end),
    P = scope_test:start_program(Config, scope_test:bin("dist_peer"), ["scope@short", "long"],
                                 [{"SCOPE_TEST_COOKIE", "x"}]),
    _ = scope_test:await_line(P, "^error: bad_value: .*dot", 5000),
    ok.

%% A node that does not listen (a command line): it connects and calls; epmd never hears of it.
-spec client_only(map()) -> ok.
client_only(Config) ->
    ANode = atom_to_list(scope_test:node_of(maps:get(a, Config))),
    Before = length(scope_test:epmd_names(Config)),
    {P, Client} = peer(Config, ["client", "connect=" ++ ANode]),
    _ = scope_test:await_line(P, "^up a_", 5000),
    Before = length(scope_test:epmd_names(Config)),
    {echo, x} = on_a(Config, fun() -> gen_server:call({echo, Client}, x) end),
    ok = scope_test:kill(P, "TERM"),
    0 = scope_test:await_exit(P, 5000),
    pang = on_a(Config, fun() -> net_adm:ping(Client) end),
    ok.

-spec busy_queue_is_refused(map()) -> ok.
busy_queue_is_refused(Config) ->
    {P, Scope} = peer(Config, ["max_queue=100000"]),
    {S, _} = raw_link(Config, Scope, "slow@localhost"),
    _ = scope_test:await_line(P, "^up slow@localhost", 5000),
    %% It asks for 20 MB a time and reads nothing. Its kernel buffers fill; further replies are refused.
    [send_term(S, reg_send("slow@localhost", <<"echo">>),
               {'$gen_call', {raw_pid("slow@localhost"), tag}, {big, 20000000}}) || _ <- lists:seq(1, 3)],
    scope_test:wait_until(fun() ->
        maps:get(send_busy, on_a(Config, fun() -> control(Scope, counters) end)) > 0
    end),
    %% What must not be lost closes the link in the end: monitors of nobody are answered.
    on_a(Config, fun() -> {echo, x} = gen_server:call({echo, Scope}, x), ok end),
    Ctl = fun(N) -> {19, raw_pid("slow@localhost"), list_to_atom(lists:duplicate(200, $n)), raw_ref("slow@localhost", N)} end,
    _ = [send_ctl(S, Ctl(N)) || N <- lists:seq(1, 10)],
    _ = scope_test:await_line(P, "^down slow@localhost the peer does not read", 5000),
    1 = maps:get(queue_overflow, on_a(Config, fun() -> control(Scope, counters) end)),
    ok.

-spec silent_peer_is_dropped(map()) -> ok.
silent_peer_is_dropped(Config) ->
    {P, Scope} = peer(Config, ["ticktime_ms=800", "tick_ms=200"]),
    {S, _} = raw_link(Config, Scope, "mute@localhost"),
    _ = scope_test:await_line(P, "^up mute@localhost", 5000),
    %% Partial data is life: a packet that arrives byte by byte over 2 s.
    Packet = packet({6, raw_pid("mute@localhost"), '', echo}, {'$gen_cast', x}),
    Head = <<(byte_size(Packet)):32, (binary:part(Packet, 0, 16))/binary>>,
    [begin ok = gen_tcp:send(S, <<B>>), timer:sleep(100) end || <<B>> <= Head],
    {error, timeout} = gen_tcp:recv(S, 5000, 0),
    ok = flush_ticks(S),
    _ = scope_test:await_line(P, "^down mute@localhost net_tick_timeout", 5000),
    {error, closed} = recv_no_tick(S),
    ok.

%% A BEAM with net_ticktime 4 (it gives up after 4 s of silence) keeps an idle link.
-spec short_ticktime(map()) -> ok.
short_ticktime(#{scope := Scope} = Config) ->
    T = scope_test:start_node(Config, t, #{args => ["-kernel", "net_ticktime", "4"]}),
    scope_test:rpc(T, fun() ->
        {echo, x} = gen_server:call({echo, Scope}, x),
        M = monitor(process, {echo, Scope}),
        receive {'DOWN', M, _, _, R} -> error({lost, R}) after 7000 -> ok end,
        true = lists:member(Scope, nodes(hidden)),
        ok
    end).

%% --- broken peers ----------------------------------------------------------------------------------------------------

%% The handshake of a proper node; {Socket, Status}.
raw_link(Config, Scope, Name) ->
    {ok, S} = gen_tcp:connect({127, 0, 0, 1}, port_of(Config, Scope), [binary, {active, false}, {packet, 2}]),
    raw_handshake(S, Name, maps:get(cookie, Config)).

raw_handshake(S, Name, Cookie) ->
    NameBin = list_to_binary(Name),
    ok = gen_tcp:send(S, <<$N, 16#D075F4FBC:64, 7:32, (byte_size(NameBin)):16, NameBin/binary>>),
    {ok, <<$s, StatusBin/binary>>} = gen_tcp:recv(S, 0, 5000),
    Status = binary_to_atom(StatusBin),
    [ok = gen_tcp:send(S, <<"strue">>) || Status =:= alive],
    {ok, <<$N, _:64, Challenge:32, _/binary>>} = gen_tcp:recv(S, 0, 5000),
    Digest = fun(C) -> erlang:md5([Cookie, integer_to_list(C)]) end,
    ok = gen_tcp:send(S, [<<$r, 99:32>>, Digest(Challenge)]),
    {ok, <<$a, Ack/binary>>} = gen_tcp:recv(S, 0, 5000),
    Ack = Digest(99),
    ok = inet:setopts(S, [{packet, raw}]),
    {S, Status}.

raw_pid(Node) -> binary_to_term(<<131, 88, 119, (length(Node)), (list_to_binary(Node))/binary, 5:32, 0:32, 7:32>>).
raw_ref(Node, N) ->
    binary_to_term(<<131, 90, 3:16, 119, (length(Node)), (list_to_binary(Node))/binary, 7:32, N:32, 0:32, 0:32>>).

reg_send(Node, Name) -> {6, raw_pid(Node), '', binary_to_atom(Name)}.
packet(Ctl) -> <<112, (term_to_binary(Ctl))/binary>>.
packet(Ctl, Msg) -> <<112, (term_to_binary(Ctl))/binary, (term_to_binary(Msg))/binary>>.
send_ctl(S, Ctl) -> send_packet(S, packet(Ctl)).
send_term(S, Ctl, Msg) -> send_packet(S, packet(Ctl, Msg)).
send_packet(S, P) -> gen_tcp:send(S, [<<(byte_size(P)):32>>, P]).

recv_no_tick(S) ->
    case gen_tcp:recv(S, 4, 5000) of
        {ok, <<0:32>>} -> recv_no_tick(S);
        Other -> Other
    end.

flush_ticks(S) ->
    case gen_tcp:recv(S, 4, 0) of
        {ok, <<0:32>>} -> flush_ticks(S);
        {error, timeout} -> ok
    end.

packets(Scope, Me) ->
    P = raw_pid(Me),
    R = raw_ref(Me, 1),
    To = raw_pid(atom_to_list(Scope)),
    [packet({1, P, To}), packet({35, 1, P, To}), packet({36, 1, P, To}), packet({4, P, To}),
     packet({2, '', To}, x), packet({6, P, '', echo}, {x, y}), packet({22, P, To}, x),
     packet({33, P, R}, [x]), packet({12, '', To, t}, x), packet({16, P, '', echo, t}, x),
     packet({23, P, To, t}, x), packet({34, P, R, t}, x), packet({19, P, echo, R}), packet({20, P, echo, R}),
     packet({21, P, To, R, reason}), packet({28, P, To, R}, reason), packet({3, P, To, r}), packet({8, P, To, r}),
     packet({13, P, To, t, r}), packet({18, P, To, t, r}), packet({24, P, To}, r), packet({26, P, To}, r),
     packet({29, R, P, P, {erpc, execute_call, 4}, [monitor]}, [R, erlang, node, []]),
     packet({30, R, P, P, {a, b, 0}, [], t}, []), packet({31, R, To, 2, P}), packet({32, R, To, 2, P, t}),
     packet({7, P, To})].

%% Every control message, cut at every length: each cut is a connection of its own and costs that connection only.
-spec malformed_packets(map()) -> ok.
malformed_packets(Config) ->
    {P, Scope} = peer(Config, []),
    Port = port_of(Config, Scope),
    Cookie = maps:get(cookie, Config),
    Me = "bad@localhost",
    Open = fun() ->
                   {ok, S} = gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {active, false}, {packet, 2}]),
                   {S, _} = raw_handshake(S, Me, Cookie),
                   S
           end,
    Good = packets(Scope, Me),
    %% Whole, on one link, none is an error.
    S0 = Open(),
    [ok = send_packet(S0, G) || G <- Good],
    ok = send_term(S0, {6, raw_pid(Me), '', echo}, {'$gen_call', {raw_pid(Me), t}, done}),
    ok = await_bytes(S0, <<"done">>),
    gen_tcp:close(S0),
    Bad = [binary:part(G, 0, N) || G <- Good, N <- lists:seq(1, byte_size(G) - 1)]
        ++ [<<G/binary, 0>> || G <- Good]
        ++ [packet(T) || T <- [{99, x}, {}, x, {a, b}, {1, 2, 3}, {19, a, b, c}, {6, raw_pid(Me), '', 1}, [1 | 2]]]
        ++ [<<131, 68, 0>>, <<113, 131, 104, 0>>, <<112>>, <<112, 131, 80, 0:32>>, <<112, 131, 82, 1>>]
        ++ [packet({29, raw_ref(Me, 1), raw_pid(Me), raw_pid(Me), {a, b, 1}, []}, not_a_list)],
    scope_test:log("~b malformed packets", [length(Bad)]),
    [begin
         S = Open(),
         ok = send_packet(S, B),
         case recv_no_tick(S) of
             {error, Closed} when Closed =:= closed; Closed =:= econnreset -> ok;
             Other -> error({survived, B, Other})
         end,
         gen_tcp:close(S)
     end || B <- Bad],
    Counters = on_a(Config, fun() -> control(Scope, counters) end),
    scope_test:assert_eq(length(Bad), maps:get(protocol_errors, Counters)),
    true = scope_test:alive(P),
    ok.

await_bytes(S, Wanted) ->
    {ok, Bytes} = gen_tcp:recv(S, 0, 5000),
    case binary:match(Bytes, Wanted) of
        nomatch -> await_bytes(S, Wanted);
        _ -> ok
    end.

-spec huge_packet_announced(map()) -> ok.
huge_packet_announced(Config) ->
    {P, Scope} = peer(Config, ["max_packet=1000000"]),
    {S, _} = raw_link(Config, Scope, "big@localhost"),
    ok = gen_tcp:send(S, <<16#FFFFFFFF:32, 112, 131>>),
    {error, _} = recv_no_tick(S),
    _ = scope_test:await_line(P, "^down big@localhost a packet of 4294967295 bytes", 5000),
    {S2, _} = raw_link(Config, Scope, "big@localhost"),
    ok = gen_tcp:send(S2, <<1000001:32, 112, 131>>),
    {error, _} = recv_no_tick(S2),
    2 = maps:get(packet_too_large, on_a(Config, fun() -> control(Scope, counters) end)),
    ok.

-spec half_open_connections(map()) -> ok.
half_open_connections(Config) ->
    {P, Scope} = peer(Config, ["handshake_ms=1500"]),
    Port = port_of(Config, Scope),
    Connect = fun() -> {ok, S} = gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {active, false}]), S end,
    Socks = [Connect() || _ <- lists:seq(1, 200)],
    [gen_tcp:send(S, <<0, 40, $N>>) || S <- Socks],
    %% A peer in earnest gets through, at once.
    B = scope_test:start_node(Config, b),
    {Us, pong} = timer:tc(fun() -> scope_test:rpc(B, net_adm, ping, [Scope]) end),
    true = Us < 1000000,
    %% 72 were over the limit; the rest run out of time.
    [{error, _} = gen_tcp:recv(S, 1, 5000) || S <- Socks],
    Counters = scope_test:rpc(B, fun() -> control(Scope, counters) end),
    true = maps:get(handshake_limit, Counters) >= 72,
    true = maps:get(handshake_timeout, Counters) >= 100,
    true = scope_test:alive(P),
    ok.

%% A term that is fine on a BEAM but nested deeper than we read: the message is dropped, the link lives.
-spec deep_term(map()) -> ok.
deep_term(#{scope := Scope} = Config) ->
    on_a(Config, fun() ->
        {echo, x} = gen_server:call({echo, Scope}, x),
        Deep = lists:foldl(fun(_, Acc) -> [Acc] end, [], lists:seq(1, 100000)),
        {echo, Scope} ! Deep,
        {echo, y} = gen_server:call({echo, Scope}, y),
        ok
    end).
