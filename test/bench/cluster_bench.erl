%% Benchmarks over real nodes and the real daemon (release build): `ingest`, `end_to_end`, `match` and `trace` (its tree_agreement;
%% trace_bench.cc has the times) of the design's list. Run by
%% the scripts of the same names beside this file; prints {"figures": ...} as a line of its own. Options by environment:
%% BENCH_QUICK, BENCH_RATE and BENCH_NATIVE_RATE (events a second and node, by tracer), BENCH_SECONDS.
-module(cluster_bench).
-export([all/0, timeout/1, ingest/1, end_to_end/1, match/1, trace/1]).
-export([workers/1, spawners/1, go/2, pause/1, work/1, beat/1, made/0, probe/1]).
-import(scope_test, [start_node/2, start_node/3, rpc/4, rpc/5, wait_until/2]).
-import(scope_daemon, [ask/3, await_live/3]).

all() -> [].
timeout(trace) -> 600000;        % 2,000 trees, one by one
timeout(_) -> 300000.

%% --- what runs on the recorded nodes ---------------------------------------------------------------------------------

work(K) -> K.

-define(WORKERS, 32).       % on each node; each counts its calls

workers(N) -> parked(N, fun(K) -> ?MODULE:work(K) end).

%% Each tenth event by a process that lives no longer.
spawners(N) ->
    parked(N, fun(K) when K rem 10 =:= 0 -> spawn(fun() -> [?MODULE:work(K - J) || J <- lists:seq(0, 9)] end);
                 (_) -> ok
              end).

%% N processes that wait for go/2, then call the fun at Rate a second altogether until pause/1; numbers go on.
parked(N, Fun) ->
    Counters = counters:new(N, []),
    persistent_term:put(?MODULE, Counters),
    [spawn(fun() -> parked(Counters, I, 0, Fun) end) || I <- lists:seq(1, N)].

parked(Counters, I, From, Fun) ->
    receive {go, Rate} -> loop(Counters, I, Rate, erlang:monotonic_time(microsecond), From, From, Fun) end.

go(Workers, Rate) ->
    [P ! {go, Rate / length(Workers)} || P <- Workers],
    ok.

pause(Workers) ->
    Refs = [begin Ref = make_ref(), P ! {pause, self(), Ref}, Ref end || P <- Workers],
    [receive {paused, Ref} -> ok end || Ref <- Refs],
    ok.

loop(Counters, I, Rate, Begun, From, Done, Fun) ->
    Due = From + trunc((erlang:monotonic_time(microsecond) - Begun) * Rate / 1000000),
    calls(Done + 1, Due, Fun),
    counters:add(Counters, I, Due - Done),
    receive
        {pause, Asker, Ref} ->
            Asker ! {paused, Ref},
            parked(Counters, I, Due, Fun)
    after 10 -> loop(Counters, I, Rate, Begun, From, Due, Fun)
    end.

calls(K, Due, _) when K > Due -> ok;
calls(K, Due, Fun) -> Fun(K), calls(K + 1, Due, Fun).

made() ->
    Counters = persistent_term:get(?MODULE),
    #{size := N} = counters:info(Counters),
    lists:sum([counters:get(Counters, I) || I <- lists:seq(1, N)]).

beat(X) -> X.

%% A process that calls beat(X) when asked to.
probe(Name) ->
    register(Name, spawn(fun Loop() -> receive {beat, X, From, Ref} -> ?MODULE:beat(X), From ! Ref, Loop() end end)).

%% --- ingest ----------------------------------------------------------------------------------------------------------

%% Each tracer with nodes and a daemon of its own; then events of processes that hardly live.
ingest(Config) ->
    Seconds = env("BENCH_SECONDS", case os:getenv("BENCH_QUICK") of false -> 20; _ -> 6 end),
    Rates = [{erlang, env("BENCH_RATE", 55000)}, {native, env("BENCH_NATIVE_RATE", 260000)}],
    Figures = [{Named, V} || {Tracer, Rate} <- Rates, {K, V} <- maps:to_list(ingest(Config, Tracer, Rate, Seconds)),
                             Named <- [case Tracer of erlang -> K; native -> list_to_atom("native_" ++ atom_to_list(K)) end]],
    print(maps:from_list([{rss_churn_mb, churn(Config, 55000, Seconds)} | Figures]),
          maps:from_list([{nodes, 2}, {seconds, Seconds}, {scheduler_busy_wait, "none"},
                          {agent_cpu, "what tracing adds to the nodes' CPU beside the same load untraced, the tracees' share too"},
                          {daemon_cpu, "while nobody asks"}
                          | [{list_to_atom("asked_per_s_" ++ atom_to_list(T)), 2 * R} || {T, R} <- Rates]]),
          #{}).

ingest(Config, Tracer, Rate, Seconds) ->
    {Nodes = [A, _], D} = cluster(Config, Tracer),
    rpc(A, ?MODULE, probe, [probe]),
    %% Parked until the trace is on, so that every call is traced.
    Gates = [rpc(N, ?MODULE, workers, [?WORKERS]) || N <- Nodes],
    Quiet = fun() -> receive after Seconds * 500 -> ok end end,
    {_, Untraced, Alone} = load(Nodes, Gates, Rate, Quiet),
    #{id := _} = ask(A, D, {start, #{pids => [rpc(A, erlang, whereis, [probe]) | lists:append(Gates)],
                                     mfas => [{?MODULE, work, 1}, {?MODULE, beat, 1}], events => [function_entry], for => 120000}}),
    Before = stored(A, D),
    Cpu0 = cpu_us([D]),
    {_, Traced, Beside} = load(Nodes, Gates, Rate, Quiet),
    Cpu1 = cpu_us([D]),
    T0 = erlang:monotonic_time(millisecond),
    Middle = stored(A, D),
    %% How soon is an event seen by a question?
    {Delays, More, _} = load(Nodes, Gates, Rate, fun() ->
        Probed = [begin receive after 40 -> ok end, probe_once(A, D, X) end || X <- lists:seq(1, Seconds * 15)],
        left(T0 + Seconds * 1000),
        Probed
    end),
    Rss = rss_anon(D),
    Made = Traced + More + length(Delays),
    catch wait_until(fun() -> stored(A, D) - Before >= Made end, 15000),
    T1 = erlang:monotonic_time(millisecond),
    Stored = stored(A, D) - Before,
    %% Nothing lost and nothing twice, of one worker, by its own numbers.
    [Sample | _] = hd(Gates),
    {Events, _} = scope_daemon:all_events(A, D, #{pid => Sample, type => function_entry}, oldest_first),
    Ks = [K || #{args := [K]} <- Events],
    Unique = length(lists:usort(Ks)),
    [scope_test:kill(H) || H <- [D | Nodes]],
    #{events_per_s => (Stored - (Middle - Before)) * 1000 / (T1 - T0), made_per_s => More * 1000 / (T1 - T0),
      lost => max(0, Made - Stored), duplicated => length(Ks) - Unique,
      holes_in_sample => case Ks of [] -> 0; _ -> lists:max(Ks) - lists:min(Ks) + 1 - Unique end,
      agent_cpu_us_per_event => Beside / Traced - Alone / Untraced,
      daemon_cpu_us_per_event => (Cpu1 - Cpu0) / Traced, daemon_rss_anon_mb => Rss / 1024,
      queryable_after_ms_p50 => percentile(Delays, 50), queryable_after_ms_p99 => percentile(Delays, 99)}.

%% The most of the daemon's memory while each tenth event comes from a new process, everybody traced.
churn(Config, Rate, Seconds) ->
    {Nodes = [A, _], D} = cluster(Config, native),
    Gates = [rpc(N, ?MODULE, spawners, [?WORKERS]) || N <- Nodes],
    #{id := _} = ask(A, D, {start, #{mfas => [{?MODULE, work, 1}], events => [function_entry, lifecycle], args => true, for => 120000}}),
    Before = stored(A, D),
    {Most, Made, _} = load(Nodes, Gates, Rate, fun() ->
        lists:max([begin receive after 200 -> ok end, rss_anon(D) end || _ <- lists:seq(1, Seconds * 5)])
    end),
    wait_until(fun() -> stored(A, D) - Before >= Made end, 15000),
    Last = rss_anon(D),
    [scope_test:kill(H) || H <- [D | Nodes]],
    max(Most, Last) / 1024.

%% The nodes' schedulers do not spin: what they spin would be told as somebody's work.
cluster(Config, Tracer) ->
    Nodes = [A, _] = [start_node(Config, N, #{args => ["+sbwt", "none", "+sbwtdcpu", "none", "+sbwtdio", "none"]}) || N <- [a, b]],
    D = scope_daemon:start(Config, Nodes, #{args => ["--capture", atom_to_list(Tracer)]}),
    await_live(A, D, Nodes),
    [Tracer] = lists:usort([Capture || #{capture := Capture} <- maps:values(maps:get(nodes, ask(A, D, status)))]),
    {Nodes, D}.

%% Runs the workers while Fun runs: what it gave, calls made, the nodes' CPU time until what is traced has been sent.
load(Nodes, Gates, Rate, Fun) ->
    Before = made(Nodes),
    Cpu = cpu_us(Nodes),
    [rpc(N, ?MODULE, go, [G, Rate]) || {N, G} <- lists:zip(Nodes, Gates)],
    Result = Fun(),
    [rpc(N, ?MODULE, pause, [G]) || {N, G} <- lists:zip(Nodes, Gates)],
    receive after 100 -> ok end,
    {Result, made(Nodes) - Before, cpu_us(Nodes) - Cpu}.

made(Nodes) -> lists:sum([rpc(N, ?MODULE, made, []) || N <- Nodes]).

%% Milliseconds from before the call to the answer that shows it.
probe_once(A, D, X) ->
    rpc(A, erlang, apply, [fun() ->
        Probe = whereis(probe),
        T0 = erlang:monotonic_time(microsecond),
        Ref = make_ref(),
        Probe ! {beat, X, self(), Ref},
        receive Ref -> ok end,
        seen(Probe, X, maps:get(scope, D), 3000),
        (erlang:monotonic_time(microsecond) - T0) / 1000
    end, []]).

seen(Probe, X, Scope, Tries) ->
    case gen_server:call({elixir_scope, Scope}, {get_events, #{pid => Probe, limit => 1}}) of
        {ok, #{events := [#{args := [X]}]}} -> ok;
        Other when Tries =:= 0 -> error({not_seen, X, Other});
        _ -> receive after 1 -> seen(Probe, X, Scope, Tries - 1) end
    end.

stored(A, D) -> maps:get(events, maps:get(store, ask(A, D, status))).

%% --- match -----------------------------------------------------------------------------------------------------------

%% match_SUITE's loads, larger. What is not told from another is a figure of its own.
match(Config) ->
    Times = env("BENCH_TIMES", case os:getenv("BENCH_QUICK") of false -> 2000; _ -> 600 end),
    F = #{rows := Rows, seconds := Seconds} = scope_match:measure(Config, Times),
    Named = [precision, recall, ambiguous_rate, ambiguous_hashed_whole, identical_right_rate, identical_sure_wrong, causality_violations, told_late,
             clock_bound_median_us],
    {Skewed, Left} = skewed(Config),
    {Far, LeftToo} = far(Config),
    print(maps:merge((maps:with(Named, F))#{events_per_s => Rows / Seconds}, maps:merge(Skewed, Far)),
          (maps:with([truth, recorded, rows, crossing, identical_pairs], F))#{messages_of_each_load_and_worker => Times},
          maps:merge(Left, LeftToo)).

far(Config) ->
    Named = [clock_width_over_min_rtt, clock_now_width_over_min_rtt, clock_now_widest_over_min_rtt],
    try {maps:with(Named, scope_clocks:far(Config)), #{}}
    catch throw:{skip, Why} -> {#{}, maps:from_list([{N, Why} || N <- Named])}
    end.

%% Clocks under libfaketime against the host's (clocks_SUITE's load): of each skew how far corrected times were off at most.
skewed(Config) ->
    try [start_node(Config, true)
         | [start_node(Config, Name, #{env => scope_clocks:fake(Spec)}) || {Name, Spec, _, _} <- scope_clocks:skews()]] of
        Nodes ->
            {D, Db} = scope_clocks:run(Config, Nodes, fun(_) -> ok end),
            Figures = scope_clocks:figures(D, Db),
            {maps:filter(fun(K, _) ->
                                 lists:member(K, [clock_bound_violations, offset_bound_violations, offset_samples])
                                     orelse lists:prefix("offset_error_us_max", atom_to_list(K))
                         end, Figures), #{}}
    catch throw:{skip, Why} -> {#{}, #{offset_error_us_max => Why, clock_bound_violations => Why}}
    end.

%% --- trace -----------------------------------------------------------------------------------------------------------

%% Requests through servers on three nodes (scope_order), and of the demo shop (scope_shop), each with its number in its messages and a
%% label of seq_trace that the daemon does not see: how many have the tree that their labels, or their numbers, tell.
trace(Config) ->
    Each = case os:getenv("BENCH_QUICK") of false -> 250; _ -> 60 end,
    {A, D, Takes, Numbers, Labels} = scope_order:record(Config, 8, Each),
    Tree = fun(N) -> catch lists:sort(scope_order:tree(A, D, Takes, N)) end,
    ByNumber = fun(N) -> lists:sort(scope_order:expected(N)) end,
    ByLabel = fun(N) -> lists:sort(maps:get(scope_order:label(N), Labels, [])) end,
    %% The newest sends may still be on their way: what is not right is asked once more.
    {Right, Wrong} = lists:partition(fun({N, T}) -> T =:= ByNumber(N) andalso T =:= ByLabel(N) end, [{N, Tree(N)} || N <- Numbers]),
    [timer:sleep(3000) || Wrong =/= []],
    Trees = Right ++ [{N, Tree(N)} || {N, _} <- Wrong],
    [io:format(standard_error, "request ~p: ~p~n", [N, T]) || {N, T} <- lists:sublist([X || X = {N, T} <- Trees, T =/= ByLabel(N)], 5)],
    {ShopA, ShopD, Visits, ShopLabels} = scope_shop:record(Config, 40, Each div 12),
    Shop = scope_shop:compare(ShopA, ShopD, Visits, ShopLabels),
    [io:format(standard_error, "the shop's request ~p~n", [X])
     || X <- lists:sublist([X || X = {_, Number, Label} <- Shop, Number =/= same orelse Label =/= same], 5)],
    Share = fun(Good, Of) -> length(Good) / length(Of) end,
    print(#{tree_agreement => Share([N || {N, T} <- Trees, T =:= ByLabel(N)], Numbers),
            tree_agreement_by_numbers => Share([N || {N, T} <- Trees, T =:= ByNumber(N)], Numbers),
            tree_agreement_shop => Share([N || {N, _, same} <- Shop], Visits),
            tree_agreement_shop_by_numbers => Share([N || {N, same, _} <- Shop], Visits)},
          #{requests => length(Numbers), clients => 8, shop_requests => length(Visits)}, #{}).

%% --- end to end ------------------------------------------------------------------------------------------------------

end_to_end(Config) ->
    N = case os:getenv("BENCH_QUICK") of false -> 5000; _ -> 1500 end,
    Nodes = [A, B] = [start_node(Config, X) || X <- [a, b]],
    D = scope_daemon:start(Config, Nodes),
    await_live(A, D, Nodes),
    {ok, _} = rpc(B, scope_counter, start, [echo]),
    Scope = {elixir_scope, maps:get(scope, D)},
    Beam = {echo, scope_test:node_of(B)},
    Pairs = rpc(A, erlang, apply, [fun() ->
        [gen_server:call(T, R) || _ <- lists:seq(1, 200), {T, R} <- [{Scope, status}, {Beam, get}]],
        [{element(1, timer:tc(gen_server, call, [Scope, status])), element(1, timer:tc(gen_server, call, [Beam, get]))}
         || _ <- lists:seq(1, N)]
    end, []], 120000),
    {Ours, Beams} = lists:unzip(Pairs),
    print(#{call_us_p50 => percentile(Ours, 50), call_us_p99 => percentile(Ours, 99),
            beam_call_us_p50 => percentile(Beams, 50), beam_call_us_p99 => percentile(Beams, 99),
            ratio_p50 => percentile(Ours, 50) / percentile(Beams, 50)},
          #{calls => N, interleaved => true}, #{}).

%% --- small things ----------------------------------------------------------------------------------------------------

env(Name, Default) ->
    case os:getenv(Name) of false -> Default; Text -> list_to_integer(Text) end.

left(Until) -> receive after max(0, Until - erlang:monotonic_time(millisecond)) -> ok end.

percentile(List, P) ->
    Sorted = lists:sort(List),
    lists:nth(max(1, ceil(length(Sorted) * P / 100)), Sorted) * 1.0.

%% User and system time of these programs, all threads, in microseconds.
cpu_us(Handles) ->
    lists:sum([begin
                   {ok, Bin} = file:read_file("/proc/" ++ integer_to_list(Pid) ++ "/stat"),
                   [_, Rest] = string:split(Bin, ")", trailing),
                   Fields = string:lexemes(Rest, " "),
                   (binary_to_integer(lists:nth(12, Fields)) + binary_to_integer(lists:nth(13, Fields))) * 10000
               end || #{os_pid := Pid} <- Handles]).

rss_anon(#{os_pid := Pid}) ->
    {ok, Bin} = file:read_file("/proc/" ++ integer_to_list(Pid) ++ "/status"),
    {match, [Kb]} = re:run(Bin, "RssAnon:\\s+([0-9]+)", [{capture, all_but_first, list}]),
    list_to_integer(Kb).

print(Figures, Conditions, LeftOut) ->
    Object = fun(M, F) -> ["{", lists:join(", ", [[$", atom_to_list(K), "\": ", F(V)] || {K, V} <- maps:to_list(M)]), "}"] end,
    Number = fun(V) when is_float(V) -> io_lib:format("~.4f", [V]); (V) -> integer_to_list(V) end,
    Any = fun(V) when is_number(V) -> Number(V); (true) -> "true"; (V) -> [$", V, $"] end,
    io:format("~s~n", [["{\"figures\": ", Object(Figures, Number), ", \"conditions\": ", Object(Conditions, Any),
                        ", \"left_out\": ", Object(LeftOut, Any), "}"]]).
