%% The match hash of ei_codec/match_hash.h: SipHash-2-4 over a preorder walk of at most 64 nodes, whose bytes that header
%% defines. For messages that are shipped bounded; whole ones are hashed by the daemon. Golden: test/golden/match_hash.txt.
%%
%% 64-bit words are kept as two halves of 32: whole ones would be bignums, ten times slower.
-module(scope_hash).

-export([hash/2]).

-define(NODES, 64).
-define(SMALL_MAP, 32).
-define(M, 16#FFFFFFFF).
-define(ROT_HI(H, L, N), ((((H) bsl N) bor ((L) bsr (32 - N))) band ?M)).
-define(ROT_LO(H, L, N), ((((L) bsl N) bor ((H) bsr (32 - N))) band ?M)).
-define(IS_INT64(I), I >= -16#8000000000000000, I =< 16#7FFFFFFFFFFFFFFF).

%% The hash, and whether the walk was cut: by the number of nodes, or by a term of a kind that is unknown here, as the native
%% records of OTP 29.
-spec hash(term(), <<_:128>>) -> {non_neg_integer(), boolean()}.
hash(Term, Key) ->
    case walk(Term, ?NODES, [], Key) of
        {cut, Bytes} -> {sip(iolist_to_binary([Bytes, $z]), Key), true};
        {_, Bytes} -> {sip(iolist_to_binary(Bytes), Key), false}
    end.

walk(_, 0, Acc, _) -> {cut, Acc};
walk([H | T], N, Acc, Key) ->
    case walk(H, N - 1, [Acc, $l], Key) of
        {cut, _} = Cut -> Cut;
        {N1, Acc1} -> walk(T, N1, Acc1, Key)
    end;
walk(T, N, Acc, Key) when is_tuple(T) -> elements(T, 1, N - 1, [Acc, <<$t, (tuple_size(T)):32/little>>], Key);
walk(M, N, Acc, Key) when is_map(M), map_size(M) =< ?SMALL_MAP ->
    Head = [Acc, <<$m, (map_size(M)):32/little>>],
    case pairs(maps:to_list(M), N - 1, 0, Key) of
        cut -> {cut, Head};
        {N1, Sum} -> {N1, [Head, <<Sum:64/little>>]}
    end;
walk(T, N, Acc, _) ->
    case leaf(T) of
        unknown -> {cut, Acc};
        Bytes -> {N - 1, [Acc, Bytes]}
    end.

elements(T, I, N, Acc, _) when I > tuple_size(T) -> {N, Acc};
elements(T, I, N, Acc, Key) ->
    case walk(element(I, T), N, Acc, Key) of
        {cut, _} = Cut -> Cut;
        {N1, Acc1} -> elements(T, I + 1, N1, Acc1, Key)
    end.

%% Order does not matter: two nodes need not agree on it.
pairs([], N, Sum, _) -> {N, Sum};
pairs([{K, V} | Rest], N, Sum, Key) ->
    case walk(K, N, [], Key) of
        {cut, _} -> cut;
        {N1, Acc} ->
            case walk(V, N1, Acc, Key) of
                {cut, _} -> cut;
                {N2, Bytes} ->
                    Pair = sip(iolist_to_binary(Bytes), Key),
                    pairs(Rest, N2, (Sum + Pair) band 16#FFFFFFFFFFFFFFFF, Key)
            end
    end.

leaf([]) -> <<$n>>;
leaf(A) when is_atom(A) -> [$a | text(A)];
leaf(I) when is_integer(I), ?IS_INT64(I) -> <<$i, I:64/little>>;
leaf(I) when is_integer(I) ->
    Digits = binary:encode_unsigned(abs(I), little),
    Sign = if I < 0 -> 1; true -> 0 end,
    [<<$I, Sign, (byte_size(Digits)):32/little>>, Digits];
leaf(F) when is_float(F) -> <<$f, F:64/little-float>>;
leaf(B) when is_binary(B) -> [<<$b, (byte_size(B)):64/little>> | ends(B)];
leaf(B) when is_bitstring(B) ->
    Pad = byte_size(B) * 8 - bit_size(B),
    [<<$B, (bit_size(B)):64/little>> | ends(<<B/bitstring, 0:Pad>>)];
leaf(P) when is_pid(P) ->
    Bin = encode(P),
    <<Id:32, Serial:32, Creation:32>> = binary:part(Bin, byte_size(Bin), -12),
    [$p, text(node(P)), <<Creation:32/little, Id:32/little, Serial:32/little>>];
leaf(R) when is_reference(R) ->
    <<131, 90, Count:16, Bin/bits>> = encode(R),
    <<Creation:32, Ids/bits>> = binary:part(Bin, byte_size(Bin), -4 - 4 * Count),
    [$r, text(node(R)), <<Creation:32/little, Count>>, [<<I:32/little>> || <<I:32>> <= Ids]];
leaf(P) when is_port(P) ->
    {Id, Creation} = case encode(P) of
                         <<131, 120, Bin/bits>> ->
                             <<I:64, C:32>> = binary:part(Bin, byte_size(Bin), -12), {I, C};
                         <<131, 89, Bin/bits>> ->
                             <<I:32, C:32>> = binary:part(Bin, byte_size(Bin), -8), {I, C}
                     end,
    [$o, text(node(P)), <<Creation:32/little, Id:64/little>>];
leaf(M) when is_map(M) -> <<$M, (map_size(M)):32/little>>;
leaf(F) when is_function(F) ->
    case erlang:fun_info(F, type) of
        {type, external} ->
            [$e, $a, text(info(F, module)), $a, text(info(F, name)), <<(info(F, arity)):32/little>>];
        {type, local} -> [$F, text(info(F, module)), <<(info(F, new_index)):32/little>>, info(F, new_uniq)]
    end;
leaf(_) -> unknown.

info(F, Item) -> element(2, erlang:fun_info(F, Item)).

text(A) ->
    Text = atom_to_binary(A, utf8),
    [<<(byte_size(Text)):32/little>>, Text].

ends(<<First:64/binary, Rest/binary>>) when byte_size(Rest) > 64 ->
    [First, binary:part(Rest, byte_size(Rest), -64)];
ends(B) -> [B].

encode(T) -> term_to_binary(T, [{minor_version, 2}]).

sip(Bytes, <<K0L:32/little, K0H:32/little, K1L:32/little, K1H:32/little>>) ->
    words(Bytes, byte_size(Bytes) band 255,
          K0H bxor 16#736f6d65, K0L bxor 16#70736575, K1H bxor 16#646f7261, K1L bxor 16#6e646f6d,
          K0H bxor 16#6c796765, K0L bxor 16#6e657261, K1H bxor 16#74656462, K1L bxor 16#79746573).

words(<<L:32/little, H:32/little, Rest/bits>>, Size, H0, L0, H1, L1, H2, L2, H3, L3) ->
    words2(Rest, Size, H, L, rounds(2, H0, L0, H1, L1, H2, L2, H3 bxor H, L3 bxor L));
words(Rest, Size, H0, L0, H1, L1, H2, L2, H3, L3) ->
    Pad = 7 - byte_size(Rest),
    <<L:32/little, H:32/little>> = <<Rest/binary, 0:Pad/unit:8, Size>>,
    {A0, B0, A1, B1, A2, B2, A3, B3} = rounds(2, H0, L0, H1, L1, H2, L2, H3 bxor H, L3 bxor L),
    {C0, D0, C1, D1, C2, D2, C3, D3} =
        rounds(4, A0 bxor H, B0 bxor L, A1, B1, A2, B2 bxor 255, A3, B3),
    ((C0 bxor C1 bxor C2 bxor C3) bsl 32) bor (D0 bxor D1 bxor D2 bxor D3).

words2(Rest, Size, H, L, {H0, L0, H1, L1, H2, L2, H3, L3}) ->
    words(Rest, Size, H0 bxor H, L0 bxor L, H1, L1, H2, L2, H3, L3).

rounds(0, H0, L0, H1, L1, H2, L2, H3, L3) -> {H0, L0, H1, L1, H2, L2, H3, L3};
rounds(N, H0, L0, H1, L1, H2, L2, H3, L3) ->
    S0 = L0 + L1, A0L = S0 band ?M, A0H = (H0 + H1 + (S0 bsr 32)) band ?M,
    S2 = L2 + L3, A2L = S2 band ?M, A2H = (H2 + H3 + (S2 bsr 32)) band ?M,
    A1H = ?ROT_HI(H1, L1, 13) bxor A0H, A1L = ?ROT_LO(H1, L1, 13) bxor A0L,
    A3H = ?ROT_HI(H3, L3, 16) bxor A2H, A3L = ?ROT_LO(H3, L3, 16) bxor A2L,
    %% v0 is rotated by 32: its halves change places
    T0 = A0H + A3L, B0L = T0 band ?M, B0H = (A0L + A3H + (T0 bsr 32)) band ?M,
    T2 = A2L + A1L, B2L = T2 band ?M, B2H = (A2H + A1H + (T2 bsr 32)) band ?M,
    B1H = ?ROT_HI(A1H, A1L, 17) bxor B2H, B1L = ?ROT_LO(A1H, A1L, 17) bxor B2L,
    B3H = ?ROT_HI(A3H, A3L, 21) bxor B0H, B3L = ?ROT_LO(A3H, A3L, 21) bxor B0L,
    rounds(N - 1, B0H, B0L, B1H, B1L, B2L, B2H, B3H, B3L).
