%% The hold: batches made and not yet acknowledged, numbered without a hole, bounded in bytes. Pure.
%%
%% A batch is given a number when it is taken in. Past the limit the newest is not taken in: its events are counted,
%% and the gap goes with the next batch that is. Gaps of one reason are merged, so they are bounded too.
-module(scope_hold).

-export([new/1, limit/2, add/2, gap/2, flush_gaps/2, next/2, ack/2, credit/2, credit/3, resume/2,
         first_seq/1, next_seq/1, oldest/1, is_full/1, is_empty/1, bytes/1, is_all_sent/1, status/1]).
-export_type([hold/0, made/0, gap/0, payload/0]).

-type clock() :: {integer(), integer()}.
%% With figures, a map, only what has the same ones is merged.
-type gap() :: {atom(), non_neg_integer() | unknown, integer(), integer()}
             | {atom(), non_neg_integer() | unknown, integer(), integer(), map()}.
-type made() :: {Events :: non_neg_integer(), First :: integer(), Last :: integer(), clock(), [gap()],
                 Cut :: integer(), payload()}.
%% A list of events as a binary, or the native tracer's two.
-type payload() :: binary() | {compact, 1, Strings :: binary(), Records :: binary()}.
-record(b, {seq :: pos_integer(), size :: pos_integer(), first :: integer(), clock :: clock(), gaps :: [gap()],
            cut :: integer(), bin :: payload(), 'end' = 0 :: non_neg_integer()}).
-record(hold, {limit :: pos_integer(),
               bytes = 0 :: non_neg_integer(),             % of all that is held
               next = 1 :: pos_integer(),
               sent = queue:new() :: queue:queue(#b{}),
               unsent = queue:new() :: queue:queue(#b{}),
               in_flight = 0 :: non_neg_integer(),         % bytes of `sent`
               position = 0 :: non_neg_integer(),          % bytes sent in this session
               acked_end = {0, 0} :: {non_neg_integer(), non_neg_integer()},   % {Seq, position at its end}
               credit = infinity :: non_neg_integer() | infinity,
               gaps = #{} :: #{atom() | {atom(), map()} => {non_neg_integer() | unknown, integer(), integer()}},
               cut = 0 :: integer(),
               dropped = 0 :: non_neg_integer(),
               rate = {0, 0} :: {integer(), non_neg_integer()}}).   % {since ms, bytes taken in since}
-opaque hold() :: #hold{}.

-define(OVERHEAD, 64).

-spec new(pos_integer()) -> hold().
new(Limit) ->
    #hold{limit = Limit, cut = erlang:monotonic_time(nanosecond), rate = {erlang:monotonic_time(millisecond), 0}}.

-spec limit(pos_integer(), hold()) -> hold().
limit(Limit, H) -> H#hold{limit = Limit}.

%% Takes a batch in, or drops and counts it.
-spec add(made(), hold()) -> hold().
add({N, First, Last, Clock, Gaps, Cut, Bin}, H0) ->
    H = lists:foldl(fun gap/2, rate(size_of(Bin), H0#hold{cut = Cut}), Gaps),
    Size = size_of(Bin) + ?OVERHEAD,
    case H#hold.bytes + Size > H#hold.limit of
        true -> gap({hold_full, N, First, Last}, H#hold{dropped = H#hold.dropped + N});
        false -> push(Size, First, Clock, Cut, Bin, H)
    end.

size_of({compact, 1, Strings, Records}) -> byte_size(Strings) + byte_size(Records);
size_of(Bin) -> byte_size(Bin).

push(Size, First, Clock, Cut, Bin, H = #hold{next = Seq}) ->
    Gaps = [case R of
                {Reason, Figures} -> {Reason, C, F, U, Figures};
                _ -> {R, C, F, U}
            end || {R, {C, F, U}} <- maps:to_list(H#hold.gaps)],
    B = #b{seq = Seq, size = Size, first = First, clock = Clock, gaps = Gaps, cut = Cut, bin = Bin},
    H#hold{unsent = queue:in(B, H#hold.unsent), next = Seq + 1, bytes = H#hold.bytes + Size, gaps = #{}}.

-spec gap(gap(), hold()) -> hold().
gap({Reason, Count, From, Until, Figures}, H) -> merge({Reason, Figures}, {Count, From, Until}, H);
gap({Reason, Count, From, Until}, H) -> merge(Reason, {Count, From, Until}, H).

merge(Key, Gap = {Count, From, Until}, H = #hold{gaps = Gaps}) ->
    H#hold{gaps = Gaps#{Key => case Gaps of
                                   #{Key := {C, F, U}} -> {plus(C, Count), min(F, From), max(U, Until)};
                                   _ -> Gap
                               end}}.

plus(unknown, _) -> unknown;
plus(_, unknown) -> unknown;
plus(A, B) -> A + B.

%% Gaps with no batch to go with get one of their own, if there is room; after an overflow, when some was made.
-spec flush_gaps(clock(), hold()) -> hold().
flush_gaps(_, H = #hold{gaps = Gaps}) when map_size(Gaps) =:= 0 -> H;
flush_gaps(Clock = {Raw, _}, H) ->
    Bin = term_to_binary([]),
    Size = byte_size(Bin) + ?OVERHEAD,
    Most = case is_full(H) of true -> H#hold.limit div 4 * 3; false -> H#hold.limit end,
    case H#hold.bytes + Size > Most of
        true -> H;
        false -> push(Size, Raw, Clock, H#hold.cut, Bin, H)
    end.

%% The next batch to send, if window and credit allow; one that is larger than the window goes alone.
-spec next(pos_integer(), hold()) ->
          none | {pos_integer(), clock(), [gap()], integer(), payload(), hold()}.
next(Window, H = #hold{in_flight = Flight, position = Pos}) ->
    case queue:out(H#hold.unsent) of
        {{value, B = #b{size = Size}}, Rest}
          when Flight + Size =< Window orelse Flight =:= 0, Pos + Size =< H#hold.credit ->
            Sent = B#b{'end' = Pos + Size},
            {B#b.seq, B#b.clock, B#b.gaps, B#b.cut, B#b.bin,
             H#hold{unsent = Rest, sent = queue:in(Sent, H#hold.sent), in_flight = Flight + Size,
                    position = Pos + Size}};
        _ -> none
    end.

-spec ack(non_neg_integer(), hold()) -> hold().
ack(Seq, H) ->
    case queue:out(H#hold.sent) of
        {{value, #b{seq = S, size = Size, 'end' = End}}, Rest} when S =< Seq ->
            ack(Seq, H#hold{sent = Rest, bytes = H#hold.bytes - Size, in_flight = H#hold.in_flight - Size,
                            acked_end = {S, End}});
        _ -> H
    end.

%% Grants never shrink: one that was overtaken is harmless.
-spec credit(non_neg_integer(), hold()) -> hold().
credit(N, H = #hold{credit = infinity}) -> H#hold{credit = N};
credit(N, H = #hold{credit = C}) -> H#hold{credit = max(N, C)}.

-spec credit(non_neg_integer(), non_neg_integer(), hold()) -> hold().
credit(Seq, N, H) ->
    Ends = [E || #b{seq = S, 'end' = E} <- queue:to_list(H#hold.sent), S =:= Seq]
        ++ [E || {S, E} <- [H#hold.acked_end], S =:= Seq orelse Seq =:= 0],
    case Ends of
        [End | _] -> credit(End + N, H);
        [] -> H
    end.

%% A new session: what the store has is forgotten, all else is to be sent again, credit counts from here.
-spec resume(non_neg_integer(), hold()) -> hold().
resume(Last, H) ->
    All = queue:join(H#hold.sent, H#hold.unsent),
    Kept = queue:filter(fun(#b{seq = Seq}) -> Seq > Last end, All),
    Bytes = lists:sum([Size || #b{size = Size} <- queue:to_list(Kept)]),
    H#hold{sent = queue:new(), unsent = Kept, bytes = Bytes, in_flight = 0, position = 0, acked_end = {Last, 0},
           credit = infinity}.

-spec first_seq(hold()) -> pos_integer().
first_seq(H) ->
    case head(H) of
        {value, #b{seq = Seq}} -> Seq;
        empty -> H#hold.next
    end.

-spec next_seq(hold()) -> pos_integer().
next_seq(#hold{next = N}) -> N.

%% Raw time of the oldest event held.
-spec oldest(hold()) -> integer().
oldest(H) ->
    case head(H) of
        {value, #b{first = First}} -> First;
        empty -> H#hold.cut
    end.

head(#hold{sent = Sent, unsent = Unsent}) ->
    case queue:peek(Sent) of
        empty -> queue:peek(Unsent);
        Value -> Value
    end.

%% The last batch did not fit.
-spec is_full(hold()) -> boolean().
is_full(#hold{gaps = Gaps}) -> is_map_key(hold_full, Gaps).

%% Gaps that wait for their batch count as unsent.
-spec is_all_sent(hold()) -> boolean().
is_all_sent(#hold{unsent = Unsent, gaps = Gaps}) -> queue:is_empty(Unsent) andalso map_size(Gaps) =:= 0.

-spec bytes(hold()) -> non_neg_integer().
bytes(#hold{bytes = Bytes}) -> Bytes.

-spec is_empty(hold()) -> boolean().
is_empty(H) -> head(H) =:= empty.

-spec status(hold()) -> map().
status(H = #hold{rate = {Since, Bytes}}) ->
    Ms = max(1, erlang:monotonic_time(millisecond) - Since),
    Seconds = case Bytes of
                  0 -> unknown;
                  _ -> max(0, H#hold.limit - H#hold.bytes) * Ms div (Bytes * 1000)
              end,
    #{held_bytes => H#hold.bytes, held_batches => H#hold.next - first_seq(H), hold_bytes => H#hold.limit,
      hold_seconds => Seconds, next_seq => H#hold.next, dropped => H#hold.dropped}.

rate(N, H = #hold{rate = {Since, Bytes}}) ->
    Now = erlang:monotonic_time(millisecond),
    case Now - Since > 10000 of
        true -> H#hold{rate = {Now, N}};
        false -> H#hold{rate = {Since, Bytes + N}}
    end.
