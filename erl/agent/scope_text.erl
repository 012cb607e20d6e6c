%% Secrets in texts, for the Erlang tracer: what is a text, and what is hidden, is at the top of erl/c_src/text.h; the
%% automata, which the daemon makes, at that of cnode/text_patterns.h.
-module(scope_text).

-export([table/1, secret/3, list/2]).
-export_type([table/0]).

-type table() :: none | [{tuple(), pos_integer(), binary()}].

-define(MOST, 4096).
-define(SECRET, 16#8000).
-define(CARD, 16#4000).
-define(OPEN, 16#2000).
-define(STATE, 16#FFF).

%% none, too, if it is not of the shape; ready to be looked up. The automata stay binaries, which are on nobody's heap: as
%% a tuple of 72,000 words they were copied by each collection, and the VM killed the tracer for its heap's size.
-spec table(term()) -> table().
table({_, Automata}) when is_list(Automata) ->
    [{list_to_tuple(binary_to_list(Classes)), Columns, Next} || {Classes, Columns, Next} <- Automata];
table(_) -> none.

%% Is one in these bytes? cut: more came behind them, which is not here.
-spec secret(binary(), whole | cut, table()) -> boolean().
secret(Text, Cut, Table) -> secret(Text, Cut, text, Table).

secret(_, _, _, none) -> false;
secret(Text, Cut, Kind, Table) -> lists:any(fun(Automaton) -> found(Text, Cut, Kind, Automaton) end, Table).

found(Text, Cut, Kind, Automaton) ->
    case scan(Text, step($\n, 0, Automaton), 0, Automaton) of
        secret -> true;
        {V, _} when Cut =:= cut, V band ?OPEN =/= 0 -> true;
        {V, Known} ->
            Last = case Cut of cut -> 0; whole -> step($\n, V, Automaton) end,
            Last band ?SECRET =/= 0
                orelse (Kind =:= text andalso (Known bor Last) band ?CARD =/= 0 andalso card(Text, $\n))
    end.

step(C, V, {Classes, Columns, Next}) ->
    At = 2 * ((V band ?STATE) * Columns + element(C + 1, Classes)),
    <<_:At/binary, New:16/little, _/bits>> = Next,
    New.

scan(<<C, Rest/bits>>, V, Known, Automaton) ->
    case step(C, V, Automaton) of
        New when New band ?SECRET =/= 0 -> secret;
        New -> scan(Rest, New, Known bor New, Automaton)
    end;
scan(<<>>, V, Known, _) -> {V, Known}.

%% Is there a run of 13 to 19 digits, of networks of cards, whose check digit is right?
card(<<C, Rest/bits>> = Text, Before) ->
    (C >= $2 andalso C =< $6 andalso not word(Before) andalso digits(Text, 0, 0, 0)) orelse card(Rest, C);
card(<<>>, _) -> false.

%% Same: the sum with digits as far from here as the last one as they are; Other: with those doubled.
digits(<<C, Rest/bits>>, N, Same, Other) when C >= $0, C =< $9, N < 19 ->
    D = C - $0,
    Twice = case D < 5 of true -> 2 * D; false -> 2 * D - 9 end,
    {S, O} = {Other + D, Same + Twice},
    (N >= 12 andalso S rem 10 =:= 0 andalso ends(Rest)) orelse digits(Rest, N + 1, S, O);
digits(<<C, D, _/bits>> = Text, N, Same, Other) when (C =:= $  orelse C =:= $-), D >= $0, D =< $9 ->
    <<_, Rest/bits>> = Text,
    digits(Rest, N, Same, Other);
digits(_, _, _, _) -> false.

ends(<<C, _/bits>>) -> not word(C);
ends(<<>>) -> true.

word(C) -> C >= $0 andalso C =< $9 orelse C >= $a andalso C =< $z orelse C >= $A andalso C =< $Z.

%% Is the list a text with one in it? '...' at its end says that it was cut.
-spec list(maybe_improper_list(), table()) -> boolean().
list(_, none) -> false;
list(List, Table) ->
    case flat(List, 8, {[], 0, text}) of
        {Cut, {Acc, _, Kind}} -> secret(list_to_binary(lists:reverse(Acc)), Cut, Kind, Table);
        no -> false
    end.

flat(_, _, {_, N, _}) when N > ?MOST -> no;
flat([], _, Acc) -> {whole, Acc};
flat('...', _, Acc) -> {cut, Acc};
flat([C | T], D, {Acc, N, Kind}) when is_integer(C), C >= 0, C =< 16#10FFFF -> flat(T, D, {[min(C, 255) | Acc], N + 1, Kind});
flat([B | T], D, {Acc, N, _}) when is_binary(B) -> flat(T, D, {[B | Acc], N + byte_size(B), pieces});
flat([L | T], D, {Acc, N, _}) when is_list(L), D > 0 ->
    case flat(L, D - 1, {Acc, N, pieces}) of
        {whole, Acc1} -> flat(T, D, Acc1);
        {cut, Acc1} when T =:= [] -> {cut, Acc1};
        _ -> no
    end;
flat(B, _, {Acc, N, _}) when is_binary(B), N + byte_size(B) =< ?MOST -> {whole, {[B | Acc], N + byte_size(B), pieces}};
flat(_, _, _) -> no.
