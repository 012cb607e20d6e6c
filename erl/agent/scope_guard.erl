%% Owns what is traced: the starts, the patterns and the flags that follow from them, and the looking after both.
%%
%% What is set is always computed from the starts that live, so stopping one leaves the others as they were. The
%% supervisor is told of each pattern before it is set, and can take it away if we cannot.
%% Every 100 ms names are looked up again and counts checked, where there are any, every 250 ms the rest; every 500 ms while
%% nothing comes. A time limit is checked when it ends; every second the patterns and a sample of the processes
%% are: what another tool took away is set again once, with a gap, and then given up. A reloaded module is armed again.
-module(scope_guard).

-export([init/0, start/5, stop/2, stop_all/2]).

-include("scope_guard.hrl").

-define(TICK, 100).
-define(SLOW_TICK, 250).
-define(IDLE_TICK, 500).
-define(CHECK_MS, 1000).
-define(SILENT_MS, 3000).

-spec init() -> no_return().
init() ->
    process_flag(priority, high),
    Ctx = receive {peers, C} -> C after 5000 -> exit(no_peers) end,
    _ = put(ctx, Ctx),
    #{session := Session, sup := Sup, tracer := Tracer} = Ctx,
    _ = erlang:monitor(process, Session),
    _ = erlang:monitor(process, Sup),
    scope_session:use(maps:get(trace, Ctx)),
    _ = erlang:send_after(?TICK, self(), tick),
    Limits = scope_budget:limits(maps:get(budget, maps:get(opts, Ctx), #{}), none),
    S = #s{ctx = Ctx, tracer = Tracer, checked = now_ms(), checked_raw = mono(), idle = mono(), low = mono(), account = {0, mono(), 0}, limits = Limits,
           ladder = scope_budget:new(Limits), spent = scope_spent:new(Ctx)},
    %% Quietly, if it comes to that: the supervisor takes everything down, and the node's log is not ours.
    try loop(scope_ask:job(measure, configure(maps:get(opts, Ctx), S)))
    catch
        error:Reason:Stack ->
            Session ! {stopped, all, {crashed, guard, Reason, Stack}},
            exit(shutdown)
    end.

loop(S0) ->
    S = receive Msg -> handle(Msg, S0) end,
    loop(S).

handle({request, From, Ref, leave}, S) -> leave(From, Ref, S);
handle({request, From, Ref, {start, Id, Spec}}, S) -> scope_ask:ask({start, Id}, Spec, From, Ref, S);
handle({request, From, Ref, {probe, Spec}}, S) -> scope_ask:ask(probe, Spec, From, Ref, S);
handle({request, From, Ref, Request}, S) ->
    {Result, S1} = request(Request, S),
    From ! {guard_reply, Ref, Result},
    S1;
handle({configure, Map}, S) -> configure(Map, S);
handle({remove_all, Reason}, S) -> stop_all(Reason, S);
handle({peers, Ctx = #{tracer := Tracer, trace := Trace}}, S) ->
    scope_session:use(Trace),
    S#s{ctx = Ctx, tracer = Tracer};
handle({lease_over, From}, S) -> scope_watch:lease_over(From, S);
handle({tracer_lost, From}, S) -> scope_watch:tracer_lost(From, S);
handle({overload, Tracer, From}, S = #s{tracer = Tracer}) -> scope_watch:overload(From, S);
handle({dry, What, From, Noticed, Relieved, Spenders, Owed}, S) ->      % the tracer has taken all flags off
    scope_ladder:step_down(What, Spenders, #{from => From, noticed => Noticed, relieved => Relieved}, Owed, S);
handle({paid, Ref}, S = #s{debt = {Ref, _, _}}) -> scope_ladder:pay(S);
handle({resume, Ref}, S = #s{paused = {Ref, Reason, From}}) ->
    S1 = scope_flags:reapply(S#s{paused = no}),
    scope_flags:gap({Reason, unknown, From, mono()}, S1),
    S1;
handle({costs, Ref, Costs}, S = #s{job = {Ref, _, _, _, _}}) -> scope_ask:next_job(scope_ask:job_done(S#s{costs = Costs}));
handle(measure, S) -> scope_ask:measure(S);
handle({counted, Ref, Rates}, S = #s{job = {Ref, _, _, Job, _}}) -> scope_ask:counted(Job, Rates, scope_ask:job_done(S));
handle({job_late, Ref}, S = #s{job = {Ref, Pid, _, _, _}}) ->
    exit(Pid, kill),
    S;
handle({'DOWN', Mon, process, _, _}, S = #s{job = {_, _, Mon, Job, _}}) -> scope_ask:counted(Job, unknown, scope_ask:job_done(S));
handle({follow_over, Pid, Lost, From, Until}, S = #s{follow = #follow{pid = Pid}}) ->
    scope_flags:gap({over_budget, Lost, From, Until}, S),
    scope_follow:over(over_budget, S);
handle({'DOWN', Mon, process, _, _}, S = #s{follow = #follow{mon = Mon}}) -> scope_follow:down(Mon, S);
handle({'DOWN', _, process, _, _}, S) -> finish(S);         % session or supervisor
handle(tick, S) ->
    Captured = scope_beat:captured(S#s.ctx),
    _ = erlang:send_after(tick_ms(S#s.starts, Captured =:= S#s.seen), self(), tick),
    scope_beat:beat(guard, S#s.ctx),
    tick(S#s{seen = Captured});
handle(_, S) -> S.

%% A process that only waits costs a node least if it seldom wakes up.
tick_ms(Starts, Quiet) ->
    All = maps:values(Starts),
    Ms = case lists:all(fun(#start{spec = #{names := N}, count = C}) -> N =:= [] andalso C =:= infinity end, All) of
             false -> ?TICK;
             true when All =:= [] -> ?IDLE_TICK;
             true ->
                 case Quiet andalso not lists:any(fun(#start{behaviours = B}) -> lists:keymember(absent, 2, B) end, All) of
                     true -> ?IDLE_TICK;
                     false -> ?SLOW_TICK
                 end
         end,
    Left = [Until - now_ms() || #start{until = Until} <- All, is_integer(Until)],
    lists:min([scope_beat:next(Ms) | [max(1, L) || L <- Left]]).

%% Kept for a tracer that comes later.
configure(Map0, S = #s{settings = Before, tracer = Tracer}) ->
    Map = maps:filter(fun(caps, Caps) -> is_map(Caps);
                         (hash_key, Key) -> is_binary(Key) andalso byte_size(Key) =:= 16;
                         (redact, _) -> true;
                         (_, _) -> false
                      end, Map0),
    Caps = maps:merge(maps:get(caps, Before, #{}), scope_cut:valid(maps:get(caps, Map, #{}))),
    New = maps:merge(Before, Map#{caps => Caps}),
    Tracer ! {configure, New},
    S#s{settings = New}.

request({stop, all}, S) -> {ok, lists:foldl(fun stop/2, scope_ask:without_jobs(all, S), maps:keys(S#s.starts))};
request({stop, Id}, S) when is_map_key(Id, S#s.starts) -> {ok, stop(Id, S)};
request({stop, Id}, S) -> {case scope_ask:queued(Id, S) of [] -> {error, not_found}; _ -> ok end, scope_ask:without_jobs(Id, S)};
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
                budget => scope_ladder:limits_with([], S), spent => scope_spent:status(S#s.spent), costs => S#s.costs,
                ladder => scope_budget:status(S#s.ladder), counters => maps:get(rates, S#s.counters, #{}),
                traces => scope_ladder:traces(S)}}, S};
request(verify, S = #s{tracer = Tracer}) ->
    Traced = length([P || P <- processes(), scope_trace:is_ours(P, Tracer)]),
    {{ok, #{patterns => scope_patterns:all(S#s.patterns), traced => Traced,
            processes => [N || N <- [scope_agent, scope_sup, scope_guard, scope_tracer, scope_lease, scope_follow], whereis(N) =/= undefined]}}, S};
request(_, S) -> {{error, unknown_request}, S}.

-spec start(term(), map(), map(), list(), #s{}) -> {{ok, map()} | {error, term()}, #s{}}.
start(Id, Asked, Spec0, Behaviours, S0) ->
    case scope_follow:open({Id, Spec0}, S0) of
        {ok, Spec, S} ->
            case begun(Id, Asked, Spec, Behaviours, S) of
                {{error, _} = Error, S1} when S#s.follow =/= S0#s.follow -> {Error, scope_follow:close(S1)};
                Begun -> Begun
            end;
        {error, _} = Error -> {Error, S0}
    end.

begun(Id, Asked, Spec = #{limit := Limit}, Behaviours, S0) ->
    S = scope_ladder:tell_low(S0),          % from here on another share of the messages may be recorded
    Start = #start{asked = Asked, spec = Spec, flags = scope_trace:flags(Spec), behaviours = Behaviours,
                   until = case Limit of #{ms := Ms} -> now_ms() + Ms; _ -> infinity end,
                   count = case Limit of #{count := N} -> scope_beat:captured(S#s.ctx) + N; _ -> infinity end},
    Starts = (S#s.starts)#{Id => Start},
    case scope_flags:set_patterns(scope_flags:desired(Starts, S), S) of
        {error, _} = Error -> {Error, S};
        {ok, Matched, S1} ->
            S2 = configure(maps:with([caps], Spec), case map_size(S#s.starts) of
                                                        0 -> scope_ladder:refill(1.0, S1#s{starts = Starts});     % before any flag is set
                                                        _ -> S1#s{starts = Starts}
                                                    end),
            scope_flags:tell_procs(S2),
            _ = [scope_flags:gap({not_traced, unknown, S#s.idle, mono()}, S) || map_size(S#s.starts) =:= 0],
            {Processes, Out, Baseline, Start1} = scope_flags:trace_processes(Id, Start, S2),
            Mine = maps:keys(scope_flags:asked_for(#{Id => Start})),
            case Out of
                [{_, {owned_by, Owner}}] when Processes =:= 0 ->
                    {{error, {owned_by, Owner}}, stop(Id, S2)};
                _ ->
                    {{ok, #{patterns => [{P, maps:get(P, Matched, already)} || P <- Mine], processes => Processes,
                            left_out => lists:sublist(Out, 100), behaviours => [{M, Sh} || {M, Sh, _} <- Behaviours],
                            baseline => Baseline}},
                     scope_ladder:changed(S2#s{starts = Starts#{Id := Start1}})}
            end
    end.

-spec stop(term(), #s{}) -> #s{}.
stop(Id, S0 = #s{follow = #follow{id = Id}}) -> scope_follow:close(stopped(Id, S0));
stop(Id, S) -> stopped(Id, S).

stopped(Id, S0 = #s{starts = Starts, tracer = Tracer}) ->
    Begun = mono(),
    {Start = #start{spec = Spec, flags = Flags}, Rest} = maps:take(Id, Starts),
    S1 = S0#s{starts = Rest, idle = Begun},
    _ = scope_flags:wants_new(Start) andalso scope_flags:new_flags(S1),
    Pids = case Spec of
               #{all := true} -> processes();
               #{new_processes := true} -> processes();
               _ -> maps:keys(Start#start.pids)
           end,
    _ = scope_flags:in_chunks(fun(P) -> scope_flags:flags_less(P, Flags, scope_flags:wanted(P, S1), Tracer) end, Pids ++ scope_flags:followed(Id, S1)),
    {ok, _, S2} = scope_flags:set_patterns(scope_flags:desired(Rest, S1), S1),
    scope_flags:tell_procs(S2),
    #s{low = Low} = scope_ladder:tell_low(S0),      % what was captured while the flags went, too
    scope_flags:gap({trace_stopped, unknown, Begun, Low}, S2),
    scope_ladder:changed(S2#s{low = Low}).

-spec stop_all(term(), #s{}) -> #s{}.
stop_all(Reason, S = #s{starts = Starts, ctx = #{session := Session}, tracer = Tracer}) ->
    Ids = maps:keys(Starts),
    scope_trace:all_off(Tracer),
    scope_flags:gap({Reason, unknown, mono(), mono()}, S),
    S1 = lists:foldl(fun stop/2, S, Ids),
    _ = [Session ! {stopped, Id, Reason} || Id <- Ids],
    S1.

leave(From, Ref, S0 = #s{tracer = Tracer}) ->
    S = scope_ask:without_jobs(all, S0),
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

tick(S00 = #s{ctx = Ctx}) ->
    Watch = scope_beat:look(?IDLE_TICK, Ctx, S00#s.watch),
    S0 = S00#s{watch = Watch},
    case scope_beat:silent_ms(session, Watch) > ?SILENT_MS orelse scope_beat:silent_ms(sup, Watch) > ?SILENT_MS of
        true -> finish(S0);
        false -> ok
    end,
    %% A tracer that gives no sign of life is restarted by the supervisor, with a gap.
    _ = scope_beat:silent_ms(tracer, Watch) > ?SILENT_MS andalso exit(S0#s.tracer, kill),
    S = scope_watch:late_behaviours(scope_watch:names(limits(S0))),
    Second = now_ms() - S#s.checked >= ?CHECK_MS,
    S1 = scope_ladder:look(Second, S),
    case Second of
        true -> scope_watch:check(S1);
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

-spec finish(#s{}) -> no_return().
finish(S = #s{ctx = #{session := Session, sup := Sup}, tracer = Tracer, patterns = Patterns}) ->
    Jobs = case S#s.job of {_, Pid, _, _, _} -> [Pid]; none -> [] end ++ case S#s.follow of #follow{pid = F} -> [F]; none -> [] end,
    ok = scope_trace:finish(Tracer, scope_patterns:all(Patterns) ++ maps:get(also, scope_flags:also(S), []), [Session, Sup | Jobs]),
    exit(normal).

now_ms() -> erlang:monotonic_time(millisecond).
mono() -> erlang:monotonic_time(nanosecond).
