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

-record(start, {spec :: map(), flags :: [atom()], pids = #{} :: #{pid() => true}, names = #{} :: #{atom() => pid()},
                behaviours = [] :: list(), until = infinity :: integer() | infinity,
                count = infinity :: integer() | infinity}).
-record(s, {ctx :: map(), tracer :: pid(),
            starts = #{} :: #{term() => #start{}},
            patterns = scope_patterns:new() :: scope_patterns:patterns(),
            checked :: integer(), checked_raw :: integer(), lost = none :: none | integer(),
            overloads = [] :: [integer()], since = 0 :: integer(),   % ms: of the last ones; when this spell began
            kills = [] :: [integer()], settings = #{} :: map(),
            paused = no :: no | {reference(), atom(), integer()}}).   % flags are off: why, since which raw time

-spec init() -> no_return().
init() ->
    process_flag(priority, high),
    Ctx = receive {peers, C} -> C after 5000 -> exit(no_peers) end,
    _ = put(ctx, Ctx),
    #{session := Session, sup := Sup, tracer := Tracer} = Ctx,
    _ = erlang:monitor(process, Session),
    _ = erlang:monitor(process, Sup),
    _ = erlang:send_after(?TICK, self(), tick),
    S = #s{ctx = Ctx, tracer = Tracer, checked = now_ms(), checked_raw = mono()},
    %% Quietly, if it comes to that: the supervisor takes everything down, and the node's log is not ours.
    try loop(configure(maps:get(opts, Ctx), S))
    catch
        error:Reason:Stack ->
            Session ! {stopped, all, {crashed, guard, Reason, Stack}},
            exit(shutdown)
    end.

loop(S0) ->
    S = receive Msg -> handle(Msg, S0) end,
    loop(S).

handle({request, From, Ref, leave}, S) -> leave(From, Ref, S);
handle({request, From, Ref, Request}, S) ->
    {Result, S1} = request(Request, S),
    From ! {guard_reply, Ref, Result},
    S1;
handle({configure, Map}, S) -> configure(Map, S);
handle({remove_all, Reason}, S) -> stop_all(Reason, S);
handle({peers, Ctx = #{tracer := Tracer}}, S) -> S#s{ctx = Ctx, tracer = Tracer};
handle({tracer_lost, From}, S) -> tracer_lost(From, S);
handle({overload, Tracer, From}, S = #s{tracer = Tracer}) -> overload(From, S);
handle({resume, Ref}, S = #s{paused = {Ref, Reason, From}}) ->
    S1 = reapply(S#s{paused = no}),
    gap({Reason, unknown, From, mono()}, S1),
    S1;
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

request({start, Id, Spec0}, S = #s{starts = Starts}) ->
    case {scope_trace:check_spec(Spec0), Starts} of
        {{error, _} = Error, _} -> {Error, S};
        {{ok, Spec}, #{Id := #start{spec = Spec}}} -> {{ok, #{already => true}}, S};
        {{ok, _}, #{Id := _}} -> {{error, exists}, S};
        {{ok, Spec}, _} -> start(Id, Spec, S)
    end;
request({stop, all}, S) -> {ok, lists:foldl(fun stop/2, S, maps:keys(S#s.starts))};
request({stop, Id}, S) when is_map_key(Id, S#s.starts) -> {ok, stop(Id, S)};
request({stop, _}, S) -> {{error, not_found}, S};
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
                captured => scope_beat:captured(Ctx), discarded => scope_beat:discarded(Ctx)}}, S};
request(verify, S = #s{tracer = Tracer}) ->
    Traced = length([P || P <- processes(), scope_trace:tracer_of(P) =:= Tracer]),
    {{ok, #{patterns => scope_patterns:all(S#s.patterns), traced => Traced,
            processes => [N || N <- [scope_agent, scope_sup, scope_guard, scope_tracer], whereis(N) =/= undefined]}}, S};
request(_, S) -> {{error, unknown_request}, S}.

start(Id, Spec = #{limit := Limit}, S) ->
    Behaviours = behaviours(Spec),
    Start = #start{spec = Spec, flags = scope_trace:flags(Spec), behaviours = Behaviours,
                   until = case Limit of #{ms := Ms} -> now_ms() + Ms; _ -> infinity end,
                   count = case Limit of #{count := N} -> scope_beat:captured(S#s.ctx) + N; _ -> infinity end},
    Starts = (S#s.starts)#{Id => Start},
    case set_patterns(desired(Starts), S) of
        {error, _} = Error -> {Error, S};
        {ok, Matched, S1} ->
            S2 = configure(maps:with([caps], Spec), S1#s{starts = Starts}),
            tell_procs(S2),
            {Processes, Out, Baseline, Start1} = trace_processes(Id, Start, S2),
            Mine = maps:keys(desired(#{Id => Start})),
            case Out of
                [{_, {owned_by, Owner}}] when Processes =:= 0 ->
                    {{error, {owned_by, Owner}}, stop(Id, S2)};
                _ ->
                    {{ok, #{patterns => [{P, maps:get(P, Matched, already)} || P <- Mine], processes => Processes,
                            left_out => lists:sublist(Out, 100), behaviours => [{M, Sh} || {M, Sh, _} <- Behaviours],
                            baseline => Baseline}},
                     S2#s{starts = Starts#{Id := Start1}}}
            end
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
            case set_patterns(desired(New), S) of
                {ok, _, S1} -> S1#s{starts = New};
                {error, _} -> S#s{starts = New}
            end
    end.

tell_procs(#s{starts = Starts, tracer = Tracer}) ->
    Tracer ! {procs, lists:any(fun(#start{spec = #{events := E}}) -> lists:member(procs, E) end,
                               maps:values(Starts))},
    ok.

stop(Id, S = #s{starts = Starts, tracer = Tracer}) ->
    {Start = #start{spec = Spec, flags = Flags}, Rest} = maps:take(Id, Starts),
    S1 = S#s{starts = Rest},
    _ = wants_new(Start) andalso new_flags(S1),
    Pids = case Spec of
               #{all := true} -> processes();
               #{new_processes := true} -> processes();
               _ -> maps:keys(Start#start.pids)
           end,
    _ = in_chunks(fun(P) -> flags_less(P, Flags, wanted(P, Rest), Tracer) end, Pids ++ followed(Id, S1)),
    {ok, _, S2} = set_patterns(desired(Rest), S1),
    tell_procs(S2),
    S2.

flags_less(Pid, Flags, Keep, Tracer) ->
    Off = case Keep of
              [] -> [all];
              _ -> Flags -- Keep
          end,
    _ = Off =:= [] orelse scope_trace:flags_off(Pid, Off, Tracer),
    ok.

%% The flags that a process should have by the starts given.
wanted(Pid, Starts) ->
    lists:usort(lists:append([Flags || #start{flags = Flags, pids = Pids, spec = #{all := All}} <- maps:values(Starts),
                                       All orelse is_map_key(Pid, Pids)])).

followed(Id, #s{tracer = Tracer, starts = Starts}) ->
    Ref = make_ref(),
    Tracer ! {unfollow, Id, self(), Ref},
    receive {followed, Ref, Pids} -> [P || P <- Pids, wanted(P, Starts) =:= []]
    after 1000 -> []
    end.

stop_all(Reason, S = #s{starts = Starts, ctx = #{session := Session}, tracer = Tracer}) ->
    Ids = maps:keys(Starts),
    scope_trace:all_off(Tracer),
    gap({Reason, unknown, mono(), mono()}, S),
    S1 = lists:foldl(fun stop/2, S, Ids),
    _ = [Session ! {stopped, Id, Reason} || Id <- Ids],
    S1.

leave(From, Ref, S = #s{tracer = Tracer}) ->
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

%% --- patterns --------------------------------------------------------------------------------------------------------

desired(Starts) -> scope_patterns:desired([{Spec, B} || #start{spec = Spec, behaviours = B} <- maps:values(Starts)], true).

set_patterns(Wanted, S = #s{patterns = Patterns, ctx = Ctx}) ->
    case scope_patterns:set(Wanted, Patterns, Ctx) of
        {ok, Matched, New} -> {ok, Matched, S#s{patterns = New}};
        {error, _} = Error -> Error
    end.

%% --- processes -------------------------------------------------------------------------------------------------------

wants_new(#start{spec = #{all := All, new_processes := New}}) -> All orelse New.

new_flags(#s{starts = Starts, tracer = Tracer}) ->
    Flags = lists:usort(lists:append([F || St = #start{flags = F} <- maps:values(Starts), wants_new(St)])),
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
    {Traced, Out} = flags_on(Wanted, Start, Follow andalso Id, S),
    Keep = case All of true -> []; false -> Traced end,
    Baseline = baseline(Traced, S),
    {length(Traced), [{E, filtered_by_another} || E <- scope_trace:filtered(Start#start.flags)]
         ++ [{new_processes, New} || New =/= ok] ++ [{N, not_registered} || N <- Names, not is_map_key(N, Named)]
         ++ Out, Baseline,
     Start#start{pids = maps:from_keys(Keep, true), names = Named}}.

flags_on(Pids, #start{flags = Flags}, Follow, #s{tracer = Tracer}) ->
    LeftOut = scope_trace:left_out(),
    {Out, Rest} = lists:partition(fun(P) -> is_map_key(P, LeftOut) end, Pids),
    _ = [Tracer ! {follow, Follow, Rest} || Follow =/= false],
    Results = in_chunks(fun(P) -> {P, scope_trace:flags_on(P, Flags, Tracer)} end, Rest),
    {[P || {P, ok} <- Results],
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
    case now_ms() - S#s.checked >= ?CHECK_MS of
        true -> check(S);
        false -> S
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
            {Traced, _} = flags_on(maps:values(New), Start, Follow andalso Id, S),
            _ = baseline(Traced, S),
            gap({name_moved, unknown, mono() - ?TICK * 2000000, mono()}, S),
            Now = maps:merge(Known, New),
            Old = maps:values(maps:with(maps:keys(New), Known)) -- (Given ++ maps:values(Now)),
            Start1 = Start#start{names = Now, pids = maps:merge(maps:without(Old, Pids), maps:from_keys(Traced, true))},
            Starts = (S#s.starts)#{Id := Start1},
            lists:foreach(fun(P) -> flags_less(P, Flags, wanted(P, Starts), Tracer) end, Old),
            S#s{starts = Starts}
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
sample_lost(#s{starts = Starts, tracer = Tracer}) ->
    Pids = lists:append([lists:sublist(maps:keys(P), ?SAMPLE) || #start{pids = P} <- maps:values(Starts)]),
    [P || P <- Pids, is_process_alive(P), scope_trace:tracer_of(P) =/= Tracer].

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
        false -> pause(tracing_paused, From, backoff(10, length(Recent) - 5), S1)
    end.

tracer_lost(From, S = #s{kills = Before, patterns = Patterns, tracer = Tracer}) ->
    Now = now_ms(),
    Kills = [Now | [T || T <- Before, Now - T < 60000]],
    Tracer ! {patterns, scope_patterns:all(Patterns)},
    Tracer ! {configure, S#s.settings},
    S1 = S#s{kills = Kills},
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
finish(#s{ctx = #{session := Session, sup := Sup}, tracer = Tracer, patterns = Patterns}) ->
    ok = scope_trace:finish(Tracer, scope_patterns:all(Patterns), [Session, Sup]),
    exit(normal).

now_ms() -> erlang:monotonic_time(millisecond).
mono() -> erlang:monotonic_time(nanosecond).
