%% What our work on this node costs, second by second, and what else on the node says that we should do less. Owned by
%% the guard.
-module(scope_spent).

-export([new/1, look/3, traced/1, status/1, quiet/2, breaker/3]).
-export_type([spent/0]).

-define(RUN_QUEUE, 20).        % runnable processes for each scheduler, ..
-define(SOON_NS, 5000000).
-define(BUSY_MS, 500).         % .. at each look for so long

-record(spent, {at :: integer(), totals :: map(), reductions :: non_neg_integer(), worked :: {integer(), integer(), integer()},
                scheduled :: non_neg_integer(),
                last = #{} :: #{atom() => number()},     % of the last second
                kinds = #{} :: #{atom() => number()},    % events per second
                all = 0 :: number(), own = 0 :: number(),  % ns since the agent began, and what of it no event made
                busy = no :: no | integer()}).  % since which raw time
-opaque spent() :: #spent{}.

-spec new(map()) -> spent().
new(Ctx) -> #spent{at = mono(), totals = scope_beat:totals(Ctx), reductions = reductions(Ctx), worked = scope_beat:worked(Ctx), scheduled = scheduled()}.

%% Since the look before; too soon after it there is nothing to be said.
-spec look(map(), scope_budget:costs(), spent()) -> spent().
look(Ctx, Costs, S = #spent{at = At}) ->
    case mono() of
        Now when Now - At < ?SOON_NS -> S;
        Now -> look(Now, Now - At, Ctx, Costs, S)
    end.

look(Now, Dt, Ctx, Costs, S = #spent{totals = Before, reductions = R0, worked = {Session0, Drainer0, Passes0}, scheduled = In0}) ->
    Totals = scope_beat:totals(Ctx),
    R1 = reductions(Ctx),
    Worked = {Session, Drainer, Passes} = scope_beat:worked(Ctx),
    Delta = maps:map(fun(K, N) -> N - maps:get(K, Before, 0) end, Totals),
    Counts = maps:without([bytes], Delta),
    In = scheduled(),
    {Own, Schedules} = case Costs of
                           unknown -> {Session - Session0, 0};
                           #{reduction := Ns, scheduled := NsIn, wake := NsWake} ->
                               {Session - Session0 + max(0, R1 - R0) * Ns + (Passes - Passes0) * NsWake, max(0, In - In0) * NsIn}
                       end,
    Ns2 = scope_budget:spent_ns(Counts, map_get(bytes, Delta), tracees(Ctx, Costs)) + Schedules + Drainer - Drainer0 + Own,
    PerSecond = fun(N) -> N * 1.0e9 / Dt end,
    S#spent{at = Now, totals = Totals, reductions = R1, worked = Worked, scheduled = In, all = S#spent.all + Ns2, own = S#spent.own + Own,
            kinds = maps:map(fun(_, N) -> round(PerSecond(N)) end, Counts),
            last = #{cpu => case Costs of unknown -> unknown; _ -> scope_budget:percent(Ns2, Dt) end,
                     own_cpu => scope_budget:percent(Own, Dt),
                     events => round(PerSecond(lists:sum(maps:values(Counts)))),
                     bytes => round(PerSecond(map_get(bytes, Delta))), memory => memory(Ctx)}}.

%% {ns that events took since the agent began, raw time up to when}
-spec traced(spent()) -> {number(), integer()}.
traced(#spent{at = At, all = All, own = Own}) -> {All - Own, At}.

-spec status(spent()) -> #{atom() => term()}.
status(#spent{at = At, last = Last, kinds = Kinds, all = All}) -> Last#{kinds => Kinds, total_ns => round(All), at => At}.

%% Of the costs those that no clock of ours saw: where the drainer is timed, what is not its own.
tracees(#{capture := native}, Costs) when is_map(Costs) ->
    maps:map(fun(_, {Tracee, _}) -> {Tracee, 0}; (_, N) -> N end, Costs);
tracees(_, Costs) -> Costs.

%% Of the processes of ours that are not timed and do not receive traces: what the Erlang tracer does is in the costs of events.
reductions(Ctx) ->
    Session = case Ctx of #{capture := native} -> []; _ -> [session] end,
    lists:sum([N || P <- maps:values(maps:with([guard, sup | Session], Ctx)), {_, N} <- [process_info(P, reductions)]]).

scheduled() -> map_get(scheduled, scope_nif:counters()).

memory(Ctx) ->
    scope_beat:under_way(Ctx) + scope_beat:held(Ctx)
        + lists:sum([N || P <- maps:values(maps:with([session, guard, sup, tracer], Ctx)), {_, N} <- [process_info(P, memory)]]).

%% No event was captured or discarded since the last look; what is told of processes at a start is none.
-spec quiet(map(), spent()) -> boolean().
quiet(Ctx, #spent{totals = Totals}) -> maps:remove(bytes, scope_beat:totals(Ctx)) =:= maps:remove(bytes, Totals).

%% At each look: the node is busy, or, if that is to be looked at, short of memory.
-spec breaker(boolean(), scope_budget:limits(), spent()) -> {none | run_queue | node_memory, spent()}.
breaker(_, none, S) -> {none, S};
breaker(Memory, Limits, S = #spent{busy = Busy0}) ->
    Most = ?RUN_QUEUE * erlang:system_info(schedulers_online),
    Now = mono(),
    Busy = case erlang:statistics(total_run_queue_lengths) > Most of
               true when Busy0 =:= no -> Now;
               true -> Busy0;
               false -> no
           end,
    if
        is_integer(Busy), Now - Busy >= ?BUSY_MS * 1000000 -> {run_queue, S#spent{busy = no}};
        Memory -> {case available() < map_get(available, Limits) of true -> node_memory; false -> none end, S#spent{busy = Busy}};
        true -> {none, S#spent{busy = Busy}}
    end.

%% Per cent of the machine's or the container's memory that can still be had; infinity (an atom is larger than any
%% number) where nothing tells.
available() ->
    min(case read("/proc/meminfo") of
            {ok, Info} -> share(field(Info, <<"MemAvailable:">>), field(Info, <<"MemTotal:">>));
            _ -> infinity
        end,
        case whole("/sys/fs/cgroup/memory.max") of
            none -> infinity;
            Max ->
                case whole("/sys/fs/cgroup/memory.current") of none -> infinity; Used -> share(Max - Used, Max) end
        end).

share(Part, Whole) when is_integer(Part), is_integer(Whole), Whole > 0 -> 100 * Part / Whole;
share(_, _) -> infinity.

whole(File) ->
    try {ok, Bin} = read(File), binary_to_integer(string:trim(Bin)) catch _:_ -> none end.

field(Info, Name) ->
    try
        [_, Rest] = binary:split(Info, Name),
        [Number | _] = string:lexemes(Rest, " \n"),
        binary_to_integer(Number)
    catch _:_ -> none
    end.

read(File) -> prim_file:read_file(File).

mono() -> erlang:monotonic_time(nanosecond).
