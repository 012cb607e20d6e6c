%% What the agent's processes know of each other without asking: signs of life, bytes under way, counters. Atomics, so
%% that a suspended or stuck process is noticed and nobody waits for it.
-module(scope_beat).

-export([new/0, beat/2, watch/1, look/3, silent_ms/2, next/1, sent/2, received/2, under_way/1, flushed/2, last_flush/1,
         captured/2, captured/1, discarded/2, discarded/1, kinds/0, counted/3, totals/1,
         held/3, held/1, full/1, shut/2, shut/1, begun/0, worked/3, worked/1]).

-type who() :: session | guard | sup | tracer.
-type ctx() :: #{beats := atomics:atomics_ref(), _ => _}.
-type kind() :: calls | args | returns | sends | fetches | procs | takes | state.
-opaque watch() :: {integer(), [{who(), integer(), non_neg_integer()}]}.     % when it was looked; beat seen, ms of silence
-export_type([kind/0, watch/0]).

-define(KINDS, 10).     % the first index of what was captured by kind; bytes come after the last

-spec new() -> atomics:atomics_ref().
new() ->
    Ref = atomics:new(27, []),
    [atomics:put(Ref, I, now_ms()) || I <- [1, 2, 3, 4]],
    atomics:put(Ref, 6, erlang:monotonic_time(nanosecond)),
    Ref.

index(session) -> 1;
index(guard) -> 2;
index(sup) -> 3;
index(tracer) -> 4.

-spec beat(who(), ctx()) -> ok.
beat(Who, #{beats := Ref}) -> atomics:put(Ref, index(Who), now_ms()).

%% How long others have been silent, in the time of who watches them: of what passed between two of its looks Most ms count,
%% so that a machine that stood still, or a node that gets little of it and serves nobody, says nothing against anybody.
-spec watch([who()]) -> watch().
watch(Whom) -> {now_ms(), [{Who, 0, 0} || Who <- Whom]}.

-spec look(pos_integer(), ctx(), watch()) -> watch().
look(Most, #{beats := Ref}, {Before, Seen}) ->
    Now = now_ms(),
    Passed = min(Now - Before, Most),
    {Now, [case atomics:get(Ref, index(Who)) of
               Beat -> {Who, Beat, Silent + Passed};
               New -> {Who, New, 0}
           end || {Who, Beat, Silent} <- Seen]}.

-spec silent_ms(who(), watch()) -> non_neg_integer().
silent_ms(Who, {_, Seen}) -> element(3, lists:keyfind(Who, 1, Seen)).

%% Ms to the next multiple of so many: who waits for that wakes up together with the others, and a node that has nothing
%% to do is woken once for all of us.
-spec next(pos_integer()) -> pos_integer().
next(Ms) -> Ms - ((now_ms() rem Ms) + Ms) rem Ms.

%% Bytes of batches that the tracer gave to the session and that the session has not yet taken in.
-spec sent(non_neg_integer(), ctx()) -> ok.
sent(N, #{beats := Ref}) -> atomics:add(Ref, 5, N).
-spec received(non_neg_integer(), ctx()) -> ok.
received(N, #{beats := Ref}) -> atomics:sub(Ref, 5, N).
-spec under_way(ctx()) -> integer().
under_way(#{beats := Ref}) -> atomics:get(Ref, 5).

%% Raw time up to which the tracer has given everything to the session.
-spec flushed(integer(), ctx()) -> ok.
flushed(Raw, #{beats := Ref}) -> atomics:put(Ref, 6, Raw).
-spec last_flush(ctx()) -> integer().
last_flush(#{beats := Ref}) -> atomics:get(Ref, 6).

-spec captured(non_neg_integer(), ctx()) -> ok.
captured(N, #{beats := Ref}) -> atomics:add(Ref, 7, N).
-spec captured(ctx()) -> integer().
captured(#{beats := Ref}) -> atomics:get(Ref, 7).
-spec discarded(non_neg_integer(), ctx()) -> ok.
discarded(N, #{beats := Ref}) -> atomics:add(Ref, 8, N).
-spec discarded(ctx()) -> integer().
discarded(#{beats := Ref}) -> atomics:get(Ref, 8).

%% What both tracers feed: events that they looked at, by kind, and the bytes that came of them.
-spec kinds() -> [kind()].
kinds() -> [calls, args, returns, sends, fetches, procs, takes, state].

-spec counted(#{kind() => non_neg_integer()}, non_neg_integer(), ctx()) -> ok.
counted(Counts, Bytes, #{beats := Ref}) ->
    atomics:add(Ref, ?KINDS + length(kinds()), Bytes),
    add(kinds(), ?KINDS, Counts, Ref).

add([], _, _, _) -> ok;
add([Kind | Rest], I, Counts, Ref) ->
    _ = case Counts of
            #{Kind := N} -> atomics:add(Ref, I, N);
            _ -> ok
        end,
    add(Rest, I + 1, Counts, Ref).

%% Since the agent began: each kind, `bytes`, and `discarded`.
-spec totals(ctx()) -> #{kind() | bytes | discarded => non_neg_integer()}.
totals(Ctx = #{beats := Ref}) ->
    Kinds = kinds() ++ [bytes],
    maps:from_list([{discarded, discarded(Ctx)}
                    | lists:zip(Kinds, [atomics:get(Ref, ?KINDS + I) || I <- lists:seq(0, length(Kinds) - 1)])]).

%% Bytes in the session's hold, and for how many of its ticks it has been full.
-spec held(non_neg_integer(), boolean(), ctx()) -> ok.
held(Bytes, Full, #{beats := Ref}) ->
    atomics:put(Ref, 22, Bytes),
    case Full of
        true -> atomics:add(Ref, 23, 1);
        false -> atomics:put(Ref, 23, 0)
    end.
-spec held(ctx()) -> integer().
held(#{beats := Ref}) -> atomics:get(Ref, 22).
-spec full(ctx()) -> integer().
full(#{beats := Ref}) -> atomics:get(Ref, 23).

%% The Erlang tracer's bucket is dry and all flags are off: nobody sets any until it is filled. Who sets one looks after it,
%% too: the tracer says so first, then takes them off.
-spec shut(boolean(), ctx()) -> ok.
shut(Shut, #{beats := Ref}) -> atomics:put(Ref, 24, case Shut of true -> 1; false -> 0 end).
-spec shut(ctx()) -> boolean().
shut(#{beats := Ref}) -> atomics:get(Ref, 24) =:= 1.

%% What a piece of work took of the session and of the native tracer's drainer, by the clock of the thread. They run at
%% priority high and wait for nobody in it, so that hardly anybody else's is in it. Moved to another thread meanwhile: what
%% passed, which is not less. none: there is no library.
-spec begun() -> none | {{non_neg_integer(), integer()}, integer()}.
begun() ->
    case scope_nif:cpu() of
        none -> none;
        Cpu -> {Cpu, erlang:monotonic_time(nanosecond)}
    end.

-spec worked(session | tracer, none | {{non_neg_integer(), integer()}, integer()}, ctx()) -> ok.
worked(_, none, _) -> ok;
worked(Who, {{Thread, Ns}, At}, #{beats := Ref}) ->
    Took = case scope_nif:cpu() of
               {Thread, Now} -> Now - Ns;
               _ -> erlang:monotonic_time(nanosecond) - At
           end,
    case Who of
        session -> atomics:add(Ref, 25, Took);
        tracer -> atomics:add(Ref, 26, Took), atomics:add(Ref, 27, 1)
    end.

%% ns since the agent began, of the session and of the drainer; and how often the drainer worked, mostly having waited.
-spec worked(ctx()) -> {integer(), integer(), integer()}.
worked(#{beats := Ref}) -> {atomics:get(Ref, 25), atomics:get(Ref, 26), atomics:get(Ref, 27)}.

now_ms() -> erlang:monotonic_time(millisecond).
