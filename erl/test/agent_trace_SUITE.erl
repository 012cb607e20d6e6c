%% What is captured: unions of starts, limits, children, new processes, messages, bounded terms, the baseline.
-module(agent_trace_SUITE).

-compile([export_all, nowarn_export_all]).

-import(scope_test, [start_node/3, rpc/2, rpc/4, wait_until/1, wait_until/2, assert_eq/2, log/2, node_of/1]).
-import(agent_test, [setup/1, setup/2, d/3, args/1, calls/1, nothing_left/1, nothing_left/2]).

all() ->
    [union_and_stop, union_of_patterns, limit_ms, limit_count, children, children_stop, children_of_a_sample, new_processes, all_processes,
     left_out, messages, fan_out, sample_is_told, samples_of_two_starts, exceptions, cut_terms, users_own_mark, baseline, name_moves, order_is_kept, calls_among_messages, many_processes,
     throughput].

timeout(_) -> 60000.

%% Stopping one of two starts leaves the flags of the other exactly.
union_and_stop(Config) ->
    {T, D, Pid} = setup(Config),
    P1 = rpc(T, scope_victim, echo, []),
    P2 = rpc(T, scope_victim, echo, []),
    Flags = fun(P) -> {flags, F} = agent_test:info(T, P, flags), lists:sort(F) end,
    {ok, _} = d(D, control, [Pid, {start, a, #{pids => [P1, P2], events => [messages]}}]),
    A = Flags(P1),
    assert_eq(agent_test:flags(['receive', send]), A),
    {ok, _} = d(D, control, [Pid, {start, b, #{pids => [P1], events => [sends, procs]}}]),
    assert_eq(agent_test:flags([procs, 'receive', send]), Flags(P1)),
    ok = d(D, control, [Pid, {stop, b}]),
    assert_eq(A, Flags(P1)),
    assert_eq(A, Flags(P2)),
    {ok, _} = d(D, control, [Pid, {start, c, #{pids => [P2], events => [procs]}}]),
    ok = d(D, control, [Pid, {stop, a}]),
    assert_eq([], Flags(P1)),
    assert_eq(agent_test:flags([procs]), Flags(P2)),
    ok = d(D, control, [Pid, {stop, all}]),
    assert_eq([], Flags(P2)).

%% Of patterns, too: a module's, a function's and a behaviour's.
union_of_patterns(Config) ->
    {T, D, Pid} = setup(Config),
    Spec = fun(F, A) -> {match_spec, S} = agent_test:info(T, {scope_victim, F, A}, match_spec), S end,
    %% The native tracer takes the arguments itself.
    {Plain, Args, Both} = case agent_test:native() of
                              true -> {[], [], [{'_', [], [{exception_trace}]}]};
                              false -> {[{'_', [], []}], [{'_', [], [{message, {{args, '$_'}}}]}],
                                        [{'_', [], [{exception_trace}, {message, {{args, '$_'}}}]}]}
                          end,
    {ok, _} = d(D, control, [Pid, {start, a, #{modules => [scope_victim]}}]),
    assert_eq(Plain, Spec(work, 1)),
    {ok, _} = d(D, control, [Pid, {start, b, calls([{scope_victim, work, 1}])}]),
    assert_eq({Args, Plain}, {Spec(work, 1), Spec(twice, 1)}),
    {ok, _} = d(D, control, [Pid, {start, c, #{mfas => [{scope_victim, work, '_'}], events => [returns]}}]),
    {ok, _} = d(D, control, [Pid, {start, d, #{mfas => [{scope_victim, work, 1}], events => [returns], args => true}}]),
    assert_eq({Both, Plain}, {Spec(work, 1), Spec(twice, 1)}),
    ok = d(D, control, [Pid, {stop, d}]),
    ok = d(D, control, [Pid, {stop, c}]),
    assert_eq({Args, Plain}, {Spec(work, 1), Spec(twice, 1)}),
    ok = d(D, control, [Pid, {stop, a}]),
    assert_eq(Args, Spec(work, 1)),
    assert_eq({match_spec, false}, agent_test:info(T, {scope_victim, twice, 1}, match_spec)),
    ok = d(D, control, [Pid, {stop, b}]),
    assert_eq({traced, false}, agent_test:info(T, {scope_victim, work, 1}, traced)).

limit_ms(Config) ->
    {T, D, Pid} = setup(Config),
    {ok, _} = d(D, control, [Pid, {start, a, (calls([{scope_victim, work, 1}]))#{limit => #{ms => 300}}}]),
    {stopped, a, {limit, ms}} = d(D, wait, [Pid, fun({stopped, _, _}) -> true end]),
    assert_eq({traced, false}, agent_test:info(T, {scope_victim, work, 1}, traced)).

limit_count(Config) ->
    {T, D, Pid} = setup(Config),
    {ok, _} = d(D, control, [Pid, {start, a, (calls([{scope_victim, work, 1}]))#{limit => #{count => 500}}}]),
    Producer = agent_SUITE:paced(T, 5),
    {stopped, a, {limit, count}} = d(D, wait, [Pid, fun({stopped, _, _}) -> true end]),
    _ = agent_SUITE:stop_paced(T, Producer),
    assert_eq({traced, false}, agent_test:info(T, {scope_victim, work, 1}, traced)).

children(Config) ->
    {T, D, Pid} = setup(Config),
    {P, Go} = family(T),
    {ok, _} = d(D, control, [Pid, {start, a, (calls([{scope_victim, work, 1}]))#{pids => [P], children => true}}]),
    Go(),
    d(D, wait, [Pid, fun({event, {trace_ts, _, call, _, {args, [3]}, _}}) -> true end]),
    Events = d(D, events, [Pid]),
    assert_eq([1, 2, 3], lists:sort(args(Events))),
    %% process events were not asked for
    assert_eq([], [E || E <- Events, element(1, E) =:= trace_ts, element(3, E) =/= call]).

%% Of what one process sends to many, only what goes to a sample of them is recorded: the same ones for each message, sent and
%% fetched; calls are as they were. A start that wants all messages gets them, and it is told when which share was.
fan_out(Config) ->
    {T, D, Pid} = setup(Config),
    {P, Rs} = rpc(T, fun() ->
                             {spawn(fun sender/0), [spawn(fun() -> receiver(2) end) || _ <- lists:seq(1, 400)]}
                     end),
    Send = fun(M) -> rpc(T, fun() -> P ! {self(), Rs, M}, receive {P, sent} -> ok end end) end,
    Seen = fun(M) ->
                   ok = d(D, control, [Pid, flush]),
                   Events = d(D, events, [Pid]),
                   {lists:sort([To || {trace_ts, _, send, {_, X}, To, _} <- Events, X =:= M, lists:member(To, Rs)]),
                    lists:sort([R || {trace_ts, R, 'receive', {_, X}, _} <- Events, X =:= M])}
           end,
    Sample = lists:sort(rpc(T, fun() -> [R || R <- Rs, scope_budget:in_sample(R, 0.25)] end)),
    log("~b of 400", [length(Sample)]),
    true = length(Sample) > 50 andalso length(Sample) < 150,
    Spec = #{pids => [P | Rs], mfas => [{scope_victim, work, 1}], events => [messages, calls], args => true},
    {error, {bad_spec, fan_out, _}} = d(D, control, [Pid, {start, a, Spec#{fan_out => 0}}]),
    {ok, _} = d(D, control, [Pid, {start, a, Spec#{fan_out => 0.25}}]),
    Send(1),
    assert_eq({Sample, Sample}, Seen(1)),
    {ok, _} = d(D, control, [Pid, {start, b, Spec}]),
    {gap, {fan_out, unknown, From, Until, #{rate := 0.25}}} = d(D, wait, [Pid, fun({gap, {fan_out, _, _, _, _}}) -> true end]),
    true = From < Until,
    Send(2),
    assert_eq({lists:sort(Rs), lists:sort(Rs)}, Seen(2)),
    assert_eq([{P, 1}, {P, 2}], [{Who, X} || {trace_ts, Who, call, {scope_victim, work, 1}, {args, [X]}, _} <- d(D, events, [Pid])]).

%% Whatever was captured of a sample lies in a time of which that is told, from the first flag to the last.
sample_is_told(Config) ->
    {T, D, Pid} = setup(Config),
    Ps = rpc(T, fun() -> [spawn(fun() -> calling(1) end) || _ <- lists:seq(1, 8)] end),
    Spec = #{pids => Ps, mfas => [{scope_victim, work, 1}], events => [calls], args => true, sample => 0.5},
    lists:foreach(fun(N) ->
                          {ok, _} = d(D, control, [Pid, {start, N, Spec}]),
                          ok = d(D, control, [Pid, flush]),
                          ok = d(D, control, [Pid, {stop, N}])
                  end, lists:seq(1, 25)),
    ok = d(D, control, [Pid, flush]),
    Gaps = fun() -> [{From, Until} || {sampled, unknown, From, Until, #{rate := 0.5}} <- d(D, gaps, [Pid])] end,
    ok = wait_until(fun() -> length(Gaps()) =:= 25 end),
    Told = Gaps(),
    Times = [At || {trace_ts, _, call, _, _, At} <- d(D, events, [Pid])],
    log("~b calls, ~b gaps", [length(Times), length(Told)]),
    true = length(Times) > 100,
    assert_eq([], [At || At <- Times, not lists:any(fun({From, Until}) -> From =< At andalso At =< Until end, Told)]).

%% A sample of one start says nothing of what another takes whole.
samples_of_two_starts(Config) ->
    {T, D, Pid} = setup(Config),
    P = rpc(T, scope_victim, echo, []),
    {ok, _} = d(D, control, [Pid, {start, a, #{pids => [P], events => [calls, procs]}}]),
    {ok, _} = d(D, control, [Pid, {start, b, #{pids => [P], events => [calls, messages], sample => 0.25}}]),
    ok = d(D, control, [Pid, {stop, a}]),
    ok = d(D, control, [Pid, {stop, b}]),
    Told = fun() -> [F || {sampled, unknown, _, _, F} <- d(D, gaps, [Pid])] end,
    ok = wait_until(fun() -> length(Told()) =:= 2 end),
    %% The newest first.
    assert_eq([#{rate => 0.25}, #{rate => 0.25, flags => #{call => 1.0, procs => 1.0, send => 0.25, 'receive' => 0.25}}], Told()).

calling(N) ->
    _ = scope_victim:work(N),
    case N rem 20 of 0 -> receive after 1 -> ok end; _ -> ok end,
    calling(N + 1).

sender() ->
    receive
        {From, Rs, M} ->
            scope_victim:work(M),
            [R ! {msg, M} || R <- Rs],
            From ! {self(), sent}
    end,
    sender().

receiver(0) -> ok;
receiver(N) -> receive {msg, _} -> receiver(N - 1) end.

%% A child belongs to the starts of its parent.
children_stop(Config) ->
    {T, D, Pid} = setup(Config),
    {P, Go} = family(T),
    {ok, _} = d(D, control, [Pid, {start, a, #{pids => [P], children => true, events => [messages]}}]),
    {ok, _} = d(D, control, [Pid, {start, b, #{pids => [P], events => [procs]}}]),
    Go(),
    wait_until(fun() -> traced(T) =:= 3 end),
    ok = d(D, control, [Pid, {stop, a}]),
    assert_eq(1, traced(T)),
    {flags, Flags} = agent_test:info(T, P, flags),
    assert_eq(agent_test:flags([procs]), lists:sort(Flags)).

traced(T) -> rpc(T, fun() -> length([P || P <- processes(), {flags, [_ | _]} <- [agent_test:info(P, flags)]]) end).

%% A process that on `go` spawns one that spawns one; each calls work and lives on.
family(T) ->
    P = rpc(T, fun() -> spawn(fun() -> receive go -> family_member(3) end end) end),
    {P, fun() -> rpc(T, erlang, send, [P, go]) end}.
family_member(0) -> ok;
family_member(N) ->
    spawn(fun() -> family_member(N - 1) end),
    scope_victim:work(4 - N),
    receive never -> ok end.

%% A sample is of those that are asked for: whose parent is in it is traced, whose is not is not, whole families each.
children_of_a_sample(Config) ->
    {T, D, Pid} = setup(Config),
    Families = [family(T) || _ <- lists:seq(1, 60)],
    Roots = [P || {P, _} <- Families],
    {ok, #{processes := N}} = d(D, control, [Pid, {start, a, (calls([{scope_victim, work, 1}]))#{pids => Roots, children => true, sample => 0.5}}]),
    In = rpc(T, fun() -> [P || P <- Roots, scope_budget:in_sample(P, 0.5)] end),
    assert_eq(length(In), N),
    true = N > 10 andalso N < 50,
    [Go() || {_, Go} <- Families],
    wait_until(fun() ->
                       ok = d(D, control, [Pid, flush]),
                       case length(args(d(D, events, [Pid]))) of L when L >= 3 * N -> true; L -> {L, 3 * N} end
               end, 10000),
    ok = d(D, control, [Pid, flush]),
    assert_eq(lists:sort(lists:append([lists:duplicate(N, X) || X <- [1, 2, 3]])), lists:sort(args(d(D, events, [Pid])))),
    Whose = [P || {trace_ts, P, call, _, _, _} <- d(D, events, [Pid])],
    assert_eq({length(In) * 3, In}, {length(lists:usort(Whose)), [P || P <- Roots, lists:member(P, Whose)]}),
    ok = d(D, control, [Pid, {stop, a}]),
    assert_eq(0, traced(T)),
    {gap, {sampled, unknown, _, _, #{rate := 0.5}}} = d(D, wait, [Pid, fun({gap, {sampled, _, _, _, _}}) -> true end]).

new_processes(Config) ->
    {T, D, Pid} = setup(Config),
    Old = rpc(T, scope_victim, echo, []),
    {ok, #{processes := 0}} =
        d(D, control, [Pid, {start, a, (calls([{scope_victim, work, 1}]))#{new_processes => true}}]),
    New = rpc(T, scope_victim, echo, []),
    rpc(T, fun() -> [begin P ! {self(), X}, receive {P, _} -> ok end end || {P, X} <- [{Old, 1}, {New, 2}]], ok end),
    d(D, wait, [Pid, fun({event, {trace_ts, _, call, _, {args, _}, _}}) -> true end]),
    ok = d(D, control, [Pid, flush]),
    assert_eq([2], args(d(D, events, [Pid]))),
    ok = d(D, control, [Pid, {stop, a}]),
    assert_eq({flags, []}, agent_test:info(T, new_processes, flags)),
    assert_eq({flags, []}, agent_test:info(T, New, flags)).

all_processes(Config) ->
    {T, D, Pid} = setup(Config),
    {ok, #{processes := N}} = d(D, control, [Pid, {start, a, calls([{scope_victim, work, 1}])}]),
    true = N > 20,
    P = rpc(T, scope_victim, echo, []),
    rpc(T, fun() -> P ! {self(), 1}, receive {P, _} -> ok end end),
    d(D, wait, [Pid, fun({event, {trace_ts, _, call, _, {args, _}, _}}) -> true end]),
    ok = d(D, control, [Pid, {stop, a}]),
    assert_eq(0, traced(T)).

left_out(Config) ->
    {T, D, Pid} = setup(Config),
    {ok, #{left_out := Out}} = d(D, control, [Pid, {start, a, #{all => true, events => [messages]}}]),
    Named = fun(Name) -> proplists:get_value(rpc(T, erlang, whereis, [Name]), Out) end,
    assert_eq([own, own, own, own, own], [Named(N) || N <- [scope_agent, scope_sup, scope_guard, scope_tracer, scope_lease]]),
    assert_eq({vm, distribution}, {Named(init), Named(net_kernel)}),
    %% with every message on the node traced, shipping makes no events of its own
    timer:sleep(500),
    {ok, #{captured := N1}} = d(D, control, [Pid, status]),
    timer:sleep(1000),
    {ok, #{captured := N2}} = d(D, control, [Pid, status]),
    log("~b events in an idle second", [N2 - N1]),
    true = N2 - N1 < 100.

messages(Config) ->
    {T, D, Pid} = setup(Config),
    P = rpc(T, scope_victim, echo, []),
    {ok, _} = d(D, control, [Pid, {start, a, #{pids => [P], events => [messages]}}]),
    Me = rpc(T, fun() -> P ! {self(), 1}, receive {P, 3} -> ok end, P ! stop, self() end),
    ok = d(D, control, [Pid, flush]),
    d(D, wait, [Pid, fun({event, {trace_ts, _, 'receive', stop, _}}) -> true end]),
    [{trace_ts, P, 'receive', {Me, 1}, _}, {trace_ts, P, send_to_non_existing_process, {P, 3}, Me, _}
    | _] = case d(D, events, [Pid]) of
               [{scope, alive, P, _, _}, R, {trace_ts, P, send, M, To, Ts} | Rest] ->
                   [R, {trace_ts, P, send_to_non_existing_process, M, To, Ts} | Rest];
               [R, {trace_ts, P, send, M, To, Ts} | Rest] ->
                   [R, {trace_ts, P, send_to_non_existing_process, M, To, Ts} | Rest]
           end.

exceptions(Config) ->
    {T, D, Pid} = setup(Config),
    {ok, _} = d(D, control, [Pid, {start, a, #{mfas => [{scope_victim, twice, 1}], events => [calls, returns]}}]),
    {'EXIT', _} = rpc(T, fun() -> catch scope_victim:twice(not_a_number) end),
    d(D, wait, [Pid, fun({event, {trace_ts, _, exception_from, {scope_victim, twice, 1}, {error, badarith}, _}}) -> true
                     end]).

%% Terms above their cap come bounded, with the size they had; below it, as they were.
cut_terms(Config) ->
    Many = lists:seq(1000, 6000),
    {T, D, Pid} = setup(Config),
    {ok, _} = d(D, control, [Pid, {start, a, calls([{scope_victim, hammered, 1}])}]),
    Big = [lists:seq(1000, 3000), maps:from_list([{I, I} || I <- lists:seq(1, 2000)]), binary:copy(<<7>>, 100000),
           list_to_tuple(lists:seq(1000, 3000)), nest(3000, x), [self() || _ <- lists:seq(1, 500)],
           [a | lists:duplicate(3000, b)] ++ c, fun() -> Many end, {<<1:2001>>, lists:seq(1, 5000)}, 1 bsl 100000],
    Small = [lists:seq(1, case agent_test:native() of true -> 30; false -> 100 end), #{a => 1}, <<"x">>, {}, [], 1.5, nest(case agent_test:native() of true -> 6; false -> 10 end, x), fun lists:map/2],
    [rpc(T, scope_victim, hammered, [X]) || X <- Big ++ Small],
    ok = d(D, control, [Pid, flush]),
    wait_until(fun() -> length(hammered(D, Pid)) =:= length(Big) + length(Small) end),
    Got = hammered(D, Pid),
    {GotBig, GotSmall} = lists:split(length(Big), Got),
    [begin
         {'$scope_cut', Bytes, Bounded, _} = G,
         true = agent_test:native() orelse Bytes >= 4096,
         true = Bytes > erlang:external_size(Bounded) - 60,
         true = erlang:external_size(Bounded) < case agent_test:native() of true -> 600; false -> 40000 end
     end || G <- GotBig],
    assert_eq([[X] || X <- Small], GotSmall).

hammered(D, Pid) -> [A || {trace_ts, _, call, _, {args, A}, _} <- d(D, events, [Pid])].

nest(0, X) -> X;
nest(N, X) -> nest(N - 1, {N, X}).

%% A user's term that looks like our mark is not taken for one.
users_own_mark(Config) ->
    {T, D, Pid} = setup(Config),
    P = rpc(T, scope_victim, echo, []),
    {ok, _} = d(D, control, [Pid, {start, a, #{pids => [P], events => [messages]}}]),
    Fake = {'$scope_cut', 1, x, none},
    rpc(T, erlang, send, [P, Fake]),
    {event, {trace_ts, P, 'receive', {'$scope_cut', Bytes, Fake, _}, _}} =
        d(D, wait, [Pid, fun({event, {trace_ts, _, 'receive', _, _}}) -> true end]),
    true = Bytes > 20.

baseline(Config) ->
    {T, D, Pid} = setup(Config),
    Srv = rpc(T, scope_victim, start, [srv]),
    {ok, #{baseline := 1}} = d(D, control, [Pid, {start, a, #{names => [srv]}}]),
    {event, {scope, alive, Srv, About, _}} = d(D, wait, [Pid, fun({event, {scope, alive, _, _, _}}) -> true end]),
    #{name := srv, initial_call := {scope_victim, init, 1}, links := []} = About.

%% The name goes from one living process to another: the one that lost it is not traced any more.
name_moves(Config) ->
    {T, D, Pid} = setup(Config),
    P1 = rpc(T, scope_victim, start, [srv]),
    {ok, _} = d(D, control, [Pid, {start, a, #{names => [srv], events => [messages]}}]),
    P2 = rpc(T, fun() -> unregister(srv), scope_victim:start(srv) end),
    wait_until(fun() -> agent_test:info(T, P2, flags) =/= {flags, []} end),
    wait_until(fun() -> agent_test:info(T, P1, flags) =:= {flags, []} end).

%% Within a process, in order; the cut never passes an event that comes later.
order_is_kept(Config) ->
    {T, D, Pid} = setup(Config),
    {ok, _} = d(D, control, [Pid, {start, a, calls([{scope_victim, work, 1}])}]),
    Ps = [agent_SUITE:paced(T, 3) || _ <- [1, 2, 3, 4]],
    timer:sleep(1500),
    [agent_SUITE:stop_paced(T, P) || P <- Ps],
    ok = d(D, control, [Pid, flush]),
    {ok, _} = agent_SUITE:status_until(D, Pid, fun(#{held_batches := H}) -> H =:= 0 end),
    Batches = d(D, batches, [Pid]),
    Events = [E || {_, _, _, _, _, Es} <- Batches, E <- Es],
    [begin
         Of = [{Ts, X} || {trace_ts, P1, call, _, {args, [X]}, Ts} <- Events, P1 =:= P],
         assert_eq(lists:seq(1, length(Of)), [X || {_, X} <- Of]),
         assert_eq(lists:sort(Of), Of)
     end || P <- Ps],
    lists:foldl(fun({_, _, {Raw, _}, _, Cut, Es}, Max) ->
                        Times = [element(tuple_size(E), E) || E <- Es, element(1, E) =:= trace_ts],
                        true = lists:all(fun(Ts) -> Ts >= Max end, Times),
                        true = Cut =< Raw,
                        max(Cut, Max)
                end, -(1 bsl 62), Batches),
    {_, _, {Last, _}, _, LastCut, _} = lists:last(Batches),
    log("the cut is ~b ms behind", [(Last - LastCut) div 1000000]),
    true = Last - LastCut < 1000000000.

%% Calls by their arity alone, of several processes and functions, some with sends between them: each process's events are
%% what it did and in that order, and none is said twice or is outside its batch's times.
calls_among_messages(Config) ->
    {T, D, Pid} = setup(Config),
    Ps = [rpc(T, erlang, spawn, [fun() -> receive go -> among(I, 300) end, receive stop -> ok end end]) || I <- [1, 2, 3]],
    {ok, _} = d(D, control, [Pid, {start, a, #{mfas => [{scope_victim, F, 1} || F <- [work, twice]], pids => Ps,
                                               events => [calls, sends]}}]),
    [rpc(T, erlang, send, [P, go]) || P <- Ps],
    Done = fun(Es) -> length([E || E <- Es, element(3, E) =:= send]) =:= 300 end,
    wait_until(fun() -> d(D, control, [Pid, flush]), Done(d(D, events, [Pid])) end, 20000),
    Batches = d(D, batches, [Pid]),
    Events = [E || {_, _, _, _, _, Es} <- Batches, E <- Es, element(1, E) =:= trace_ts],
    Did = fun(I) ->
                  lists:append([[{work, 1}, {twice, 1}, {twice, 1}] ++ [{sent, N} || N rem 3 =:= I - 1] || N <- lists:seq(300, 1, -1)])
          end,
    [begin
         Of = [case E of
                   {trace_ts, _, call, {scope_victim, F, A}, _} -> {F, A};
                   {trace_ts, _, send, {sent, N}, _, _} -> {sent, N}
               end || E <- Events, element(2, E) =:= P],
         assert_eq(Did(I), Of),
         Times = [element(tuple_size(E), E) || E <- Events, element(2, E) =:= P],
         assert_eq(lists:sort(Times), Times)
     end || {P, I} <- lists:zip(Ps, [1, 2, 3])],
    assert_eq([], d(D, gaps, [Pid]) -- [G || G <- d(D, gaps, [Pid]), element(1, G) =:= not_traced]).

among(_, 0) -> ok;
among(I, N) ->
    _ = scope_victim:work(N),
    _ = scope_victim:twice(N),
    _ = N rem 3 =:= I - 1 andalso (self() ! {sent, N}),
    among(I, N - 1).

%% 50,000 processes are flagged in chunks; nobody on the node waits long for it.
many_processes(Config) ->
    {T, D, Pid} = setup(Config, #{keep => false, target => #{args => ["+P", "200000"]}}),
    rpc(T, fun() -> [spawn(fun() -> receive never -> ok end end) || _ <- lists:seq(1, 50000)], ok end),
    rpc(T, fun() -> register(jitter, spawn(fun() -> jitter(0) end)), ok end),
    Start = erlang:monotonic_time(millisecond),
    {ok, #{processes := N, baseline := B}} = d(D, control, [Pid, {start, a, calls([{scope_victim, work, 1}])}]),
    On = erlang:monotonic_time(millisecond) - Start,
    ok = d(D, control, [Pid, {stop, a}]),
    Off = erlang:monotonic_time(millisecond) - Start - On,
    Worst = rpc(T, fun() -> jitter ! {tell, self()}, receive {worst, W} -> W end end),
    log("~b traced, ~b baseline; on ~b ms, off ~b ms, longest wait of another process ~b ms", [N, B, On, Off, Worst]),
    true = N > 50000,
    true = Worst < 500,
    {ok, _} = d(D, control, [Pid, status]),
    assert_eq(0, traced(T)),
    ok = d(D, control, [Pid, unload]),
    nothing_left(T, 20000).              % 18 modules purged, each a look at every process

jitter(Worst) ->
    T0 = erlang:monotonic_time(millisecond),
    receive {tell, From} -> From ! {worst, Worst}
    after 1 -> jitter(max(Worst, erlang:monotonic_time(millisecond) - T0 - 1))
    end.

%% A steady 100,000 events/s to another node: none lost.
throughput(Config) ->
    {T, D, Pid} = setup(Config, #{keep => false}),
    {ok, _} = d(D, control, [Pid, {start, a, (calls([{scope_victim, work, 1}]))#{args => false}}]),
    Producer = agent_SUITE:paced(T, 300),
    T0 = erlang:monotonic_time(millisecond),
    timer:sleep(3000),
    N = agent_SUITE:stop_paced(T, Producer),
    Ms = erlang:monotonic_time(millisecond) - T0,
    ok = d(D, control, [Pid, flush]),
    {ok, Status} = agent_SUITE:status_until(D, Pid, fun(#{held_batches := H}) -> H =:= 0 end),
    #{captured := Captured, discarded := Discarded, dropped := Dropped} = Status,
    log("~b calls in ~b ms: ~b/s; captured ~b, discarded ~b, dropped ~b", [N, Ms, N * 1000 div Ms, Captured, Discarded, Dropped]).
