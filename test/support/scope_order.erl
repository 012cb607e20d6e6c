%% Servers for tests that pass the number of a request on, from node to node.
%%
%%   {order, N}    front calls orders: {place, N}, which calls stock: {reserve, N}, then casts {placed, N} to log
%%   {reserve, N}  casts {reserved, N} to log
%%   {lookup, N}   front calls stock: {count, N}
%% A server's argument says who is next: #{orders => .., stock => .., log => ..}. Its state has the last number.
%%
%% record/3 has clients ask front on three real nodes with a daemon, and is back when all of it is recorded; tree/4 is what the
%% daemon says of one request, to be compared with expected/1, and with what the tokens say that the clients gave their requests
%% (Labels, by label/1): a truth that numbers have no part in, and of which the daemon knows nothing.
-module(scope_order).
-behaviour(gen_server).
-export([init/1, handle_call/3, handle_cast/2]).
-export([record/3, expected/1, trace/4, tree/4, above/3, label/1]).
-import(scope_test, [start_node/2, rpc/2, rpc/4, node_of/1, wait_until/2, assert_eq/2]).
-import(scope_daemon, [ask/3, await_live/3, all_events/4]).

init(Next) -> {ok, #{next => Next, last => none}}.

handle_call({order, N}, _From, S = #{next := #{orders := To}}) -> {reply, gen_server:call(To, {place, N}), S#{last := N}};
handle_call({lookup, N}, _From, S = #{next := #{stock := To}}) -> {reply, gen_server:call(To, {count, N}), S#{last := N}};
handle_call({place, N}, _From, S = #{next := #{stock := Stock, log := Log}}) ->
    Reply = gen_server:call(Stock, {reserve, N}),
    gen_server:cast(Log, {placed, N}),
    {reply, Reply, S#{last := N}};
handle_call({reserve, N}, _From, S = #{next := #{log := Log}}) ->
    gen_server:cast(Log, {reserved, N}),
    {reply, {ok, N}, S#{last := N}};
handle_call({count, N}, _From, S) -> {reply, {ok, N}, S#{last := N}}.

handle_cast({_, N}, S) -> {noreply, S#{last := N}}.

%% What is handled for a request, each with the message whose handling caused it.
expected(N) when N rem 3 =:= 0 -> [{{lookup, N}, client}, {{count, N}, {lookup, N}}];
expected(N) ->
    [{{order, N}, client}, {{place, N}, {order, N}}, {{reserve, N}, {place, N}}, {{placed, N}, {place, N}},
     {{reserved, N}, {reserve, N}}].

%% Clients * Each requests by so many clients at once, numbered from 1. Takes: what was taken, by event id. Labels: #{label(N) =>
%% what tokens make expected(N)}.
record(Config, Clients, Each) ->
    Nodes = [A, B, C] = [start_node(Config, N) || N <- [front, orders, stock]],
    D = scope_daemon:start(Config, Nodes),
    await_live(A, D, Nodes),
    Log = server(B, log, #{}),
    Stock = server(C, stock, #{log => {log, node_of(B)}}),
    Orders = server(B, orders, #{stock => {stock, node_of(C)}, log => {log, node_of(B)}}),
    Front = server(A, front, #{orders => {orders, node_of(B)}, stock => {stock, node_of(C)}}),
    Tracers = [{N, rpc(N, scope_tokens, observe, [])} || N <- Nodes],
    Drivers = [rpc(A, fun() -> spawn(fun() -> client(Front) end) end) || _ <- lists:seq(1, Clients)],
    #{nodes := Started} = ask(A, D, {start, [{pids, [Log, Stock, Orders, Front | Drivers]}, {events, [messages, state]}]}),
    [assert_eq(ok, R) || R <- maps:values(Started)],
    Numbers = lists:seq(1, Clients * Each),
    [rpc(A, fun() -> spawn(fun() -> drive(Client, [N || N <- Numbers, N rem Clients =:= K]) end) end)
     || {K, Client} <- lists:zip(lists:seq(0, Clients - 1), Drivers)],
    Wanted = lists:sort(lists:append([[M || {M, _} <- expected(N)] || N <- Numbers])),
    Handled = fun() -> element(1, all_events(A, D, #{type => message_take}, oldest_first)) end,
    Said = fun(#{message := {'$gen_call', _, M}}) -> [M]; (#{message := {'$gen_cast', M}}) -> [M]; (_) -> [] end,
    %% All of it has arrived: each server's last state, too.
    States = fun() -> element(1, all_events(A, D, #{type => state_change}, oldest_first)) end,
    wait_until(fun() -> length(Handled()) >= length(Wanted) andalso length(States()) >= length(Wanted) end, 60000),
    Takes = maps:from_list([{Id, M} || E = #{id := Id} <- Handled(), M <- Said(E)]),
    assert_eq(Wanted, lists:sort(maps:values(Takes))),
    assert_eq([], element(1, all_events(A, D, #{type => [seq_send, seq_receive]}, oldest_first))),
    Labels = scope_tokens:trees(lists:append([rpc(N, scope_tokens, seen, [T]) || {N, T} <- Tracers]),
                                fun({'$gen_call', _, M}) -> [M]; ({'$gen_cast', M}) -> [M]; (_) -> [] end),
    {A, D, Takes, Numbers, Labels}.

server(Node, Name, Next) ->
    {ok, Pid} = rpc(Node, gen_server, start, [{local, Name}, scope_order, Next, []]),
    Pid.

%% A plain process; it is told each request when the one before is done, so it has fetched one message when it calls.
client(Front) ->
    receive
        {N, Driver} ->
            [{Request, client} | _] = expected(N),
            scope_tokens:label(label(N)),
            {ok, N} = gen_server:call(Front, Request, 30000),
            seq_trace:set_token([]),
            Driver ! done,
            client(Front)
    end.

drive(Client, Numbers) ->
    [begin Client ! {N, self()}, receive done -> ok end end || N <- Numbers].

label(N) -> 1000000 + N.

trace(A, D, Takes, N) ->
    [{First, _} | _] = expected(N),
    [Id] = [I || {I, M} <- maps:to_list(Takes), M =:= First],
    ask(A, D, {get_trace, Id}).

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

%% The message of the handling that a span (by its parent) is under; client: of none.
above(none, _, _) -> client;
above(Id, ById, Takes) ->
    case Takes of
        #{Id := Message} -> Message;
        _ -> above(maps:get(parent, maps:get(Id, ById)), ById, Takes)
    end.
