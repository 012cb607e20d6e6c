%% The compact payload of ei_codec/capture_record.h, written a second time, from the events of an etf batch: a reference
%% for the daemon's reader and for the native tracer. Makes batch_compact_v1.etf; test/golden/README.md says how.
-module(compact_golden).

-export([main/1, payload/1]).

-define(TRUNCATED, 1).
-define(BOUNDED, 2).
-define(HASHED, 4).
-define(DEAD, 8).
-define(END_STATE, 64).
-define(INFERRED, 256).
-define(CHILD_SIDE, 512).

-spec main([file:filename()]) -> no_return().
main([Folder]) ->
    {ok, Etf} = file:read_file(filename:join(Folder, "batch_etf_v1.etf")),
    {batch, Agent, Seq, Clock, Gaps, Cut, {etf, 1, Events}} = binary_to_term(Etf),
    Batch = {batch, Agent, Seq, Clock, Gaps, Cut, payload(binary_to_term(Events))},
    ok = file:write_file(filename:join(Folder, "batch_compact_v1.etf"), term_to_binary(Batch, [{minor_version, 2}])),
    halt(0).

%% What has no compact form is left out.
-spec payload([term()]) -> {compact, 1, Strings :: binary(), Records :: binary()}.
payload(Events) ->
    put(atoms, #{}),
    Records = << <<(padded(R))/binary>> || E <- Events, R <- [record(E)], R =/= none >>,
    Strings = << <<Id:32/little, (byte_size(A)):16/little, A/binary>> || {A, Id} <- maps:to_list(erase(atoms)) >>,
    {compact, 1, Strings, Records}.

padded(R) -> <<R/binary, 0:(8 * ((8 - byte_size(R) rem 8) rem 8))>>.

record({trace_ts, P, call, {M, F, A}, Ts}) ->
    record(1, A, 0, Ts, P, [mfa(M, F)]);
record({trace_ts, P, call, {M, F, A}, {Role, Term}, Ts}) ->
    {Kind, Flags} = case Role of
        args -> {1, 0};
        take -> {6, 0};
        state -> {7, 0};
        final -> {7, ?END_STATE}
    end,
    %% What was taken is hashed by its reader, what was sent or fetched is hashed here: both are allowed.
    {More, Middle, Payload} = cut(Term),
    record(Kind, A, Flags bor More, Ts, P, [mfa(M, F), Middle, Payload]);
record({trace_ts, P, return_from, {M, F, A}, Result, Ts}) ->
    record(2, A, 0, Ts, P, [mfa(M, F), term(Result)]);
record({trace_ts, P, exception_from, {M, F, A}, Exception, Ts}) ->
    record(3, A, 0, Ts, P, [mfa(M, F), term(Exception)]);
record({trace_ts, P, Send, Message, To, Ts}) when Send =:= send; Send =:= send_to_non_existing_process ->
    {Flags, Middle, Payload} = hashed(Message),
    Dead = case Send of send -> 0; _ -> ?DEAD end,
    record(4, 0, Flags bor Dead, Ts, P, [Middle, term(To), Payload]);
record({trace_ts, P, 'receive', Message, Ts}) ->
    {Flags, Middle, Payload} = hashed(Message),
    record(5, 0, Flags, Ts, P, [Middle, Payload]);
record({trace_ts, P, Spawn, Other, {M, F, Args}, Ts}) when Spawn =:= spawn; Spawn =:= spawned ->
    Flags = case Spawn of spawn -> 0; spawned -> ?CHILD_SIDE end,
    case is_list(Args) of
        true -> record(8, length(Args), Flags, Ts, P, [mfa(M, F), term(Other), term(Args)]);
        false -> record(8, Args, Flags, Ts, P, [mfa(M, F), term(Other)])
    end;
record({trace_ts, P, exit, Reason, Ts}) ->
    record(9, 0, 0, Ts, P, [term(Reason)]);
record({trace_ts, P, Link, Peer, Ts}) when Link =:= link; Link =:= getting_linked ->
    record(10, 0, 0, Ts, P, [term(Peer)]);
record({trace_ts, P, Unlink, Peer, Ts}) when Unlink =:= unlink; Unlink =:= getting_unlinked ->
    record(11, 0, 0, Ts, P, [term(Peer)]);
record({trace_ts, P, register, Name, Ts}) ->
    record(12, 0, 0, Ts, P, [term(Name)]);
record({trace_ts, P, unregister, Name, Ts}) ->
    record(13, 0, 0, Ts, P, [term(Name)]);
record({scope, checkpoint, P, {M, F, A}, State, Ts}) ->
    record(7, A, ?INFERRED, Ts, P, [mfa(M, F), term(State)]);
record(_) ->
    none.

record(Kind, Arity, Flags, Ts, Pid, Rest) ->
    <<88, _, Length, _:Length/binary, Id:32, Serial:32, _:32>> = external(Pid),
    Body = iolist_to_binary([<<Kind, Arity, Flags:16/little, Ts:64/little, Id:32/little, Serial:32/little>>, Rest]),
    <<(byte_size(Body) + 4):32/little, Body/binary>>.

mfa(M, F) -> <<(id(atom_to_binary(M))):32/little, (id(atom_to_binary(F))):32/little>>.

%% {Flags, Hash and original, Payload} of a message, and of what has no hash.
hashed({'$scope_cut', _, _, _} = Cut) ->
    cut(Cut);
hashed(Message) ->
    {Hash, Bounded} = scope_match_hash:hash(Message, <<0:128>>),
    {case Bounded of true -> ?HASHED bor ?BOUNDED; false -> ?HASHED end, <<Hash:64/little>>, term(Message)}.

cut({'$scope_cut', 0, Whole, none}) -> {0, <<>>, term(Whole)};
cut({'$scope_cut', Bytes, Bounded, none}) -> {?TRUNCATED, <<Bytes:32/little>>, term(Bounded)};
cut({'$scope_cut', Bytes, Bounded, Hash}) ->
    {?TRUNCATED bor ?HASHED bor ?BOUNDED, <<Hash:64/little, Bytes:32/little>>, term(Bounded)};
cut(Whole) -> {0, <<>>, term(Whole)}.

%% Numbers of no order, with holes.
id(Text) ->
    Atoms = get(atoms),
    case Atoms of
        #{Text := Id} ->
            Id;
        _ ->
            Id = (map_size(Atoms) * 2654435761) band 16#FFFFFFFF,
            put(atoms, Atoms#{Text => Id}),
            Id
    end.

external(Term) ->
    <<131, External/binary>> = term_to_binary(Term, [{minor_version, 2}]),
    External.

%% A term with its atoms, but for those that begin with '$', made local.
-spec term(term()) -> binary().
term(Term) ->
    {Local, <<>>} = local(external(Term)),
    iolist_to_binary(Local).

local(<<119, N, Text:N/binary, Rest/binary>>) -> {atom(Text, <<119, N>>), Rest};
local(<<118, N:16, Text:N/binary, Rest/binary>>) -> {atom(Text, <<118, N:16>>), Rest};
local(<<97, I, Rest/binary>>) -> {<<97, I>>, Rest};
local(<<98, I:4/binary, Rest/binary>>) -> {[98, I], Rest};
local(<<70, F:8/binary, Rest/binary>>) -> {[70, F], Rest};
local(<<106, Rest/binary>>) -> {106, Rest};
local(<<107, N:16, Text:N/binary, Rest/binary>>) -> {[<<107, N:16>>, Text], Rest};
local(<<109, N:32, Bin:N/binary, Rest/binary>>) -> {[<<109, N:32>>, Bin], Rest};
local(<<77, N:32, Bits, Bin:N/binary, Rest/binary>>) -> {[<<77, N:32, Bits>>, Bin], Rest};
local(<<110, N, Sign, Big:N/binary, Rest/binary>>) -> {[110, N, Sign, Big], Rest};
local(<<104, N, Rest/binary>>) -> locals(N, Rest, [<<104, N>>]);
local(<<108, N:32, Rest/binary>>) -> locals(N + 1, Rest, [<<108, N:32>>]);
local(<<116, N:32, Rest/binary>>) -> locals(2 * N, Rest, [<<116, N:32>>]);
local(<<88, Rest/binary>>) -> after_node(88, <<>>, 12, Rest);
local(<<89, Rest/binary>>) -> after_node(89, <<>>, 8, Rest);
local(<<120, Rest/binary>>) -> after_node(120, <<>>, 12, Rest);
local(<<90, N:16, Rest/binary>>) -> after_node(90, <<N:16>>, 4 + 4 * N, Rest);
local(<<113, Rest/binary>>) -> locals(3, Rest, [113]).

locals(0, Rest, Acc) ->
    {lists:reverse(Acc), Rest};
locals(N, Bin, Acc) ->
    {Term, Rest} = local(Bin),
    locals(N - 1, Rest, [Term | Acc]).

after_node(Tag, Length, Size, Bin) ->
    {Node, Rest} = local(Bin),
    <<Numbers:Size/binary, After/binary>> = Rest,
    {[Tag, Length, Node, Numbers], After}.

atom(<<$$, _/binary>> = Text, Head) -> [Head, Text];
atom(Text, _) -> <<16#FB, (id(Text)):32>>.
