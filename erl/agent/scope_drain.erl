%% The native tracer's process: empties the rings and gives batches to the session. Understands what scope_tracer does,
%% and is registered under its name.
%%
%% While events come it looks every 2 ms, and ships when a batch's worth waits, or after 10 ms; when none come every 25 ms,
%% and a ring that fills wakes it. Nothing is lost if it is killed: what the rings hold waits for the next one.
-module(scope_drain).

-export([start/0, init/0]).

-define(BATCH, 49152).
-define(BATCH_NS, 10000000).
-define(BUSY_MS, 2).
-define(IDLE_MS, 25).
-define(BUSY_NS, 50000000).            % so long after the last event
-define(ROUNDS, 64).                   % batches in one go; then others are listened to
-define(MAX_UNDER_WAY, 4 bsl 20).      % bytes that the session has not taken in

-record(s, {ctx :: map(), session :: pid(),
            events = [] :: [tuple()],                          % what the agent's own processes have to tell
            cut :: integer(), drained :: integer(), seen :: integer(),
            gaps = [] :: list(), patterns = [] :: list(),
            caps = #{} :: map(), etf_caps = scope_cut:caps(#{}) :: scope_cut:caps(), key = none :: scope_cut:key(),
            procs = false :: boolean(),
            bucket = none :: scope_budget:bucket(),
            children = #{} :: #{pid() => [term()]}}).

-spec start() -> {pid(), reference()}.
start() -> spawn_opt(?MODULE, init, [], [monitor, {priority, high}]).

-spec init() -> no_return().
init() ->
    Ctx = receive {peers, C} -> C after 5000 -> exit(no_peers) end,
    #{guard := Guard, sup := Sup, session := Session, opts := Opts} = Ctx,
    _ = erlang:monitor(process, Guard),
    _ = erlang:monitor(process, Sup),
    _ = scope_nif:watch(Session),
    Now = mono(),
    S = #s{ctx = Ctx, session = Session, cut = Now - ?BUSY_NS, drained = Now, seen = Now - ?BUSY_NS},
    try loop(configure(Opts, S))
    catch error:_ -> exit(shutdown)            % quietly: it is restarted
    end.

loop(S = #s{seen = Seen}) ->
    Busy = mono() - Seen < ?BUSY_NS,
    scope_nif:drainer(not Busy),
    receive
        scope_wake -> loop(look(S));
        Msg -> loop(handle(Msg, S))
    after case Busy of true -> ?BUSY_MS; false -> ?IDLE_MS end -> loop(look(S))
    end.

handle({events, Events}, S) -> S#s{events = lists:reverse(Events, S#s.events)};
handle({flush, From, Ref}, S0) ->
    S = until(mono(), mono() + 1000000000, S0),
    From ! {flushed, Ref},
    S;
handle({patterns, Patterns}, S) -> S#s{patterns = Patterns};
handle({bucket, Bucket}, S) -> S#s{bucket = Bucket};
%% Those that are kept anyway cannot be told apart where the sample is taken: all are kept then.
handle({sample, {Rate, Anyway}}, S) when map_size(Anyway) =:= 0 -> sample(round(Rate * 65536), S);
handle({sample, _}, S) -> sample(65536, S);
handle({procs, Procs}, S) -> procs(S#s{procs = Procs});
handle({configure, Map}, S) -> configure(Map, S);
handle({follow, Id, Pids}, S = #s{children = Children}) ->
    procs(S#s{children = lists:foldl(fun(P, M) -> M#{P => lists:usort([Id | maps:get(P, M, [])])} end, Children, Pids)});
handle({unfollow, Id, From, Ref}, S0) ->
    S = until(mono(), mono() + 100000000, S0),      % children that were born just now
    {Of, Left} = maps:fold(fun(P, Ids, {O, L}) ->
                                   case lists:delete(Id, Ids) of
                                       Ids -> {O, L#{P => Ids}};
                                       [] -> {[P | O], L};
                                       Rest -> {[P | O], L#{P => Rest}}
                                   end
                           end, {[], #{}}, S#s.children),
    From ! {followed, Ref, Of},
    procs(S#s{children = Left});
handle({peers, Ctx = #{session := Session}}, S) -> S#s{ctx = Ctx, session = Session};
handle({'DOWN', _, process, _, _}, S = #s{ctx = #{guard := Guard, sup := Sup}}) ->
    case is_process_alive(Guard) orelse is_process_alive(Sup) of
        true -> S;
        false ->
            _ = scope_trace:finish(none, S#s.patterns, [S#s.session]),
            exit(normal)
    end;
handle(_, S) -> S.

sample(Of65536, S) ->
    _ = scope_nif:set_sample(Of65536),
    S.

procs(S = #s{procs = Procs, children = Children}) ->
    scope_nif:set_procs(Procs, map_size(Children) > 0),
    S.

%% Only caps that somebody asked for: the library's own are small.
configure(Map, S) ->
    Caps = maps:merge(S#s.caps, scope_cut:valid(maps:get(caps, Map, #{}))),
    _ = scope_nif:set_caps(Caps),
    Key = maps:get(hash_key, Map, S#s.key),
    _ = Key =/= none andalso scope_nif:set_key(Key),
    S#s{caps = Caps, etf_caps = scope_cut:caps(Caps), key = Key}.

%% --- draining --------------------------------------------------------------------------------------------------------

look(S = #s{drained = Drained, ctx = Ctx}) ->
    scope_beat:beat(tracer, Ctx),
    {Bytes, Fullest, Lost} = scope_nif:pending(),
    Now = mono(),
    S1 = case Bytes > 0 orelse Lost > 0 of true -> S#s{seen = Now}; false -> S end,
    case Bytes >= ?BATCH orelse Fullest >= 64 orelse Now - Drained >= ?BATCH_NS of
        true -> drain(?ROUNDS, S1#s{drained = Now});
        false -> S1
    end.

drain(0, S) -> S;
drain(N, S) ->
    case scope_nif:drain() of
        busy -> S;                              % a drainer that is gone had not ended yet
        Drained ->
            S1 = took(Drained, S),
            case element(8, Drained) of
                true -> drain(N - 1, S1);
                false -> S1
            end
    end.

%% Everything that was traced before this time is with the session when this returns, if no tracee stands still.
until(Time, Until, S0) ->
    S = drain(?ROUNDS, S0),
    case S#s.cut >= Time orelse mono() > Until of
        true -> S;
        false ->
            receive after 1 -> ok end,
            until(Time, Until, S)
    end.

took({N, First, Last, Cut, Gaps, Strings, Records, _, Family, Rejected, Counts}, S0) ->
    S1 = rejected(Rejected, family(Family, told(S0#s{gaps = Gaps ++ S0#s.gaps}))),
    S = #s{ctx = Ctx, gaps = All} = S1#s{cut = Cut},
    case N =:= 0 andalso All =:= [] of
        true ->
            scope_beat:flushed(Cut, Ctx),
            S;
        false ->
            Now = mono(),
            Bytes = byte_size(Strings) + byte_size(Records),
            Kinds = maps:from_list(lists:zip(scope_beat:kinds(), Counts)),
            scope_beat:counted(Kinds, Bytes, Ctx),
            scope_beat:captured(N, Ctx),
            {F, L} = case N of 0 -> {Now, Now}; _ -> {First, Last} end,
            ship(Bytes, N, F, L, Now, {compact, 1, Strings, Records}, spend(Kinds, Bytes, F, Now, S))
    end.

%% What is told besides, before the cut passes its time.
told(S = #s{events = []}) -> S;
told(S = #s{events = Events, etf_caps = Caps, key = Key, cut = Cut, ctx = Ctx}) ->
    Now = mono(),
    All = [begin
               T = tuple_size(E),
               element(1, scope_cut:event(setelement(T, E, max(element(T, E), Cut)), Caps, Key))
           end || E <- lists:reverse(Events)],
    Bin = term_to_binary(All, [{minor_version, 2}]),
    scope_beat:captured(length(All), Ctx),
    ship(byte_size(Bin), length(All), Cut, Now, Now, Bin, S#s{events = []}).

ship(Bytes, N, First, Last, Now, Payload, S = #s{ctx = Ctx, session = Session, gaps = Gaps, cut = Cut}) ->
    case scope_beat:under_way(Ctx) + Bytes > ?MAX_UNDER_WAY of
        true ->
            scope_beat:discarded(N, Ctx),
            S#s{gaps = [{agent_behind, N, First, Now} | Gaps]};
        false ->
            scope_beat:sent(Bytes, Ctx),
            Session ! {batch, Bytes, {N, First, Last, {Now, erlang:system_time(nanosecond)}, Gaps, Cut, Payload}},
            scope_beat:flushed(Cut, Ctx),
            S#s{gaps = []}
    end.

%% Counted where they were turned away; the guard sees to it that there are fewer.
rejected(none, S) -> S;
rejected({N, From, Until}, S = #s{ctx = Ctx = #{guard := Guard}, gaps = Gaps}) ->
    scope_beat:discarded(N, Ctx),
    Guard ! {bucket_dry, N, From, Until},
    S#s{gaps = [{over_budget, N, From, Until} | Gaps]}.

spend(Counts, Bytes, First, Now, S = #s{bucket = Bucket, ctx = #{guard := Guard}}) ->
    {Left, New} = scope_budget:spend(Counts, Bytes, Now, Bucket),
    _ = case Left of
            {dry, What} -> Guard ! {dry, What, First, Now};
            ok -> ok
        end,
    S#s{bucket = New}.

family(List, S) -> lists:foldl(fun kin/2, S, List).

kin({spawned, Child, Parent}, S = #s{children = Children}) ->
    case Children of
        #{} when map_size(Children) =:= 0 -> S;
        _ ->
            case maps:find(pid(Parent), Children) of
                {ok, Ids} -> S#s{children = Children#{pid(Child) => Ids}};
                error -> S
            end
    end;
kin({exit, Pid}, S = #s{children = Children}) -> S#s{children = maps:remove(pid(Pid), Children)}.

pid({Id, Serial}) -> list_to_pid("<0." ++ integer_to_list(Id) ++ "." ++ integer_to_list(Serial) ++ ">").

mono() -> erlang:monotonic_time(nanosecond).
