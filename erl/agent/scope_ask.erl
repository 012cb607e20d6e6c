%% Before a start: what may not be traced is refused, what it would cost is counted, one request after another. The
%% guard's; what takes a while is done by a process of its own, and whatever becomes of that, what it set is gone.
-module(scope_ask).

-export([ask/5, behaviours/1, counted/3, job/2, job_done/1, measure/1, next_job/1, queued/2, without_jobs/2]).

-include("scope_guard.hrl").

-define(PROBE_MS, 150).
-define(JOB_MS, 3000).          % no job takes longer
-define(AGAIN_MS, 5000).

%% What may not be traced is refused at once; then what it would cost is counted, one request after another.
-spec ask(probe | {start, term()}, term(), pid(), reference(), #s{}) -> #s{}.
ask(What, Spec0, From, Ref, S) ->
    case scope_trace:check_spec(Spec0) of
        {error, _} = Error -> answer(From, Ref, Error, S);
        {ok, Asked} ->
            case living(What, Asked, S) of
                none ->
                    case scope_probe:refused(Asked) of
                        {ok, Spec} -> job({What, From, Ref, Asked, scope_probe:limited(Spec), behaviours(Spec)}, S);
                        {error, _} = Refused -> answer(From, Ref, Refused, S)
                    end;
                Answer -> answer(From, Ref, Answer, S)
            end
    end.

living(probe, _, _) -> none;
living({start, Id}, Asked, S = #s{starts = Starts}) ->
    case {Starts, queued(Id, S)} of
        {#{Id := #start{asked = Asked}}, _} -> {ok, #{already => true}};
        {#{Id := _}, _} -> {error, exists};
        {_, []} -> none;
        _ -> {error, exists}
    end.

answer(From, Ref, Result, S) ->
    From ! {guard_reply, Ref, Result},
    S.

-spec counted(measure | tuple(), list() | unknown, #s{}) -> #s{}.
%% Another tool traces every new process, say, or the node is too busy: costs are assumed, and measured again while nothing is traced.
counted(measure, unknown, S = #s{costs = Before}) ->
    Times = case Before of #{assumed := N} -> N + 1; _ -> 1 end,
    _ = erlang:send_after(?AGAIN_MS bsl min(Times - 1, 6), self(), measure),
    next_job(S#s{costs = scope_probe:assumed(Times)});
counted({What, From, Ref, Asked, Spec = #{sample := Sample}, Behaviours}, Rates, S = #s{costs = Costs}) ->
    Limits = scope_ladder:limits_with([Spec], S),
    Prediction = case Rates of
                     unknown -> #{};
                     _ -> scope_probe:predict(Spec, Rates, Sample, Costs, probe_ms(S))
                 end,
    Shown = Prediction#{budget => case Limits of none -> none; _ -> maps:with([cpu, events], Limits) end},
    {Result, S1} = case over(Prediction, Spec, Limits) of
                       _ when What =:= probe -> {{ok, Shown#{spent => scope_spent:status(S#s.spent)}}, S};
                       true -> {{error, {over_budget, Shown}}, S};
                       false ->
                           {start, Id} = What,
                           {R, New} = scope_guard:start(Id, Asked, Spec, Behaviours, S),
                           {case R of {ok, Map} -> {ok, Map#{prediction => Shown, limit => map_get(limit, Spec)}}; _ -> R end,
                            New}
                   end,
    answer(From, Ref, Result, next_job(S1)).

%% Only what is known to come is held against it. A sample is one way to ask for less, so it is counted in.
over(_, #{force := true}, _) -> false;
over(_, _, none) -> false;
over(#{bound := Bound, cpu := Cpu, events_per_s := Events}, _, #{cpu := Most, events := MostEvents})
  when Bound =/= at_most ->
    (is_number(Cpu) andalso Cpu > Most) orelse Events > MostEvents;
over(_, _, _) -> false.

%% What takes a while is done by a process of its own, one at a time.
-spec job(measure | tuple(), #s{}) -> #s{}.
job(Job, S = #s{jobs = Jobs}) -> next_job(S#s{jobs = Jobs ++ [Job]}).

%% The rings are lent for it: only while nothing is traced.
-spec measure(#s{}) -> #s{}.
measure(S = #s{starts = Starts, job = none}) when map_size(Starts) =:= 0 -> job(measure, S);
measure(S) ->
    _ = erlang:send_after(?AGAIN_MS, self(), measure),
    S.

-spec next_job(#s{}) -> #s{}.
next_job(S = #s{job = none, jobs = [measure | Rest], tracer = Tracer, ctx = #{capture := Capture}}) ->
    Me = self(),
    Drainer = case Capture of native -> Tracer; _ -> none end,
    _ = Capture =:= native andalso scope_nif:set_budget(none),       % until the next start fills the bucket
    run_job(measure, fun(Ref) -> scope_probe:costs(Me, Ref, Drainer) end, [], S#s{jobs = Rest});
next_job(S = #s{job = none, jobs = [Job = {_, _, _, _, Spec, Behaviours} | Rest], limits = Limits}) ->
    case scope_probe:wanted(Spec, Behaviours) of
        Wanted when Limits =:= none; Wanted =:= [] ->
            counted(Job, case Wanted of [] -> []; _ -> unknown end, S#s{jobs = Rest});
        Wanted ->
            Me = self(),
            Ms = probe_ms(S),
            {Patterns, Ours} = scope_probe:countable(Wanted),
            run_job(Job, fun(Ref) -> scope_probe:count(Me, Ref, {Wanted, Patterns, Ours, Ms}) end,
                    [{call_count, P} || P <- Ours], S#s{jobs = Rest})
    end;
next_job(S) -> S.

run_job(Job, Fun, Sets, S) ->
    Ref = make_ref(),
    Trace = scope_session:used(),
    Run = fun() -> scope_session:use(Trace), Fun(Ref) end,
    {Pid, Mon} = spawn_opt(Run, [monitor, {priority, high}]),
    _ = erlang:send_after(?JOB_MS, self(), {job_late, Ref}),
    S1 = S#s{job = {Ref, Pid, Mon, Job, Sets}},
    scope_patterns:intend(scope_patterns:all(S1#s.patterns), scope_flags:also(S1)),
    S1.

%% Whatever became of it, what it set is gone.
-spec job_done(#s{}) -> #s{}.
job_done(S = #s{job = {_, Pid, Mon, _, Sets}}) ->
    exit(Pid, kill),
    _ = erlang:demonitor(Mon, [flush]),
    lists:foreach(fun scope_trace:clear_pattern/1, Sets),
    S1 = S#s{job = none},
    scope_patterns:intend(scope_patterns:all(S1#s.patterns), scope_flags:also(S1)),
    S1.

probe_ms(#s{ctx = #{opts := Opts}}) -> maps:get(probe_ms, Opts, ?PROBE_MS).

-spec queued(term(), #s{}) -> [tuple()].
queued(Id, #s{job = Job, jobs = Jobs}) ->
    [J || J = {{start, I}, _, _, _, _, _} <- [element(4, Job) || Job =/= none] ++ Jobs, I =:= Id orelse Id =:= all].

-spec without_jobs(term(), #s{}) -> #s{}.
without_jobs(Id, S) ->
    Gone = queued(Id, S),
    _ = [answer(From, Ref, {error, stopped}, S) || {_, From, Ref, _, _, _} <- Gone],
    case S of
        #s{job = {_, _, _, Job, _}} ->
            case lists:member(Job, Gone) of
                true -> next_job((job_done(S))#s{jobs = S#s.jobs -- Gone});
                false -> S#s{jobs = S#s.jobs -- Gone}
            end;
        _ -> S
    end.

%% [{Module, Shape | unknown | absent, Patterns}]
-spec behaviours(map()) -> [{module(), atom(), list()}].
behaviours(#{events := Events, behaviours := Modules}) ->
    Kinds = [K || {E, K} <- [{takes, take}, {state, state}], lists:member(E, Events)],
    [case scope_behaviours:patterns(M) of
         {ok, Shape, Patterns} -> {M, Shape, [P || {Kind, P} <- Patterns, lists:member(Kind, Kinds)]};
         Without -> {M, Without, []}
     end || Kinds =/= [], M <- Modules].


