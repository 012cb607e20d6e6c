%% Links of the distribution layer with real BEAM nodes: cookies, names, epmd, large and slow traffic, their ends.
-module(dist_link_SUITE).
-export([all/0, init/1]).
-export([connect_errors/1, wrong_cookie_both_directions/1, name_taken/1, simultaneous_connect/1,
         killed_peer_is_noticed/1, restarted_peer_replaces_its_link/1, epmd_restart/1, large_messages/1,
         long_names/1, client_only/1, busy_queue_is_refused/1, silent_peer_is_dropped/1, short_ticktime/1]).
-import(scope_peer, [peer/2, peer/3, port_of/2, on_a/2, control/2, actor/1, register_raw/3, raw_link/3,
        raw_pid/1, raw_ref/2, reg_send/2, packet/2, send_ctl/2, send_term/3, recv_no_tick/1,
        flush_ticks/1]).

-spec all() -> [atom()].
all() ->
    [connect_errors, wrong_cookie_both_directions, name_taken, simultaneous_connect, killed_peer_is_noticed,
     restarted_peer_replaces_its_link, epmd_restart, large_messages, long_names, client_only,
     busy_queue_is_refused, silent_peer_is_dropped, short_ticktime].

-spec init(scope_test:config()) -> scope_test:config().
init(Config) -> scope_peer:init(Config).

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
