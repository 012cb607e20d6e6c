%% The tracer in pure Erlang: receives trace messages, bounds their terms, and gives batches to the session.
%%
%% Its queue is on its heap and its heap is limited, so the VM kills it before it can hurt the node; its death clears
%% the flags of all tracees. After each batch it looks at its queue and memory: past the limits it switches the flags
%% off, discards and counts what is queued, and tells the guard, who switches them on again.
%% Batches go as binaries: they are shared, not copied, and their bytes can be counted exactly. Calls of which only the
%% arity is wanted are written as they come: term_to_binary of a batch of them costs more than all else that we do.
-module(scope_tracer).

-export([start/0, init/0]).

-define(MAX_HEAP_WORDS, 2000000).
-define(MAX_EVENTS, 250).
-define(MAX_BYTES, 65536).
-define(MAX_MS, 10).
-define(MAX_QUEUE, 5000).
-define(MAX_MEMORY, 12 bsl 20).
-define(MAX_UNDER_WAY, 4 bsl 20).      % bytes that the session has not taken in
-define(IDLE_MS, 250).
-define(EACH, 16).                     % of what is discarded, whose it was is looked at
-define(MARK_NS, 50000000).
-define(SLACK_NS, 20000000).           % from the reading of the clock in a tracee to its message in our queue

-record(s, {ctx :: map(),
            session :: pid(),
            calls = <<>> :: binary(), called = 0 :: non_neg_integer(),   % those that came first, as their external format
            events = [] :: [tuple()], n = 0 :: non_neg_integer(), bytes = 0 :: non_neg_integer(),    % n: with the calls
            first = 0 :: integer(), last = 0 :: integer(),     % raw times of the events held
            cut :: integer(),                                  % what was traced before is not in the queue any more
            marked :: integer(), marker = false :: boolean(),
            gaps = [] :: list(),
            caps :: scope_cut:caps(), key = none :: scope_cut:key(),
            rules :: scope_redact:rules(),
            patterns = [] :: list(),
            procs = false :: boolean(),                        % process events are wanted, not only needed
            children = #{} :: #{pid() => [term()]},            % tracees whose children are followed => starts
            bucket = none :: scope_budget:bucket(),
            dry = no :: no | {atom(), integer(), integer(), [pid()]},   % found so: what, since and when in raw time, who made the last events
            shut = no :: no | non_neg_integer(),    % from then until there is a new bucket: events that were turned away
            fan_out = 1.0 :: number(), away = 0 :: non_neg_integer(),   % the share of receivers; messages turned away by it
            sample = all :: all | {float(), #{pid() => true}},  % the share of processes that is kept, and those kept anyway
            native :: boolean()}).                             % native time unit is the nanosecond

%% Calls that are being written: what the last one began with, and what others of this batch did; times.
-record(c, {pid :: pid(), mfa :: mfa(), start :: binary(), known = #{} :: #{{pid(), mfa()} => binary()},
            first :: integer(), least :: integer()}).

-spec start() -> {pid(), reference()}.
start() ->
    spawn_opt(?MODULE, init, [],
              [monitor, {priority, high}, {message_queue_data, on_heap},
               {max_heap_size, #{size => ?MAX_HEAP_WORDS, kill => true, error_logger => false}}]).

-spec init() -> no_return().
init() ->
    Ctx = receive {peers, C} -> C after 5000 -> exit(no_peers) end,
    #{guard := Guard, sup := Sup, session := Session, opts := Opts} = Ctx,
    _ = erlang:monitor(process, Guard),
    _ = erlang:monitor(process, Sup),
    scope_session:use(maps:get(trace, Ctx)),
    Now = mono(),
    S = #s{ctx = Ctx, session = Session, cut = Now - ?SLACK_NS, marked = Now,
            caps = scope_cut:caps(maps:get(caps, Opts, #{})), rules = scope_redact:rules(maps:get(redact, Opts, #{})),
            native = erlang:convert_time_unit(1, second, native) =:= 1000000000},
    try loop(S, ?IDLE_MS)
    catch error:_ -> exit(shutdown)            % quietly: it is restarted, with a gap
    end.

loop(S, Timeout) ->
    receive
        Trace when element(1, Trace) =:= trace_ts -> traced(Trace, S);
        Other -> other(Other, S)
    after Timeout -> flush(S)
    end.

traced(Trace, S = #s{shut = N}) when is_integer(N) ->       % somebody's last before his flags went
    {_, S1} = needed(Trace, S),
    _ = N rem ?MAX_EVENTS =:= ?MAX_EVENTS - 1 andalso scope_trace:all_off(self()),
    loop(turned_away(1, S1#s{shut = N + 1}), ?MAX_MS);
traced({trace_ts, Pid, call, Mfa, At} = Trace, S = #s{sample = all, native = true, n = 0}) ->
    calls(Trace, #c{pid = Pid, mfa = Mfa, start = start(Pid, Mfa), first = At, least = At}, At, <<>>, 0, S);
traced(Trace, S = #s{sample = all}) -> kept(Trace, S);
traced(Trace, S = #s{sample = {Rate, Anyway}, children = Children}) ->
    Pid = element(2, Trace),
    case scope_budget:in_sample(Pid, Rate) orelse is_map_key(Pid, Anyway) orelse is_map_key(Pid, Children) of
        true -> kept(Trace, S);
        false ->                    % a new process that is none of the sample
            scope_trace:flags_off(Pid, [all], self()),
            loop(S, wait(S))
    end.

calls({trace_ts, Pid, call, Mfa, At}, C = #c{pid = Pid, mfa = Mfa, start = Start, first = First, least = Least}, Most0, Bin0, N, S)
  when At >= Least ->
    Most = max(At, Most0),
    Bin = case At < 0 of
              true -> <<Bin0/binary, Start/binary, 110, 8, 1, (-At):64/little>>;
              false -> <<Bin0/binary, Start/binary, 110, 8, 0, At:64/little>>
          end,
    case N + 1 >= ?MAX_EVENTS orelse byte_size(Bin) >= ?MAX_BYTES orelse At - First > ?MAX_MS * 1000000 of
        true -> flush(called(C, Most, Bin, N + 1, S));
        false ->
            receive
                Next -> calls(Next, C, Most, Bin, N + 1, S)
            after ?MAX_MS -> flush(called(C, Most, Bin, N + 1, S))
            end
    end;
%% Another process or function, or a time that is earlier than all.
calls(Trace = {trace_ts, Pid, call, Mfa, At}, C = #c{known = Known, least = Least}, Most, Bin, N, S) ->
    {Start, Known1} = case Known of
                          #{{Pid, Mfa} := Found} -> {Found, Known};
                          _ ->
                              New = start(Pid, Mfa),
                              {New, Known#{{Pid, Mfa} => New}}
                      end,
    calls(Trace, C#c{pid = Pid, mfa = Mfa, start = Start, known = Known1, least = min(At, Least)}, Most, Bin, N, S);
calls(Other, C, Most, Bin, N, S0) ->
    S = called(C, Most, Bin, N, S0),
    case element(1, Other) of
        trace_ts -> traced(Other, S);
        _ -> other(Other, S)
    end.

called(#c{least = Least}, Most, Bin, N, S) ->
    S#s{calls = Bin, called = N, n = N, bytes = byte_size(Bin), first = Least, last = Most}.

%% A call's external format up to its time.
start(Pid, Mfa) ->
    Call = term_to_binary({trace_ts, Pid, call, Mfa, 0}),
    binary:part(Call, 1, byte_size(Call) - 3).      % without the version, and without <<97, 0>>

%% The list of all that is held, as term_to_binary makes it.
external(#s{called = 0, events = Events}) -> term_to_binary(lists:reverse(Events), [{minor_version, 2}]);
external(#s{calls = Calls, n = N, events = Events}) ->
    Rest = case Events of
               [] -> <<106>>;
               _ ->
                   <<131, 108, _:32, Items/binary>> = term_to_binary(lists:reverse(Events), [{minor_version, 2}]),
                   Items
           end,
    <<131, 108, N:32, Calls/binary, Rest/binary>>.

kept(Trace, S) ->
    case S#s.fan_out >= 1 orelse to_sample(Trace, S#s.fan_out) of
        true ->
            case needed(Trace, S) of
                {true, S1} -> keep(Trace, S1);
                {false, S1} -> loop(S1, wait(S1))
            end;
        false when S#s.away + 1 >= ?MAX_EVENTS -> flush(S#s{away = S#s.away + 1});
        false -> loop(S#s{away = S#s.away + 1}, wait(S))
    end.

%% By who gets it, as the sender names him.
to_sample({trace_ts, _, send, _, To, _}, Share) -> scope_budget:in_sample(To, Share);
to_sample({trace_ts, _, send_to_non_existing_process, _, To, _}, Share) -> scope_budget:in_sample(To, Share);
to_sample({trace_ts, Pid, 'receive', _, _}, Share) -> scope_budget:in_sample(Pid, Share);
to_sample(_, _) -> true.

keep(Trace0, S = #s{n = N, native = Native}) ->
    Trace = case Native of true -> Trace0; false -> to_ns(Trace0) end,
    Ts = element(tuple_size(Trace), Trace),
    {Event, Bytes} = scope_cut:event(Trace, S#s.caps, S#s.key, S#s.rules),
    S1 = S#s{events = [Event | S#s.events], n = N + 1, bytes = S#s.bytes + Bytes,
             first = case N of 0 -> Ts; _ -> min(Ts, S#s.first) end,
             last = case N of 0 -> Ts; _ -> max(Ts, S#s.last) end},
    case N + 1 >= ?MAX_EVENTS orelse S1#s.bytes >= ?MAX_BYTES orelse Ts - S1#s.first > ?MAX_MS * 1000000 of
        true -> flush(S1);
        false -> loop(S1, ?MAX_MS)
    end.

to_ns(Trace) ->
    I = tuple_size(Trace),
    setelement(I, Trace, erlang:convert_time_unit(element(I, Trace), native, nanosecond)).

wait(#s{n = 0}) -> ?IDLE_MS;
wait(_) -> ?MAX_MS.

%% Process events may be on only to know whose child is whose.
needed(Trace, S) when element(3, Trace) =:= call; element(3, Trace) =:= 'receive'; element(3, Trace) =:= send ->
    {true, S};
needed({trace_ts, Child, spawned, Parent, _, _}, S = #s{children = Children, procs = Procs})
  when is_map_key(Parent, Children) ->
    {Procs, S#s{children = Children#{Child => map_get(Parent, Children)}}};
needed({trace_ts, Pid, exit, _, _}, S = #s{children = Children, procs = Procs}) ->
    {Procs, S#s{children = maps:remove(Pid, Children)}};
needed(Trace, S = #s{procs = false}) ->
    {not lists:member(element(3, Trace), [spawn, spawned, link, getting_linked, unlink, getting_unlinked, register,
                                          unregister]), S};
needed(_, S) -> {true, S}.

other({events, Events}, S) -> flush(lists:foldl(fun add/2, S, Events));
other({flush, From, Ref}, S) ->
    S1 = ship(S),
    From ! {flushed, Ref},
    after_batch(S1);
other({mark, At}, S) -> loop(S#s{cut = At - ?SLACK_NS, marker = false}, wait(S));
other({patterns, Patterns}, S) -> loop(S#s{patterns = Patterns}, wait(S));
other({bucket, Bucket}, S) -> loop(S#s{bucket = Bucket, shut = no}, wait(S));
other({sample, Sample}, S) -> loop(S#s{sample = Sample}, wait(S));
other({fan_out, Share}, S) -> loop(S#s{fan_out = Share}, wait(S));
other({procs, Procs}, S) -> loop(S#s{procs = Procs}, wait(S));
other({configure, Map}, S = #s{caps = Caps, key = Key}) ->
    Rules = case Map of
                #{redact := Redact} -> scope_redact:changed(Redact, S#s.rules);
                _ -> S#s.rules
            end,
    loop(S#s{caps = maps:merge(Caps, maps:get(caps, Map, #{})), key = maps:get(hash_key, Map, Key), rules = Rules}, wait(S));
other({follow, Id, Pids}, S = #s{children = Children}) ->
    More = lists:foldl(fun(P, M) -> M#{P => lists:usort([Id | maps:get(P, M, [])])} end, Children, Pids),
    loop(S#s{children = More}, wait(S));
other({unfollow, Id, From, Ref}, S = #s{children = Children}) ->
    {Of, Left} = maps:fold(fun(P, Ids, {O, L}) ->
                                   case lists:delete(Id, Ids) of
                                       Ids -> {O, L#{P => Ids}};
                                       [] -> {[P | O], L};
                                       Rest -> {[P | O], L#{P => Rest}}
                                   end
                           end, {[], #{}}, Children),
    From ! {followed, Ref, Of},
    loop(S#s{children = Left}, wait(S));
other({peers, Ctx = #{session := Session}}, S) -> loop(S#s{ctx = Ctx, session = Session}, wait(S));
other({'DOWN', _, process, _, _}, S = #s{ctx = #{guard := Guard, sup := Sup}}) ->
    case is_process_alive(Guard) orelse is_process_alive(Sup) of
        true -> loop(S, wait(S));
        false -> scope_trace:finish(none, S#s.patterns, [S#s.session])
    end;
other(_, S) -> loop(S, wait(S)).

add(Event, S = #s{n = N}) ->
    Ts = element(tuple_size(Event), Event),
    {Cut, Bytes} = scope_cut:event(Event, S#s.caps, S#s.key, S#s.rules),
    S#s{events = [Cut | S#s.events], n = N + 1, bytes = S#s.bytes + Bytes,
        first = case N of 0 -> Ts; _ -> min(Ts, S#s.first) end,
        last = case N of 0 -> Ts; _ -> max(Ts, S#s.last) end}.

flush(S) -> after_batch(ship(S)).

ship(S = #s{n = 0, gaps = [], away = Away, ctx = Ctx}) ->
    scope_beat:beat(tracer, Ctx),
    scope_beat:flushed(S#s.cut, Ctx),
    Now = mono(),
    mark(Now, case Away of 0 -> S; _ -> spend(#{away => Away}, 0, fun() -> [] end, Now, Now, S#s{away = 0}) end);
ship(S0 = #s{events = Events, called = Called, n = N, gaps = Gaps, ctx = Ctx, session = Session}) ->
    scope_beat:beat(tracer, Ctx),
    Now = mono(),
    {First, Last} = case N of 0 -> {Now, Now}; _ -> {S0#s.first, S0#s.last} end,
    Bin = external(S0),
    Bytes = byte_size(Bin),
    Counts = case scope_budget:count(Events) of
                 Counted when Called =:= 0 -> Counted;
                 Counted -> Counted#{calls => maps:get(calls, Counted, 0) + Called}
             end,
    scope_beat:counted(Counts, Bytes, Ctx),
    S = spend(Counts#{away => S0#s.away}, Bytes, fun() -> pids(binary_to_term(Bin)) end, First, Now, S0),
    scope_beat:captured(N, Ctx),
    Empty = mark(Now, S#s{calls = <<>>, called = 0, events = [], n = 0, bytes = 0, away = 0}),
    case scope_beat:under_way(Ctx) + Bytes > ?MAX_UNDER_WAY of
        true ->
            scope_beat:discarded(N, Ctx),
            Empty#s{gaps = [{agent_behind, N, First, Now} | Gaps]};
        false ->
            scope_beat:sent(Bytes, Ctx),
            Clock = {Now, erlang:system_time(nanosecond)},
            Session ! {batch, Bytes, {N, First, Last, Clock, Gaps, S#s.cut, Bin}},
            scope_beat:flushed(S#s.cut, Ctx),
            Empty#s{gaps = []}
    end.

spend(Counts, Bytes, Pids, First, Now, S = #s{bucket = Bucket}) ->
    case scope_budget:spend(Counts, Bytes, Now, Bucket) of
        {{dry, What}, New} -> S#s{bucket = New, dry = {What, First, Now, Pids()}};
        {ok, New} -> S#s{bucket = New}
    end.

pids(Events) -> [element(2, E) || E <- Events, element(1, E) =:= trace_ts].

%% The budget is used up: all flags go, here and now, and what is queued is not recorded, or it would be paid for out of
%% the next bucket. The guard, who may be busy setting flags, sees that it is shut, and hears of it and steps down.
dried(S = #s{dry = {What, First, Noticed, Pids}, ctx = Ctx = #{guard := Guard}}) ->
    scope_beat:shut(true, Ctx),
    scope_trace:all_off(self()),
    Relieved = mono(),
    {N, More, S1} = discard(0, [], S),
    _ = N > ?MAX_QUEUE andalso garbage_collect(),
    S2 = #s{bucket = Bucket} = spend(#{discarded => N}, 0, fun() -> [] end, First, mono(), turned_away(N, S1)),
    Guard ! {dry, What, First, Noticed, Relieved, spenders(Pids, More), {scope_budget:owed_ns(Bucket), scope_beat:discarded(Ctx)}},
    loop(S2#s{dry = no, shut = 0}, 0).

turned_away(0, S) -> S;
turned_away(N, S = #s{gaps = Gaps, cut = Cut, ctx = Ctx}) ->
    scope_beat:discarded(N, Ctx),
    S#s{gaps = case Gaps of
                   [{over_budget, Before, From, _} | Rest] -> [{over_budget, Before + N, From, mono()} | Rest];
                   _ -> [{over_budget, N, Cut, mono()} | Gaps]
               end}.

%% Who made most of the events, and which part of them; of those that were discarded some are known.
spenders(Pids, Some) ->
    Add = fun(Each) -> fun(P, M) -> M#{P => Each + maps:get(P, M, 0)} end end,
    Of = lists:foldl(Add(?EACH), lists:foldl(Add(1), #{}, Pids), Some),
    All = length(Pids) + ?EACH * length(Some),
    lists:sublist([{P, N / All} || {N, P} <- lists:reverse(lists:sort([{N, P} || {P, N} <- maps:to_list(Of)]))], 32).

%% A message to ourselves: when it is received, all that was queued before it has been.
mark(Now, S = #s{marker = false, marked = Marked}) when Now - Marked > ?MARK_NS ->
    self() ! {mark, Now},
    S#s{marker = true, marked = Now};
mark(_, S) -> S.

after_batch(S = #s{dry = no}) ->
    [{_, Queue}, {_, Memory}] = process_info(self(), [message_queue_len, memory]),
    case Queue > ?MAX_QUEUE orelse Memory > ?MAX_MEMORY of
        true -> overloaded(S);
        false -> loop(S, wait(S))
    end;
after_batch(S) -> dried(S).

%% What is queued is discarded and counted, but process events that say whose child is whose are looked at.
overloaded(S = #s{ctx = #{guard := Guard}}) ->
    From = mono(),
    scope_trace:all_off(self()),
    {N, Pids, S1} = discard(0, [], S),
    Until = mono(),
    scope_beat:discarded(N, S#s.ctx),
    garbage_collect(),
    Guard ! {overload, self(), From},
    S2 = spend(#{discarded => N}, 0, fun() -> Pids end, From, Until, S1#s{gaps = [{overload, N, S#s.cut, Until} | S1#s.gaps]}),
    case S2 of
        #s{dry = no} -> loop(S2, 0);
        _ -> dried(S2)
    end.

discard(N, Pids, S) ->
    receive
        Trace when element(1, Trace) =:= trace_ts ->
            {_, S1} = needed(Trace, S),
            discard(N + 1, case N rem ?EACH of 0 -> [element(2, Trace) | Pids]; _ -> Pids end, S1)
    after 0 -> {N, Pids, S}
    end.

mono() -> erlang:monotonic_time(nanosecond).
