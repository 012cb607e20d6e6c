%% Bounds the terms of an event: what is larger than its cap goes as {'$scope_cut', Bytes, Bounded, Hash}.
-module(scope_cut).

-export([caps/1, valid/1, event/3, bounded/1, sample_funs/1]).
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

%% The event, bounded, and about its size in bytes. Events of up to 1 KB are never cut: most are far below.
-spec event(tuple(), caps(), key()) -> {tuple(), non_neg_integer()}.
event(Event = {trace_ts, _, call, _, _}, _, _) -> {Event, 64};         % its size costs as much as its encoding
event(Event = {trace_ts, _, return_from, _, R, _}, _, _) when is_atom(R) -> {Event, 72};
event(Event, Caps, Key) ->
    Bytes = erlang:external_size(Event),
    case Bytes =< 1024 andalso not has_mark(Event) of
        true -> {Event, Bytes};
        false -> cut(Event, Bytes, Caps, Key)
    end.

%% A user's own term of our shape is wrapped in one itself; only the places that may be cut matter.
has_mark({trace_ts, _, call, _, {_, T}, _}) -> is_mark(T);
has_mark({trace_ts, _, return_from, _, T, _}) -> is_mark(T);
has_mark({trace_ts, _, exception_from, _, T, _}) -> is_mark(T);
has_mark({trace_ts, _, send, T, _, _}) -> is_mark(T);
has_mark({trace_ts, _, send_to_non_existing_process, T, _, _}) -> is_mark(T);
has_mark({trace_ts, _, 'receive', T, _}) -> is_mark(T);
has_mark({trace_ts, _, exit, T, _}) -> is_mark(T);
has_mark(_) -> false.

is_mark({'$scope_cut', _, _, _}) -> true;
is_mark(_) -> false.

cut(E = {trace_ts, _, call, _, {take, T}, _}, N, Caps, Key) -> put_cut(E, 5, {take, term(T, cap(take, Caps), Key)}, N);
cut(E = {trace_ts, _, call, _, {Role, T}, _}, N, Caps, _) -> put_cut(E, 5, {Role, term(T, cap(Role, Caps), none)}, N);
cut(E = {trace_ts, _, return_from, _, T, _}, N, Caps, _) -> put_cut(E, 5, term(T, cap(result, Caps), none), N);
cut(E = {trace_ts, _, exception_from, _, T, _}, N, Caps, _) -> put_cut(E, 5, term(T, cap(reason, Caps), none), N);
cut(E = {trace_ts, _, send, T, _, _}, N, Caps, Key) -> put_cut(E, 4, term(T, cap(message, Caps), Key), N);
cut(E = {trace_ts, _, send_to_non_existing_process, T, _, _}, N, Caps, Key) ->
    put_cut(E, 4, term(T, cap(message, Caps), Key), N);
cut(E = {trace_ts, _, 'receive', T, _}, N, Caps, Key) -> put_cut(E, 4, term(T, cap(message, Caps), Key), N);
cut(E = {trace_ts, _, exit, T, _}, N, Caps, _) -> put_cut(E, 4, term(T, cap(reason, Caps), none), N);
cut(E = {trace_ts, _, Spawn, _, {M, F, A}, _}, N, Caps, _) when Spawn =:= spawn; Spawn =:= spawned ->
    put_cut(E, 5, {M, F, term(A, cap(args, Caps), none)}, N);
cut(E = {scope, checkpoint, _, _, T, _}, N, Caps, _) -> put_cut(E, 5, term(T, cap(state, Caps), none), N);
cut(E, N, _, _) -> {E, N}.

put_cut(E, I, T, N) ->
    case element(I, E) of
        T -> {E, N};
        _ ->
            New = setelement(I, E, T),
            {New, erlang:external_size(New)}
    end.

cap(args, #{args := N}) -> N;
cap(take, #{message := N}) -> N;
cap(state, #{state := N}) -> N;
cap(final, #{state := N}) -> N;
cap(message, #{message := N}) -> N;
cap(result, #{result := N}) -> N;
cap(reason, #{reason := N}) -> N.

term(T, Cap, Key) ->
    Bytes = erlang:external_size(T),
    case Bytes > Cap orelse is_mark(T) of
        true -> {'$scope_cut', Bytes, bounded(T), hash(T, Key)};
        false -> T
    end.

hash(_, none) -> none;
hash(T, Key) -> element(1, scope_hash:hash(T, Key)).

%% At most ?DEPTH deep, ?ITEMS elements of each list, tuple and map, ?BINARY bytes of each binary, ?NODES in all. What
%% is left out is the atom '...': as an element, as the tail of a list, or as a key and value of a map.
-spec bounded(term()) -> term().
bounded(T) ->
    {Bounded, _} = walk(T, ?DEPTH, ?NODES),
    Bounded.

walk(_, _, N) when N =< 0 -> {'...', N};
walk(T, _, N) when is_atom(T); is_float(T); is_pid(T); is_reference(T); is_port(T); T =:= [] -> {T, N - 1};
walk(T, _, N) when is_integer(T) ->
    case abs(T) < 1 bsl 2048 of true -> {T, N - 1}; false -> {'...', N - 1} end;
walk(<<Head:?BINARY/binary, _, _/bitstring>>, _, N) -> {binary:copy(Head), N - 1};
walk(T, _, N) when is_bitstring(T) -> {T, N - 1};
walk(T, _, N) when is_function(T) ->
    {module, M} = erlang:fun_info(T, module),
    {arity, A} = erlang:fun_info(T, arity),
    {{'fun', M, A}, N - 1};                        % its environment may be anything
walk(_, 0, N) -> {'...', N - 1};
walk(T, D, N) when is_tuple(T) ->
    {Items, N1} = tuple(T, 1, D - 1, N - 1, []),
    {list_to_tuple(Items), N1};
walk(T, D, N) when is_map(T) -> map(maps:next(maps:iterator(T)), ?ITEMS, D - 1, N - 1, []);
walk(T, D, N) when is_list(T) -> list(T, ?ITEMS, D - 1, N - 1, []).

tuple(T, I, _, N, Acc) when I > tuple_size(T) -> {lists:reverse(Acc), N};
tuple(_, I, _, N, Acc) when I > ?ITEMS; N =< 0 -> {lists:reverse(['...' | Acc]), N};
tuple(T, I, D, N, Acc) ->
    {E, N1} = walk(element(I, T), D, N),
    tuple(T, I + 1, D, N1, [E | Acc]).

map(none, _, _, N, Acc) -> {maps:from_list(Acc), N};
map(_, I, _, N, Acc) when I =:= 0; N =< 0 -> {maps:from_list([{'...', '...'} | Acc]), N};
map({K, V, Next}, I, D, N, Acc) ->
    {K1, N1} = walk(K, D, N),
    {V1, N2} = walk(V, D, N1),
    map(maps:next(Next), I - 1, D, N2, [{K1, V1} | Acc]).

list([], _, _, N, Acc) -> {lists:reverse(Acc), N};
list([_ | _], I, _, N, Acc) when I =:= 0; N =< 0 -> {lists:reverse(Acc, '...'), N};
list([H | T], I, D, N, Acc) ->
    {H1, N1} = walk(H, D, N),
    list(T, I - 1, D, N1, [H1 | Acc]);
list(T, _, D, N, Acc) ->
    {T1, N1} = walk(T, D, N),
    {lists:reverse(Acc, T1), N1}.

%% Local funs of another module than scope_nif, for its samples.
-spec sample_funs(term()) -> [fun()].
sample_funs(X) -> [fun(Y) -> {Y, X} end, fun() -> X end, fun(A, B, C) -> {A, B, C, X} end, fun(_) -> none end].
