%% What the pure-Erlang tracer costs the tracee, beside a local process that discards, and what the agent ships.
%%
%%   erl -noshell -pa EBIN -s agent_bench main      two nodes of the harness; prints a table
%% As a suite (run_suite agent_bench) it holds the ratio of design section 6: CPU of ours to that of the discarder.
-module(agent_bench).

-compile([export_all, nowarn_export_all]).

-import(scope_test, [start_node/3, rpc/2, rpc/4, log/2]).
-import(agent_test, [setup/2, d/3, daemon/3]).

all() -> [per_event, shipped].

timeout(_) -> 300000.

%% ns added to the tracee for each event, the tracee bound to one scheduler, the tracer to the other: medians of rounds
%% of paced bursts, so that the fallback's own limits do not end the measurement.
per_event(Config) ->
    {T, D, Pid} = setup(Config, #{keep => false}),
    rpc(T, scope_victim, start, [srv]),
    Rows = [{call, fun() -> call(2000) end, #{mfas => [{scope_victim, hammered, 1}]}, 1},
            {call_args, fun() -> call(2000) end, #{mfas => [{scope_victim, hammered, 1}], args => true}, 1},
            {cast, fun() -> cast(500) end, #{names => [srv]}, 3},
            {gen_call, fun() -> gen_call(200) end, #{names => [srv]}, 4}],
    [begin
         Base = measure(T, fun(_) -> ok end, Work, fun(_) -> ok end),
         Local = measure(T, fun(F) -> discard_on(Spec, F) end, Work, fun(_) -> discard_off() end),
         Ours = measure(T, Work, fun() -> {ok, _} = d(D, control, [Pid, {start, b, Spec}]) end,
                        fun() -> ok = d(D, control, [Pid, {stop, b}]) end, host),
         {ok, #{captured := C, discarded := X}} = d(D, control, [Pid, status]),
         log("~-10s base ~7b ns, discarding process +~b ns, ours +~b ns (~b events each); captured ~b, discarded ~b",
             [Name, Base, Local - Base, Ours - Base, Events, C, X])
     end || {Name, Work, Spec, Events} <- Rows].

%% Median ns of one operation over 31 rounds, on the target.
measure(T, On, Work, Off) -> rpc(T, fun() -> S = On(self()), M = rounds(Work), Off(S), M end).
measure(T, Work, On, Off, host) ->
    On(),
    M = rpc(T, fun() -> rounds(Work) end),
    Off(),
    M.

rounds(Work) ->
    Times = [begin
                 timer:sleep(15),
                 {N, Ns} = Work(),
                 Ns div N
             end || _ <- lists:seq(1, 31)],
    lists:nth(16, lists:sort(Times)).

call(N) -> {N, timed(fun() -> call_loop(N) end)}.
call_loop(0) -> ok;
call_loop(N) -> scope_victim:hammered(N), call_loop(N - 1).

cast(N) ->
    {N, timed(fun() -> cast_loop(N), gen_server:call(srv, get) end)}.
cast_loop(0) -> ok;
cast_loop(N) -> gen_server:cast(srv, add), cast_loop(N - 1).

gen_call(N) -> {N, timed(fun() -> gen_call_loop(N) end)}.
gen_call_loop(0) -> ok;
gen_call_loop(N) -> gen_server:call(srv, get), gen_call_loop(N - 1).

timed(Fun) ->
    T0 = erlang:monotonic_time(nanosecond),
    Fun(),
    erlang:monotonic_time(nanosecond) - T0.

discard_on(Spec, _) ->
    Tracer = spawn(fun() -> process_flag(priority, high), discard() end),
    put(discarder, Tracer),
    case Spec of
        #{names := [N]} ->
            [erlang:trace_pattern(MFA, MS, [local])
             || {_, {MFA, MS}} <- [{take, {{gen_server, decode_msg, 9}, role(take, 1, 9)}},
                                   {state, {{gen_server, loop, 7}, role(state, 3, 7)}}]],
            erlang:trace(whereis(N), true, [call, send, 'receive', procs, monotonic_timestamp, arity, {tracer, Tracer}]);
        #{mfas := [MFA]} ->
            MS = case Spec of #{args := true} -> [{'_', [], [{message, {{args, '$_'}}}]}]; _ -> true end,
            erlang:trace_pattern(MFA, MS, [local]),
            erlang:trace(self(), true, [call, monotonic_timestamp, arity, {tracer, Tracer}])
    end.

role(Role, I, Arity) ->
    [{['_' || _ <- lists:seq(1, I - 1)] ++ ['$1'] ++ ['_' || _ <- lists:seq(I + 1, Arity)], [],
      [{message, {{Role, '$1'}}}]}].

discard() -> receive _ -> discard() end.

discard_off() ->
    exit(get(discarder), kill),
    erlang:trace_pattern({'_', '_', '_'}, false, [local]),
    erlang:trace(all, false, [all]).

%% Events/s that reach another node, at growing rates, until the agent limits itself.
shipped(Config) ->
    {T, D, Pid} = setup(Config, #{keep => false}),
    {ok, _} = d(D, control, [Pid, {start, a, #{mfas => [{scope_victim, work, 1}]}}]),
    [begin
         {ok, #{captured := C0, discarded := X0}} = d(D, control, [Pid, status]),
         {_, R0} = rpc(T, erlang, statistics, [runtime]),
         P = agent_SUITE:paced(T, Chunk),
         T0 = erlang:monotonic_time(millisecond),
         timer:sleep(3000),
         N = agent_SUITE:stop_paced(T, P),
         Ms = erlang:monotonic_time(millisecond) - T0,
         ok = d(D, control, [Pid, flush]),
         {ok, #{captured := C, discarded := X}} = agent_SUITE:status_until(D, Pid, fun(#{held_batches := H}) -> H =:= 0 end),
         {_, R} = rpc(T, erlang, statistics, [runtime]),
         _ = R0,
         log("~b calls/s: ~b captured, ~b discarded, ~b not traced while paused; ~b ns CPU of the node per call",
             [N * 1000 div Ms, C - C0, X - X0, N - (C - C0) - (X - X0), R * 1000000 div N])
     end || Chunk <- [250, 500, 1000, 2000]].
