%% Looking after what is traced: what another tool took away, names that moved, modules that came, tracers that were
%% killed or overloaded. The guard's.
-module(scope_watch).

-export([check/1, late_behaviours/1, lease_over/2, names/1, overload/2, tracer_lost/2]).

-include("scope_guard.hrl").

-define(TICK, 250).              % the longest between two looks
-define(SAMPLE, 16).
-define(KILLS, 5).              % of the tracer in a minute, and
-define(OVERLOAD_MS, 30000).    % overload that long: tracing is given up

%% A behaviour's module that was not loaded when the start began may be now: with its first server, perhaps.
-spec late_behaviours(#s{}) -> #s{}.
late_behaviours(S = #s{starts = Starts}) ->
    Late = [Id || {Id, #start{behaviours = B}} <- maps:to_list(Starts),
                  lists:any(fun({M, Shape, _}) -> Shape =:= absent andalso erlang:module_loaded(M) end, B)],
    case Late of
        [] -> S;
        _ ->
            New = maps:map(fun(_, Start = #start{spec = Spec}) -> Start#start{behaviours = scope_ask:behaviours(Spec)} end,
                           Starts),
            From = mono() - ?TICK * 2000000,
            S1 = case scope_flags:set_patterns(scope_flags:desired(New, S), S) of
                     {ok, _, Set} -> Set;
                     {error, _} -> S
                 end,
            scope_flags:gap({behaviour_loaded, unknown, From, mono()}, S),     % up to when they stand
            S1#s{starts = New}
    end.

%% A name that has a new process is traced again. What it did before is missing: a gap since the look before.
-spec names(#s{}) -> #s{}.
names(S = #s{starts = Starts}) ->
    lists:foldl(fun(Id, Acc) -> names(Id, map_get(Id, Starts), Acc) end, S, maps:keys(Starts)).

names(_, #start{spec = #{names := []}}, S) -> S;
names(Id, Start = #start{spec = #{names := Names, children := Follow, pids := Given}}, S = #s{tracer = Tracer}) ->
    #start{names = Known, pids = Pids, flags = Flags} = Start,
    New = maps:from_list([{N, P} || N <- Names, P <- [whereis(N)], is_pid(P), maps:get(N, Known, none) =/= P]),
    case map_size(New) of
        0 -> S;
        _ ->
            {Traced, Skipped, _} = scope_flags:flags_on(maps:values(New), Start, Follow andalso Id, S),
            _ = scope_flags:baseline(Traced, S),
            scope_flags:gap({name_moved, unknown, mono() - ?TICK * 2000000, mono()}, S),
            Now = maps:merge(Known, New),
            Old = maps:values(maps:with(maps:keys(New), Known)) -- (Given ++ maps:values(Now)),
            Start1 = Start#start{names = Now, pids = maps:merge(maps:without(Old, Pids), maps:from_keys(Traced ++ Skipped, true))},
            S1 = S#s{starts = (S#s.starts)#{Id := Start1}},
            lists:foreach(fun(P) -> scope_flags:flags_less(P, Flags, scope_flags:wanted(P, S1), Tracer) end, Old),
            case Start of
                #start{spec = #{follow := _}} ->        % whoever has the name now is followed
                    {ok, _, S2} = scope_flags:set_patterns(scope_flags:desired(S1#s.starts, S1), S1),
                    S2;
                _ -> S1
            end
    end.

-spec check(#s{}) -> #s{}.
check(S) ->
    case scope_session:stands() of
        true -> check_it(S);
        false -> S                  % its tracer is gone, and we shall hear of that
    end.

check_it(S = #s{tracer = Tracer}) ->
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
            scope_flags:gap({Reason, unknown, S#s.checked_raw, Now}, S),
            Tracer ! {events, [{scope, code_load, M, vsn(M), Now} || M <- Reloaded]},
            lost(Others, S1)
    end.

%% What somebody has put in the place of ours is his now.
lost(Lost, S = #s{patterns = Patterns, lost = Before}) ->
    Taken = scope_patterns:taken(Lost, Patterns),
    if
        Taken =/= [] -> scope_guard:stop_all(lost, S#s{patterns = scope_patterns:without(Taken, Patterns)});
        Lost =:= [] -> rearm(S);
        Before =:= none -> rearm(S#s{lost = now_ms()});
        true -> scope_guard:stop_all(lost, S)
    end.

rearm(S = #s{patterns = Patterns}) -> scope_flags:reapply(S#s{patterns = scope_patterns:rearm(Patterns)}).

vsn(M) ->
    case try M:module_info(attributes) catch error:undef -> [] end of
        Attributes -> case proplists:get_value(vsn, Attributes) of [V] -> V; V -> V end
    end.

%% Processes that should have our flags and have not.
sample_lost(#s{paused = Paused}) when Paused =/= no -> [];
sample_lost(#s{ctx = #{capture := native}} = S) ->
    case scope_nif:enabled(trace_status, scope, self()) of
        remove -> [];                   % dry, or the lease is over: they went by themselves, and we shall hear of it
        _ -> flags_lost(S)
    end;
sample_lost(S = #s{ctx = Ctx}) ->
    Lost = flags_lost(S),
    case scope_beat:shut(Ctx) of true -> []; false -> Lost end.

flags_lost(S = #s{starts = Starts, tracer = Tracer}) ->
    Pids = [X || St = #start{pids = P} <- maps:values(Starts), X <- lists:sublist(maps:keys(P), ?SAMPLE),
                 scope_flags:in_sample(X, St, S)],
    [P || P <- Pids, is_process_alive(P), not scope_trace:is_ours(P, Tracer)].

%% The supervisor did not come by for so long that the library let tracees lose their flags: it, or the whole VM, stood still.
-spec lease_over(integer(), #s{}) -> #s{}.
lease_over(_, S = #s{starts = Starts, paused = Paused}) when map_size(Starts) =:= 0; Paused =/= no -> S;
lease_over(From, S0) ->
    S = scope_flags:reapply(S0),
    scope_flags:gap({tracing_paused, unknown, From, mono()}, S),
    S.

%% The flags come back later and later while overload goes on, and not at all after half a minute of it.
-spec overload(integer(), #s{}) -> #s{}.
overload(From, S = #s{overloads = Before, since = Since0}) ->
    Now = now_ms(),
    Recent = [T || T <- Before, Now - T < 10000],
    Since = case Recent of [] -> Now; _ -> Since0 end,
    S1 = S#s{overloads = lists:sublist([Now | Recent], 20), since = Since},
    case Now - Since > ?OVERLOAD_MS of
        true -> scope_guard:stop_all(overload, S1);
        false ->
            S2 = case length([T || T <- Recent, Now - T < 1000]) >= 2 of
                     true -> scope_ladder:breaker(mailbox, S1);
                     false -> S1
                 end,
            pause(tracing_paused, From, backoff(10, length(Recent) - 5), S2)
    end.

-spec tracer_lost(integer(), #s{}) -> #s{}.
tracer_lost(From, S = #s{kills = Before, patterns = Patterns, tracer = Tracer}) ->
    Now = now_ms(),
    Kills = [Now | [T || T <- Before, Now - T < 60000]],
    Tracer ! {patterns, scope_patterns:all(Patterns)},
    Tracer ! {configure, S#s.settings},
    S1 = scope_ladder:refill(0.5, again(S#s{kills = Kills})),
    if
        map_size(S#s.starts) =:= 0 -> S1;
        length(Kills) > ?KILLS -> scope_guard:stop_all(overload, S1);
        true -> pause(tracer_killed, From, backoff(100, length(Kills)), S1)
    end.

%% Where the session was the lost tracer's the patterns went with it, and so did the counters.
again(S = #s{ctx = #{capture := Capture}, patterns = Patterns}) ->
    case scope_session:there_are() andalso Capture =/= native of
        true -> scope_ladder:recount(S#s{patterns = scope_patterns:rearm(Patterns)});
        false -> S
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

now_ms() -> erlang:monotonic_time(millisecond).
mono() -> erlang:monotonic_time(nanosecond).
