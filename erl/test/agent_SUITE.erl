%% The agent against a daemon's double on another node.
-module(agent_SUITE).

-compile([export_all, nowarn_export_all]).

-import(scope_test, [start_node/2, start_node/3, rpc/2, rpc/4, wait_until/1, wait_until/2, assert_eq/2, log/2]).
-import(scope_fake_daemon, [control/2, events/1, gaps/1, wait/2, wait/3]).

all() -> [hello_and_calls, messages_and_state].

%% {Target node handle, daemon node handle, daemon pid usable only through d/2}
setup(Config) -> setup(Config, #{}).
setup(Config, Opts) ->
    T = start_node(Config, target, maps:get(target, Opts, #{})),
    D = start_node(Config, daemon, #{hidden => true}),
    Node = scope_test:node_of(T),
    pong = rpc(D, net_adm, ping, [Node]),
    Pid = rpc(D, scope_fake_daemon, start, [Node, Opts]),
    _ = maps:get(resume, Opts, true) andalso d(D, wait, [Pid, fun({hello, _}) -> true end]),
    {T, D, Pid}.

%% The fake daemon's functions, run on its node.
d(D, F, A) -> rpc(D, scope_fake_daemon, F, A).

hello_and_calls(Config) ->
    {T, D, Pid} = setup(Config),
    {hello, Hello} = d(D, wait, [Pid, fun({hello, _}) -> true end]),
    log("~p", [Hello]),
    {ok, Started} = d(D, control, [Pid, {start, a, #{mfas => [{scope_victim, work, 1}], args => true,
                                                     events => [calls, returns]}}]),
    log("~p", [Started]),
    P = rpc(T, scope_victim, produce, [100, self()]),
    rpc(T, fun() -> P ! go, ok end),
    d(D, wait, [Pid, fun({event, {trace_ts, _, return_from, _, 201, _}}) -> true end]),
    Events = d(D, events, [Pid]),
    assert_eq(lists:seq(1, 100), [X || {trace_ts, _, call, {scope_victim, work, 1}, {args, [X]}, _} <- Events]),
    assert_eq([2 * X + 1 || X <- lists:seq(1, 100)], [X || {trace_ts, _, return_from, _, X, _} <- Events]),
    ok = d(D, control, [Pid, {stop, a}]),
    {ok, Status} = d(D, control, [Pid, status]),
    log("~p", [Status]),
    ok = d(D, control, [Pid, unload]),
    nothing_left(T).

messages_and_state(Config) ->
    {T, D, Pid} = setup(Config),
    _ = rpc(T, scope_victim, start, [srv]),
    {ok, Started} = d(D, control, [Pid, {start, a, #{names => [srv]}}]),
    log("~p", [Started]),
    ok = rpc(T, scope_victim, cast_many, [srv, 3]),
    3 = rpc(T, gen_server, call, [srv, get]),
    ok = rpc(T, gen_server, call, [srv, stop]),
    d(D, wait, [Pid, fun({event, {trace_ts, _, exit, normal, _}}) -> true end]),
    Events = d(D, events, [Pid]),
    [log("~p", [E]) || E <- Events],
    ok = d(D, control, [Pid, unload]),
    nothing_left(T).

nothing_left(T) ->
    wait_until(fun() -> left(T) =:= [] end, 5000).

left(T) ->
    rpc(T, fun() ->
                   [{module, M} || {M, _} <- code:all_loaded(), lists:prefix("scope_", atom_to_list(M)),
                                   not lists:member(M, [scope_test, scope_victim, scope_fake_daemon])]
                       ++ [{old, M} || M <- [scope_agent, scope_sup, scope_guard, scope_trace, scope_tracer,
                                             scope_behaviours, scope_hold, scope_cut, scope_beat],
                                       erlang:check_old_code(M)]
                       ++ [{name, N} || N <- registered(), lists:prefix("scope_", atom_to_list(N))]
                       ++ [{flags, P, F} || P <- processes(), {flags, F} <- [erlang:trace_info(P, flags)], F =/= []]
                       ++ [{new, F} || {flags, F} <- [erlang:trace_info(new_processes, flags)], F =/= []]
                       ++ [{pattern, {M, F, A}}
                           || {M, _} <- code:all_loaded(), {F, A} <- try M:module_info(functions) catch _:_ -> [] end,
                              erlang:trace_info({M, F, A}, traced) =/= {traced, false}]
           end).
