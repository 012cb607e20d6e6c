%% The native tracer's process: empties the rings and gives batches to the session. Understands what scope_tracer does,
%% and is registered under its name.
%%
%% While events come it ships every 25 ms, and at once when a quarter of a ring is full: the tracee wakes it. When none come
%% and tracees seldom run it sleeps, and the first one wakes it. Nothing is lost if it is killed: what the rings hold waits for the next one.
-module(scope_drain).

-export([start/0, init/0]).

-define(BATCH, 49152).
-define(BATCH_NS, 25000000).
-define(BATCH_MS, 25).
-define(SLEEP_MS, 500).                % then it looks anyway: how far it has come is of use, too
-define(BUSY, 10000).                  % tracees that begin to run, a second: they cost, too, and wake nobody
-define(ROUNDS, 64).                   % batches in one go; then others are listened to
-define(LEND_MS, 1000).
-define(MAX_UNDER_WAY, 4 bsl 20).      % bytes that the session has not taken in

-record(s, {ctx :: map(), session :: pid(),
            events = [] :: [tuple()],                          % what the agent's own processes have to tell
            cut :: integer(), drained :: integer(),
            rest = doze :: collect | doze | sleep,     % what it waits for
            scheduled = 0 :: non_neg_integer(),        % how often tracees had begun to run
            dry = 0 :: integer(),                             % the bucket's last time of dryness that was seen, by the library's clock
            gaps = [] :: list(), patterns = [] :: list(),
            caps = #{} :: map(), etf_caps = scope_cut:caps(#{}) :: scope_cut:caps(), key = none :: scope_cut:key(),
            rules = none :: none | scope_redact:rules(),
            procs = false :: boolean(),
            children = #{} :: #{pid() => [term()]}}).

-spec start() -> {pid(), reference()}.
start() -> spawn_opt(?MODULE, init, [], [monitor, {priority, high}]).

-spec init() -> no_return().
init() ->
    Ctx = receive {peers, C} -> C after 5000 -> exit(no_peers) end,
    #{guard := Guard, sup := Sup, session := Session, opts := Opts} = Ctx,
    _ = erlang:monitor(process, Guard),
    _ = erlang:monitor(process, Sup),
    scope_session:use(maps:get(trace, Ctx)),
    _ = scope_nif:watch(Session),
    Now = mono(),
    S = #s{ctx = Ctx, session = Session, cut = Now - 50000000, drained = Now},
    try loop(configure(Opts, S))
    catch error:_ -> exit(shutdown)            % quietly: it is restarted
    end.

loop(S = #s{rest = Rest, dry = Seen}) ->
    {Wake, Ms} = case Rest of
                     collect -> {1, ?BATCH_MS};
                     doze -> {2, ?BATCH_MS};        % an event of this moment may not have woken us
                     sleep -> {2, scope_beat:next(?SLEEP_MS)}
                 end,
    case scope_nif:drainer(Wake) of
        Dry when Dry =/= 0, Dry =/= Seen -> loop(look(S));
        _ -> wait(Wake, Ms, S)
    end.

wait(Wake, Ms, S) ->
    receive
        scope_wake when Wake =:= 2 -> loop(look(S#s{rest = collect, drained = mono()}));
        scope_wake -> loop(look(S));
        Msg -> loop(handle(Msg, S))
    after Ms -> loop(look(S))
    end.

handle({events, Events}, S) -> S#s{events = lists:reverse(Events, S#s.events), rest = collect};
handle({flush, From, Ref}, S0) ->
    S = until(mono(), mono() + 1000000000, S0),
    From ! {flushed, Ref},
    S;
handle({patterns, Patterns}, S) -> S#s{patterns = Patterns, rest = collect};
%% What was wanted when it happened is taken out before it counts as not wanted.
handle({procs, false}, S = #s{procs = true}) -> procs((until(mono(), mono() + 1000000000, S))#s{procs = false});
handle({fan_out, Share}, S) ->
    scope_nif:set_receivers(round(Share * 65536)),
    S;
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
%% The probe drains the rings itself for a moment, while nothing is traced yet.
handle({lend, From, Ref}, S) ->
    Mon = erlang:monitor(process, From),
    From ! {lent, Ref},
    receive {'DOWN', Mon, _, _, _} -> ok after ?LEND_MS -> erlang:demonitor(Mon, [flush]) end,
    S;
handle(_, S) -> S.

procs(S = #s{procs = Procs, children = Children}) ->
    scope_nif:set_procs(Procs, map_size(Children) > 0),
    S.

%% Only caps that somebody asked for: the library's own are small.
configure(Map, S) ->
    Caps = maps:merge(S#s.caps, scope_cut:valid(maps:get(caps, Map, #{}))),
    _ = scope_nif:set_caps(Caps),
    Key = maps:get(hash_key, Map, S#s.key),
    _ = Key =/= none andalso scope_nif:set_key(Key),
    Rules = case {Map, S#s.rules} of
                {#{redact := Redact}, Before} -> scope_redact:changed(Redact, Before);
                {_, none} -> scope_redact:changed(#{}, none);
                {_, Before} -> Before
            end,
    S#s{caps = Caps, etf_caps = scope_cut:caps(Caps), key = Key, rules = Rules}.

%% --- draining --------------------------------------------------------------------------------------------------------

look(S) -> timed(fun looked/1, S).

timed(Work, S = #s{ctx = Ctx}) ->
    Begun = scope_beat:begun(),
    New = Work(S),
    scope_beat:worked(tracer, Begun, Ctx),
    New.

looked(S = #s{drained = Drained, rest = Rest, events = Events, ctx = Ctx}) ->
    scope_beat:beat(tracer, Ctx),
    {Bytes, Fullest, Lost, Dry, Scheduled} = scope_nif:pending(),
    S1 = dry(Dry, S),
    Now = mono(),
    Some = Bytes > 0 orelse Lost > 0 orelse Events =/= [],
    case Bytes >= ?BATCH orelse Fullest >= 64 orelse Now - Drained >= ?BATCH_NS of
        true ->
            Busy = (Scheduled - S#s.scheduled) * 1000000000 > ?BUSY * (Now - Drained),
            drain(?ROUNDS, S1#s{drained = Now, scheduled = Scheduled,
                                               rest = if
                                                          Some; Busy -> collect;
                                                          Rest =:= doze; Rest =:= sleep -> sleep;
                                                          true -> doze
                                                      end});
        false -> S1
    end.

%% The bucket is dry: events are turned away, and tracees lose their flags as they run. All others do now; the guard then
%% puts back what the next rung allows.
dry(0, S) -> S;
dry({Dry, _}, S = #s{dry = Dry}) -> S;
dry({Dry, Ago}, S0 = #s{ctx = #{guard := Guard}}) ->
    At = mono() - Ago,
    scope_trace:all_off(self()),
    Relieved = mono(),
    S = drain(?ROUNDS, S0#s{drained = Relieved}),           % what tells who it was
    Guard ! {dry, any, At, At, Relieved, [{pid(P), Part} || {P, Part} <- scope_nif:spenders()], {0, 0}},
    S#s{dry = Dry}.

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
    S = timed(fun(S1) -> drain(?ROUNDS, S1) end, S0),
    case S#s.cut >= Time orelse mono() > Until of
        true -> S;
        false ->
            receive after 1 -> ok end,
            until(Time, Until, S)
    end.

took({N, First, Last, Cut, Gaps, Strings, Records, _, Family, Rejected, Counts}, S0) ->
    _ = [scope_beat:discarded(Lost, S0#s.ctx) || {_, Lost, _, _} <- Gaps],
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
            ship(Bytes, N, F, L, Now, {compact, 1, Strings, Records}, S)
    end.

%% What is told besides, before the cut passes its time.
told(S = #s{events = []}) -> S;
told(S = #s{events = Events, etf_caps = Caps, key = Key, rules = Rules, cut = Cut, ctx = Ctx}) ->
    Now = mono(),
    All = [begin
               T = tuple_size(E),
               %% When a message was sent or taken is not made later: the rest of its story has that time, too.
               At = case element(2, E) of Seq when Seq =:= seq_send; Seq =:= seq_receive -> element(T, E); _ -> max(element(T, E), Cut) end,
               element(1, scope_cut:event(setelement(T, E, At), Caps, Key, Rules))
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

%% Counted where they were turned away.
rejected(none, S) -> S;
rejected({N, From, Until}, S = #s{ctx = Ctx, gaps = Gaps}) ->
    scope_beat:discarded(N, Ctx),
    S#s{gaps = [{over_budget, N, From, Until} | Gaps]}.

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
