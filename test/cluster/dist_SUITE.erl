%% The distribution layer (cnode/dist) as a peer of real BEAM nodes, through the program dist_peer: calls, signals, rpc.
-module(dist_SUITE).
-export([all/0, init/1]).
-export([call_and_cast_by_name_and_pid/1, multi_call/1, noproc_at_once/1, monitor_by_name_and_pid/1,
         monitor_of_a_beam_process/1, link_both_directions/1, exit_signals/1, alias_replies/1,
         late_reply_is_not_delivered/1, watcher_gone_is_told/1, rpc_allowed_and_refused/1, rex_forms/1,
         spawn_refused/1, ping_and_hidden/1, seq_trace_token_is_carried/1, calls_out/1, spawn_out/1]).
-export([echo_server/1]).
-import(scope_peer, [peer/2, on_a/2, control/2, actor/1, next/0, nothing/0]).

-spec all() -> [atom()].
all() ->
    [call_and_cast_by_name_and_pid, multi_call, noproc_at_once, monitor_by_name_and_pid,
     monitor_of_a_beam_process, link_both_directions, exit_signals, alias_replies, late_reply_is_not_delivered,
     watcher_gone_is_told, rpc_allowed_and_refused, rex_forms, spawn_refused, ping_and_hidden,
     seq_trace_token_is_carried, calls_out, spawn_out].

-spec init(scope_test:config()) -> scope_test:config().
init(Config) -> scope_peer:init(Config).

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
