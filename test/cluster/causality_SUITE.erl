%% Causal traces of requests that carry a number (scope_order.erl), through front -> orders -> stock on three real nodes, against
%% what the servers did, and against seq_trace's labels; and the order of what was handled for each.
-module(causality_SUITE).
-export([all/0, timeout/1, a_request_is_one_tree/1, the_demo_shop/1, groups_registries_and_demand/1, an_end_is_passed_on/1]).
-import(scope_test, [wait_until/2, assert_eq/2]).
-import(scope_daemon, [ask/3, call/3, all_events/4]).
-import(scope_order, [expected/1, trace/4, tree/4]).

all() -> [a_request_is_one_tree, the_demo_shop, groups_registries_and_demand, an_end_is_passed_on].
timeout(_) -> 90000.

%% Several clients at once, so that requests are mixed in every server's queue.
a_request_is_one_tree(Config) ->
    {A, D, Takes, Numbers, Labels} = scope_order:record(Config, 4, 10),
    wait_until(fun() -> catch ready(A, D, Takes, Numbers) end, 20000),
    [assert_eq(lists:sort(expected(N)), lists:sort(tree(A, D, Takes, N))) || N <- Numbers],
    assert_eq(lists:sort([scope_order:label(N) || N <- Numbers]), lists:sort(maps:keys(Labels))),
    [assert_eq(lists:sort(maps:get(scope_order:label(N), Labels)), lists:sort(tree(A, D, Takes, N))) || N <- Numbers],
    %% The list has each of them once, whoever asks in whatever pages; what a server is told last is the list's newest.
    Roots = lists:usort([root(A, D, Takes, N) || N <- Numbers]),
    assert_eq(length(Numbers), length(Roots)),
    orders(A, D, Takes, Numbers),
    Listed = listed(A, D, #{limit => 7, order => oldest_first}, []),
    assert_eq(lists:sort(Listed), lists:usort(Listed)),
    assert_eq([], Roots -- Listed),
    assert_eq([], [Root || #{id := Root, errors := E} <- maps:get(traces, ask(A, D, {get_traces, #{limit => 1000}})), E > 0]),
    {error, {unknown_key, #{field := minduration}}} = call(A, D, {get_traces, #{minduration => 3}}),
    {error, {bad_value, #{field := id}}} = call(A, D, {get_trace, 17}),
    {error, {not_recorded, _}} = call(A, D, {get_trace, binary:copy(<<255>>, 24)}),
    ok.

%% Calls, casts, a gen_statem and tasks that are spawned for each request, timers: the causes that their code tells.
the_demo_shop(Config) ->
    {A, D, Numbers, Labels} = scope_shop:record(Config, 40, 5),
    Trees = scope_shop:compare(A, D, Numbers, Labels),
    Odd = [X || X = {_, ByNumber, ByLabel} <- Trees, ByNumber =/= same orelse ByLabel =/= same],
    scope_test:log("~p requests, ~p with another tree: ~p", [length(Numbers), length(Odd), Odd]),
    true = length(Numbers) >= 150,
    true = length(Odd) * 100 =< length(Numbers),
    ok.

%% Messages without a reference, to many at once.
groups_registries_and_demand(Config) ->
    {A, D, Takes, Numbers} = scope_fan:record(Config, 20),
    Trees = fun() -> [{N, scope_fan:tree(A, D, Takes, N)} || N <- Numbers] end,
    Whole = fun({N, Tree}) -> lists:sort([{M, Above} || {M, Above, _} <- Tree]) =:= lists:sort(scope_fan:expected(N, 3)) end,
    wait_until(fun() -> Odd = [T || T <- Trees(), not Whole(T)], Odd =:= [] orelse {odd, hd(Odd)} end, 20000),
    Edges = [{M, C} || {_, Tree} <- Trees(), {M, Above, C} <- Tree, Above =/= client],
    scope_test:log("~p edges, ~p ambiguous", [length(Edges), length([M || {M, ambiguous} <- Edges])]),
    assert_eq([], [M || {M, C} <- Edges, M =/= ask, not lists:member(C, [exact, unique])]).

%% What ended a server that did nothing wrong: its worker's crash, by their link. One that was told to stop has no such cause.
an_end_is_passed_on(Config) ->
    Nodes = [A] = [scope_test:start_node(Config, shop)],
    [Linked, Told] = [begin {ok, P} = scope_test:rpc(A, gen_server, start, [scope_ends, [], []]), P end || _ <- [1, 2]],
    D = scope_daemon:start(Config, Nodes),
    scope_daemon:await_live(A, D, Nodes),
    #{nodes := Started} = ask(A, D, {start, [{all, true}, {events, [messages, state, lifecycle, links]}]}),
    [assert_eq(ok, R) || R <- maps:values(Started)],
    scope_test:rpc(A, fun() ->
        gen_server:cast(Linked, {worker, bad_luck}),
        gen_server:cast(Told, {worker, normal}),
        ok = gen_server:call(Told, sync),
        exit(Told, bad_luck)
    end),
    Trace = fun(Pid) ->
        [#{id := Take} | _] = element(1, all_events(A, D, #{type => message_take, pid => Pid}, oldest_first)),
        [_] = element(1, all_events(A, D, #{type => process_exit, pid => Pid}, oldest_first)),
        ask(A, D, {get_trace, Take})
    end,
    wait_until(fun() -> catch is_list([Trace(P) || P <- [Linked, Told]]) end, 20000),
    #{spans := Spans, links := [{From, To, exit}]} = Trace(Linked),
    [#{kind := spawn, error := <<"bad_luck">>}] = [S || S = #{id := Id} <- Spans, Id =:= From],
    [#{kind := cast, pid := Linked, error := <<"bad_luck">>}] = [S || S = #{id := Id} <- Spans, Id =:= To],
    #{spans := All, links := Links} = Trace(Told),
    [_ | _] = Of = [Id || #{id := Id, pid := P} <- All, P =:= Told],
    assert_eq([], [L || L = {_, Ended, exit} <- Links, lists:member(Ended, Of)]).

%% Of each request every two handlings of which one led to the other, over whatever steps: by messages, both ways round. Of one
%% process its own order, whatever the requests.
orders(A, D, Takes, Numbers) ->
    ById = maps:from_list([{M, Id} || {Id, M} <- maps:to_list(Takes)]),
    Order = fun(X, Y) -> ask(A, D, {get_order, maps:get(X, ById), maps:get(Y, ById)}) end,
    Pairs = [{X, Y} || N <- Numbers, {X, Y} <- led_to(expected(N))],
    Found = [begin
                 #{order := before, why := Why, path := Path} = Order(X, Y),
                 assert_eq(after_, case Order(Y, X) of #{order := 'after', why := Why} -> after_; Other -> Other end),
                 Why =:= messages andalso assert_eq({maps:get(X, ById), maps:get(Y, ById)}, {hd(Path), lists:last(Path)}),
                 Why
             end || {X, Y} <- Pairs],
    scope_test:log("order: ~p pairs, by messages ~p", [length(Pairs), length([W || W <- Found, W =:= messages])]),
    assert_eq([], [W || W <- Found, W =/= messages]),
    [#{order := same} = Order(X, X) || {X, _} <- lists:sublist(Pairs, 3)],
    Stock = lists:sort([{maps:get(time, E), Id, M} || E = #{id := Id} <- element(1, all_events(A, D, #{type => message_take}, oldest_first)),
                                                    #{Id := M} <- [Takes], lists:member(element(1, M), [reserve, count])]),
    [#{order := before, why := process} = Order(X, Y) || {{_, _, X}, {_, _, Y}} <- lists:zip(lists:droplast(Stock), tl(Stock))],
    ok.

%% Chains only: who is above whom, over all generations.
led_to(Expected) ->
    Parent = maps:from_list(Expected),
    Up = fun Up(M) -> case Parent of #{M := client} -> []; #{M := P} -> [P | Up(P)] end end,
    [{P, M} || {M, _} <- Expected, P <- Up(M)].

%% The sends arrive after the takes that they explain at times.
ready(A, D, Takes, Numbers) ->
    lists:all(fun(N) -> length(tree(A, D, Takes, N)) =:= length(expected(N)) end, Numbers).

root(A, D, Takes, N) -> maps:get(id, trace(A, D, Takes, N)).

listed(A, D, Filter, Acc) ->
    #{traces := Traces, next := Next} = ask(A, D, {get_traces, Filter}),
    Ids = Acc ++ [Id || #{id := Id} <- Traces],
    case Next of
        none -> Ids;
        _ -> listed(A, D, Filter#{cursor => Next}, Ids)
    end.
