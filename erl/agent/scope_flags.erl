%% What the starts that live mean for patterns and processes: which are wanted, and setting them. The guard's.
-module(scope_flags).

-export([also/1, asked_for/1, baseline/2, desired/2, fan_out/1, flags_less/4, flags_on/4, followed/2, gap/2, in_chunks/2, in_sample/3, new_flags/1, reapply/1, samples/1, set_patterns/2, specs/1, tell_procs/1, trace_processes/3, wanted/2, wants_new/1]).

-include("scope_guard.hrl").

-define(CHUNK, 500).

-spec also(#s{}) -> map().
also(S = #s{ctx = Ctx, job = Job, counters = Counters}) ->
    Ctx#{also => case Job of {_, _, _, _, Sets} -> Sets; none -> [] end ++ maps:get(set, Counters, []) ++ scope_follow:also(S)}.

-spec tell_procs(#s{}) -> ok.
tell_procs(S = #s{starts = Starts, tracer = Tracer}) ->
    Tracer ! {fan_out, fan_out(S)},
    Tracer ! {procs, lists:any(fun(#start{spec = #{events := E}}) -> lists:member(procs, E) end,
                               maps:values(Starts))},
    ok.

%% The share of the receivers to whom messages are recorded: the largest that a start asks for which wants messages.
-spec fan_out(#s{}) -> number().
fan_out(#s{starts = Starts}) ->
    Said = [F || #start{spec = #{events := E, fan_out := F}} <- maps:values(Starts), E -- [messages, sends, fetches] =/= E],
    case Said of [] -> 1.0; _ -> lists:max(Said) end.

%% What is told of samples: each rate, and where starts differ, what counts for the events that a flag makes: it is set on
%% whoever one of them wants it for, so the largest.
-spec samples(#{term() => #start{}}) -> [map()].
samples(Starts) ->
    Said = [{F, R} || #start{flags = Flags, spec = #{sample := R}} <- maps:values(Starts), F <- Flags, F =/= set_on_spawn],
    Rates = lists:usort([R || {_, R} <- Said]),
    More = case Rates of [_, _ | _] -> #{flags => maps:from_list(lists:sort(Said))}; _ -> #{} end,     % of equal keys the last counts
    [More#{rate => R} || R <- Rates, R < 1].

-spec flags_less(pid(), [atom()], [atom()], pid()) -> ok.
flags_less(Pid, Flags, Keep, Tracer) ->
    Off = case Keep of
              [] -> [all];
              _ -> Flags -- Keep
          end,
    _ = Off =:= [] orelse scope_trace:flags_off(Pid, Off, Tracer),
    ok.

%% The flags that a process should have by the starts given.
-spec wanted(pid(), #s{}) -> [atom()].
wanted(Pid, S = #s{starts = Starts}) ->
    lists:usort(lists:append([Flags || St = #start{flags = Flags, pids = Pids, spec = #{all := All}} <- maps:values(Starts),
                                       All orelse is_map_key(Pid, Pids), in_sample(Pid, St, S)])).

-spec in_sample(pid(), #start{}, #s{}) -> boolean().
in_sample(Pid, Start, S = #s{ladder = Ladder}) ->
    scope_budget:in_sample(Pid, rate(Start, S)) andalso not is_map_key(Pid, scope_budget:left_out(Ladder)).

rate(#start{spec = #{sample := Sample}}, #s{ladder = Ladder}) -> Sample * scope_budget:factor(Ladder).

-spec followed(term(), #s{}) -> [pid()].
followed(Id, S = #s{tracer = Tracer}) ->
    Ref = make_ref(),
    Tracer ! {unfollow, Id, self(), Ref},
    receive {followed, Ref, Pids} -> [P || P <- Pids, wanted(P, S) =:= []]
    after 1000 -> []
    end.

-spec desired(#{term() => #start{}}, #s{}) -> map().
desired(Starts, #s{ladder = Ladder}) ->
    case scope_budget:rung(Ladder) of
        counters -> #{};
        _ -> scope_patterns:desired(specs(Starts), scope_budget:args(Ladder))
    end.

-spec asked_for(#{term() => #start{}}) -> #{mfa() => list()}.
asked_for(Starts) -> scope_patterns:desired(specs(Starts), true).

-spec specs(#{term() => #start{}}) -> [{map(), list()}].
specs(Starts) -> [{Spec, B} || #start{spec = Spec, behaviours = B} <- maps:values(Starts)].

-spec set_patterns(map(), #s{}) -> {ok, map(), #s{}} | {error, term()}.
set_patterns(Wanted, S = #s{patterns = Patterns}) ->
    case scope_patterns:set(Wanted, Patterns, also(S)) of
        {ok, Matched, New} -> {ok, Matched, S#s{patterns = New}};
        {error, _} = Error -> Error
    end.

-spec wants_new(#start{}) -> boolean().
wants_new(#start{spec = #{all := All, new_processes := New}}) -> All orelse New.

%% Of new ones all are traced at first, and the tracer drops what is none of the sample; what its parents brought along
%% or was asked for by name stays.
-spec new_flags(#s{}) -> ok | {owned_by, term()}.
new_flags(S = #s{starts = Starts, tracer = Tracer, ctx = Ctx}) ->
    Those = [{F, R} || St = #start{flags = F} <- maps:values(Starts), wants_new(St), R <- [rate(St, S)], R > 0],
    Flags = lists:usort(lists:append([F || {F, _} <- Those])),
    Rate = lists:max([0.0 | [R || {_, R} <- Those]]),
    Anyway = lists:append([maps:keys(P) || #start{pids = P} <- maps:values(Starts)]),
    sample(case Flags of [_ | _] -> Rate; [] -> 1 end, Anyway, S),
    scope_trace:new_off(Tracer),
    case Flags =:= [] orelse scope_beat:shut(Ctx) of
        true -> ok;
        false ->
            Result = scope_trace:new_on(Flags, Tracer),
            _ = scope_beat:shut(Ctx) andalso scope_trace:new_off(Tracer),
            Result
    end.

%% In the native tracer those that are kept anyway cannot be told apart where the sample is taken: all are kept then.
sample(Rate, Anyway, #s{ctx = #{capture := native}}) ->
    scope_nif:set_sample(case Rate < 1 andalso Anyway =:= [] of true -> round(Rate * 65536); false -> 65536 end);
sample(Rate, Anyway, #s{tracer = Tracer}) ->
    Tracer ! {sample, case Rate < 1 of true -> {Rate, maps:from_keys(Anyway, true)}; false -> all end},
    ok.

%% {Traced, [{Pid, WhyNot}], BaselineEvents, Start}
-spec trace_processes(term(), #start{}, #s{}) -> {non_neg_integer(), list(), non_neg_integer(), #start{}}.
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
-spec flags_on([pid()], #start{}, false | term(), #s{}) -> {[pid()], [pid()], [{pid(), term()}]}.
flags_on(Pids, Start = #start{flags = Flags}, Follow, S = #s{tracer = Tracer}) ->
    LeftOut = scope_trace:left_out(),
    {Out, Free} = lists:partition(fun(P) -> is_map_key(P, LeftOut) end, Pids),
    {Rest, Skipped} = lists:partition(fun(P) -> in_sample(P, Start, S) end, Free),
    _ = [Tracer ! {follow, Follow, Rest} || Follow =/= false],
    Results = in_chunks(fun(P) -> {P, flag(P, Flags, S)} end, Rest),
    {[P || {P, ok} <- Results], Skipped,
     [{P, {owned_by, T}} || {P, {owned_by, T}} <- Results] ++ [{P, map_get(P, LeftOut)} || P <- Out]}.

%% Not while it is shut: whoever steps down then sets them.
flag(Pid, Flags, #s{tracer = Tracer, ctx = Ctx}) ->
    case scope_beat:shut(Ctx) of
        true -> ok;
        false ->
            Result = scope_trace:flags_on(Pid, Flags, Tracer),
            _ = scope_beat:shut(Ctx) andalso scope_trace:flags_off(Pid, [all], Tracer),
            Result
    end.

%% With a pause after each chunk, so that nobody waits long for our scheduler, and a sign of life.
-spec in_chunks(fun((T) -> U), [T]) -> [U].
in_chunks(Fun, List) -> in_chunks(Fun, List, ?CHUNK).
in_chunks(_, [], _) -> [];
in_chunks(Fun, List, 0) ->
    scope_beat:beat(guard, get(ctx)),
    erlang:yield(),
    in_chunks(Fun, List, ?CHUNK);
in_chunks(Fun, [H | T], N) -> [Fun(H) | in_chunks(Fun, T, N - 1)].

-spec baseline([pid()], #s{}) -> non_neg_integer().
baseline(Pids, S = #s{tracer = Tracer}) ->
    {Told, More} = scope_baseline:start(Pids, Tracer),
    _ = [gap({baseline_limit, More, mono(), mono()}, S) || More > 0],
    Told.

%% To the session, not by way of the tracer, which may be killed before it has told.
-spec gap(scope_hold:gap(), #s{}) -> ok.
gap(Gap, #s{ctx = #{session := Session}}) ->
    Session ! {gap, Gap},
    ok.

%% All flags again, for a tracer that is new or has switched them off.
-spec reapply(#s{}) -> #s{}.
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

mono() -> erlang:monotonic_time(nanosecond).
