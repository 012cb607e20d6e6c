%% Random terms made by PropEr on a real node, given to the codec (codec_port.cc) and compared here.
%% Usage: erl -noshell -pa DIR -s codec_prop main PORT_PROGRAM [CASES]
-module(codec_prop).

%% What proper.hrl would give: Debian keeps it in a package of its own, with nothing else that we need.
-import(proper_types, [binary/0, bitstring/0, float/0, frequency/1, integer/0, list/1, non_empty/1, oneof/1, range/2,
                       resize/2]).
-define(FORALL(X, Type, Holds), proper:forall(Type, fun(X) -> Holds end)).
-define(LET(X, Type, Made), proper_types:bind(Type, fun(X) -> Made end, false)).
-define(SIZED(Size, Type), proper_types:sized(fun(Size) -> Type end)).
-define(LAZY(Type), proper_types:lazy(fun() -> Type end)).

-export([main/1]).

-spec main([atom()]) -> no_return().
main([Program]) ->
    main([Program, '250']);
main([Program, Cases]) ->
    _ = io:setopts([{encoding, unicode}]),
    Port = open_port({spawn_executable, atom_to_list(Program)}, [{packet, 4}, binary, exit_status]),
    Options = [{numtests, list_to_integer(atom_to_list(Cases))}, {max_size, 24}, {on_output, fun(F, A) -> io:format(F, A) end}],
    Checks = [{fixed, fun() -> lists:all(fun(T) -> holds(Port, T) end, fixed()) end},
              {literal, fun() -> proper:quickcheck(?FORALL(T, literal(), holds(Port, T)), Options) end},
              {any, fun() -> proper:quickcheck(?FORALL(T, any_term(), holds(Port, T)), Options) end}],
    Failed = [Name || {Name, Check} <- Checks, Check() =/= true],
    io:format("~ts~n", [case Failed of [] -> "all properties hold"; _ -> io_lib:format("FAILED: ~p", [Failed]) end]),
    halt(length(Failed)).

%% PropEr 1.2 itself fails on OTP 25 when a property does, so nothing may get out.
holds(Port, Term) ->
    try compare(Port, Term)
    catch Class:Reason:Stack ->
            check({Class, Reason, Stack}, Term, none)
    end.

compare(Port, Term) ->
    Key = list_to_binary(lists:seq(0, 15)),
    port_command(Port, term_to_binary(Term, [{minor_version, 2}])),
    Answer = receive
                 {Port, {data, Data}} -> binary_to_term(Data);
                 {Port, {exit_status, Status}} -> {died, Status}
             after 30000 -> timeout
             end,
    case Answer of
        {ok, Rebuilt, Erlang, Elixir, _Json, Hash, Bounded, Complaints} ->
            check(rebuilt, binary_to_term(Rebuilt), Term)
                andalso check(hash, {Hash, Bounded}, scope_match_hash:hash(Term, Key))
                andalso check(complaints, Complaints, <<>>)
                andalso check(valid_text, is_list(unicode:characters_to_list(Elixir)), true)
                andalso check_erlang(Erlang, Term)
                andalso check_elixir(Elixir, Term);
        Other ->
            check(answer, Other, ok)
    end.

check(_, Same, Same) ->
    true;
check(What, Got, Wanted) ->
    Show = fun(T) -> string:slice(io_lib:format("~0tp", [T]), 0, 600) end,
    io:format("~ts:~n   got ~ts~nwanted ~ts~n", [Show(What), Show(Got), Show(Wanted)]),
    false.

check_erlang(Text, Term) ->
    case is_literal(Term) of
        true ->
            {ok, Tokens, _} = erl_scan:string(unicode:characters_to_list(Text) ++ "."),
            check({erlang, Text}, erl_parse:parse_term(Tokens), {ok, Term});
        false ->
            check(erlang, Text, opaque(Term, Text))
    end.

%% Elixir 1.14 refuses to read some of the longest atoms, and takes seconds for long texts.
check_elixir(Text, _) when byte_size(Text) > 2000 -> true;
check_elixir(Text, Term) ->
    Long = [atom_to_binary(long_atom(C)) || C <- [$a, $\x{436}, $\x{1F600}]],
    case is_literal(Term) andalso binary:match(Text, Long) =:= nomatch andalso code:ensure_loaded('Elixir.Code') of
        {module, Code} ->
            {Value, _} = Code:eval_string(Text),
            check({elixir, Text}, Value, Term);
        _ ->
            true
    end.

%% Can the term be written and read back?
is_literal([H | T]) -> is_literal(H) andalso is_literal(T);
is_literal(T) when is_tuple(T) -> is_literal(tuple_to_list(T));
is_literal(T) when is_map(T) -> not is_map_key('__struct__', T) andalso is_literal(maps:to_list(T));
is_literal(T) when is_function(T) -> erlang:fun_info(T, type) =:= {type, external};
is_literal(T) -> not (is_pid(T) orelse is_reference(T) orelse is_port(T)).

%% The documented forms of what cannot; containers of such are compared by their rebuilt form and hash only.
opaque(T, _) when is_pid(T) -> form("<", T, pid_to_list(T));
opaque(T, _) when is_reference(T) -> form("#Ref<", T, ref_to_list(T));
opaque(T, _) when is_port(T) -> form("#Port<", T, port_to_list(T));
opaque(T, _) when is_function(T) ->
    [{module, M}, {new_index, I}, {uniq, U}] = [erlang:fun_info(T, Key) || Key <- [module, new_index, uniq]],
    unicode:characters_to_binary(io_lib:format("#Fun<~tp.~w.~w>", [M, I, U]));
opaque(_, Text) -> Text.

%% As the shell shows it, <0.1.2>, with the node's name in the place of its number.
form(Head, T, Shown) ->
    iolist_to_binary([Head, atom_to_list(node(T)), string:find(Shown, ".")]).

%% Generators

literal() -> ?SIZED(Size, compound(Size, plain())).

any_term() -> ?SIZED(Size, compound(Size, frequency([{4, plain()}, {3, oneof(opaque_terms())}]))).

%% No backslash in the last fun's name: Elixir 1.14 reads "\\" in a quoted function name as two.
plain() ->
    frequency([{4, atoms()}, {4, integers()}, {2, float()}, {1, special_float()},
               {3, binary()}, {2, bitstring()}, {2, long_binary()}, {2, text()},
               {3, charlist()}, {1, fun lists:map/2}, {1, fun 'A b':'\x{436} \''/255}]).

compound(Size, Leaf) when Size < 2 -> Leaf;
compound(Size, Leaf) ->
    Less = ?LAZY(compound(Size div 3, Leaf)),
    frequency([{2, Leaf},
               {2, list(Less)},
               {1, ?LET({L, T}, {non_empty(list(Less)), Less}, improper(L, T))},
               {2, ?LET(L, list(Less), list_to_tuple(L))},
               {2, ?LET(L, list({Less, Less}), maps:from_list(L))},
               {1, ?LET(L, list({atoms(), Less}), maps:from_list(L))},
               {1, ?LET(L, list({text(), Less}), maps:from_list(L))},
               {1, list({atoms(), Less})},
               {1, ?LET({N, V}, {range(30, 70), Less}, maps:from_list([{I, V} || I <- lists:seq(1, N)]))}]).

improper(L, T) -> lists:foldr(fun(H, Acc) -> [H | Acc] end, T, L).

atoms() ->
    oneof([oneof([ok, nil, true, false, null, 'end', 'maybe', '', 'A', 'a b', '__struct__', 'a@b', 'x?', 'Elixir.A.B',
                  'Elixir.a', 'Elixir', '\x{436}\x{4e00}', '\'"\\#{}', '\n\e\x{7f}\x{80}\x{e9}', long_atom($a),
                  long_atom($\x{436}), long_atom($\x{1F600}), 'max@host', '%', '+', 'do']),
           ?LET(L, resize(8, list(range($a, $h))), list_to_atom(L))]).

long_atom(C) -> list_to_atom(lists:duplicate(255, C)).

integers() ->
    oneof([integer(), range(-5, 300), range(-(1 bsl 31) - 3, 1 bsl 31),
           ?LET({S, B, D}, {oneof([1, -1]), oneof([27, 28, 31, 32, 60, 63, 64, 65, 128, 2040, 2048, 9000]), range(-2, 2)},
                S * ((1 bsl B) + D)),
           ?LET(B, non_empty(resize(300, binary())), binary:decode_unsigned(B))]).

special_float() -> oneof([0.0, -0.0, 1.0e100, 1.0e22, 1.0e-7, 5.0e-324, 1.7976931348623157e308, 0.1, 100.0, 1.0e15]).

long_binary() -> ?LET({C, N}, {range(0, 255), oneof([127, 128, 129, 300])}, binary:copy(<<C>>, N)).

text() ->
    ?LET(L, list(oneof([range(32, 126), oneof("\n\t\r\b\f\v\e\"\\#{'"), range($\x{400}, $\x{450}), $\x{1F600}])),
         unicode:characters_to_binary(L)).

charlist() ->
    oneof([list(range(32, 126)), list(range(0, 255)), list(range(32, 1200)), "#{a}\"\\", lists:duplicate(300, $x)]).

opaque_terms() ->
    X = 17,
    [self(), make_ref(), hd(erlang:ports()), fun(Y) -> X + Y end, fun is_literal/1,
     binary_to_term(<<131, 88, 119, 5, "a@b.c", 12345678:32, 7:32, 16#FFFFFFFE:32>>),
     binary_to_term(<<131, 90, 5:16, 119, 5, "a@b.c", 99:32, 1:32, 2:32, 3:32, 4:32, 5:32>>),
     binary_to_term(<<131, 120, 119, 5, "a@b.c", (1 bsl 40):64, 99:32>>),
     binary_to_term(<<131, 89, 119, 5, "a@b.c", 12:32, 99:32>>)].

%% Sizes that PropEr seldom reaches, and each opaque kind alone.
fixed() ->
    [lists:seq(1, 100000), lists:duplicate(70000, $x), binary:copy(<<0>>, 100000),
     list_to_tuple(lists:seq(1, 300)), maps:from_list([{I, I} || I <- lists:seq(1, 5000)]),
     lists:foldl(fun(_, Acc) -> [Acc] end, [], lists:seq(1, 300)),
     lists:foldl(fun(I, Acc) -> #{I => {Acc}} end, [], lists:seq(1, 200)),
     #{'__struct__' => 'Elixir.Some.User', name => <<"x">>, age => 3}, #{'__struct__' => foo},
     lists:seq(1, 31), lists:seq(1, 32), [a | lists:seq(1, 33)], {1, lists:seq(1, 31)}]
    ++ lists:sublist(opaque_terms(), 5).
