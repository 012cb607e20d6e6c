%% The compact payload (ei_codec/capture_record.h) as the events that the Erlang tracer would have made: so that one
%% suite judges both tracers. Written apart from the library and from the daemon's reader.
-module(scope_compact).

-export([decode/4, hashes/1]).

-define(TRUNCATED, 1).
-define(HASHED, 4).
-define(DEAD, 8).
-define(END_STATE, 64).
-define(CHILD, 512).

-spec decode(binary(), binary(), node(), non_neg_integer()) -> [tuple()].
decode(Strings, Records, Node, Creation) ->
    Names = names(Strings, #{}),
    [event(R, Names, Node, Creation) || R <- records(Records)].

%% Of message_send records: {Hash, Bounded} | none.
-spec hashes(binary()) -> [{non_neg_integer(), boolean()} | none].
hashes(Records) ->
    [case Flags band ?HASHED of
         0 -> none;
         _ -> <<Hash:64/little, _/binary>> = Rest, {Hash, Flags band 2 =/= 0}
     end || <<_:32, 4, _, Flags:16/little, _:16/binary, Rest/binary>> <- records(Records)].

names(<<Id:32/little, N:16/little, Text:N/binary, Rest/bits>>, Acc) ->
    false = is_map_key(Id, Acc),
    names(Rest, Acc#{Id => Text});
names(<<>>, Acc) -> Acc.

records(<<>>) -> [];
records(<<Size:32/little, _/bits>> = All) when Size >= 24 ->
    Pad = (8 - Size rem 8) rem 8,
    <<Record:Size/binary, Zero:Pad/binary, Rest/bits>> = All,
    Zero = <<0:Pad/unit:8>>,
    [Record | records(Rest)].

event(<<_:32, Kind, Arity, Flags:16/little, Ts:64/little-signed, Id:32/little, Serial:32/little, Rest0/binary>>, Names, Node, C) ->
    Pid = pid(Node, Id, Serial, C),
    {Mfa, Rest1} = case lists:member(Kind, [1, 2, 3, 6, 7, 8]) of
                       true ->
                           <<M:32/little, F:32/little, R1/binary>> = Rest0,
                           {{atom(M, Names), atom(F, Names), Arity}, R1};
                       false -> {none, Rest0}
                   end,
    {Hash, Rest2} = case Flags band ?HASHED of 0 -> {none, Rest1}; _ -> <<H:64/little, R2/binary>> = Rest1, {H, R2} end,
    {Original, Rest3} = case Flags band ?TRUNCATED of 0 -> {0, Rest2}; _ -> <<O:32/little, R3/binary>> = Rest2, {O, R3} end,
    {Peer, Rest4} = case lists:member(Kind, [4, 8, 10, 11]) of true -> term(Rest3, Names); false -> {none, Rest3} end,
    Payload = case Rest4 of
                  <<>> -> none;
                  _ ->
                      {T, <<>>} = term(Rest4, Names),
                      {some, cut(T, Original, Hash)}
              end,
    make(Kind, Flags, Pid, Mfa, Peer, Payload, Ts).

%% The Erlang tracer wraps a user's own term of the mark's shape.
cut({'$scope_cut', _, _, _} = T, 0, Hash) -> {'$scope_cut', erlang:external_size(T), T, Hash};
cut(T, 0, _) -> T;
cut(T, Original, Hash) -> {'$scope_cut', Original, T, Hash}.

make(1, _, P, MFA, _, none, Ts) -> {trace_ts, P, call, MFA, Ts};
make(1, _, P, MFA, _, {some, A}, Ts) -> {trace_ts, P, call, MFA, {args, A}, Ts};
make(2, _, P, MFA, _, {some, R}, Ts) -> {trace_ts, P, return_from, MFA, R, Ts};
make(3, _, P, MFA, _, {some, R}, Ts) -> {trace_ts, P, exception_from, MFA, R, Ts};
make(4, F, P, _, To, {some, M}, Ts) ->
    {trace_ts, P, case F band ?DEAD of 0 -> send; _ -> send_to_non_existing_process end, M, To, Ts};
make(5, _, P, _, _, {some, M}, Ts) -> {trace_ts, P, 'receive', M, Ts};
make(6, _, P, MFA, _, {some, M}, Ts) -> {trace_ts, P, call, MFA, {take, M}, Ts};
make(7, F, P, MFA, _, {some, S}, Ts) ->
    {trace_ts, P, call, MFA, {case F band ?END_STATE of 0 -> state; _ -> final end, S}, Ts};
make(8, F, P, {M, Fun, A}, Peer, Args, Ts) ->
    {trace_ts, P, case F band ?CHILD of 0 -> spawn; _ -> spawned end, Peer,
     {M, Fun, case Args of {some, L} -> L; none -> A end}, Ts};
make(9, _, P, _, _, {some, R}, Ts) -> {trace_ts, P, exit, R, Ts};
make(10, _, P, _, Peer, none, Ts) -> {trace_ts, P, link, Peer, Ts};
make(11, _, P, _, Peer, none, Ts) -> {trace_ts, P, unlink, Peer, Ts};
make(12, _, P, _, _, {some, N}, Ts) -> {trace_ts, P, register, N, Ts};
make(13, _, P, _, _, {some, N}, Ts) -> {trace_ts, P, unregister, N, Ts}.

pid(Node, Id, Serial, C) ->
    Name = atom_to_binary(Node, utf8),
    binary_to_term(<<131, 88, 119, (byte_size(Name)), Name/binary, Id:32, Serial:32, C:32>>).

atom(Id, Names) -> binary_to_atom(map_get(Id, Names), utf8).

%% One term with local atoms, and what follows it.
term(Bin, Names) ->
    {Etf, Rest} = plain(Bin, Names),
    {binary_to_term(iolist_to_binary([131, Etf])), Rest}.

plain(<<16#FB, Id:32, R/binary>>, Names) ->
    Text = map_get(Id, Names),
    {[118, <<(byte_size(Text)):16>>, Text], R};
plain(<<70, F:8/binary, R/binary>>, _) -> {[70, F], R};
plain(<<97, I, R/binary>>, _) -> {[97, I], R};
plain(<<98, I:4/binary, R/binary>>, _) -> {[98, I], R};
plain(<<104, N, R0/binary>>, Names) -> many(N, R0, Names, [104, N]);
plain(<<105, N:32, R0/binary>>, Names) -> many(N, R0, Names, <<105, N:32>>);
plain(<<106, R/binary>>, _) -> {[106], R};
plain(<<108, N:32, R0/binary>>, Names) -> many(N + 1, R0, Names, <<108, N:32>>);
plain(<<116, N:32, R0/binary>>, Names) -> many(2 * N, R0, Names, <<116, N:32>>);
plain(<<109, N:32, B:N/binary, R/binary>>, _) -> {[<<109, N:32>>, B], R};
plain(<<110, N, S, B:N/binary, R/binary>>, _) -> {[110, N, S, B], R};
plain(<<88, R0/binary>>, Names) ->
    {Node, <<Ids:12/binary, R/binary>>} = plain(R0, Names),
    {[88, Node, Ids], R};
plain(<<120, R0/binary>>, Names) ->
    {Node, <<Ids:12/binary, R/binary>>} = plain(R0, Names),
    {[120, Node, Ids], R};
plain(<<89, R0/binary>>, Names) ->
    {Node, <<Ids:8/binary, R/binary>>} = plain(R0, Names),
    {[89, Node, Ids], R};
plain(<<90, N:16, R0/binary>>, Names) ->
    Size = 4 + 4 * N,
    {Node, <<Ids:Size/binary, R/binary>>} = plain(R0, Names),
    {[<<90, N:16>>, Node, Ids], R};
plain(<<113, R0/binary>>, Names) -> many(3, R0, Names, [113]);
plain(<<T, N:16, A:N/binary, R/binary>>, _) when T =:= 100; T =:= 118 -> {[T, <<N:16>>, A], R};
plain(<<T, N, A:N/binary, R/binary>>, _) when T =:= 115; T =:= 119 -> {[T, N, A], R}.

many(0, R, _, Acc) -> {Acc, R};
many(N, R0, Names, Acc) ->
    {T, R} = plain(R0, Names),
    many(N - 1, R, Names, [Acc, T]).
