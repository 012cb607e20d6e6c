%% Bounds the terms of an event: what is larger than its cap goes as {'$scope_cut', Bytes, Bounded, Hash}.
-module(scope_cut).

-export([caps/1, valid/1, event/4, bounded/1, sample_funs/1]).
-export_type([caps/0, key/0]).

-type key() :: <<_:128>> | none.        % of the match hash; none until the daemon has told it
-type caps() :: #{message | args | result | reason | state => pos_integer()}.

-define(DEPTH, 8).
-define(ITEMS, 32).
-define(BINARY, 256).
-define(NODES, 512).         % terms in a bounded form, all in all

-spec caps(map()) -> caps().
caps(Given) ->
    maps:merge(#{message => 4096, args => 4096, result => 4096, reason => 4096, state => 65536},
               valid(Given)).

-spec valid(map()) -> caps().
valid(Given) ->
    maps:filter(fun(_, V) -> is_integer(V) andalso V > 0 end, maps:with([message, args, result, reason, state], Given)).

%% The event, bounded and redacted, and about its size in bytes. Events of up to 1 KB are never cut: most are far below.
-spec event(tuple(), caps(), key(), scope_redact:rules()) -> {tuple(), non_neg_integer()}.
event(Event = {trace_ts, _, call, _, _}, _, _, _) -> {Event, 64};      % its size costs as much as its encoding
event(Event = {trace_ts, _, return_from, _, R, _}, _, _, #{calls := []}) when is_atom(R) -> {Event, 72};
event(Event, Caps, Key, Rules) ->
    Bytes = erlang:external_size(Event),
    case place(Event) of
        none -> {Event, Bytes};
        {I, Wrap, Cap, T} ->
            Size = case Bytes =< 1024 of true -> 0; false -> erlang:external_size(T) end,
            case bound(T, Size > map_get(Cap, Caps), Size, which(Event, Rules), {case Cap of message -> Key; _ -> no end, Key, Rules}) of
                T -> {Event, Bytes};
                New ->
                    E = setelement(I, Event, wrap(Wrap, New)),
                    {E, erlang:external_size(E)}
            end
    end.

%% Where the term is that may be cut and redacted, in what it is wrapped, and its cap.
place({trace_ts, _, call, _, {Role, T}, _}) -> {5, {Role}, cap(Role), T};
place({trace_ts, _, return_from, _, T, _}) -> {5, none, result, T};
place({trace_ts, _, exception_from, _, T, _}) -> {5, none, reason, T};
place({trace_ts, _, send, T, _, _}) -> {4, none, message, T};
place({trace_ts, _, send_to_non_existing_process, T, _, _}) -> {4, none, message, T};
place({trace_ts, _, 'receive', T, _}) -> {4, none, message, T};
place({trace_ts, _, exit, T, _}) -> {4, none, reason, T};
place({trace_ts, _, Spawn, _, {M, F, A}, _}) when Spawn =:= spawn; Spawn =:= spawned, is_list(A) -> {5, {M, F}, args, A};
place({scope, checkpoint, _, _, T, _}) -> {5, none, state, T};
place({scope, Seq, _, _, {Label, Serial, T}, _}) when Seq =:= seq_send; Seq =:= seq_receive -> {5, {seq, Label, Serial}, message, T};
place(_) -> none.

wrap(none, T) -> T;
wrap({Role}, T) -> {Role, T};
wrap({seq, Label, Serial}, Cut) -> setelement(3, Cut, {Label, Serial, element(3, Cut)});
wrap({M, F}, T) -> {M, F, T}.

cap(args) -> args;
cap(take) -> message;
cap(_) -> state.

which({trace_ts, _, call, _, {args, _}, _}, #{calls := []}) -> {args, 0};
which({trace_ts, _, Spawn, _, _, _}, #{calls := []}) when Spawn =:= spawn; Spawn =:= spawned -> {args, 0};
which(_, #{calls := []}) -> none;
which({trace_ts, _, call, {M, F, _}, {args, A}, _}, Rules) -> {args, scope_redact:arguments(M, F, A, Rules)};
which({trace_ts, _, Spawn, _, {M, F, A}, _}, Rules) when Spawn =:= spawn; Spawn =:= spawned ->
    {args, scope_redact:arguments(M, F, A, Rules)};
which({trace_ts, _, return_from, MFA, _, _}, Rules) -> scope_redact:result(MFA, Rules);
which(_, _) -> none.

%% A user's own term that looks like ours is wrapped in one itself.
bound(T, Cut, Size, Which, {HashKey, Key, Rules}) ->
    Mark = is_mark(T),
    Redacted = not Cut andalso scope_redact:found(T, Which, Rules),
    if not Cut, not Mark, not Redacted -> T;
       true ->
            {Hash, Bounded} = hash(T, HashKey),
            {New, Hidden, Funs} =
                scope_redact:noting(fun() ->
                                            case Cut of
                                                true -> bounded(T, Which, {Key, Rules});
                                                false when Redacted -> scope_redact:hidden(T, Which, {Key, Rules});
                                                false -> T
                                            end
                                    end),
            Of = case (Funs orelse Mark) andalso not Cut of true -> erlang:external_size(T); false -> Size end,
            case Hidden of
                true -> {'$scope_cut', Of, New, Hash, {redacted, Bounded}};
                false -> {'$scope_cut', Of, New, Hash}
            end
    end.

is_mark({'$scope_cut', _, _, _}) -> true;
is_mark({'$scope_cut', _, _, _, _}) -> true;
is_mark(_) -> false.

hash(_, Key) when Key =:= none; Key =:= no -> {none, true};
hash(T, Key) -> scope_hash:hash(T, Key).

%% At most ?DEPTH deep, ?ITEMS elements of each list, tuple and map, ?BINARY bytes of each binary, ?NODES in all. What
%% is left out is the atom '...': as an element, as the tail of a list, or as a key and value of a map.
-spec bounded(term()) -> term().
bounded(T) -> bounded(T, none, {none, scope_redact:rules(off)}).

bounded(T, all, S) -> scope_redact:hide(T, S);
bounded(T, Which, S) ->
    {Bounded, _} = case Which of
                       {args, Hidden} when is_list(T) -> list(T, ?ITEMS, ?DEPTH - 1, ?NODES - 1, Hidden, S, []);
                       _ -> walk(T, ?DEPTH, ?NODES, S)
                   end,
    Bounded.

walk(_, _, N, _) when N =< 0 -> {'...', N};
walk(T, _, N, _) when is_atom(T); is_float(T); is_pid(T); is_reference(T); is_port(T); T =:= [] -> {T, N - 1};
walk(T, _, N, _) when is_integer(T) ->
    case abs(T) < 1 bsl 2048 of true -> {T, N - 1}; false -> {'...', N - 1} end;
walk(<<Head:?BINARY/binary, _, _/bitstring>> = T, _, N, S = {_, #{text := Text}}) ->
    {case scope_text:secret(Head, cut, Text) of true -> scope_redact:hide(T, S); false -> binary:copy(Head) end, N - 1};
walk(T, _, N, S = {_, #{text := Text}}) when is_binary(T) ->
    {case scope_text:secret(T, whole, Text) of true -> scope_redact:hide(T, S); false -> T end, N - 1};
walk(T, _, N, _) when is_bitstring(T) -> {T, N - 1};
walk(T, _, N, _) when is_function(T) -> {scope_redact:of_fun(T), N - 1};
walk(_, 0, N, _) -> {'...', N - 1};
walk(T, D, N, S = {_, Rules}) when is_tuple(T) ->
    case scope_redact:in_tuple(T, Rules) of
        {all, _} -> {scope_redact:hide(T, S), N - 1};
        {Hidden, OfArgs} ->
            {Items, N1} = tuple(T, 1, D - 1, N - 1, {Hidden, OfArgs}, S, []),
            {list_to_tuple(Items), N1}
    end;
walk(T, D, N, S) when is_map(T) -> map(maps:next(maps:iterator(T)), ?ITEMS, D - 1, N - 1, S, []);
walk(T, D, N, S = {_, #{text := Text}}) when is_list(T) ->
    case scope_text:list(first(?ITEMS, T), Text) of
        true -> {scope_redact:hide(T, S), N - 1};
        false -> list(T, ?ITEMS, D - 1, N - 1, 0, S, [])
    end;
walk(_, _, N, _) -> {'...', N - 1}.           % a native record (OTP 29), or what comes later

%% As list/7 leaves it.
first(0, [_ | _]) -> '...';
first(_, [B | _]) when is_binary(B), byte_size(B) > ?BINARY -> [{'...'}];
first(N, [H | T]) -> [H | first(N - 1, T)];
first(_, T) -> T.

tuple(T, I, _, N, _, _, Acc) when I > tuple_size(T) -> {lists:reverse(Acc), N};
tuple(_, I, _, N, _, _, Acc) when I > ?ITEMS; N =< 0 -> {lists:reverse(['...' | Acc]), N};
tuple(T, I, D, N, {Hidden, OfArgs}, S, Acc) ->
    E = element(I, T),
    {E1, N1} = if Hidden band 1 =:= 1 -> {scope_redact:hide(E, S), N - 1};
                  I =:= 3, OfArgs > 0, D > 0 -> list(E, ?ITEMS, D - 1, N - 1, OfArgs, S, []);
                  true -> walk(E, D, N, S)
               end,
    tuple(T, I + 1, D, N1, {Hidden bsr 1, OfArgs}, S, [E1 | Acc]).

map(none, _, _, N, _, Acc) -> {maps:from_list(Acc), N};
map(_, I, _, N, _, Acc) when I =:= 0; N =< 0 -> {maps:from_list([{'...', '...'} | Acc]), N};
map({K, V, Next}, I, D, N, S = {_, Rules}, Acc) ->
    {K1, N1} = walk(K, D, N, S),
    {V1, N2} = case scope_redact:is_key(K, Rules) of
                   true -> {scope_redact:hide(V, S), N1 - 1};
                   false -> walk(V, D, N1, S)
               end,
    map(maps:next(Next), I - 1, D, N2, S, [{K1, V1} | Acc]).

list([], _, _, N, _, _, Acc) -> {lists:reverse(Acc), N};
list([_ | _], I, _, N, _, _, Acc) when I =:= 0; N =< 0 -> {lists:reverse(Acc, '...'), N};
list([H | T], I, D, N, Hidden, S, Acc) ->
    {H1, N1} = case Hidden band 1 of
                   1 -> {scope_redact:hide(H, S), N - 1};
                   0 -> walk(H, D, N, S)
               end,
    list(T, I - 1, D, N1, Hidden bsr 1, S, [H1 | Acc]);
list(T, _, D, N, _, S, Acc) ->
    {T1, N1} = walk(T, D, N, S),
    {lists:reverse(Acc, T1), N1}.

%% Local funs of another module than scope_nif, for its samples.
-spec sample_funs(term()) -> [fun()].
sample_funs(X) -> [fun(Y) -> {Y, X} end, fun() -> X end, fun(A, B, C) -> {A, B, C, X} end, fun(_) -> none end].
