%% The budget at work: what may be spent, what is, and the steps down and up that follow. The guard's; the arithmetic
%% is scope_budget's.
-module(scope_ladder).

-export([breaker/2, changed/1, limits_with/2, look/2, pay/1, recount/1, refill/2, step_down/5, tell_low/1, traces/1]).

-include("scope_guard.hrl").

-define(LOW_MS, 5000).          % how often it is told that less than asked is captured
-define(MOST_OWED_NS, 10000000000).

%% The node's, with what these and the living starts say: the largest share that anybody allows.
-spec limits_with([map()], #s{}) -> scope_budget:limits().
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
-spec traces(#s{}) -> #{term() => map()}.
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
-spec changed(#s{}) -> #s{}.
changed(S = #s{starts = Starts}) when map_size(Starts) =:= 0 ->
    refill(1.0, recount(S#s{ladder = scope_budget:new(S#s.limits), debt = none}));
changed(S = #s{ladder = Ladder, ctx = Ctx}) ->
    S1 = recount(S#s{ladder = scope_budget:reset(Ladder)}),
    case scope_beat:shut(Ctx) of
        true -> S1;                     % what was spent is paid for first
        false -> refill(1.0, S1)
    end.

-spec refill(float(), #s{}) -> #s{}.
%% The native tracer's bucket is the tracees' own, in the library.
refill(Share, S = #s{tracer = Tracer, costs = Costs, ctx = Ctx = #{capture := Capture}}) ->
    Limits = limits_with([], S),
    _ = case Capture of
            native -> scope_nif:set_budget(scope_budget:native(Limits, Costs, Share));
            _ ->
                scope_beat:shut(false, Ctx),
                Tracer ! {bucket, scope_budget:bucket(Limits, Costs, Share)}
        end,
    S#s{filled = {Share, mono()}}.

%% Looks at what was spent, and keeps the account of what events took.
spent(S = #s{ctx = Ctx, costs = Costs, spent = Spent0, account = {Level, At, Before}}) ->
    Spent = scope_spent:look(Ctx, Costs, Spent0),
    {All, Now} = scope_spent:traced(Spent),
    S#s{spent = Spent, account = {scope_budget:account(limits_with([], S), Now - At, All - Before, Level), Now, All}}.

%% On the rung where calls are only counted: what the starts ask for, and only there.
-spec recount(#s{}) -> #s{}.
recount(S = #s{starts = Starts, ladder = Ladder, counters = Counters}) ->
    _ = [scope_trace:clear_pattern(C) || C <- maps:get(set, Counters, [])],
    case scope_budget:rung(Ladder) of
        counters ->
            {Patterns, Ours} = scope_probe:countable([{calls, P} || P <- maps:keys(scope_flags:asked_for(Starts))]),
            S1 = S#s{counters = #{set => [{call_count, P} || P <- Ours], patterns => Patterns, at => mono(), rates => #{}}},
            scope_patterns:intend(scope_patterns:all(S1#s.patterns), scope_flags:also(S1)),
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
-spec look(boolean(), #s{}) -> #s{}.
look(false, S = #s{starts = Starts}) when map_size(Starts) =:= 0; S#s.limits =:= none -> S;
look(true, S = #s{starts = Starts, ctx = Ctx, spent = Spent}) when map_size(Starts) =:= 0; S#s.limits =:= none ->
    S#s{spent = scope_spent:look(Ctx, S#s.costs, Spent)};
look(Second, S0 = #s{ctx = Ctx, spent = Spent0, limits = Limits, ladder = Ladder}) ->
    %% The node's memory is in files of the kernel's, read on other threads: of a quiet trace that was most of what it cost.
    Memory = Second andalso not (scope_budget:rung(Ladder) =:= full andalso scope_spent:quiet(Ctx, Spent0)),
    {Why, Spent} = scope_spent:breaker(Memory, Limits, Spent0),
    S = S0#s{spent = Spent},
    Full = scope_beat:full(Ctx) >= 20,
    if
        Why =/= none -> breaker(Why, S);
        Full -> breaker(credit, S);
        Second -> second(limits_with([], S), read_counters(spent(S)));
        true -> S
    end.

second(none, S) -> S;           % a start may do without
second(Limits = #{memory := Most}, S = #s{spent = Spent, ladder = Ladder, low = Low}) ->
    #{memory := Memory} = scope_spent:status(Spent),
    {_, Share} = scope_budget:blame(seen(S), Limits, 1.0),
    Told0 = case mono() - Low >= ?LOW_MS * 1000000 of true -> tell_low(S); false -> S end,
    Alive = scope_budget:still_left_out(fun is_process_alive/1, Ladder),
    Told = Told0#s{ladder = Alive},
    if
        Memory > Most -> breaker(memory, Told);
        S#s.debt =/= none -> Told;
        true ->
            case scope_budget:up(Share, one_up(Share, Limits, S), args_asked(S), now_ms(), Alive) of
                {up, New} -> step_to(New, #{}, {0, 0}, Told);
                {stay, New} -> Told#s{ladder = New}
            end
    end.

%% What the events of the last look took of each limit.
seen(#s{spent = Spent}) ->
    case scope_spent:status(Spent) of
        #{cpu := Cpu, own_cpu := Own, events := Events, bytes := Bytes} when is_number(Cpu) ->
            #{cpu => Cpu - Own, events => Events, bytes => Bytes};
        Status -> maps:with([events, bytes], Status)
    end.

%% What the share would be one rung up.
one_up(Share, #{cpu := Most}, #s{ladder = Ladder, counters = Counters, costs = Costs}) ->
    case scope_budget:rung(Ladder) of
        fewer -> Share / scope_budget:factor(Ladder);
        no_args -> Share * 1.5;
        counters when is_map(Costs) ->
            Calls = lists:sum(maps:values(maps:get(rates, Counters, #{}))) * scope_budget:fewer(Ladder),
            scope_budget:percent(scope_budget:spent_ns(#{args => Calls}, 0, Costs), 1000000000) / Most;
        _ -> Share
    end.

args_asked(S = #s{starts = Starts}) ->
    scope_patterns:desired(scope_flags:specs(Starts), true) =/= scope_patterns:desired(scope_flags:specs(Starts), false)
        andalso map_size(S#s.starts) > 0.

%% Not more than one rung a second.
-spec breaker(atom(), #s{}) -> #s{}.
breaker(_, S = #s{limits = none}) -> S;
breaker(Why, S = #s{ladder = Ladder}) ->
    case scope_budget:status(Ladder) of
        #{rung := Rung, rung_ms := Ms} when Rung =/= full, Ms < 1000 -> S;
        _ -> step_down(Why, [], #{noticed => mono()}, {0, 0}, S)
    end.

%% Spenders: who spent most, and which part of all. Owed: ns of time until the tracer's bucket would not be dry any more,
%% and how many events had been discarded when that was said.
-spec step_down(atom(), [{pid(), float()}], map(), {non_neg_integer(), integer()}, #s{}) -> #s{}.
step_down(_, _, _, _, S = #s{starts = Starts}) when map_size(Starts) =:= 0; S#s.limits =:= none -> scope_flags:reapply(refill(1.0, S));
step_down(any, Spenders, Figures, Owed, S0 = #s{costs = Costs}) ->
    S = spent(S0),
    Limits = limits_with([], S),
    {What, Share} = scope_budget:blame(seen(S), Limits, 1.0),
    %% What the rings hold is not counted yet, and may be all there is.
    step_down(case Share > 0.5 of true -> What; false -> scope_budget:narrowest(Limits, Costs) end, Spenders, Figures, Owed, S);
step_down(Why, Spenders, Figures, Owed, S0 = #s{follow = #follow{}, ladder = Ladder}) ->      % the follow goes first
    S = spent(S0),
    Left = scope_follow:over(over_budget, S),
    Rung = scope_budget:rung(Ladder),
    tell_step(stepped_down, maps:get(from, Figures, mono()), #{from => Rung, to => Rung, cause => Why, ended => follow}, S),
    step_down(Why, Spenders, Figures, Owed, Left);
step_down(Why, Spenders, Figures, Owed, S = #s{ladder = Ladder, filled = {Share, At}, ctx = #{capture := Capture}}) ->
    Demand = case Figures of
                 #{from := _, noticed := Dry} -> scope_budget:demand(Capture, Share, Dry - At);       % the bucket ran dry
                 _ -> unknown
             end,
    case scope_budget:rung(Ladder) of
        counters when Demand =/= unknown -> scope_flags:reapply(refill(0.25, S));   % what was under way: nothing is traced
        _ -> step_to(scope_budget:down(Why, args_asked(S), Demand, Spenders, Ladder), Figures, Owed, S)
    end.

%% Relief first, then order: flags go by one call, those that stay come back.
step_to(New, Figures, Owed, S0 = #s{ladder = Old, tracer = Tracer, ctx = Ctx = #{capture := Capture}}) ->
    From = scope_budget:rung(Old),
    #{rung := To, cause := Why} = scope_budget:status(New),
    Down = scope_budget:factor(New) < scope_budget:factor(Old) orelse map_size(scope_budget:left_out(New)) > map_size(scope_budget:left_out(Old)),
    Dry = is_map_key(relieved, Figures),
    Off = Dry andalso (Capture =:= native orelse scope_beat:shut(Ctx)),     % and nobody has set any again
    _ = (Down orelse Dry) andalso not Off andalso scope_trace:all_off(Tracer),
    Relieved = maps:get(relieved, Figures, mono()),
    S1 = tell_low(spent(S0)),
    S2 = S1#s{ladder = New},
    S3 = case To of
             off -> scope_guard:stop_all(over_budget, S2);
             _ ->
                 {ok, _, Set} = scope_flags:set_patterns(scope_flags:desired(S2#s.starts, S2), recount(S2)),
                 Filled = fun() -> refill(case Why of quiet -> 0.5; _ -> 0.25 end, Set) end,     % a dry bucket lets no flags stand
                 Same = scope_budget:tracees(New) =:= scope_budget:tracees(Old),
                 if
                     Off, Capture =/= native, To =/= counters -> pay(Set#s{debt = {make_ref(), Owed, Relieved}});
                     Set#s.debt =/= none -> Set;
                     Same, not Dry -> Filled();
                     true -> scope_flags:reapply(Filled())
                 end
         end,
    Now = mono(),
    Took = case Figures of #{noticed := At} -> #{took_us => ((case Down orelse Dry of true -> Relieved; false -> Now end) - At) div 1000}; _ -> #{} end,
    tell_step(case Why of quiet -> stepped_up; _ -> stepped_down end, maps:get(from, Figures, Now),
              Took#{from => From, to => To, cause => Why, rate => scope_budget:factor(New), left_out => map_size(scope_budget:left_out(New))}, S1),
    S3.

%% What was spent beyond the budget until the flags were off is paid for before anything is traced again, and what came later:
%% a tracee's last events come when it stops running, some hundreds of them.
-spec pay(#s{}) -> #s{}.
pay(S0 = #s{debt = {Ref, {Bucket, Discarded}, Since}, ctx = Ctx}) ->
    S = #s{account = {Level, At, _}} = spent(S0),
    Limits = limits_with([], S),
    Late = (scope_beat:discarded(Ctx) - Discarded) * 1.0e9 / scope_budget:events(Limits),
    Now = mono(),
    Owed = max(Bucket + Late - (Now - Since), -Level / scope_budget:rate(Limits) - (Now - At)),
    case min(Owed, ?MOST_OWED_NS - (Now - Since)) / 1000000 of
        Ms when Ms > 1 ->
            _ = erlang:send_after(ceil(Ms), self(), {paid, Ref}),
            S;
        _ ->
            S1 = scope_flags:reapply(refill(0.25, S#s{debt = none})),
            scope_flags:gap({tracing_paused, unknown, Since, mono()}, S1),
            S1
    end.

%% With what may be spent and what was.
tell_step(Reason, From, Figures, S) ->
    Limits = case limits_with([], S) of none -> #{}; L -> maps:with([cpu, events, bytes, memory], L) end,
    scope_flags:gap({Reason, unknown, From, mono(),
                     Figures#{budget => Limits, spent => maps:without([kinds, at], scope_spent:status(S#s.spent))}}, S).

%% What a lower rung or a sample has left out since it was last told.
-spec tell_low(#s{}) -> #s{}.
tell_low(S = #s{low = Low, ladder = Ladder, starts = Starts}) ->
    Now = mono(),
    _ = case scope_budget:rung(Ladder) of
            full -> ok;
            no_args -> scope_flags:gap({args_left_out, 0, Low, Now}, S);
            fewer ->
                Out = maps:keys(scope_budget:left_out(Ladder)),
                _ = [scope_flags:gap({busiest_left_out, unknown, Low, Now, #{processes => Out}}, S) || Out =/= []],
                scope_flags:gap({fewer_tracees, unknown, Low, Now, #{rate => scope_budget:factor(Ladder)}}, S);
            _ -> scope_flags:gap({counters_only, unknown, Low, Now}, S)
        end,
    _ = [scope_flags:gap({sampled, unknown, Low, Now, Sample}, S) || Sample <- scope_flags:samples(Starts)],
    _ = [scope_flags:gap({fan_out, unknown, Low, Now, #{rate => R}}, S) || R <- [scope_flags:fan_out(S)], R < 1],
    S#s{low = Now}.

now_ms() -> erlang:monotonic_time(millisecond).
mono() -> erlang:monotonic_time(nanosecond).
