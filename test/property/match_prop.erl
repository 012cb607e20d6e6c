%% Random terms and match specifications: analysis/match_spec (match_port.cc) must say what this BEAM says.
%% Usage: erl -noshell -pa DIR -s match_prop main PORT_PROGRAM [CASES [SEED]]
%%
%% whole   the same verdict as ets, for clauses with and without guards; what ets refuses must be refused
%% cut     held against the bounded form of a term (scope_cut), yes and no must be what the whole term says; and what
%%         is not cut at all must be decided
-module(match_prop).
-export([main/1]).

-define(VARS, ['$1', '$2', '$3']).

-spec main([atom()]) -> no_return().
main([Program]) -> main([Program, '20000']);
main([Program, Cases]) -> main([Program, Cases, list_to_atom(integer_to_list(erlang:system_time(microsecond) rem 1000000))]);
main([Program, Cases, Seed]) ->
    _ = io:setopts([{encoding, unicode}]),
    _ = rand:seed(exsss, int(Seed)),
    Port = open_port({spawn_executable, atom_to_list(Program)}, [{packet, 4}, binary, exit_status]),
    Fixed = [C || C <- fixed(), not holds(Port, C)],
    Tally = lists:foldl(fun(_, T) -> one(Port, T) end, #{failed => length(Fixed)}, lists:seq(1, int(Cases))),
    io:format("seed ~s, ~s cases: ~0p~n", [Seed, Cases, Tally]),
    %% A property that never decides, or always the same, shows nothing.
    Enough = lists:all(fun(K) -> maps:get(K, Tally, 0) * 100 >= int(Cases) end,
                       [{whole, yes}, {whole, no}, {cut, yes}, {cut, no}, {cut, unknown}]),
    halt(case Tally of #{failed := 0} when Enough -> 0; _ -> 1 end).

int(A) -> list_to_integer(atom_to_list(A)).

one(Port, Tally) ->
    T = term(4),
    Spec = spec(T),
    Want = beam(T, Spec),
    Got = ask(Port, T, Spec, false),
    Tally1 = count({whole, Want}, Tally),
    Tally2 = case Got of
                 Want -> Tally1;
                 %% Arithmetic on what does not fit 64 bits, the order of identifiers: said, not guessed.
                 unknown when Want =/= error -> count({whole, undecided}, Tally1);
                 _ -> wrong(whole, T, Spec, Got, Want, Tally1)
             end,
    Large = large(T),
    case {beam(Large, Spec), scope_cut:bounded(Large)} of
        {error, _} -> Tally2;
        {Whole, Bounded} ->
            Cut = ask(Port, Bounded, Spec, true),
            case Cut of
                _ when Cut =:= Whole; Cut =:= unknown -> count({cut, Cut}, Tally2);
                _ -> wrong(cut, Large, Spec, Cut, Whole, Tally2)
            end
    end.

count(Key, Tally) -> maps:update_with(Key, fun(N) -> N + 1 end, 1, Tally).

wrong(What, T, Spec, Got, Want, Tally) ->
    Show = fun(X) -> string:slice(io_lib:format("~0tp", [X]), 0, 1500) end,
    io:format("~p: ~ts~n  match ~ts~n  got ~p, the BEAM says ~p~n", [What, Show(T), Show(Spec), Got, Want]),
    count(failed, Tally).

ask(Port, T, Spec, Cut) ->
    port_command(Port, term_to_binary({T, Spec, Cut}, [{minor_version, 2}])),
    receive
        {Port, {data, Data}} ->
            case binary_to_term(Data) of
                {error, _} -> error;
                Verdict -> Verdict
            end;
        {Port, {exit_status, Status}} -> {died, Status}
    after 30000 -> timeout
    end.

beam(T, Spec) ->
    try ets:match_spec_run([T], ets:match_spec_compile(Spec)) of
        [_] -> yes;
        [] -> no
    catch error:badarg -> error
    end.

%% ---- terms ----

term(0) -> leaf();
term(D) ->
    case rand:uniform(10) of
        N when N =< 3 -> leaf();
        N when N =< 6 -> list_to_tuple(terms(D));
        7 -> terms(D);
        8 -> terms(D) ++ leaf();
        _ -> maps:from_list([{term(min(D - 1, 1)), term(D - 1)} || _ <- terms(1)])
    end.

terms(D) -> [term(D - 1) || _ <- lists:seq(1, rand:uniform(4) - 1)].

leaf() ->
    pick([ok, error, true, false, foo, 'Elixir.A', '$1', '_', '$_', [], {}, #{}, 0, 1, 2, -1, 255, 256, 1.0, 1.5, -2.5, 1.0e30,
          1 bsl 40, 1 bsl 62, 1 bsl 64, -(1 bsl 64), 1 bsl 70, <<>>, <<"abc">>, <<"abd">>, <<1, 2:4>>, <<1, 3:4>>, "abc", "ab", [1, 2],
          self(), make_ref(), fun lists:map/2, fun(X) -> X end, <<0:2048>>, 'ж']).

pick(L) -> lists:nth(rand:uniform(length(L)), L).

%% The same shape with parts that are too large for a row.
large(T) when is_tuple(T), tuple_size(T) > 0 ->
    case rand:uniform(3) of
        1 -> list_to_tuple(tuple_to_list(T) ++ lists:seq(1, 40));
        _ -> list_to_tuple([large(E) || E <- tuple_to_list(T)])
    end;
large(T) when is_map(T) ->
    M = maps:map(fun(_, V) -> large(V) end, T),
    case rand:uniform(3) of
        1 -> maps:merge(maps:from_list([{{k, I}, I} || I <- lists:seq(1, 40)]), M);
        _ -> M
    end;
large(T) when is_binary(T) -> case rand:uniform(3) of 1 -> <<T/binary, 0:3000>>; _ -> T end;
large([H | T]) when length(T) >= 0 ->
    case rand:uniform(4) of
        1 -> [large(H) | T] ++ lists:seq(1, 40);
        2 -> [deep(10, H) | T];
        _ -> [large(H) | T]
    end;
large(T) -> T.

deep(0, T) -> T;
deep(N, T) -> {deep(N - 1, T)}.

%% ---- match specifications ----

spec(T) -> [clause(T) || _ <- lists:seq(1, pick([1, 1, 1, 2]))].

clause(T) ->
    P = pattern(T),
    {P, [guard(2, vars(P)) || _ <- lists:seq(1, pick([0, 0, 1, 1, 2]))], ['$_']}.

vars(P) -> [V || V <- ?VARS, mentions(V, P)] ++ ['$_'].

mentions(V, V) -> true;
mentions(V, T) when is_tuple(T) -> mentions(V, tuple_to_list(T));
mentions(V, [H | T]) -> mentions(V, H) orelse mentions(V, T);
mentions(V, M) when is_map(M) -> mentions(V, maps:values(M));
mentions(_, _) -> false.

%% Of the term itself, made more general, and now and then wrong.
pattern(T) ->
    case rand:uniform(20) of
        N when N =< 3 -> pick(?VARS);
        N when N =< 5 -> '_';
        6 -> leaf();
        _ -> inside(T)
    end.

inside(T) when is_tuple(T) -> list_to_tuple([pattern(E) || E <- tuple_to_list(T)]);
inside([H | T]) when is_list(T) ->
    case rand:uniform(5) of
        1 -> [pattern(H) | pick(['_', '$1', '$2', leaf()])];
        _ -> [pattern(H) | inside_tail(T)]
    end;
inside([H | T]) -> [pattern(H) | pattern(T)];
inside(M) when is_map(M) ->
    maps:from_list([{K, pattern(V)} || {K, V} <- maps:to_list(M), rand:uniform(3) > 1]);
inside(T) -> T.

inside_tail([]) -> [];
inside_tail(L) -> case inside(L) of P when is_list(P) -> P; _ -> L end.

%% ---- guards ----

guard(0, Vars) -> operand(Vars);
guard(D, Vars) ->
    G = fun() -> guard(D - 1, Vars) end,
    case rand:uniform(12) of
        1 -> {pick(['and', 'or', 'andalso', 'orelse']), G(), G()};
        2 -> {pick(['andalso', 'orelse', 'and', 'or']), G(), G(), G()};
        3 -> {'not', G()};
        4 -> {'xor', G(), G()};
        N when N =< 7 -> {pick(['<', '=<', '>', '>=', '==', '/=', '=:=', '=/=']), value(D, Vars), value(D, Vars)};
        8 -> {is_record, value(D, Vars), pick([ok, foo, error]), pick([1, 2, 3])};
        9 -> {is_map_key, value(D, Vars), value(D, Vars)};
        10 -> value(D, Vars);
        _ -> {pick([is_atom, is_float, is_integer, is_list, is_number, is_pid, is_port, is_reference, is_tuple, is_map, is_binary,
                    is_function]), value(D, Vars)}
    end.

value(0, Vars) -> operand(Vars);
value(D, Vars) ->
    V = fun() -> value(D - 1, Vars) end,
    case rand:uniform(9) of
        1 -> {pick(['+', '-', '*', '/', 'div', 'rem', 'band', 'bor', 'bxor', 'bsl', 'bsr']), V(), V()};
        2 -> {pick([abs, hd, tl, length, round, trunc, float, size, byte_size, bit_size, map_size, '-', '+', 'bnot', node]), V()};
        3 -> {element, pick([1, 2, 3, V()]), V()};
        4 -> {map_get, V(), V()};
        5 -> case rand:uniform(4) of
                 1 -> {{V(), V()}};
                 2 -> [V(), V()];
                 3 -> #{V() => V()};
                 4 -> [V() | V()]
             end;
        _ -> operand(Vars)
    end.

operand(Vars) ->
    case rand:uniform(3) of
        1 -> {const, leaf()};
        2 -> pick([0, 1, 2, -1, 1.0, 1.5, ok, foo, true, false, <<"abc">>, "abc", [], 63, 64]);
        3 -> pick(Vars)
    end.

%% ---- what must hold whatever chance says ----

holds(Port, {T, Spec, Want}) ->
    case ask(Port, T, Spec, false) of
        Want -> true;
        Got ->
            io:format("fixed: ~0tp~n  match ~0tp~n  got ~p, wanted ~p~n", [T, Spec, Got, Want]),
            false
    end.

fixed() ->
    Deep = lists:foldl(fun(_, T) -> {T} end, '$1', lists:seq(1, 70)),
    [{{add, 3}, {add, '_'}, yes}, {{add, 3}, {add, '$1'}, yes}, {{add, 3}, {sub, '_'}, no},
     {{add, 3}, {{add, '$1'}, [{'>', '$1', 2}]}, yes}, {{add, 3}, {{add, '$1'}, [{'>', '$1', 3}]}, no},
     {{add, 3}, [{{add, 1}, [], ['$_']}, {{add, 3}, [], [true]}], yes},
     {{add, 3}, [{{sub, '$1'}, [{'>', '$1', 2}]}, {{add, '$1'}, [{'>', '$1', 2}]}], yes},
     %% What looks like no clause is a pattern: arguments are a list.
     {[{add, 3}, x], [{add, '_'}, '_'], yes}, {{ok, [1, 2]}, {ok, [1, '_']}, yes}, {{ok, []}, {ok, []}, yes},
     {{a, [{ok, 1}]}, {a, [{ok, '_'}]}, yes},
     %% Maps: by the keys that are asked for, wherever they stand.
     {#{a => 1, b => 2}, #{a => 1}, yes}, {{x, #{a => #{b => 1, c => 2}}}, {x, #{a => #{b => 1}}}, yes},
     {#{a => 1}, #{b => '_'}, no}, {#{}, #{a => '_'}, no}, {#{a => 1}, #{}, yes}, {[], #{}, no},
     %% Wrong ones are refused.
     {x, {{'$1'}, [{'>>', '$1', 3}]}, error}, {x, {{'$1'}, [{'>', '$2', 3}]}, error}, {x, {{'$1'}, [{is_atom, '$1', 3}]}, error},
     {x, #{'$1' => 2}, error}, {x, Deep, error}, {x, ['_' | lists:seq(1, 3000)], error},
     {x, [{'$1', [{foo, 1}], ['$_']}], error}].
