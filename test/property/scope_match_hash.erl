%% The match hash of ei_codec/match_hash.h, written a second time: SipHash-2-4 over a bounded preorder walk of a term.
%% The property test holds the two against each other; the grammar of the bytes is in that header and nowhere else.
-module(scope_match_hash).

-export([hash/2, siphash/2]).

-define(NODES, 64).
-define(SMALL_MAP, 32).
-define(WORD, 16#FFFFFFFFFFFFFFFF).

-type key() :: <<_:128>>.
-export_type([key/0]).

%% The hash, and whether the walk was cut at its budget of nodes.
-spec hash(term(), key()) -> {Hash :: 0..?WORD, Bounded :: boolean()}.
hash(Term, Key) ->
    case walk(Term, ?NODES, [], Key) of
        {cut, Bytes} -> {siphash(Key, iolist_to_binary([Bytes, $z])), true};
        {_Left, Bytes} -> {siphash(Key, iolist_to_binary(Bytes)), false}
    end.

%% walk(Term, Left, Bytes, Key) -> {Left', Bytes'} | {cut, Bytes'}
walk(_, 0, Bytes, _) ->
    {cut, Bytes};
walk([Head | Tail], Left, Bytes, Key) ->
    case walk(Head, Left - 1, [Bytes, $l], Key) of
        {cut, _} = Cut -> Cut;
        {Left1, Bytes1} -> walk(Tail, Left1, Bytes1, Key)
    end;
walk(Tuple, Left, Bytes, Key) when is_tuple(Tuple) ->
    all(tuple_to_list(Tuple), Left - 1, [Bytes, <<$t, (tuple_size(Tuple)):32/little>>], Key);
walk(Map, Left, Bytes, Key) when map_size(Map) =< ?SMALL_MAP ->
    Head = [Bytes, <<$m, (map_size(Map)):32/little>>],
    case sum(maps:to_list(Map), Left - 1, 0, Key) of
        cut -> {cut, Head};
        {Left1, Sum} -> {Left1, [Head, <<Sum:64/little>>]}
    end;
walk(Term, Left, Bytes, _) ->
    {Left - 1, [Bytes, leaf(Term)]}.

all([], Left, Bytes, _) ->
    {Left, Bytes};
all([Term | Rest], Left, Bytes, Key) ->
    case walk(Term, Left, Bytes, Key) of
        {cut, _} = Cut -> Cut;
        {Left1, Bytes1} -> all(Rest, Left1, Bytes1, Key)
    end.

sum([], Left, Sum, _) ->
    {Left, Sum};
sum([{K, V} | Pairs], Left, Sum, Key) ->
    case all([K, V], Left, [], Key) of
        {cut, _} -> cut;
        {Left1, Bytes} ->
            Pair = siphash(Key, iolist_to_binary(Bytes)),
            sum(Pairs, Left1, (Sum + Pair) band ?WORD, Key)
    end.

leaf([]) -> <<$n>>;
leaf(Atom) when is_atom(Atom) -> [$a, text(Atom)];
leaf(Int) when is_integer(Int), Int >= -(1 bsl 63), Int < 1 bsl 63 -> <<$i, Int:64/little>>;
leaf(Int) when is_integer(Int) ->
    Digits = binary:encode_unsigned(abs(Int), little),
    Sign = case Int < 0 of true -> 1; false -> 0 end,
    [<<$I, Sign, (byte_size(Digits)):32/little>>, Digits];
leaf(Float) when is_float(Float) ->
    <<$f, Float:64/little-float>>;
leaf(Binary) when is_binary(Binary) ->
    [<<$b, (byte_size(Binary)):64/little>>, ends(Binary)];
leaf(Bits) when is_bitstring(Bits) ->
    Unused = byte_size(Bits) * 8 - bit_size(Bits),
    [<<$B, (bit_size(Bits)):64/little>>, ends(<<Bits/bitstring, 0:Unused>>)];
leaf(Pid) when is_pid(Pid) ->
    Encoded = encode(Pid),
    <<Id:32, Serial:32, Creation:32>> = binary:part(Encoded, byte_size(Encoded), -12),
    [$p, text(node(Pid)), <<Creation:32/little, Id:32/little, Serial:32/little>>];
leaf(Ref) when is_reference(Ref) ->
    <<131, 90, Count:16, Encoded/binary>> = encode(Ref),
    <<Creation:32, Ids/binary>> = binary:part(Encoded, byte_size(Encoded), -4 - 4 * Count),
    [$r, text(node(Ref)), <<Creation:32/little, Count>>, [<<I:32/little>> || <<I:32>> <= Ids]];
leaf(Port) when is_port(Port) ->
    <<131, Tag, Encoded/binary>> = encode(Port),
    IdBits = case Tag of 120 -> 64; 89 -> 32 end,
    Size = IdBits div 8 + 4,
    <<Id:IdBits, Creation:32>> = binary:part(Encoded, byte_size(Encoded), -Size),
    [$o, text(node(Port)), <<Creation:32/little, Id:64/little>>];
leaf(Map) when is_map(Map) ->
    <<$M, (map_size(Map)):32/little>>;
leaf(Fun) when is_function(Fun) ->
    Info = fun(Item) -> element(2, erlang:fun_info(Fun, Item)) end,
    case Info(type) of
        external ->
            [$e, $a, text(Info(module)), $a, text(Info(name)), <<(Info(arity)):32/little>>];
        local ->
            [$F, text(Info(module)), <<(Info(new_index)):32/little>>, Info(new_uniq)]
    end.

text(Atom) ->
    Text = atom_to_binary(Atom, utf8),
    [<<(byte_size(Text)):32/little>>, Text].

ends(Binary) when byte_size(Binary) =< 128 -> Binary;
ends(Binary) -> [binary:part(Binary, 0, 64), binary:part(Binary, byte_size(Binary), -64)].

encode(Term) ->
    term_to_binary(Term, [{minor_version, 2}]).

-spec siphash(key(), binary()) -> 0..?WORD.
siphash(<<K0:64/little, K1:64/little>>, Bytes) ->
    State = {K0 bxor 16#736f6d6570736575, K1 bxor 16#646f72616e646f6d,
             K0 bxor 16#6c7967656e657261, K1 bxor 16#7465646279746573},
    finish(words(Bytes, byte_size(Bytes), State)).

words(<<Word:64/little, Rest/binary>>, Size, State) ->
    words(Rest, Size, mix(Word, State));
words(Rest, Size, State) ->
    Pad = 7 - byte_size(Rest),
    <<Word:64/little>> = <<Rest/binary, 0:Pad/unit:8, (Size band 255)>>,
    mix(Word, State).

mix(Word, {V0, V1, V2, V3}) ->
    {W0, W1, W2, W3} = sip_round(sip_round({V0, V1, V2, V3 bxor Word})),
    {W0 bxor Word, W1, W2, W3}.

finish({V0, V1, V2, V3}) ->
    {W0, W1, W2, W3} = sip_round(sip_round(sip_round(sip_round({V0, V1, V2 bxor 255, V3})))),
    W0 bxor W1 bxor W2 bxor W3.

sip_round({V0, V1, V2, V3}) ->
    A0 = add(V0, V1),
    A1 = rot(V1, 13) bxor A0,
    A2 = add(V2, V3),
    A3 = rot(V3, 16) bxor A2,
    B0 = add(rot(A0, 32), A3),
    B3 = rot(A3, 21) bxor B0,
    B2 = add(A2, A1),
    B1 = rot(A1, 17) bxor B2,
    {B0, B1, rot(B2, 32), B3}.

add(A, B) -> (A + B) band ?WORD.

rot(V, Bits) -> ((V bsl Bits) band ?WORD) bor (V bsr (64 - Bits)).
