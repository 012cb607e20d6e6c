%% Benchmarks over real nodes and the real daemon (release build): `ingest` and `end_to_end` of the design's list. Run by
%% the scripts of the same names beside this file; prints {"figures": ...} as a line of its own. Options by environment:
%% BENCH_QUICK, BENCH_RATE (events a second and node), BENCH_SECONDS.
-module(cluster_bench).
-export([all/0, timeout/1, ingest/1, end_to_end/1]).
-export([workers/1, go/2, work/1, beat/1, made/0, probe/1]).
-import(scope_test, [start_node/2, rpc/4, rpc/5, wait_until/2]).
-import(scope_daemon, [ask/3, await_live/3]).

all() -> [].
timeout(_) -> 300000.

%% --- what runs on the recorded nodes ---------------------------------------------------------------------------------

work(K) -> K.

%% N processes that wait for go/2, then call work/1 at Rate a second altogether until stopped; each counts its calls.
workers(N) ->
    [spawn(fun() -> receive {go, C, I, R} -> loop(C, I, R, erlang:monotonic_time(microsecond), 0) end end)
     || _ <- lists:seq(1, N)].

go(Workers, Rate) ->
    N = length(Workers),
    Counters = counters:new(N, []),
    persistent_term:put(?MODULE, Counters),
    [P ! {go, Counters, I, Rate / N} || {P, I} <- lists:zip(Workers, lists:seq(1, N))],
    ok.

loop(Counters, I, Rate, Begun, Done) ->
    Due = trunc((erlang:monotonic_time(microsecond) - Begun) * Rate / 1000000),
    [?MODULE:work(K) || K <- lists:seq(Done + 1, Due)],
    counters:add(Counters, I, Due - Done),
    receive stop -> ok after 10 -> loop(Counters, I, Rate, Begun, Due) end.

made() ->
    Counters = persistent_term:get(?MODULE),
    #{size := N} = counters:info(Counters),
    lists:sum([counters:get(Counters, I) || I <- lists:seq(1, N)]).

beat(X) -> X.

%% A process that calls beat(X) when asked to.
probe(Name) ->
    register(Name, spawn(fun Loop() -> receive {beat, X, From, Ref} -> ?MODULE:beat(X), From ! Ref, Loop() end end)).

%% --- ingest ----------------------------------------------------------------------------------------------------------

ingest(Config) ->
    Seconds = env("BENCH_SECONDS", case os:getenv("BENCH_QUICK") of false -> 20; _ -> 8 end),
    Rate = env("BENCH_RATE", 55000),
    Nodes = [A, _] = [start_node(Config, N) || N <- [a, b]],
    D = scope_daemon:start(Config, Nodes),
    await_live(A, D, Nodes),
    rpc(A, ?MODULE, probe, [probe]),
    %% Parked until the trace is on, so that every call is traced.
    Gates = [rpc(N, ?MODULE, workers, [8]) || N <- Nodes],
    #{id := _} = ask(A, D, {start, #{pids => [rpc(A, erlang, whereis, [probe]) | lists:append(Gates)],
                                     mfas => [{?MODULE, work, 1}, {?MODULE, beat, 1}], events => [function_entry], for => 120000}}),
    Before = stored(A, D),
    Cpu0 = cpu_us(D),
    T0 = erlang:monotonic_time(millisecond),
    [rpc(N, ?MODULE, go, [G, Rate]) || {N, G} <- lists:zip(Nodes, Gates)],
    %% Meanwhile: how soon is an event seen by a question?
    Delays = [begin receive after 40 -> ok end, probe_once(A, D, X) end || X <- lists:seq(1, Seconds * 15)],
    left(T0 + Seconds * 1000),
    Rss = rss_anon(D),
    [[rpc(N, erlang, send, [P, stop]) || P <- G] || {N, G} <- lists:zip(Nodes, Gates)],
    [wait_until(fun() -> not lists:any(fun(P) -> rpc(N, erlang, is_process_alive, [P]) end, G) end, 5000)
     || {N, G} <- lists:zip(Nodes, Gates)],
    Made = lists:sum([rpc(N, ?MODULE, made, []) || N <- Nodes]) + length(Delays),
    catch wait_until(fun() -> stored(A, D) - Before >= Made end, 15000),
    T1 = erlang:monotonic_time(millisecond),
    Stored = stored(A, D) - Before,
    Cpu1 = cpu_us(D),
    %% Nothing lost and nothing twice, of one worker, by its own numbers.
    [Sample | _] = hd(Gates),
    {Events, _} = scope_daemon:all_events(A, D, #{pid => Sample, type => function_entry}, oldest_first),
    Ks = [K || #{args := [K]} <- Events],
    Unique = length(lists:usort(Ks)),
    print(#{events_per_s => Stored * 1000 / (T1 - T0), made_per_s => Made * 1000 / (T1 - T0),
            lost => max(0, Made - Stored), duplicated => length(Ks) - Unique,
            holes_in_sample => lists:max([0 | Ks]) - Unique,
            daemon_cpu_us_per_event => (Cpu1 - Cpu0) / max(1, Stored), daemon_rss_anon_mb => Rss / 1024,
            queryable_after_ms_p50 => percentile(Delays, 50), queryable_after_ms_p99 => percentile(Delays, 99)},
          #{nodes => 2, tracer => "erlang", seconds => Seconds, asked_events_per_s => 2 * Rate},
          #{agent_cpu_us_per_event => "the Erlang tracer's share is not told apart from the node's; see erl/README.md",
            rss_churn_mb => "measured with the store's bench on churning processes"}).

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

%% User and system time of the daemon, all threads, in microseconds.
cpu_us(#{os_pid := Pid}) ->
    {ok, Bin} = file:read_file("/proc/" ++ integer_to_list(Pid) ++ "/stat"),
    [_, Rest] = string:split(Bin, ")", trailing),
    Fields = string:lexemes(Rest, " "),
    (binary_to_integer(lists:nth(12, Fields)) + binary_to_integer(lists:nth(13, Fields))) * 10000.

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
