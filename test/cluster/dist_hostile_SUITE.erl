%% Peers that break the protocol: each costs its own link, and nobody else notices.
-module(dist_hostile_SUITE).
-export([all/0, init/1]).
-export([malformed_packets/1, huge_packet_announced/1, half_open_connections/1, deep_term/1]).
-import(scope_peer, [peer/2, port_of/2, on_a/2, control/2, raw_link/3, raw_handshake/3, raw_pid/1,
        raw_ref/2, packet/1, packet/2, send_term/3, send_packet/2, recv_no_tick/1]).

-spec all() -> [atom()].
all() ->
    [malformed_packets, huge_packet_announced, half_open_connections, deep_term].

-spec init(scope_test:config()) -> scope_test:config().
init(Config) -> scope_peer:init(Config).

%% --- broken peers ----------------------------------------------------------------------------------------------------

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
