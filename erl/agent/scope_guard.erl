%% Owns what is traced: the starts, the patterns and the flags that follow from them, and the looking after both.
%%
%% What is set is always computed from the starts that live, so stopping one leaves the others as they were. The
%% supervisor is told of each pattern before it is set, and can take it away if we cannot.
%% Every 100 ms names are looked up again and limits checked; every second the patterns and a sample of the processes
%% are: what another tool took away is set again once, with a gap, and then given up. A reloaded module is armed again.
-module(scope_guard).

-export([init/0]).

-define(TICK, 100).
-define(CHECK_MS, 1000).
-define(SILENT_MS, 3000).
-define(CHUNK, 500).
-define(SAMPLE, 16).
-define(KILLS, 5).              % of the tracer in a minute, and
-define(OVERLOAD_MS, 30000).    % overload that long: tracing is given up
-define(PROBE_MS, 150).
-define(JOB_MS, 3000).          % no job takes longer
-define(LOW_MS, 5000).          % how often it is told that less than asked is captured

-record(start, {asked :: map(), spec :: map(), flags :: [atom()], pids = #{} :: #{pid() => true}, names = #{} :: #{atom() => pid()},
                behaviours = [] :: list(), until = infinity :: integer() | infinity,
                count = infinity :: integer() | infinity}).
-record(s, {ctx :: map(), tracer :: pid(),
            starts = #{} :: #{term() => #start{}},
            idle :: integer(),                  % raw time since when nothing is traced, while there are no starts
            patterns = scope_patterns:new() :: scope_patterns:patterns(),
            checked :: integer(), checked_raw :: integer(), lost = none :: none | integer(),
            overloads = [] :: [integer()], since = 0 :: integer(),   % ms: of the last ones; when this spell began
            kills = [] :: [integer()], settings = #{} :: map(),
            paused = no :: no | {reference(), atom(), integer()},    % flags are off: why, since which raw time
            limits :: scope_budget:limits(), costs = unknown :: scope_budget:costs(),
            ladder :: scope_budget:ladder(), spent :: scope_spent:spent(),
            low = none :: none | integer(),         % raw time up to which it is told what a lower rung leaves out
            counters = #{} :: map(),                % what the rung `counters` counts: {MFA, Rate}
            job = none :: none | {reference(), pid(), reference(), tuple() | measure, list()},
            jobs = [] :: list()}).

-spec init() -> no_return().
init() ->
    process_flag(priority, high),
    Ctx = receive {peers, C} -> C after 5000 -> exit(no_peers) end,
    _ = put(ctx, Ctx),
    #{session := Session, sup := Sup, tracer := Tracer} = Ctx,
    _ = erlang:monitor(process, Session),
    _ = erlang:monitor(process, Sup),
    _ = erlang:send_after(?TICK, self(), tick),
    Limits = scope_budget:limits(maps:get(budget, maps:get(opts, Ctx), #{}), none),
    S = #s{ctx = Ctx, tracer = Tracer, checked = now_ms(), checked_raw = mono(), idle = mono(), limits = Limits,
           ladder = scope_budget:new(Limits), spent = scope_spent:new(Ctx)},
    %% Quietly, if it comes to that: the supervisor takes everything down, and the node's log is not ours.
    try loop(job(measure, configure(maps:get(opts, Ctx), S)))
    catch
        error:Reason:Stack ->
            Session ! {stopped, all, {crashed, guard, Reason, Stack}},
            exit(shutdown)
    end.

loop(S0) ->
    S = receive Msg -> handle(Msg, S0) end,
    loop(S).

handle({request, From, Ref, leave}, S) -> leave(From, Ref, S);
handle({request, From, Ref, {start, Id, Spec}}, S) -> ask({start, Id}, Spec, From, Ref, S);
handle({request, From, Ref, {probe, Spec}}, S) -> ask(probe, Spec, From, Ref, S);
handle({request, From, Ref, Request}, S) ->
    {Result, S1} = request(Request, S),
    From ! {guard_reply, Ref, Result},
    S1;
handle({configure, Map}, S) -> configure(Map, S);
handle({remove_all, Reason}, S) -> stop_all(Reason, S);
handle({peers, Ctx = #{tracer := Tracer}}, S) -> S#s{ctx = Ctx, tracer = Tracer};
handle({tracer_lost, From}, S) -> tracer_lost(From, S);
handle({overload, Tracer, From}, S = #s{tracer = Tracer}) -> overload(From, S);
handle({dry, What, From, Noticed, Relieved}, S) ->          % the tracer has taken all flags off
    step_down(What, #{from => From, noticed => Noticed, relieved => Relieved}, S);
handle({dry, What, From, Noticed}, S) -> step_down(What, #{from => From, noticed => Noticed}, S);
handle({bucket_dry, Rejected, From, Until}, S) ->           % the native tracer's
    step_down(cpu, #{from => From, noticed => Until, rejected => Rejected}, S);
handle({resume, Ref}, S = #s{paused = {Ref, Reason, From}}) ->
    S1 = reapply(S#s{paused = no}),
    gap({Reason, unknown, From, mono()}, S1),
    S1;
handle({costs, Ref, Costs}, S = #s{job = {Ref, _, _, _, _}}) -> next_job(job_done(S#s{costs = Costs}));
handle({counted, Ref, Rates}, S = #s{job = {Ref, _, _, Job, _}}) -> counted(Job, Rates, job_done(S));
handle({job_late, Ref}, S = #s{job = {Ref, Pid, _, _, _}}) ->
    exit(Pid, kill),
    S;
handle({'DOWN', Mon, process, _, _}, S = #s{job = {_, _, Mon, Job, _}}) -> counted(Job, unknown, job_done(S));
handle({'DOWN', _, process, _, _}, S) -> finish(S);         % session or supervisor
handle(tick, S) ->
    _ = erlang:send_after(?TICK, self(), tick),
    scope_beat:beat(guard, S#s.ctx),
    tick(S);
handle(_, S) -> S.

%% Kept for a tracer that comes later.
configure(Map0, S = #s{settings = Before, tracer = Tracer}) ->
    Map = maps:filter(fun(caps, Caps) -> is_map(Caps);
                         (hash_key, Key) -> is_binary(Key) andalso byte_size(Key) =:= 16;
                         (_, _) -> false
                      end, Map0),
    Caps = maps:merge(maps:get(caps, Before, #{}), scope_cut:valid(maps:get(caps, Map, #{}))),
    New = maps:merge(Before, Map#{caps => Caps}),
    Tracer ! {configure, New},
    S#s{settings = New}.

%% --- requests --------------------------------------------------------------------------------------------------------

request({stop, all}, S) -> {ok, lists:foldl(fun stop/2, without_jobs(all, S), maps:keys(S#s.starts))};
request({stop, Id}, S) when is_map_key(Id, S#s.starts) -> {ok, stop(Id, S)};
request({stop, Id}, S) -> {case queued(Id, S) of [] -> {error, not_found}; _ -> ok end, without_jobs(Id, S)};
request(flush, S) ->
    _ = scope_trace:delivered(2000),
    {flush_tracer(S), S};
request(status, S = #s{ctx = Ctx, tracer = Tracer}) ->
    Info = case process_info(Tracer, [message_queue_len, memory]) of
               [{_, Queue}, {_, Memory}] -> #{queue => Queue, memory => Memory};
               undefined -> #{queue => 0, memory => 0}
           end,
    {{ok, Info#{tracing => maps:map(fun(_, #start{spec = Spec}) -> Spec end, S#s.starts),
                patterns => length(scope_patterns:all(S#s.patterns)),
                processes => lists:sum([map_size(P) || #start{pids = P} <- maps:values(S#s.starts)]),
                captured => scope_beat:captured(Ctx), discarded => scope_beat:discarded(Ctx),
                budget => limits_with([], S), spent => scope_spent:status(S#s.spent), costs => S#s.costs,
                ladder => scope_budget:status(S#s.ladder), counters => maps:get(rates, S#s.counters, #{}),
                traces => traces(S)}}, S};
request(verify, S = #s{tracer = Tracer}) ->
    Traced = length([P || P <- processes(), scope_trace:is_ours(P, Tracer)]),
    {{ok, #{patterns => scope_patterns:all(S#s.patterns), traced => Traced,
            processes => [N || N <- [scope_agent, scope_sup, scope_guard, scope_tracer], whereis(N) =/= undefined]}}, S};
request(_, S) -> {{error, unknown_request}, S}.

start(Id, Asked, Spec = #{limit := Limit}, Behaviours, S) ->
    Start = #start{asked = Asked, spec = Spec, flags = scope_trace:flags(Spec), behaviours = Behaviours,
                   until = case Limit of #{ms := Ms} -> now_ms() + Ms; _ -> infinity end,
                   count = case Limit of #{count := N} -> scope_beat:captured(S#s.ctx) + N; _ -> infinity end},
    Starts = (S#s.starts)#{Id => Start},
    case set_patterns(desired(Starts, S), S) of
        {error, _} = Error -> {Error, S};
        {ok, Matched, S1} ->
            S2 = configure(maps:with([caps], Spec), S1#s{starts = Starts}),
            tell_procs(S2),
            _ = [gap({not_traced, unknown, S#s.idle, mono()}, S) || map_size(S#s.starts) =:= 0],
            {Processes, Out, Baseline, Start1} = trace_processes(Id, Start, S2),
            Mine = maps:keys(asked_for(#{Id => Start})),
            case Out of
                [{_, {owned_by, Owner}}] when Processes =:= 0 ->
                    {{error, {owned_by, Owner}}, stop(Id, S2)};
                _ ->
                    {{ok, #{patterns => [{P, maps:get(P, Matched, already)} || P <- Mine], processes => Processes,
                            left_out => lists:sublist(Out, 100), behaviours => [{M, Sh} || {M, Sh, _} <- Behaviours],
                            baseline => Baseline}},
                     changed(S2#s{starts = Starts#{Id := Start1}})}
            end
    end.

%% --- before a start --------------------------------------------------------------------------------------------------

%% What may not be traced is refused at once; then what it would cost is counted, one request after another.
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

counted(measure, _, S) -> next_job(S);
counted({What, From, Ref, Asked, Spec = #{sample := Sample}, Behaviours}, Rates, S = #s{costs = Costs}) ->
    Limits = limits_with([Spec], S),
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
                           {R, New} = start(Id, Asked, Spec, Behaviours, S),
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
job(Job, S = #s{jobs = Jobs}) -> next_job(S#s{jobs = Jobs ++ [Job]}).

next_job(S = #s{job = none, jobs = [measure | Rest]}) ->
    Me = self(),
    run_job(measure, fun(Ref) -> scope_probe:costs(Me, Ref) end, [], S#s{jobs = Rest});
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
    {Pid, Mon} = spawn_opt(fun() -> Fun(Ref) end, [monitor, {priority, high}]),
    _ = erlang:send_after(?JOB_MS, self(), {job_late, Ref}),
    S1 = S#s{job = {Ref, Pid, Mon, Job, Sets}},
    scope_patterns:intend(scope_patterns:all(S1#s.patterns), also(S1)),
    S1.

%% Whatever became of it, what it set is gone.
job_done(S = #s{job = {_, Pid, Mon, _, Sets}}) ->
    exit(Pid, kill),
    _ = erlang:demonitor(Mon, [flush]),
    lists:foreach(fun scope_trace:clear_pattern/1, Sets),
    S1 = S#s{job = none},
    scope_patterns:intend(scope_patterns:all(S1#s.patterns), also(S1)),
    S1.

also(#s{ctx = Ctx, job = Job, counters = Counters}) ->
    Ctx#{also => case Job of {_, _, _, _, Sets} -> Sets; none -> [] end ++ maps:get(set, Counters, [])}.

probe_ms(#s{ctx = #{opts := Opts}}) -> maps:get(probe_ms, Opts, ?PROBE_MS).

queued(Id, #s{job = Job, jobs = Jobs}) ->
    [J || J = {{start, I}, _, _, _, _, _} <- [element(4, Job) || Job =/= none] ++ Jobs, I =:= Id orelse Id =:= all].

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
behaviours(#{events := Events, behaviours := Modules}) ->
    Kinds = [K || {E, K} <- [{takes, take}, {state, state}], lists:member(E, Events)],
    [case scope_behaviours:patterns(M) of
         {ok, Shape, Patterns} -> {M, Shape, [P || {Kind, P} <- Patterns, lists:member(Kind, Kinds)]};
         Without -> {M, Without, []}
     end || Kinds =/= [], M <- Modules].

%% A behaviour's module that was not loaded when the start began may be now: with its first server, perhaps.
late_behaviours(S = #s{starts = Starts}) ->
    Late = [Id || {Id, #start{behaviours = B}} <- maps:to_list(Starts),
                  lists:any(fun({M, Shape, _}) -> Shape =:= absent andalso erlang:module_loaded(M) end, B)],
    case Late of
        [] -> S;
        _ ->
            New = maps:map(fun(_, Start = #start{spec = Spec}) -> Start#start{behaviours = behaviours(Spec)} end,
                           Starts),
            gap({behaviour_loaded, unknown, mono() - ?TICK * 2000000, mono()}, S),
            case set_patterns(desired(New, S), S) of
                {ok, _, S1} -> S1#s{starts = New};
                {error, _} -> S#s{starts = New}
            end
    end.

tell_procs(#s{starts = Starts, tracer = Tracer}) ->
    Tracer ! {procs, lists:any(fun(#start{spec = #{events := E}}) -> lists:member(procs, E) end,
                               maps:values(Starts))},
    ok.

stop(Id, S0 = #s{starts = Starts, tracer = Tracer}) ->
    Now = mono(),
    S = tell_low(S0),
    {Start = #start{spec = Spec, flags = Flags}, Rest} = maps:take(Id, Starts),
    S1 = S#s{starts = Rest, idle = Now},
    gap({trace_stopped, unknown, Now, Now}, S),
    _ = wants_new(Start) andalso new_flags(S1),
    Pids = case Spec of
               #{all := true} -> processes();
               #{new_processes := true} -> processes();
               _ -> maps:keys(Start#start.pids)
           end,
    _ = in_chunks(fun(P) -> flags_less(P, Flags, wanted(P, S1), Tracer) end, Pids ++ followed(Id, S1)),
    {ok, _, S2} = set_patterns(desired(Rest, S1), S1),
    tell_procs(S2),
    changed(S2).

flags_less(Pid, Flags, Keep, Tracer) ->
    Off = case Keep of
              [] -> [all];
              _ -> Flags -- Keep
          end,
    _ = Off =:= [] orelse scope_trace:flags_off(Pid, Off, Tracer),
    ok.

%% The flags that a process should have by the starts given.
wanted(Pid, S = #s{starts = Starts}) ->
    lists:usort(lists:append([Flags || St = #start{flags = Flags, pids = Pids, spec = #{all := All}} <- maps:values(Starts),
                                       All orelse is_map_key(Pid, Pids), in_sample(Pid, St, S)])).

in_sample(Pid, Start, S) -> scope_budget:in_sample(Pid, rate(Start, S)).

rate(#start{spec = #{sample := Sample}}, #s{ladder = Ladder}) -> Sample * scope_budget:factor(Ladder).

followed(Id, S = #s{tracer = Tracer}) ->
    Ref = make_ref(),
    Tracer ! {unfollow, Id, self(), Ref},
    receive {followed, Ref, Pids} -> [P || P <- Pids, wanted(P, S) =:= []]
    after 1000 -> []
    end.

stop_all(Reason, S = #s{starts = Starts, ctx = #{session := Session}, tracer = Tracer}) ->
    Ids = maps:keys(Starts),
    scope_trace:all_off(Tracer),
    gap({Reason, unknown, mono(), mono()}, S),
    S1 = lists:foldl(fun stop/2, S, Ids),
    _ = [Session ! {stopped, Id, Reason} || Id <- Ids],
    S1.

leave(From, Ref, S0 = #s{tracer = Tracer}) ->
    S = without_jobs(all, S0),
    scope_trace:all_off(Tracer),
    S1 = lists:foldl(fun stop/2, S, maps:keys(S#s.starts)),
    _ = scope_trace:delivered(2000),
    _ = flush_tracer(S1),
    From ! {guard_reply, Ref, ok},
    From ! {drained, self()},
    S1.

%% The tracer's batch is in the session's queue when this returns.
flush_tracer(#s{tracer = Tracer}) ->
    Ref = make_ref(),
    Tracer ! {flush, self(), Ref},
    receive {flushed, Ref} -> ok after 5000 -> {error, timeout} end.

%% --- the budget ------------------------------------------------------------------------------------------------------

%% The node's, with what these and the living starts say: the largest share that anybody allows.
limits_with(_, #s{limits = none}) -> none;
limits_with(Specs, #s{limits = Limits, starts = Starts}) ->
    Said = [B || #{budget := B} <- Specs ++ [Spec || #start{spec = Spec} <- maps:values(Starts)]],
    case lists:member(none, Said) of
        true -> none;
        false when Said =:= [] -> Limits;
        false -> Limits#{cpu => lists:max([maps:get(cpu, scope_budget:limits(B, Limits)) || B <- Said]),
                         events => lists:max([maps:get(events, scope_budget:limits(B, Limits)) || B <- Said]),
                         bytes => lists:max([maps:get(bytes, scope_budget:limits(B, Limits)) || B <- Said])}
    end.

%% What a trace spends is all that its kinds of events do, whoever else asks for them.
traces(S = #s{starts = Starts, spent = Spent, costs = Costs}) ->
    #{kinds := Kinds} = maps:merge(#{kinds => #{}}, scope_spent:status(Spent)),
    maps:map(fun(Id, #start{spec = Spec}) ->
                     Mine = kinds(Spec),
                     Others = lists:append([kinds(Sp) || {I, #start{spec = Sp}} <- maps:to_list(Starts), I =/= Id]),
                     #{budget => limits_with([], S#s{starts = maps:with([Id], Starts)}),
                       spent => case Costs of
                                    unknown -> unknown;
                                    _ -> scope_budget:percent(
                                           scope_budget:spent_ns(maps:with(Mine, Kinds), 0, Costs), 1000000000)
                                end,
                       events => lists:sum(maps:values(maps:with(Mine, Kinds))),
                       shared => Mine -- Others =/= Mine}
             end, Starts).

kinds(#{events := Events}) ->
    lists:flatmap(fun(calls) -> [calls, args];
                     (messages) -> [sends, fetches];
                     (E) -> [E]
                  end, Events).

%% Something else is traced now: a bucket that is full.
changed(S = #s{starts = Starts}) when map_size(Starts) =:= 0 ->
    refill(1.0, recount(S#s{ladder = scope_budget:new(S#s.limits), low = none}));
changed(S = #s{ladder = Ladder, low = Low}) ->
    refill(1.0, recount(S#s{ladder = scope_budget:reset(Ladder), low = case Low of none -> mono(); _ -> Low end})).

refill(Share, S = #s{tracer = Tracer, costs = Costs}) ->
    Tracer ! {bucket, scope_budget:bucket(limits_with([], S), Costs, Share)},
    S.

%% On the rung where calls are only counted: what the starts ask for, and only there.
recount(S = #s{starts = Starts, ladder = Ladder, counters = Counters}) ->
    _ = [scope_trace:clear_pattern(C) || C <- maps:get(set, Counters, [])],
    case scope_budget:rung(Ladder) of
        counters ->
            {Patterns, Ours} = scope_probe:countable([{calls, P} || P <- maps:keys(asked_for(Starts))]),
            S1 = S#s{counters = #{set => [{call_count, P} || P <- Ours], patterns => Patterns, at => mono(), rates => #{}}},
            scope_patterns:intend(scope_patterns:all(S1#s.patterns), also(S1)),
            lists:foreach(fun scope_trace:count_calls/1, Ours),
            S1#s{counters = (S1#s.counters)#{last => scope_probe:read(Patterns)}};
        _ -> S#s{counters = #{}}
    end.

read_counters(S = #s{counters = Counters = #{patterns := Patterns, last := Last, at := At}}) ->
    Now = mono(),
    New = scope_probe:read(Patterns),
    Rates = maps:map(fun(P, N) -> round(max(0, N - map_get(P, Last)) * 1.0e9 / max(1, Now - At)) end, New),
    S#s{counters = Counters#{last => New, at => Now, rates => Rates}};
read_counters(S) -> S.

%% Every 100 ms what else says that it is too much; every second what is spent, and whether it may be more again.
look(false, S = #s{starts = Starts}) when map_size(Starts) =:= 0; S#s.limits =:= none -> S;
look(true, S = #s{starts = Starts, ctx = Ctx, spent = Spent}) when map_size(Starts) =:= 0; S#s.limits =:= none ->
    S#s{spent = scope_spent:look(Ctx, S#s.costs, Spent)};
look(Second, S0 = #s{ctx = Ctx, spent = Spent0, limits = Limits}) ->
    {Why, Spent} = scope_spent:breaker(Second, Limits, Spent0),
    S = S0#s{spent = Spent},
    Full = scope_beat:full(Ctx) >= 20,
    if
        Why =/= none -> breaker(Why, S);
        Full -> breaker(credit, S);
        Second -> second(read_counters(S#s{spent = scope_spent:look(Ctx, S#s.costs, Spent)}));
        true -> S
    end.

second(S = #s{spent = Spent, ladder = Ladder, low = Low}) ->
    #{memory := Memory, cpu := Cpu, own_cpu := Own, events := Events, bytes := Bytes} = scope_spent:status(Spent),
    Limits = #{memory := Most} = limits_with([], S),
    Seen = maps:filter(fun(_, V) -> is_number(V) end, #{cpu => Cpu - Own, events => Events, bytes => Bytes}),
    {_, Share} = scope_budget:blame(Seen, Limits, 1.0),
    Told = case Low =/= none andalso mono() - Low >= ?LOW_MS * 1000000 of true -> tell_low(S); false -> S end,
    if
        Memory > Most -> breaker(memory, Told);
        true ->
            case scope_budget:up(one_up(Share, Limits, S), args_asked(S), now_ms(), Ladder) of
                {up, New} -> step_to(New, #{}, Told);
                {stay, New} -> Told#s{ladder = New}
            end
    end.

%% What the share would be one rung up.
one_up(Share, #{cpu := Most}, #s{ladder = Ladder, counters = Counters, costs = Costs}) ->
    case scope_budget:rung(Ladder) of
        fewer -> Share * 8;
        no_args -> Share * 1.5;
        counters when is_map(Costs) ->
            Calls = lists:sum(maps:values(maps:get(rates, Counters, #{}))) / 8,
            scope_budget:percent(scope_budget:spent_ns(#{args => Calls}, 0, Costs), 1000000000) / Most;
        _ -> Share
    end.

args_asked(S = #s{starts = Starts}) ->
    scope_patterns:desired(specs(Starts), true) =/= scope_patterns:desired(specs(Starts), false)
        andalso map_size(S#s.starts) > 0.

%% Not more than one rung a second.
breaker(_, S = #s{limits = none}) -> S;
breaker(Why, S = #s{ladder = Ladder}) ->
    case scope_budget:status(Ladder) of
        #{rung := Rung, rung_ms := Ms} when Rung =/= full, Ms < 1000 -> S;
        _ -> step_down(Why, #{noticed => mono()}, S)
    end.

step_down(_, _, S = #s{starts = Starts}) when map_size(Starts) =:= 0; S#s.limits =:= none -> refill(1.0, reapply(S));
step_down(Why, Figures, S = #s{ladder = Ladder}) ->
    step_to(scope_budget:down(Why, args_asked(S), Ladder), Figures, S).

%% Relief first, then order: flags go by one call, those that stay come back.
step_to(New, Figures, S0 = #s{ladder = Old, tracer = Tracer, ctx = Ctx}) ->
    From = scope_budget:rung(Old),
    #{rung := To, cause := Why} = scope_budget:status(New),
    Down = scope_budget:factor(New) < scope_budget:factor(Old),
    Off = is_map_key(relieved, Figures),
    _ = Down andalso not Off andalso scope_trace:all_off(Tracer),
    Relieved = maps:get(relieved, Figures, mono()),
    S1 = tell_low(S0#s{spent = scope_spent:look(Ctx, S0#s.costs, S0#s.spent)}),
    S2 = S1#s{ladder = New},
    S3 = case To of
             off -> stop_all(over_budget, S2);
             _ ->
                 {ok, _, Set} = set_patterns(desired(S2#s.starts, S2), recount(S2)),
                 case scope_budget:factor(New) =:= scope_budget:factor(Old) andalso not Off of
                     true -> Set;
                     false -> reapply(Set)
                 end
         end,
    Now = mono(),
    Took = case Figures of #{noticed := At} -> #{took_us => ((case Down orelse Off of true -> Relieved; false -> Now end) - At) div 1000}; _ -> #{} end,
    Limits = case limits_with([], S1) of none -> #{}; L -> maps:with([cpu, events, bytes, memory], L) end,
    gap({case Why of quiet -> stepped_up; _ -> stepped_down end, unknown, maps:get(from, Figures, Now), Now,
         maps:merge(Took, #{from => From, to => To, cause => Why, budget => Limits, spent => maps:without([kinds], scope_spent:status(S1#s.spent))})},
        S3),
    refill(case Why of quiet -> 0.5; _ -> 0.1 end, S3#s{low = case To of off -> none; _ -> Now end}).

%% What a lower rung or a sample has left out since it was last told.
tell_low(S = #s{low = none}) -> S;
tell_low(S = #s{low = Low, ladder = Ladder, starts = Starts}) ->
    Now = mono(),
    _ = case scope_budget:rung(Ladder) of
            full -> ok;
            no_args -> gap({args_left_out, 0, Low, Now}, S);
            fewer -> gap({fewer_tracees, unknown, Low, Now, #{rate => scope_budget:factor(Ladder)}}, S);
            _ -> gap({counters_only, unknown, Low, Now}, S)
        end,
    Rates = lists:usort([R || #start{spec = #{sample := R}} <- maps:values(Starts), R < 1]),
    _ = [gap({sampled, unknown, Low, Now, #{rate => R}}, S) || R <- Rates],
    S#s{low = Now}.

%% --- patterns --------------------------------------------------------------------------------------------------------

desired(Starts, #s{ladder = Ladder}) ->
    case scope_budget:rung(Ladder) of
        counters -> #{};
        _ -> scope_patterns:desired(specs(Starts), scope_budget:args(Ladder))
    end.

asked_for(Starts) -> scope_patterns:desired(specs(Starts), true).

specs(Starts) -> [{Spec, B} || #start{spec = Spec, behaviours = B} <- maps:values(Starts)].

set_patterns(Wanted, S = #s{patterns = Patterns}) ->
    case scope_patterns:set(Wanted, Patterns, also(S)) of
        {ok, Matched, New} -> {ok, Matched, S#s{patterns = New}};
        {error, _} = Error -> Error
    end.

%% --- processes -------------------------------------------------------------------------------------------------------

wants_new(#start{spec = #{all := All, new_processes := New}}) -> All orelse New.

%% Of new ones all are traced at first, and the tracer drops what is none of the sample; what its parents brought along
%% or was asked for by name stays.
new_flags(S = #s{starts = Starts, tracer = Tracer}) ->
    Those = [{F, R} || St = #start{flags = F} <- maps:values(Starts), wants_new(St), R <- [rate(St, S)], R > 0],
    Flags = lists:usort(lists:append([F || {F, _} <- Those])),
    Rate = lists:max([0.0 | [R || {_, R} <- Those]]),
    Tracer ! {sample, case Flags of
                          [_ | _] when Rate < 1 -> {Rate, maps:from_keys(lists:append([maps:keys(P) || #start{pids = P} <- maps:values(Starts)]), true)};
                          _ -> all
                      end},
    scope_trace:new_off(Tracer),
    case Flags of
        [] -> ok;
        _ -> scope_trace:new_on(Flags, Tracer)
    end.

%% {Traced, [{Pid, WhyNot}], BaselineEvents, Start}
trace_processes(Id, Start = #start{spec = Spec}, S) ->
    #{all := All, pids := Pids, names := Names, children := Follow} = Spec,
    New = case wants_new(Start) of true -> new_flags(S); false -> ok end,
    Named = maps:from_list([{N, P} || N <- Names, P <- [whereis(N)], is_pid(P)]),
    Explicit = lists:usort(Pids ++ maps:values(Named)),
    Wanted = case All of true -> processes(); false -> Explicit end,
    {Traced, Skipped, Out} = flags_on(Wanted, Start, Follow andalso Id, S),
    Keep = case All of true -> []; false -> Traced ++ Skipped end,
    Baseline = baseline(Traced, S),
    {length(Traced), [{E, filtered_by_another} || E <- scope_trace:filtered(Start#start.flags)]
         ++ [{new_processes, New} || New =/= ok] ++ [{N, not_registered} || N <- Names, not is_map_key(N, Named)]
         ++ Out, Baseline,
     Start#start{pids = maps:from_keys(Keep, true), names = Named}}.

%% {Traced, none of the sample, [{Pid, WhyNot}]}
flags_on(Pids, Start = #start{flags = Flags}, Follow, S = #s{tracer = Tracer}) ->
    LeftOut = scope_trace:left_out(),
    {Out, Free} = lists:partition(fun(P) -> is_map_key(P, LeftOut) end, Pids),
    {Rest, Skipped} = case rate(Start, S) of
                          R when R >= 1 -> {Free, []};
                          R -> lists:partition(fun(P) -> scope_budget:in_sample(P, R) end, Free)
                      end,
    _ = [Tracer ! {follow, Follow, Rest} || Follow =/= false],
    Results = in_chunks(fun(P) -> {P, scope_trace:flags_on(P, Flags, Tracer)} end, Rest),
    {[P || {P, ok} <- Results], Skipped,
     [{P, {owned_by, T}} || {P, {owned_by, T}} <- Results] ++ [{P, map_get(P, LeftOut)} || P <- Out]}.

%% With a pause after each chunk, so that nobody waits long for our scheduler, and a sign of life.
in_chunks(Fun, List) -> in_chunks(Fun, List, ?CHUNK).
in_chunks(_, [], _) -> [];
in_chunks(Fun, List, 0) ->
    scope_beat:beat(guard, get(ctx)),
    erlang:yield(),
    in_chunks(Fun, List, ?CHUNK);
in_chunks(Fun, [H | T], N) -> [Fun(H) | in_chunks(Fun, T, N - 1)].

baseline(Pids, S = #s{tracer = Tracer}) ->
    {Told, More} = scope_baseline:start(Pids, Tracer),
    _ = [gap({baseline_limit, More, mono(), mono()}, S) || More > 0],
    Told.

%% To the session, not by way of the tracer, which may be killed before it has told.
gap(Gap, #s{ctx = #{session := Session}}) ->
    Session ! {gap, Gap},
    ok.

%% --- looking after it ------------------------------------------------------------------------------------------------

tick(S0 = #s{ctx = Ctx}) ->
    case scope_beat:silent_ms(session, Ctx) > ?SILENT_MS orelse scope_beat:silent_ms(sup, Ctx) > ?SILENT_MS of
        true -> finish(S0);
        false -> ok
    end,
    %% A tracer that gives no sign of life is restarted by the supervisor, with a gap.
    _ = scope_beat:silent_ms(tracer, Ctx) > ?SILENT_MS andalso exit(S0#s.tracer, kill),
    S = late_behaviours(names(limits(S0))),
    Second = now_ms() - S#s.checked >= ?CHECK_MS,
    S1 = look(Second, S),
    case Second of
        true -> check(S1);
        false -> S1
    end.

limits(S = #s{starts = Starts, ctx = Ctx = #{session := Session}}) ->
    Now = now_ms(),
    Count = scope_beat:captured(Ctx),
    Over = [{Id, case Now >= Until of true -> ms; false -> count end}
            || {Id, #start{until = Until, count = Max}} <- maps:to_list(Starts), Now >= Until orelse Count >= Max],
    lists:foldl(fun({Id, What}, Acc) ->
                        Stopped = stop(Id, Acc),
                        Session ! {stopped, Id, {limit, What}},
                        Stopped
                end, S, Over).

%% A name that has a new process is traced again. What it did before is missing: a gap since the look before.
names(S = #s{starts = Starts}) ->
    lists:foldl(fun(Id, Acc) -> names(Id, map_get(Id, Starts), Acc) end, S, maps:keys(Starts)).

names(_, #start{spec = #{names := []}}, S) -> S;
names(Id, Start = #start{spec = #{names := Names, children := Follow, pids := Given}}, S = #s{tracer = Tracer}) ->
    #start{names = Known, pids = Pids, flags = Flags} = Start,
    New = maps:from_list([{N, P} || N <- Names, P <- [whereis(N)], is_pid(P), maps:get(N, Known, none) =/= P]),
    case map_size(New) of
        0 -> S;
        _ ->
            {Traced, Skipped, _} = flags_on(maps:values(New), Start, Follow andalso Id, S),
            _ = baseline(Traced, S),
            gap({name_moved, unknown, mono() - ?TICK * 2000000, mono()}, S),
            Now = maps:merge(Known, New),
            Old = maps:values(maps:with(maps:keys(New), Known)) -- (Given ++ maps:values(Now)),
            Start1 = Start#start{names = Now, pids = maps:merge(maps:without(Old, Pids), maps:from_keys(Traced ++ Skipped, true))},
            S1 = S#s{starts = (S#s.starts)#{Id := Start1}},
            lists:foreach(fun(P) -> flags_less(P, Flags, wanted(P, S1), Tracer) end, Old),
            S1
    end.

check(S = #s{tracer = Tracer}) ->
    Now = mono(),
    {Lost, Canary, Reloaded} = scope_patterns:lost(S#s.patterns),
    Gone = sample_lost(S),
    S1 = S#s{checked = now_ms(), checked_raw = Now},
    case {Lost, Gone} of
        {[], []} when not Canary -> S1;
        _ ->
            Others = [P || P = {M, _, _} <- Lost, not lists:member(M, Reloaded)] ++ Gone
                ++ [canary || Canary],
            Reason = case Others of [] -> code_loaded; _ -> tracing_lost end,
            gap({Reason, unknown, S#s.checked_raw, Now}, S),
            Tracer ! {events, [{scope, code_load, M, vsn(M), Now} || M <- Reloaded]},
            lost(Others, S1)
    end.

%% What somebody has put in the place of ours is his now.
lost(Lost, S = #s{patterns = Patterns, lost = Before}) ->
    Taken = scope_patterns:taken(Lost, Patterns),
    if
        Taken =/= [] -> stop_all(lost, S#s{patterns = scope_patterns:without(Taken, Patterns)});
        Lost =:= [] -> rearm(S);
        Before =:= none -> rearm(S#s{lost = now_ms()});
        true -> stop_all(lost, S)
    end.

rearm(S = #s{patterns = Patterns}) -> reapply(S#s{patterns = scope_patterns:rearm(Patterns)}).

vsn(M) ->
    case try M:module_info(attributes) catch error:undef -> [] end of
        Attributes -> case proplists:get_value(vsn, Attributes) of [V] -> V; V -> V end
    end.

%% Processes that should have our flags and have not.
sample_lost(#s{paused = Paused}) when Paused =/= no -> [];
sample_lost(S = #s{starts = Starts, tracer = Tracer}) ->
    Pids = [X || St = #start{pids = P} <- maps:values(Starts), X <- lists:sublist(maps:keys(P), ?SAMPLE),
                 in_sample(X, St, S)],
    [P || P <- Pids, is_process_alive(P), not scope_trace:is_ours(P, Tracer)].

%% All flags again, for a tracer that is new or has switched them off.
reapply(S = #s{starts = Starts}) ->
    tell_procs(S),
    _ = lists:any(fun wants_new/1, maps:values(Starts)) andalso new_flags(S),
    maps:foreach(fun(Id, Start = #start{spec = #{all := All, children := Follow}, pids = Pids}) ->
                         P = if
                                 All -> processes();
                                 Follow -> maps:keys(with_descendants(Pids));
                                 true -> maps:keys(Pids)
                             end,
                         flags_on(P, Start, Follow andalso Id, S)
                 end, Starts),
    S.

%% Whose child is whose was known to the tracer that is gone, and what was spawned since nobody saw.
with_descendants(Pids) ->
    Parents = [{P, Parent} || P <- processes(), {parent, Parent} <- [try process_info(P, parent) catch _:_ -> none end]],
    with_descendants(Parents, Pids).

with_descendants(Parents, Pids) ->
    case [P || {P, Parent} <- Parents, is_map_key(Parent, Pids), not is_map_key(P, Pids)] of
        [] -> Pids;
        More -> with_descendants(Parents, maps:merge(Pids, maps:from_keys(More, true)))
    end.

%% The flags come back later and later while overload goes on, and not at all after half a minute of it.
overload(From, S = #s{overloads = Before, since = Since0}) ->
    Now = now_ms(),
    Recent = [T || T <- Before, Now - T < 10000],
    Since = case Recent of [] -> Now; _ -> Since0 end,
    S1 = S#s{overloads = lists:sublist([Now | Recent], 20), since = Since},
    case Now - Since > ?OVERLOAD_MS of
        true -> stop_all(overload, S1);
        false ->
            S2 = case length([T || T <- Recent, Now - T < 1000]) >= 2 of
                     true -> breaker(mailbox, S1);
                     false -> S1
                 end,
            pause(tracing_paused, From, backoff(10, length(Recent) - 5), S2)
    end.

tracer_lost(From, S = #s{kills = Before, patterns = Patterns, tracer = Tracer}) ->
    Now = now_ms(),
    Kills = [Now | [T || T <- Before, Now - T < 60000]],
    Tracer ! {patterns, scope_patterns:all(Patterns)},
    Tracer ! {configure, S#s.settings},
    S1 = refill(0.5, S#s{kills = Kills}),
    if
        map_size(S#s.starts) =:= 0 -> S1;
        length(Kills) > ?KILLS -> stop_all(overload, S1);
        true -> pause(tracer_killed, From, backoff(100, length(Kills)), S1)
    end.

backoff(Ms, N) when N > 0 -> min(2000, Ms bsl min(N, 8));
backoff(_, _) -> 0.

pause(Reason, From, Delay, S = #s{paused = Paused}) ->
    Ref = make_ref(),
    _ = erlang:send_after(Delay, self(), {resume, Ref}),
    S#s{paused = case Paused of
                     no -> {Ref, Reason, From};
                     {_, Why, Earlier} -> {Ref, Why, min(From, Earlier)}
                 end}.

-spec finish(#s{}) -> no_return().
finish(S = #s{ctx = #{session := Session, sup := Sup}, tracer = Tracer, patterns = Patterns}) ->
    Jobs = case S#s.job of {_, Pid, _, _, _} -> [Pid]; none -> [] end,
    ok = scope_trace:finish(Tracer, scope_patterns:all(Patterns) ++ maps:get(also, also(S), []), [Session, Sup | Jobs]),
    exit(normal).

now_ms() -> erlang:monotonic_time(millisecond).
mono() -> erlang:monotonic_time(nanosecond).
