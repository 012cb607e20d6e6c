%% What goes wrong on the node: the agent's processes killed or stopped, overload, other tools, code loading.
-module(agent_fault_SUITE).

-compile([export_all, nowarn_export_all]).

-import(scope_test, [start_node/3, rpc/2, rpc/4, wait_until/1, wait_until/2, assert_eq/2, log/2, node_of/1]).
-import(agent_test, [setup/1, setup/2, d/3, daemon/3, args/1, calls/1, nothing_left/1, nothing_left/2]).

-define(ALL, [scope_sup, scope_guard, scope_agent, scope_tracer]).
-define(LEASE_MS, 8000).        % 5 s, and the taking away

all() ->
    [panic_button, supervisor_killed, guard_killed, agent_and_supervisor_killed, agent_and_guard_killed,
     guard_and_supervisor_killed, all_but_tracer_killed, lease_killed, all_killed, all_suspended, killed_while_taking_away, agent_suspended, guard_suspended, supervisor_suspended,
     vm_stands_still, busy_link,
     tracer_killed, children_after_kill, tracer_suspended, hostile_load, hostile_big_terms, foreign_tracer, foreign_pattern, foreign_send_filter,
     pattern_taken_over, dbg_stop_clear, dbg_clears_twice, dbg_beside, old_trace_beside, module_reloaded, name_followed, unload_under_load].

timeout(hostile_load) -> 90000;
timeout(_) -> 60000.

panic_button(Config) -> killed(Config, [scope_agent], 2000).
supervisor_killed(Config) -> killed(Config, [scope_sup], 5000).
guard_killed(Config) -> killed(Config, [scope_guard], 5000).
agent_and_supervisor_killed(Config) -> killed(Config, [scope_agent, scope_sup], 5000).
agent_and_guard_killed(Config) -> killed(Config, [scope_guard, scope_agent], 5000).
guard_and_supervisor_killed(Config) -> killed(Config, [scope_sup, scope_guard], 5000).
all_but_tracer_killed(Config) -> killed(Config, [scope_sup, scope_guard, scope_agent], 5000).
lease_killed(Config) -> killed(Config, [scope_lease], 5000).

%% Nobody is left who hears of anybody's death: the lease alone ends it.
all_killed(Config) -> suspended(Config, ?ALL, ?LEASE_MS, fun(P) -> exit(P, kill) end).
all_suspended(Config) -> suspended(Config, ?ALL, ?LEASE_MS).

%% The guard has begun to take everything down, killed the tracer, and is killed itself.
killed_while_taking_away(Config) ->
    T = busy(Config),
    rpc(T, fun() ->
                   process_flag(priority, max),
                   [Sup, Guard, Agent, Tracer] = [whereis(N) || N <- [scope_sup, scope_guard, scope_agent, scope_tracer]],
                   M = monitor(process, Tracer),
                   exit(Sup, kill),
                   receive {'DOWN', M, _, _, _} -> ok end,
                   [exit(P, kill) || P <- [Guard, Agent]],
                   ok
           end),
    nothing_left(T, 5000).

killed(Config, Names, Within) ->
    T = busy(Config),
    rpc(T, fun() -> [exit(P, kill) || P <- [whereis(N) || N <- Names]], ok end),
    Start = erlang:monotonic_time(millisecond),
    nothing_left(T, Within),
    log("gone after ~b ms", [erlang:monotonic_time(millisecond) - Start]).

agent_suspended(Config) -> suspended(Config, [scope_agent], 8000).
guard_suspended(Config) -> suspended(Config, [scope_guard], 8000).
supervisor_suspended(Config) -> suspended(Config, [scope_sup], 8000).

%% A machine that slept, or gave the VM nothing of its time: for that nobody is given up, and what is traced goes on.
vm_stands_still(Config) ->
    {T, D, Pid} = setup(Config, #{agent => #{cut_ms => 3000, grace_ms => 3500}}),
    {ok, _} = d(D, control, [Pid, {start, a, calls([{scope_victim, work, 1}])}]),
    [begin
         ok = scope_test:kill(T, "STOP"),
         receive after 4000 -> ok end,
         ok = scope_test:kill(T, "CONT"),
         receive after 2000 -> ok end,          % all have looked at each other
         agent_SUITE:produce(T, 3)
     end || _ <- [1, 2]],
    ok = d(D, control, [Pid, flush]),
    assert_eq([1, 2, 3, 1, 2, 3], args(d(D, events, [Pid]))),
    assert_eq([], d(D, gaps, [Pid])).

%% The link is full while the daemon stands still: what it asked for before reaches it when it goes on, and is sent once.
busy_link(Config) ->
    {T, D, Pid} = setup(Config),
    ok = scope_test:kill(D, "STOP"),
    Refs = rpc(T, fun() ->
                          Full = fun() -> erlang:send({nobody, node(Pid)}, full, [nosuspend]) =:= nosuspend end,
                          _ = spawn(fun() -> [{nobody, node(Pid)} ! <<0:8000000>> || _ <- lists:seq(1, 50)] end),
                          %% What TCP takes in meanwhile makes room again.
                          Stays = fun Stays(0) -> ok; Stays(N) -> receive after 10 -> ok end, Stays(case Full() of true -> N - 1; false -> 30 end) end,
                          Stays(30),
                          Asked = [begin
                                       Ref = make_ref(),
                                       scope_agent ! {control, Ref, Request},
                                       Ref
                                   end || Request <- [status, {start, a, calls([{scope_victim, work, 1}])}, {stop, a}]],
                          %% Both have done with it: the session with asking, the guard, the session with the answers.
                          Rests = fun() -> [{status, waiting}, {message_queue_len, 0}] =:= process_info(whereis(scope_agent), [status, message_queue_len]) end,
                          wait_until(Rests),
                          Last = make_ref(),
                          scope_guard ! {request, self(), Last, status},
                          receive {guard_reply, Last, {ok, _}} -> ok end,
                          wait_until(Rests),
                          true = Full(),
                          Asked
                  end),
    ok = scope_test:kill(D, "CONT"),
    Answers = [d(D, wait, [Pid, fun({control_reply, R, _}) -> R =:= Ref end]) || Ref <- Refs],
    [{control_reply, _, {ok, #{refused := 0}}}, {control_reply, _, {ok, _}}, {control_reply, _, ok}] = Answers,
    #{inbox := Inbox} = d(D, call, [Pid, summary]),
    assert_eq(3, length([x || {control_reply, _, _} <- Inbox])),
    {ok, #{}} = d(D, control, [Pid, status]).

suspended(Config, Names, Within) -> suspended(Config, Names, Within, fun(_) -> ok end).
suspended(Config, Names, Within, Then) ->
    T = busy(Config),
    %% from a process that lives on: its suspending ends with it
    rpc(T, fun() ->
                   Me = self(),
                   spawn(fun() ->
                                 Ps = [whereis(N) || N <- Names],
                                 process_flag(priority, max),
                                 [true = erlang:suspend_process(P) || P <- Ps],
                                 lists:foreach(Then, Ps),
                                 process_flag(priority, normal),
                                 Me ! done,
                                 receive never -> ok end
                         end),
                   receive done -> ok end
           end),
    Start = erlang:monotonic_time(millisecond),
    nothing_left(T, Within),
    log("gone after ~b ms", [erlang:monotonic_time(millisecond) - Start]).

%% A target that is traced in every way, with load.
busy(Config) ->
    {T, D, Pid} = setup(Config),
    _ = rpc(T, scope_victim, start, [srv]),
    {ok, _} = d(D, control, [Pid, {start, a, #{modules => [scope_victim], all => true, args => true}}]),
    {ok, _} = d(D, control, [Pid, {start, b, #{names => [srv], children => true}}]),
    _ = agent_SUITE:paced(T, 5),
    d(D, wait, [Pid, fun({event, {trace_ts, _, call, {scope_victim, work, 1}, _, _}}) -> true end]),
    T.

%% It is started anew, with a gap, and goes on.
tracer_killed(Config) ->
    {T, D, Pid} = setup(Config),
    P = rpc(T, scope_victim, echo, []),
    {ok, _} = d(D, control, [Pid, {start, a, (calls([{scope_victim, work, 1}]))#{pids => [P]}}]),
    rpc(T, fun() -> P ! {self(), 1}, receive {P, 3} -> ok end end),
    ok = d(D, control, [Pid, flush]),
    rpc(T, fun() -> exit(whereis(scope_tracer), kill) end),
    {gap, {tracer_killed, unknown, From, Until}} =
        d(D, wait, [Pid, fun({gap, {tracer_killed, _, _, _}}) -> true end]),
    true = From < Until,
    rpc(T, fun() -> P ! {self(), 2}, receive {P, 5} -> ok end end),
    d(D, wait, [Pid, fun({event, {trace_ts, _, call, _, {args, [X]}, _}}) -> X =:= 2 end]),
    assert_eq([1, 2], args(d(D, events, [Pid]))),
    %% too often is given up
    lists:foreach(fun(_) ->
                          Old = rpc(T, erlang, whereis, [scope_tracer]),
                          rpc(T, erlang, exit, [Old, kill]),
                          wait_until(fun() -> New = rpc(T, erlang, whereis, [scope_tracer]), is_pid(New) andalso New =/= Old end)
                  end, lists:seq(1, 5)),
    {stopped, a, overload} = d(D, wait, [Pid, fun({stopped, a, _}) -> true end]),
    {ok, #{tracing := #{}}} = d(D, control, [Pid, status]).

%% After a new tracer the children are followed again, those spawned meanwhile too.
children_after_kill(Config) ->
    {T, D, Pid} = setup(Config),
    {P, Go} = agent_trace_SUITE:family(T),
    {ok, _} = d(D, control, [Pid, {start, a, #{pids => [P], children => true, events => [messages]}}]),
    Go(),
    wait_until(fun() -> agent_trace_SUITE:traced(T) =:= 3 end),
    rpc(T, fun() -> exit(whereis(scope_tracer), kill) end),
    d(D, wait, [Pid, fun({gap, {tracer_killed, _, _, _}}) -> true end]),
    wait_until(fun() -> agent_trace_SUITE:traced(T) =:= 3 end),
    %% the restarted daemon learns what runs
    d(D, stop, [Pid]),
    Pid2 = agent_SUITE:again(T, D, Pid, #{}),
    {hello, #{tracing := [a]}} = d(D, wait, [Pid2, fun({hello, _}) -> true end]).

tracer_suspended(Config) ->
    {T, D, Pid} = setup(Config),
    {ok, _} = d(D, control, [Pid, {start, a, calls([{scope_victim, work, 1}])}]),
    rpc(T, fun() ->
                   Me = self(),
                   spawn(fun() -> erlang:suspend_process(whereis(scope_tracer)), Me ! done, receive never -> ok end end),
                   receive done -> ok end
           end),
    d(D, wait, [Pid, fun({gap, {tracer_killed, _, _, _}}) -> true end]),
    agent_SUITE:produce(T, 10),
    ok = d(D, control, [Pid, flush]),
    assert_eq(lists:seq(1, 10), args(d(D, events, [Pid]))).

%% Four producers flat out: the node's memory is bounded, what is not captured is said, and all ends when asked.
hostile_load(Config) -> hostile(Config, small, 5000, 150).
hostile_big_terms(Config) -> hostile(Config, lists:duplicate(5000, {a, b}), 3000, 600).

hostile(Config, Arg, Ms, MaxMb) ->
    {T, D, Pid} = setup(Config, #{keep => false}),
    {ok, _} = d(D, control, [Pid, {start, a, calls([{scope_victim, hammered, 1}])}]),
    Before = rpc(T, erlang, memory, [total]),
    Made = rpc(T, fun() ->
                          C = counters:new(1, []),
                          Ps = [spawn(fun() -> hammer(Arg, C) end) || _ <- lists:seq(1, 4)],
                          put(peak, 0),
                          Until = erlang:monotonic_time(millisecond) + Ms,
                          Peak = peak(Until, 0),
                          [exit(P, kill) || P <- Ps],
                          {counters:get(C, 1), Peak}
                  end),
    {Calls, Peak} = Made,
    {ok, _} = agent_SUITE:status_until(D, Pid, fun(#{held_batches := H}) -> H =:= 0 end),
    {ok, Status} = d(D, control, [Pid, status]),
    Gaps = d(D, gaps, [Pid]),
    #{events := Got} = d(D, call, [Pid, summary]),
    Counted = lists:sum([N || {_, N, _, _} <- Gaps, is_integer(N)]),
    log("~b calls in ~b ms, ~b captured, ~b counted as lost, memory +~b MB at most, gaps ~p",
        [Calls, Ms, Got, Counted, (Peak - Before) bsr 20, lists:usort([R || {R, _, _, _} <- Gaps])]),
    log("~p", [maps:with([captured, discarded, dropped, refused], Status)]),
    true = (Peak - Before) bsr 20 < MaxMb,
    ok = d(D, control, [Pid, unload]),
    nothing_left(T).

hammer(Arg, C) ->
    scope_victim:hammered(Arg),
    counters:add(C, 1, 1),
    hammer(Arg, C).

peak(Until, Peak) ->
    Now = max(Peak, erlang:memory(total)),
    case erlang:monotonic_time(millisecond) > Until of
        true -> Now;
        false -> timer:sleep(20), peak(Until, Now)
    end.

%% --- other tools -----------------------------------------------------------------------------------------------------

%% Where there is one session for all tools, up to OTP 26.
shared(Config) ->
    {T, D, Pid} = setup(Config),
    agent_test:has_sessions(T) andalso throw({skip, "we have a session of our own there"}),
    {T, D, Pid}.

%% From OTP 27 on: another tool traces the same function of the same process before, during and after us.
dbg_beside(Config) ->
    beside(Config,
           fun(P, To) ->
                   {ok, _} = dbg:tracer(process, {fun({trace, _, call, {_, _, [X]}}, Pid) -> Pid ! {tool, X}, Pid end, To}),
                   {ok, _} = dbg:p(P, [call]),
                   {ok, _} = dbg:tpl(scope_victim, work, 1, [])
           end,
           fun() -> dbg:stop() end).

old_trace_beside(Config) ->
    beside(Config,
           fun(P, To) ->
                   Me = self(),
                   spawn(fun() ->
                                 1 = erlang:trace(P, true, [call]),
                                 1 = erlang:trace_pattern({scope_victim, work, 1}, [], [local]),
                                 Me ! set,
                                 (fun Loop() -> receive {trace, _, call, {_, _, [X]}} -> To ! {tool, X}, Loop() end end)()
                         end),
                   receive set -> ok end
           end,
           fun() ->
                   erlang:trace_pattern({'_', '_', '_'}, false, [local]),
                   erlang:trace(all, false, [all])
           end).

beside(Config, Begin, End) ->
    {T, D, Pid} = setup(Config),
    agent_test:has_sessions(T) orelse throw({skip, before_otp_27}),
    P = rpc(T, scope_victim, echo, []),
    Seen = rpc(T, fun() -> spawn(fun() -> collect([]) end) end),
    Work = fun(Xs) -> rpc(T, fun() -> [begin P ! {self(), X}, receive {P, _} -> ok end end || X <- Xs], ok end) end,
    Theirs = fun(Last) ->
                     wait_until(fun() -> lists:member(Last, rpc(T, fun() -> seen(Seen) end)) end),
                     rpc(T, fun() -> seen(Seen) end)
             end,
    Start = fun(Id) -> {ok, _} = d(D, control, [Pid, {start, Id, (calls([{scope_victim, work, 1}]))#{pids => [P]}}]) end,
    rpc(T, fun() -> Begin(P, Seen) end),
    Work([1, 2]),
    Start(a),
    Work([3, 4]),
    ok = d(D, control, [Pid, {stop, a}]),
    Work([5, 6]),
    assert_eq([1, 2, 3, 4, 5, 6], Theirs(6)),
    Start(b),
    Work([7]),
    rpc(T, End),
    Work([8, 9]),
    ok = d(D, control, [Pid, flush]),
    assert_eq([1, 2, 3, 4, 5, 6, 7], Theirs(7)),
    assert_eq([3, 4, 7, 8, 9], args(d(D, events, [Pid]))),
    %% nothing was thought to be lost, and a tool that comes later is not disturbed by our going either
    assert_eq([], [G || G = {R, _, _, _} <- d(D, gaps, [Pid]), R =:= tracing_lost]),
    rpc(T, fun() -> Begin(P, Seen) end),
    ok = d(D, control, [Pid, unload]),
    wait_until(fun() -> rpc(T, erlang, whereis, [scope_agent]) =:= undefined end),
    Work([10]),
    assert_eq(lists:seq(1, 7) ++ [10], Theirs(10)),
    rpc(T, End),
    nothing_left(T).

collect(Xs) ->
    receive
        {tool, X} -> collect([X | Xs]);
        {tell, From} -> From ! {seen, lists:reverse(Xs)}, collect(Xs)
    end.

seen(Collector) -> Collector ! {tell, self()}, receive {seen, Xs} -> Xs end.

foreign_tracer(Config) ->
    {T, D, Pid} = shared(Config),
    P = rpc(T, scope_victim, echo, []),
    P2 = rpc(T, scope_victim, echo, []),
    Owner = rpc(T, fun() ->
                           Me = self(),
                           Own = spawn(fun() ->
                                               erlang:trace(P, true, [send]),
                                               Me ! ok,
                                               receive never -> ok end
                                       end),
                           receive ok -> Own end
                   end),
    {error, {owned_by, Owner}} = d(D, control, [Pid, {start, a, #{pids => [P], events => [messages]}}]),
    {ok, #{processes := 1, left_out := [{P, {owned_by, Owner}}]}} =
        d(D, control, [Pid, {start, b, #{pids => [P, P2], events => [messages]}}]),
    ok = d(D, control, [Pid, unload]),
    %% the other tool's flags are as they were
    wait_until(fun() -> rpc(T, erlang, whereis, [scope_agent]) =:= undefined end),
    assert_eq({flags, [send]}, rpc(T, erlang, trace_info, [P, flags])),
    assert_eq({tracer, Owner}, rpc(T, erlang, trace_info, [P, tracer])).

foreign_pattern(Config) ->
    {T, D, Pid} = shared(Config),
    Theirs = [{['$1'], [{'>', '$1', 7}], [{return_trace}]}],
    _ = rpc(T, code, ensure_loaded, [scope_victim]),
    1 = rpc(T, erlang, trace_pattern, [{scope_victim, twice, 1}, Theirs, [local]]),
    {error, {pattern_owned, {scope_victim, twice, 1}, _}} =
        d(D, control, [Pid, {start, a, #{modules => [scope_victim]}}]),
    {ok, _} = d(D, control, [Pid, {start, b, #{mfas => [{scope_victim, work, 1}]}}]),
    ok = d(D, control, [Pid, unload]),
    wait_until(fun() -> rpc(T, erlang, whereis, [scope_agent]) =:= undefined end),
    assert_eq({match_spec, Theirs}, rpc(T, erlang, trace_info, [{scope_victim, twice, 1}, match_spec])),
    assert_eq({traced, false}, agent_test:info(T, {scope_victim, work, 1}, traced)).

%% Another tool's filter on messages stays, and the start says that it holds for us too.
foreign_send_filter(Config) ->
    {T, D, Pid} = shared(Config),
    P = rpc(T, scope_victim, echo, []),
    Theirs = [{['_', {'$1', '_'}], [{is_atom, '$1'}], []}],
    rpc(T, erlang, trace_pattern, [send, Theirs, []]),
    {ok, #{left_out := [{send, filtered_by_another}]}} =
        d(D, control, [Pid, {start, a, #{pids => [P], events => [messages]}}]),
    ok = d(D, control, [Pid, unload]),
    wait_until(fun() -> rpc(T, erlang, whereis, [scope_agent]) =:= undefined end),
    assert_eq({match_spec, Theirs}, rpc(T, erlang, trace_info, [send, match_spec])).

%% Another tool sets a pattern over ours: it keeps it, we stop.
pattern_taken_over(Config) ->
    {T, D, Pid} = shared(Config),
    {ok, _} = d(D, control, [Pid, {start, a, calls([{scope_victim, work, 1}, {scope_victim, twice, 1}])}]),
    Theirs = [{['$1'], [{'>', '$1', 7}], [{return_trace}]}],
    1 = rpc(T, erlang, trace_pattern, [{scope_victim, twice, 1}, Theirs, [local]]),
    {stopped, a, lost} = d(D, wait, [Pid, fun({stopped, a, _}) -> true end]),
    d(D, wait, [Pid, fun({gap, {tracing_lost, unknown, _, _}}) -> true end]),
    assert_eq({match_spec, Theirs}, rpc(T, erlang, trace_info, [{scope_victim, twice, 1}, match_spec])),
    wait_until(fun() -> agent_test:info(T, {scope_victim, work, 1}, traced) =:= {traced, false} end).

%% Wipes every pattern on the node: set again once, with a gap.
dbg_stop_clear(Config) ->
    {T, D, Pid} = shared(Config),
    {ok, _} = d(D, control, [Pid, {start, a, calls([{scope_victim, work, 1}])}]),
    rpc(T, fun() -> dbg:tracer(), dbg:stop_clear() end),
    d(D, wait, [Pid, fun({gap, {tracing_lost, unknown, _, _}}) -> true end]),
    wait_until(fun() -> agent_test:info(T, {scope_victim, work, 1}, traced) =:= {traced, local} end),
    agent_SUITE:produce(T, 10),
    ok = d(D, control, [Pid, flush]),
    assert_eq(lists:seq(1, 10), args(d(D, events, [Pid]))).

dbg_clears_twice(Config) ->
    {T, D, Pid} = shared(Config),
    {ok, _} = d(D, control, [Pid, {start, a, calls([{scope_victim, work, 1}])}]),
    Clear = fun() -> erlang:trace_pattern({'_', '_', '_'}, false, [local]) end,
    rpc(T, Clear),
    wait_until(fun() -> agent_test:info(T, {scope_victim, work, 1}, traced) =:= {traced, local} end),
    rpc(T, Clear),
    {stopped, a, lost} = d(D, wait, [Pid, fun({stopped, a, _}) -> true end]).

%% A reload drops the breakpoints: armed again each time, with a gap and a code_load event.
module_reloaded(Config) ->
    {T, D, Pid} = setup(Config),
    {ok, _} = d(D, control, [Pid, {start, a, calls([{scope_victim, work, 1}, {lists, sum, 1}])}]),
    [begin
         rpc(T, fun() -> code:purge(scope_victim), {module, _} = code:load_file(scope_victim), ok end),
         wait_until(fun() -> agent_test:info(T, {scope_victim, work, 1}, traced) =:= {traced, local} end)
     end || _ <- lists:seq(1, 3)],
    d(D, wait, [Pid, fun({gap, {code_loaded, unknown, _, _}}) -> true end]),
    d(D, wait, [Pid, fun({event, {scope, code_load, scope_victim, _, _}}) -> true end]),
    agent_SUITE:produce(T, 10),
    ok = d(D, control, [Pid, flush]),
    assert_eq(lists:seq(1, 10), args(d(D, events, [Pid]))).

%% A worker that crashes and comes back under its name is followed.
name_followed(Config) ->
    {T, D, Pid} = setup(Config),
    P1 = rpc(T, scope_victim, start, [srv]),
    {ok, _} = d(D, control, [Pid, {start, a, #{names => [srv, never_there], events => [takes, state]}}]),
    rpc(T, erlang, exit, [P1, kill]),
    P2 = rpc(T, fun() -> wait_until(fun() -> whereis(srv) =:= undefined end), scope_victim:start(srv, 40) end),
    wait_until(fun() -> agent_test:info(T, P2, flags) =/= {flags, []} end),
    rpc(T, gen_server, cast, [srv, add]),
    d(D, wait, [Pid, fun({event, {trace_ts, _, call, _, {state, 41}, _}}) -> true end]),
    {gap, {name_moved, unknown, _, _}} = d(D, wait, [Pid, fun({gap, {name_moved, _, _, _}}) -> true end]).

%% Twenty times: load, trace under load, unload. Nothing stays, nothing grows.
unload_under_load(Config) ->
    T = agent_test:target(Config, #{}),
    D = start_node(Config, daemon, #{hidden => true}),
    _ = agent_SUITE:paced(T, 200),
    Atoms = [begin
                 Pid = daemon(T, D, #{keep => false}),
                 {ok, _} = d(D, control, [Pid, {start, a, #{modules => [scope_victim], args => true}}]),
                 d(D, wait, [Pid, fun({hello, _}) -> true end]),
                 timer:sleep(20),
                 ok = d(D, control, [Pid, unload]),
                 nothing_left(T),
                 rpc(T, erlang, system_info, [process_count])
             end || _ <- lists:seq(1, 20)],
    log("processes ~p", [Atoms]),
    true = lists:last(Atoms) =< hd(Atoms) + 1.
