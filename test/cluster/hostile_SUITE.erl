%% The daemon among peers that mean harm: each meets a limit that is written down (cnode/README.md), the daemon's memory stays
%% under 128 MB, and a good node's questions are answered all the while.
-module(hostile_SUITE).
-export([all/0, timeout/1]).
-export([packets/1, terms/1, half_messages/1, many_half_open/1, handshakes_that_trickle/1, an_epmd_that_lies/1, commands/1]).
-import(scope_test, [start_node/2, start_node/3, rpc/2, rpc/4, wait_until/2, assert_eq/2, log/2]).
-import(scope_daemon, [call/3, ask/3, await_live/3]).
-import(scope_peer, [raw_link/3, raw_pid/1, raw_ref/2, packet/1, packet/2, send_packet/2, recv_no_tick/1, port_of/2]).

all() -> [packets, terms, half_messages, many_half_open, handshakes_that_trickle, an_epmd_that_lies, commands].
timeout(_) -> 120000.

%% Harm(Daemon) while a node asks for the status again and again; then the books.
while_asking(Config, Harm) ->
    A = start_node(Config, a),
    D = #{scope := Scope} = scope_daemon:start(Config, [A]),
    await_live(A, D, [A]),
    Asker = rpc(A, fun() -> spawn(fun() -> asking(Scope, 0, 0) end) end),
    Result = Harm(A, D),
    {N, Longest} = rpc(A, fun() -> Asker ! {stop, self()}, receive {asked, Asked, Ms} -> {Asked, Ms} end end),
    true = N > 0,
    Kb = most_memory(D),
    log("~b questions answered, the longest in ~b ms; at most ~b MB", [N, Longest, Kb div 1024]),
    true = Kb < 128 * 1024,
    await_live(A, D, [A]),
    #{counters := Counters} = ask(A, D, status),
    {Result, Counters}.

%% Each call must be answered in its 5 s.
asking(Scope, N, Longest) ->
    {Us, {ok, _}} = timer:tc(gen_server, call, [{elixir_scope, Scope}, status]),
    receive {stop, From} -> From ! {asked, N + 1, max(Longest, Us div 1000)}
    after 10 -> asking(Scope, N + 1, max(Longest, Us div 1000))
    end.

most_memory(D) ->
    {ok, Status} = file:read_file("/proc/" ++ integer_to_list(scope_test:os_pid(D)) ++ "/status"),
    {match, [Kb]} = re:run(Status, "VmHWM:\\s+(\\d+)", [{capture, all_but_first, list}]),
    list_to_integer(Kb).

%% Does the link end?
is_cut(S) ->
    case recv_no_tick(S) of
        {error, E} when E =:= closed; E =:= econnreset -> true;
        {error, timeout} -> false;
        {ok, _} -> false
    end.

%% Lengths of 4 GB, packets that are none, atoms in every encoding, terms that would be unpacked.
packets(Config) ->
    {_, #{protocol_errors := 10, packet_too_large := 1, too_deep := 2}} = while_asking(Config, fun(_, #{scope := Scope}) ->
        Bomb = zlib:compress(binary:copy(<<0>>, 64 bsl 20)),
        Ctl = packet({6, raw_pid("bad@localhost"), '', elixir_scope}),
        Cut = [{raw, <<16#FFFFFFFF:32, 112, 131>>},
               <<Ctl/binary, 131, 80, (4 bsl 30 - 1):32, Bomb/binary>>,
               <<112, 131, 80, (64 bsl 20):32, Bomb/binary>>,
               <<68, 131>>, <<131, 69, 1:64, (4 bsl 20):64>>,
               <<Ctl/binary, 131, 118, 65535:16, "short">>, <<Ctl/binary, 131, 119, 1, 255>>,
               <<Ctl/binary, 131, 100, 2:16, 16#E9, 16#E9>>, <<Ctl/binary, 131, 82, 7>>,
               <<Ctl/binary, 131, 104, 255>>, <<Ctl/binary, 131, 109, (4 bsl 30 - 1):32, 0>>],
        [begin
             {S, _} = raw_link(Config, Scope, "bad@localhost"),
             ok = case P of {raw, Raw} -> gen_tcp:send(S, Raw); _ -> send_packet(S, P) end,
             is_cut(S) orelse error({survived, P}),
             gen_tcp:close(S)
         end || P <- Cut],
        %% These are what some node may send; a list and a map that announce more than we read are dropped, the link stays.
        {S1, _} = raw_link(Config, Scope, "fair@localhost"),
        Me = raw_pid("fair@localhost"),
        [ok = send_packet(S1, <<(packet({6, Me, '', elixir_scope}))/binary, 131, T/binary>>)
         || T <- [<<100, 2:16, "ab">>, <<115, 2, "ab">>, <<118, 2:16, "ab">>, <<119, 2, 16#C3, 16#A9>>,
                                                                                   <<108, (4 bsl 30 - 1):32>>, <<116, (4 bsl 30 - 1):32>>]],
        ok = send_packet(S1, packet({6, Me, '', elixir_scope}, {'$gen_call', {Me, raw_ref("fair@localhost", 9)}, hello})),
        {ok, <<Size:32>>} = recv_no_tick(S1),
        {ok, _} = gen_tcp:recv(S1, Size, 5000),
        gen_tcp:close(S1)
    end).

%% Terms that are sound and far too much: asked as questions by a real node, and sent from a made one.
terms(Config) ->
    while_asking(Config, fun(A, D = #{scope := Scope}) ->
        Large = #{large_map => fun() -> maps:from_list([{K, K} || K <- lists:seq(1, 1000000)]) end,
                  many_keys => fun() -> {get_events, [{list_to_atom("key" ++ integer_to_list(K)), 1} || K <- lists:seq(1, 100000)]} end,
                  long_list => fun() -> {get_events, lists:seq(1, 1000000)} end,
                  large_text => fun() -> {get_events, #{text => binary:copy(<<"x">>, 8 bsl 20)}} end},
        [begin
             {error, {too_large, #{hint := _}}} = rpc(A, fun() -> gen_server:call({elixir_scope, Scope}, Make(), 10000) end)
         end || Make <- maps:values(Large)],
        %% Nested a million deep: no answer, the link lives.
        Deep = iolist_to_binary([131, binary:copy(<<108, 1:32>>, 1000000), 106, binary:copy(<<106>>, 1000000)]),
        {S, _} = raw_link(Config, Scope, "deep@localhost"),
        Me = raw_pid("deep@localhost"),
        ok = send_packet(S, <<(packet({6, Me, '', elixir_scope}))/binary, Deep/binary>>),
        ok = send_packet(S, packet({6, Me, '', elixir_scope}, {'$gen_call', {Me, raw_ref("deep@localhost", 9)}, hello})),
        {ok, <<_:32>>} = recv_no_tick(S),
        gen_tcp:close(S),
        #{counters := #{too_deep := 1}} = ask(A, D, status)
    end).

%% Ten peers, each with 39 MB of a packet of 40 that it does not end: there is room for two; the questions of a node in earnest
%% pass all the while.
half_messages(Config) ->
    {_, #{packet_too_large := Cut}} = while_asking(Config, fun(_, #{scope := Scope}) ->
        Body = binary:copy(<<0>>, 1 bsl 20),
        Socks = [begin
                     {S, _} = raw_link(Config, Scope, "half" ++ integer_to_list(K) ++ "@localhost"),
                     _ = gen_tcp:send(S, <<(40 bsl 20):32>>),
                     _ = [gen_tcp:send(S, Body) || _ <- lists:seq(1, 39)],
                     S
                 end || K <- lists:seq(1, 10)],
        [gen_tcp:close(S) || S <- Socks]
    end),
    true = Cut >= 8.

%% Ten thousand that begin to connect and say no more.
many_half_open(Config) ->
    {_, Counters} = while_asking(Config, fun(_, #{scope := Scope}) ->
        Port = port_of(Config, Scope),
        Socks = [begin
                     {ok, S} = gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {active, false}], 10000),
                     _ = gen_tcp:send(S, <<0, 40, $N>>),
                     S
                 end || _ <- lists:seq(1, 10000)],
        B = start_node(Config, b),
        pong = rpc(B, net_adm, ping, [Scope]),
        [gen_tcp:close(S) || S <- Socks]
    end),
    true = maps:get(handshake_limit, Counters) >= 10000 - 256.

%% A byte at a time: the handshake has one deadline, not one for each byte.
handshakes_that_trickle(Config) ->
    {_, Counters} = while_asking(Config, fun(_, #{scope := Scope}) ->
        Port = port_of(Config, Scope),
        Name = <<"slow@localhost">>,
        Bytes = <<(15 + byte_size(Name)):16, $N, 16#D075F4FBC:64, 7:32, (byte_size(Name)):16, Name/binary>>,
        Socks = [begin {ok, S} = gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {active, false}]), S end || _ <- lists:seq(1, 20)],
        Begun = erlang:monotonic_time(millisecond),
        trickle(Socks, Bytes),
        [{error, _} = gen_tcp:recv(S, 1, 15000) || S <- Socks],
        Ms = erlang:monotonic_time(millisecond) - Begun,
        log("cut after ~b ms", [Ms])
    end),
    20 = maps:get(handshake_timeout, Counters).

trickle(Socks, <<B, Rest/binary>>) when byte_size(Rest) > 5 ->
    case [S || S <- Socks, gen_tcp:send(S, <<B>>) =:= ok] of
        [] -> ok;
        Left -> receive after 300 -> trickle(Left, Rest) end
    end;
trickle(_, _) -> ok.

%% Another host's epmd tells a port where somebody else listens, or nobody; says nonsense; never stops; says nothing.
an_epmd_that_lies(Config) ->
    A = start_node(Config, scope_test:unique_name(a, "127.0.0.1"), #{longnames => true}),
    EpmdPort = maps:get(epmd_port, Config),
    {ok, L} = gen_tcp:listen(EpmdPort, [binary, {ip, {127, 0, 0, 2}}, {active, false}, {reuseaddr, true}]),
    {ok, Deaf} = gen_tcp:listen(0, [{ip, {127, 0, 0, 2}}]),
    {ok, DeafPort} = inet:port(Deaf),
    Entry = fun(Port, Name) -> <<119, 0, Port:16, 77, 0, 6:16, 5:16, (byte_size(Name)):16, Name/binary, 0:16>> end,
    Lies = #{<<"deaf">> => Entry(DeafPort, <<"deaf">>),             % takes the connection and is silent
             <<"epmd">> => Entry(EpmdPort, <<"epmd">>),             % itself
             <<"nobody">> => Entry(1, <<"nobody">>), <<"zero">> => Entry(0, <<"zero">>),
             <<"short">> => <<119, 0, 9>>, <<"nonsense">> => <<255, 255, 255, 255>>, <<"none">> => <<119, 1>>,
             <<"long">> => <<119, 0, 9:16, 77, 0, 6:16, 5:16, 65535:16, 0>>, <<"silent">> => wait, <<"endless">> => endless},
    Server = spawn_link(fun() -> lying(L, Lies) end),
    Names = [binary_to_atom(<<N/binary, "@127.0.0.2">>) || N <- maps:keys(Lies)],
    D = scope_daemon:start(Config, [A], #{name => scope_test:unique_name(scope, "127.0.0.1"),
                                          args => ["--longnames" | lists:append([["--node", atom_to_list(N)] || N <- Names])]}),
    await_live(A, D, [A]),
    %% Each has its reason, none of them is live.
    wait_until(fun() ->
                       #{nodes := Nodes} = ask(A, D, status),
                       Said = [{N, maps:get(state, maps:get(N, Nodes)), maps:get(detail, maps:get(N, Nodes), none)} || N <- Names],
                       lists:all(fun({_, S, Why}) -> Why =/= none andalso not lists:member(S, [connected, tracing]) end, Said) orelse Said
               end, 30000),
    #{nodes := Nodes} = ask(A, D, status),
    [log("~s: ~ts", [N, maps:get(detail, maps:get(N, Nodes), none)]) || N <- Names],
    true = most_memory(D) < 128 * 1024,
    unlink(Server),
    exit(Server, kill).

%% One answer to each; the name asked for says which.
lying(L, Lies) ->
    {ok, S} = gen_tcp:accept(L),
    Pid = spawn(fun() ->
                        receive go -> ok end,
                        case gen_tcp:recv(S, 0, 5000) of
                            {ok, <<_:16, 122, Name/binary>>} -> lie(S, maps:get(Name, Lies, <<119, 1>>));
                            _ -> ok
                        end
                end),
    ok = gen_tcp:controlling_process(S, Pid),
    Pid ! go,
    lying(L, Lies).

lie(S, wait) -> gen_tcp:recv(S, 0, 60000);
lie(S, endless) ->
    case gen_tcp:send(S, binary:copy(<<119, 0, 1>>, 20000)) of ok -> lie(S, endless); _ -> ok end;
lie(S, Bytes) -> gen_tcp:send(S, Bytes).

%% What a BEAM would do for whoever has the cookie, this node does not.
commands(Config = #{tmp := Tmp}) ->
    A = start_node(Config, a),
    D = #{scope := Scope} = scope_daemon:start(Config, [A]),
    await_live(A, D, [A]),
    File = filename:join(Tmp, "touched"),
    Touch = "touch " ++ File,
    {badrpc, {'EXIT', {undef, _}}} = rpc(A, rpc, call, [Scope, os, cmd, [Touch]]),
    undef = rpc(A, fun() -> try erpc:call(Scope, os, cmd, [Touch]) catch error:{exception, E, _} -> E end end),
    rpc(A, erpc, cast, [Scope, os, cmd, [Touch]]),
    rpc(A, rpc, cast, [Scope, os, cmd, [Touch]]),
    rpc(A, fun() -> P = spawn(Scope, os, cmd, [Touch]), is_pid(P) end),
    [{badrpc, {'EXIT', {undef, _}}} = rpc(A, rpc, call, [Scope | MFA])
     || MFA <- [[init, stop, []], [erlang, halt, []], [code, load_binary, [m, "m", <<>>]], [file, read_file, ["/etc/passwd"]],
                [erlang, apply, [os, cmd, [Touch]]], [rpc, call, [Scope, os, cmd, [Touch]]]]],
    {ok, _} = call(A, D, status),
    assert_eq(false, filelib:is_file(File)),
    #{counters := #{rpc_refused := Refused, spawn_refused := Spawns}} = ask(A, D, status),
    log("~b calls and ~b spawns refused", [Refused, Spawns]),
    true = Refused >= 10.
