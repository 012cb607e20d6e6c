%% The clock model on real nodes whose clocks are wrong (libfaketime): the truth is known, as all nodes run on one host.
-module(clocks_SUITE).
-export([all/0, timeout/1, skewed_and_drifting/1, stepped_while_running/1]).
-import(scope_test, [start_node/2, start_node/3, rpc/4, node_of/1, log/2]).
-import(scope_daemon, [ask/3]).
-import(scope_clocks, [skews/0, fake/1, stepped/1, run/3, figures/2]).

all() -> [skewed_and_drifting, stepped_while_running].
timeout(_) -> 120000.

skewed_and_drifting(Config) ->
    True = start_node(Config, true),
    Skewed = [{start_node(Config, Name, #{env => fake(Spec)}), Ahead, Rate} || {Name, Spec, Ahead, Rate} <- skews()],
    {D, Db} = run(Config, [True | [N || {N, _, _} <- Skewed]], fun(_) -> ok end),
    Clocks = ask(True, D, clocks),
    #{nodes := Of} = Clocks,
    #{offset_ns := Base, error_ns := BaseError} = maps:get(node_of(True), Of),
    [begin
         #{offset_ns := Offset, error_ns := Error, drift_ppm := Drift, drift_bound_ppm := Bound} = C = maps:get(node_of(N), Of),
         log("~s: ~p", [node_of(N), C]),
         %% The offset of a raw clock that runs Rate times as fast falls by 1 - 1/Rate a second of its own.
         Wrong = Drift - (1 / Rate - 1) * 1.0e6,
         log("rate off by ~.1f ppm, bound ~.1f; ahead by ~.3f ms", [Wrong, Bound, (Offset - Base) / 1.0e6]),
         true = abs(Wrong) =< Bound,
         %% What a rate adds since the node's start is not known to the microsecond; an offset alone is.
         [true = abs(Offset - Base - Ahead) =< Error + BaseError + 3.0e6 || abs(Rate - 1) < 0.001]
     end || {N, Ahead, Rate} <- Skewed],
    Figures = figures(D, Db),
    %% By pings alone the fetch is before the send in some of a hundred.
    #{crossing := Crossing, causality_violations := 0, clock_bound_violations := 0, offset_bound_violations := 0, fell_out := 0} = Figures,
    true = Crossing >= 500,
    ok.

%% By half a second: the system's clock alone of one node (which erts follows by running faster), all clocks of another.
stepped_while_running(Config) ->
    True = start_node(Config, true),
    [A, B] = Files = [filename:join(maps:get(tmp, Config), F) || F <- ["system", "all"]],
    [ok = file:write_file(F, "+0") || F <- Files],
    System = start_node(Config, system, #{env => stepped(A) ++ [{"FAKETIME_DONT_FAKE_MONOTONIC", "1"}, {"DONT_FAKE_MONOTONIC", "1"}]}),
    All = start_node(Config, all, #{env => stepped(B)}),
    Before = rpc(All, erlang, monotonic_time, [millisecond]) - rpc(True, erlang, monotonic_time, [millisecond]),
    {D, Db} = run(Config, [True, System, All], fun(Ms) when Ms >= 4000 -> [ok = file:write_file(F, "+0.5") || F <- Files], done;
                                                  (_) -> ok end),
    After = rpc(All, erlang, monotonic_time, [millisecond]) - rpc(True, erlang, monotonic_time, [millisecond]),
    log("stepped by ~b ms", [After - Before]),
    true = abs(After - Before - 500) < 100,
    #{nodes := Of} = ask(True, D, clocks),
    [begin
         #{offset_ns := Offset, error_ns := Error} = C = maps:get(node_of(N), Of),
         log("~s: ~p", [node_of(N), C]),
         true = Error < 100.0e6,
         true = is_integer(Offset)
     end || N <- [True, System, All]],
    %% Pings leave open for half a second when it stepped: by them alone, 70 to 96 of 20,000 pairs have the fetch before the send.
    #{crossing := Crossing, causality_violations := 0, clock_bound_violations := 0, offset_bound_violations := 0} = figures(D, Db),
    true = Crossing >= 500,
    ok.
