%% Causal traces of requests that carry a number, through front -> orders -> stock on three real nodes, against what the
%% servers did; and the order of events of one request, and of several.
-module(causality_SUITE).
-export([all/0, timeout/1, a_request_is_one_tree/1]).
-import(scope_test, [start_node/2, rpc/2, rpc/4, node_of/1, wait_until/2, assert_eq/2]).
-import(scope_daemon, [ask/3, call/3, await_live/3, all_events/4]).

all() -> [a_request_is_one_tree].
timeout(_) -> 90000.

-define(CLIENTS, 4).
-define(EACH, 10).

%% What is handled for a request (scope_order.erl), each with the message whose handling caused it.
expected(N) when N rem 3 =:= 0 -> [{{lookup, N}, client}, {{count, N}, {lookup, N}}];
expected(N) ->
    [{{order, N}, client}, {{place, N}, {order, N}}, {{reserve, N}, {place, N}}, {{placed, N}, {place, N}},
     {{reserved, N}, {reserve, N}}].

%% Several clients at once, so that requests are mixed in every server's queue.
a_request_is_one_tree(Config) ->
    Nodes = [A, B, C] = [start_node(Config, N) || N <- [front, orders, stock]],
    D = scope_daemon:start(Config, Nodes),
    await_live(A, D, Nodes),
    Log = server(B, log, #{}),
    Stock = server(C, stock, #{log => {log, node_of(B)}}),
    Orders = server(B, orders, #{stock => {stock, node_of(C)}, log => {log, node_of(B)}}),
    Front = server(A, front, #{orders => {orders, node_of(B)}, stock => {stock, node_of(C)}}),
    Clients = [rpc(A, fun() -> spawn(fun() -> client(Front) end) end) || _ <- lists:seq(1, ?CLIENTS)],
    #{nodes := Started} = ask(A, D, {start, [{pids, [Log, Stock, Orders, Front | Clients]}, {events, [messages, state]}]}),
    [assert_eq(ok, R) || R <- maps:values(Started)],
    Numbers = lists:seq(1, ?CLIENTS * ?EACH),
    [rpc(A, fun() -> spawn(fun() -> drive(Client, [N || N <- Numbers, N rem ?CLIENTS =:= K]) end) end)
     || {K, Client} <- lists:zip(lists:seq(0, ?CLIENTS - 1), Clients)],
    Wanted = lists:sort(lists:append([[M || {M, _} <- expected(N)] || N <- Numbers])),
    Handled = fun() -> element(1, all_events(A, D, #{type => message_take}, oldest_first)) end,
    Said = fun(#{message := {'$gen_call', _, M}}) -> [M]; (#{message := {'$gen_cast', M}}) -> [M]; (_) -> [] end,
    %% All of it has arrived: each server's last state, too.
    States = fun() -> element(1, all_events(A, D, #{type => state_change}, oldest_first)) end,
    wait_until(fun() -> length(Handled()) >= length(Wanted) andalso length(States()) >= length(Wanted) end, 30000),
    Takes = maps:from_list([{Id, M} || E = #{id := Id} <- Handled(), M <- Said(E)]),
    assert_eq(Wanted, lists:sort(maps:values(Takes))),
    wait_until(fun() -> catch ready(A, D, Takes, Numbers) end, 20000),
    [assert_eq(lists:sort(expected(N)), lists:sort(tree(A, D, Takes, N))) || N <- Numbers],
    orders(A, D, Takes, Numbers),
    %% The list has each of them once, whoever asks in whatever pages; what a server is told last is the list's newest.
    Roots = lists:usort([root(A, D, Takes, N) || N <- Numbers]),
    assert_eq(length(Numbers), length(Roots)),
    Listed = listed(A, D, #{limit => 7, order => oldest_first}, []),
    assert_eq(lists:sort(Listed), lists:usort(Listed)),
    assert_eq([], Roots -- Listed),
    assert_eq([], [Root || #{id := Root, errors := E} <- maps:get(traces, ask(A, D, {get_traces, #{limit => 1000}})), E > 0]),
    {error, {unknown_key, #{field := minduration}}} = call(A, D, {get_traces, #{minduration => 3}}),
    {error, {bad_value, #{field := id}}} = call(A, D, {get_trace, 17}),
    {error, {not_recorded, _}} = call(A, D, {get_trace, binary:copy(<<255>>, 24)}),
    ok.

%% Of each request every two handlings of which one was begun by the other, or before it by the same one: by messages or by
%% their process, and neither other way round, nor concurrent. Of two requests at once never the contrary of a chain.
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
    %% Takings of one process: its own order, whatever the request.
    Stock = lists:sort([{maps:get(time, E), Id, M} || E = #{id := Id} <- element(1, all_events(A, D, #{type => message_take}, oldest_first)),
                                                    #{Id := M} <- [Takes], lists:member(element(1, M), [reserve, count])]),
    [#{order := before, why := process} = Order(X, Y) || {{_, _, X}, {_, _, Y}} <- lists:zip(lists:droplast(Stock), tl(Stock))],
    ok.

%% Chains only: who is above whom, over all generations.
led_to(Expected) ->
    Parent = maps:from_list(Expected),
    Up = fun Up(M) -> case Parent of #{M := client} -> []; #{M := P} -> [P | Up(P)] end end,
    [{P, M} || {M, _} <- Expected, P <- Up(M)].

server(Node, Name, Next) ->
    {ok, Pid} = rpc(Node, gen_server, start, [{local, Name}, scope_order, Next, []]),
    Pid.

%% A plain process; it is told each request when the one before is done, so it has fetched one message when it calls.
client(Front) ->
    receive
        {N, Driver} ->
            [{Request, client} | _] = expected(N),
            {ok, N} = gen_server:call(Front, Request, 30000),
            Driver ! done,
            client(Front)
    end.

drive(Client, Numbers) ->
    [begin Client ! {N, self()}, receive done -> ok end end || N <- Numbers].

%% The sends arrive after the takes that they explain at times.
ready(A, D, Takes, Numbers) ->
    lists:all(fun(N) -> length(tree(A, D, Takes, N)) =:= length(expected(N)) end, Numbers).

trace(A, D, Takes, N) ->
    [{First, _} | _] = expected(N),
    [Id] = [I || {I, M} <- maps:to_list(Takes), M =:= First],
    ask(A, D, {get_trace, Id}).

root(A, D, Takes, N) -> maps:get(id, trace(A, D, Takes, N)).

%% The handlings of the tree that holds the request's first one, each with the handling above it. The root is what the
%% client fetched, from the driver, which was not recorded; calls stand between handlings.
tree(A, D, Takes, N) ->
    #{id := Root, spans := Spans, cut := []} = trace(A, D, Takes, N),
    ById = maps:from_list([{Id, S} || S = #{id := Id} <- Spans]),
    #{Root := #{kind := info, parent := none, origin := untraced}} = ById,
    [begin
         true = lists:member(Certainty, case Kind of handle -> [exact]; cast -> [exact, unique] end),
         {maps:get(Id, Takes), above(Parent, ById, Takes)}
     end || #{id := Id, kind := Kind, parent := Parent, certainty := Certainty} <- Spans,
            Kind =:= handle orelse Kind =:= cast].

above(none, _, _) -> client;
above(Id, ById, Takes) ->
    case Takes of
        #{Id := Message} -> Message;
        _ -> above(maps:get(parent, maps:get(Id, ById)), ById, Takes)
    end.

listed(A, D, Filter, Acc) ->
    #{traces := Traces, next := Next} = ask(A, D, {get_traces, Filter}),
    Ids = Acc ++ [Id || #{id := Id} <- Traces],
    case Next of
        none -> Ids;
        _ -> listed(A, D, Filter#{cursor => Next}, Ids)
    end.
