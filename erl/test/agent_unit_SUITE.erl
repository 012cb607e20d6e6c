%% The agent's pure parts, without a node: the hash against its golden vectors, the hold, the cutting of terms; what it is
%% compiled to.
-module(agent_unit_SUITE).

-compile([export_all, nowarn_export_all]).

-import(scope_test, [assert_eq/2, log/2]).

all() -> [hash_golden, hash_speed, hold_model, cut_is_bounded, ladder_settles, newer_releases_load_it].

init(Config) ->
    Dir = case os:getenv("SCOPE_AGENT_EBIN") of
              false -> filename:join(filename:dirname(code:which(?MODULE)), "agent");
              D -> D
          end,
    true = code:add_pathz(Dir),
    Config.

hash_golden(_) ->
    File = filename:join([os:getenv("SCOPE_ROOT", "."), "test", "golden", "match_hash.txt"]),
    {ok, Text} = file:read_file(File),
    Key = list_to_binary(lists:seq(0, 15)),
    Lines = [binary:split(L, <<" ">>, [global]) || L <- binary:split(Text, <<"\n">>, [global, trim_all])],
    true = length(Lines) > 10,
    [begin
         Term = binary_to_term(<<131, (from_hex(Hex))/binary>>),
         assert_eq({Hex, {binary_to_integer(Hash, 16), Bounded =:= <<"1">>}}, {Hex, scope_hash:hash(Term, Key)})
     end || [Hex, Hash, Bounded] <- Lines],
    log("~b vectors", [length(Lines)]).

from_hex(Hex) -> << <<(binary_to_integer(<<A, B>>, 16))>> || <<A, B>> <= Hex >>.

%% OTP 29 does not know bs_test_unit, which OTP 25 compiles a matched tail `/binary` to where it matches on in it: `/bits`.
newer_releases_load_it(_) ->
    Beams = filelib:wildcard(filename:join(filename:dirname(code:which(scope_hash)), "scope_*.beam")),
    true = length(Beams) > 20,
    assert_eq([], [{M, F, A} || Beam <- Beams, {beam_file, M, _, _, _, Functions} <- [beam_disasm:file(Beam)],
                                {function, F, A, _, Is} <- Functions, {test, bs_test_unit, _, _} <- Is]).

hash_speed(_) ->
    Key = list_to_binary(lists:seq(0, 15)),
    Term = {'$gen_call', {self(), make_ref()}, #{items => [{I, <<"some text">>} || I <- lists:seq(1, 500)]}},
    {Us, _} = timer:tc(fun() -> [scope_hash:hash(Term, Key) || _ <- lists:seq(1, 2000)] end),
    log("~b ns a hash of 64 nodes", [Us div 2]).

%% Random operations against a plain model: what goes in comes out in order without a hole, or is counted.
hold_model(_) ->
    rand:seed(exsss, {1, 2, 3}),
    [hold_run(rand:uniform(60)) || _ <- lists:seq(1, 300)].

hold_run(Steps) ->
    Limit = 500 + rand:uniform(3000),
    hold_steps(Steps, scope_hold:new(Limit), #{made => 0, got => [], counted => 0, seq => 0, limit => Limit}).

hold_steps(0, H0, M) ->
    %% a last session takes everything
    {H, M1} = drain(1 bsl 30, scope_hold:resume(map_get(seq, M), H0), M),
    {H2, M2} = drain(1 bsl 30, scope_hold:flush_gaps({0, 0}, scope_hold:ack(map_get(seq, M1), H)), M1),
    true = scope_hold:is_empty(scope_hold:ack(scope_hold:next_seq(H2), H2)),
    assert_eq(map_get(made, M2), length(map_get(got, M2)) + map_get(counted, M2)),
    assert_eq(lists:usort(map_get(got, M2)), lists:reverse(map_get(got, M2)));
hold_steps(N, H, M = #{made := Made, seq := Seq}) ->
    #{held_bytes := Held} = scope_hold:status(H),
    true = Held =< map_get(limit, M),
    {H1, M1} = case rand:uniform(10) of
                   R when R =< 5 ->
                       K = rand:uniform(20),
                       Events = lists:seq(Made + 1, Made + K),
                       {scope_hold:add({K, Made, Made + K, {0, 0}, [], 0, term_to_binary(Events)}, H),
                        M#{made := Made + K}};
                   R when R =< 7 -> drain(1000, H, M);
                   8 -> {scope_hold:ack(Seq, H), M};
                   9 -> {scope_hold:resume(Seq, H), M};
                   10 -> {scope_hold:flush_gaps({0, 0}, H), M}
               end,
    hold_steps(N - 1, H1, M1).

drain(Window, H, M = #{seq := Last, got := Got, counted := Counted}) ->
    case scope_hold:next(Window, H) of
        none -> {H, M};
        {Seq, _, Gaps, _, Bin, H1} when Seq =:= Last + 1 ->
            drain(Window, H1, M#{seq := Seq, got := lists:reverse(binary_to_term(Bin)) ++ Got,
                                 counted := Counted + lists:sum([N || {hold_full, N, _, _} <- Gaps])});
        {Seq, _, _, _, _, H1} when Seq =< Last -> drain(Window, H1, M)
    end.

%% Any term, however large or deep, is bounded in size and work.
cut_is_bounded(_) ->
    Wide = fun Wide(0) -> x; Wide(D) -> list_to_tuple([Wide(D - 1) || _ <- lists:seq(1, 6)]) end,
    Terms = [Wide(7), lists:seq(1, 1000000), maps:from_list([{I, {I}} || I <- lists:seq(1, 100000)]),
             binary:copy(<<0>>, 1 bsl 24), [[[[[[[[[[[x]]]]]]]]]]]],
    [begin
         {Us, B} = timer:tc(scope_cut, bounded, [T]),
         true = erlang:external_size(B) < 300000,
         log("~b us, ~b bytes of ~b", [Us, erlang:external_size(B), erlang:external_size(T)])
     end || T <- Terms].

%% Crowds and hammers that ask for any number of budgets, each of whom asks for the same all the time: after at most six
%% steps down nothing more is asked for than the budget has; if a few can be blamed for all that is too much they are
%% left out and everybody else is traced, and nobody is left out for nothing, or who is less busy than one who is traced.
ladder_settles(_) ->
    rand:seed(exsss, {7, 7, 7}),
    Pids = [spawn(fun() -> ok end) || _ <- lists:seq(1, 400)],
    Ends = [ladder_settles(Pids, I) || I <- lists:seq(1, 400)],
    log("~p", [[{E, length([x || X <- Ends, X =:= E])} || E <- lists:usort(Ends)]]),
    true = length([x || all_others <- Ends]) > 50.

ladder_settles(All, I) ->
    {Crowd, Rest} = lists:split(rand:uniform(300), All),
    Hammers = lists:sublist(Rest, I rem 4),
    CrowdAsks = 1.4 * rand:uniform(),
    Asks = maps:merge(maps:from_keys(Crowd, CrowdAsks / length(Crowd)),
                      maps:from_list([{P, math:exp(7 * rand:uniform() - 1)} || P <- Hammers])),
    L = settle(Asks, scope_budget:new(#{}), 0),
    Traced = traced(Asks, L),
    Out = scope_budget:left_out(L),
    true = lists:sum(maps:values(Traced)) =< 1.0,
    true = map_size(Out) =< 32,
    Rate = scope_budget:factor(L),
    case maps:size(Out) > 0 andalso Rate == 1.0 of
        true ->
            LeastOut = lists:min(maps:values(maps:with(maps:keys(Out), Asks))),
            true = LeastOut >= lists:max([0.0 | maps:values(Traced)]),
            true = LeastOut + lists:sum(maps:values(Traced)) > 0.7,      % none is left out for nothing
            assert_eq(maps:without(maps:keys(Out), Asks), Traced);
        false -> ok
    end,
    %% at most 0.7 of it by the many, and hammers that are too much: exactly these go
    case CrowdAsks < 0.6 andalso Hammers =/= [] andalso length(Crowd) > 20
        andalso lists:min([map_get(P, Asks) || P <- Hammers]) > 1 of
        true ->
            assert_eq(lists:sort(Hammers), lists:sort(maps:keys(Out))),
            assert_eq({fewer, 1.0}, {scope_budget:rung(L), Rate}),
            all_others;
        false -> scope_budget:rung(L)
    end.

traced(Asks, L) ->
    maps:filter(fun(P, _) -> scope_budget:in_sample(P, scope_budget:factor(L)) andalso not is_map_key(P, scope_budget:left_out(L)) end,
                Asks).

settle(Asks, L, Steps) when Steps =< 6 ->
    Traced = traced(Asks, L),
    case lists:sum(maps:values(Traced)) of
        Demand when Demand =< 1.0 -> L;
        Demand ->
            Most = lists:sublist(lists:reverse(lists:keysort(2, [{P, A / Demand} || {P, A} <- maps:to_list(Traced)])), 32),
            settle(Asks, scope_budget:down(cpu, false, Demand, Most, L), Steps + 1)
    end.
