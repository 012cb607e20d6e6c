%% Nodes whose clocks are wrong (libfaketime) under load, and what the clock model makes of them. The truth is known: all run on
%% one host, and truth/0 reads its clock beside the node's (clock_truth.cc).
-module(scope_clocks).
-export([skews/0, fake/1, stepped/1, run/3, figures/2, far/1]).
-export([load/1, machine/0, truth/0, echo/0, asker/2]).
-import(scope_test, [rpc/4, node_of/1, log/2]).
-import(scope_daemon, [ask/3, await_live/3]).

-define(SECONDS, 8).

%% {name, what libfaketime makes of the clocks, ahead at the start in ns, how much faster it runs}
skews() -> [{ahead, "+0.5s x1.0001", 0.5e9, 1.0001}, {behind, "-0.5s x0.9999", -0.5e9, 0.9999},
            {fast, "+0s x1.01", 0, 1.01}, {slow, "+0s x0.99", 0, 0.99}].

load(Path) -> erlang:load_nif(Path, 0).
machine() -> erlang:nif_error(not_loaded).

%% {Machine, Raw, Apart}: the quickest of some readings; Machine is wrong by at most half of Apart, in ns.
truth() ->
    {Apart, Before, Raw} = lists:min([begin
                                          Before = machine(),
                                          Raw = erlang:monotonic_time(nanosecond),
                                          {machine() - Before, Before, Raw}
                                      end || _ <- lists:seq(1, 20)]),
    {Before + Apart div 2, Raw, Apart}.

fake(Spec) -> preload() ++ [{"FAKETIME", Spec}].
stepped(File) -> preload() ++ [{"FAKETIME_TIMESTAMP_FILE", File}, {"FAKETIME_NO_CACHE", "1"}].
preload() ->
    case filelib:wildcard("/usr/lib/*/faketime/libfaketimeMT.so.1") of
        [Library | _] -> [{"LD_PRELOAD", Library}];
        [] -> throw({skip, "no libfaketime here: scripts/setup test"})
    end.

%% Each node asks all others all the time, for ?SECONDS; During(Ms) is called every 100 ms until it says done. What the nodes' clocks
%% said meanwhile is in Db.truth, as match_pairs reads it.
run(Config, Nodes = [True | _], During) ->
    Db = filename:join(maps:get(tmp, Config), "clocks.db"),
    D = scope_daemon:start(Config, Nodes, #{db => Db}),
    await_live(True, D, Nodes),
    Echoes = [rpc(N, erlang, spawn, [?MODULE, echo, []]) || N <- Nodes],
    Askers = [rpc(N, erlang, spawn, [?MODULE, asker, [node_of(N), [E || E <- Echoes, node(E) =/= node_of(N)]]]) || N <- Nodes],
    #{nodes := Started} = ask(True, D, {start, [{pids, Echoes ++ Askers}, {events, [messages]}]}),
    [scope_test:assert_eq(ok, R) || R <- maps:values(Started)],
    [ok = rpc(N, ?MODULE, load, [filename:join(filename:dirname(scope_test:bin("match_pairs")), "clock_truth")]) || N <- Nodes],
    [rpc(True, erlang, send, [P, go]) || P <- Askers],
    {ok, Truth} = file:open(Db ++ ".truth", [append]),
    lists:foldl(fun(Ms, During1) ->
                        receive after 100 -> ok end,
                        [begin
                             {Machine, Raw, Apart} = rpc(N, ?MODULE, truth, []),
                             [io:format(Truth, "~s ~b ~b~n", [node_of(N), Machine, Raw]) || Apart < 5000]
                         end || N <- Nodes],
                        case During1(Ms) of done -> fun(_) -> ok end; _ -> During1 end
                end, During, lists:seq(100, ?SECONDS * 1000, 100)),
    ok = file:close(Truth),
    [rpc(True, erlang, exit, [P, kill]) || P <- Askers],
    %% All that was recorded has come, and the clocks were refined by it.
    receive after 2500 -> ok end,
    {D, Db}.

%% A node that is 20 ms away one way and 60 back, and a near one: how wide the bounds of events are (the median) and of what
%% `clocks` says (of 40 readings in a session's first seconds the median and the widest), in smallest round trips.
far(Config) ->
    scope_net:with_hosts(Config, [{delay, 20, 60}, near, near], fun(Hosts) ->
        {[A, B], D} = scope_net:nodes_and_daemon(Config, Hosts, []),
        {ok, Pid} = rpc(A, scope_counter, start, [c]),
        #{nodes := Started} = ask(B, D, {start, #{pids => [Pid], events => [messages], for => 120000}}),
        [scope_test:assert_eq(ok, R) || R <- maps:values(Started)],
        scope_test:cast(A, fun() -> scope_counter:pump(Pid, 1, 10000, 2000) end),
        Widths = fun() ->
                         {Fetches, _} = scope_daemon:all_events(B, D, #{pid => Pid, type => message_fetch}, oldest_first),
                         [2 * E || #{time_error := E} <- Fetches]
                 end,
        Clocks = fun() -> #{nodes := #{} = Of} = ask(B, D, clocks), {maps:get(node_of(A), Of), maps:get(node_of(B), Of)} end,
        Said = [begin receive after 130 -> ok end, Clocks() end || _ <- lists:seq(1, 40)],
        scope_test:wait_until(fun() -> length(Widths()) >= 10000 end, 60000),
        Scope = {elixir_scope, maps:get(scope, D)},
        MinRtt = lists:min([element(1, rpc(A, timer, tc, [gen_server, call, [Scope, hello]])) || _ <- lists:seq(1, 20)]) * 1000,
        Sorted = lists:sort(Widths()),
        Width = fun(#{lower_ns := Lower, upper_ns := Upper}) -> Upper - Lower end,
        Now = lists:sort([Width(F) || {F, _} <- Said]),
        Figures = #{clock_width_over_min_rtt => lists:nth(length(Sorted) div 2, Sorted) / MinRtt,
                    clock_now_width_over_min_rtt => lists:nth(length(Now) div 2, Now) / MinRtt,
                    clock_now_widest_over_min_rtt => lists:last(Now) / MinRtt,
                    %% Whatever the daemon's timeline is, both nodes are the same distance from it.
                    overlap => lists:all(fun({#{lower_ns := L, upper_ns := U}, #{lower_ns := L1, upper_ns := U1}}) -> L =< U1 andalso L1 =< U end, Said),
                    min_rtt_ms => MinRtt / 1.0e6, narrowest_ms => hd(Now) / 1.0e6},
        log("~p", [Figures]),
        Figures
    end).

figures(D, Db) ->
    0 = scope_daemon:stop(D),
    Out = string:lexemes(os:cmd(scope_test:bin("match_pairs") ++ " " ++ Db ++ " " ++ Db ++ ".truth"), "\n"),
    Figures = maps:from_list([{list_to_atom(K), V} || L <- Out, [K, V] <- [string:lexemes(L, " ")]]),
    log("~p", [Figures]),
    [log("~s", [L]) || L = "early " ++ _ <- Out],
    maps:map(fun(_, V) ->
                     case {string:to_integer(V), string:to_float(V)} of {{N, []}, _} -> N; {_, {F, []}} -> F; _ -> V end
             end, Figures).

echo() ->
    receive {'$gen_call', From, Asked} -> gen:reply(From, {answer, Asked}) end,
    echo().

asker(Me, Echoes) -> receive go -> asker(Me, Echoes, 1) end.
asker(Me, Echoes, N) ->
    [catch gen:call(E, '$gen_call', {Me, N}) || E <- Echoes],
    receive after 20 -> ok end,
    asker(Me, Echoes, N + 1).
