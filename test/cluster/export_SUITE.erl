%% What was recorded, in the forms of others: requests through front -> orders -> stock on three real nodes, as sequence diagrams.
-module(export_SUITE).
-export([all/0, init/1, timeout/1, a_flow_as_a_diagram/1]).
-import(scope_test, [start_node/2, rpc/4, node_of/1, wait_until/2, assert_eq/2]).
-import(scope_cli, [scope/2, on_terminal/3, uncoloured/1, has/2]).

-spec all() -> [atom()].
all() -> [a_flow_as_a_diagram].

-spec init(scope_test:config()) -> scope_test:config().
init(Config) -> scope_cli:cookie(Config).

-spec timeout(atom()) -> pos_integer().
timeout(_) -> 120000.

-define(ORDERS, 4).

%% front calls orders for each order: a request and its reply, all four of which are proved by their reference.
-spec a_flow_as_a_diagram(scope_test:config()) -> ok.
a_flow_as_a_diagram(Config) ->
    {D = #{scope := Scope}, [A, B, _]} = orders_are_made(Config),
    Ends = [process(front, A), process(orders, B)],
    Flow = fun() -> maps:get(messages, scope_daemon:ask(A, D, {get_message_flow, {front, node_of(A)}, {orders, node_of(B)}, #{}})) end,
    wait_until(fun() -> Found = Flow(), length(Found) =:= 2 * ?ORDERS andalso [] =:= [M || M = #{matched := How} <- Found, How =/= exact] end, 20000),
    Args = ["flow" | Ends] ++ ["--scope", atom_to_list(Scope)],
    {0, Coloured} = on_terminal(Config, Args ++ ["--diagram"], [{"COLUMNS", "90"}]),
    {match, _} = re:run(iolist_to_binary(Coloured), "\e\\[32m├", [unicode]),
    Lines = uncoloured(Coloured),
    [true = string:length(L) =< 90 || L <- Lines],
    Drawn = [L || L <- Lines, {match, _} <- [re:run(L, "[▶◀]", [unicode])]],
    assert_eq(2 * ?ORDERS, length(Drawn)),
    %% In the order in which they were sent: each request, then its reply.
    [begin
         has([Request], io_lib:format("^ [0-9:.]+ +├─ call \\{place,~b\\} ─*▶│ +[-0-9.]+ .?s ±[0-9.]+ .?s", [N])),
         has([Reply], io_lib:format("^ [0-9:.]+ +│◀─+ reply \\{ok,~b\\} ─┤ +[-0-9.]+ .?s ±", [N]))
     end || {N, [Request, Reply]} <- lists:zip(lists:seq(1, ?ORDERS), pairs(Drawn))],
    {0, [<<"sequenceDiagram">>, First, Second | Source]} = scope(Config, Args ++ ["--mermaid"]),
    has([First], "^    participant a as #60;front_"),
    has([Second], "^    participant b as #60;orders_"),
    assert_eq(?ORDERS, length([L || L <- Source, {match, _} <- [re:run(L, "^    a->>b: ")]])),
    assert_eq(?ORDERS, length([L || L <- Source, {match, _} <- [re:run(L, "^    b->>a: ")]])),
    {2, _} = scope(Config, Args ++ ["--mermaid", "--diagram"]),
    {2, _} = scope(Config, Args ++ ["--mermaid", "--json"]),
    ok.

pairs([A, B | More]) -> [[A, B] | pairs(More)];
pairs([]) -> [].

process(Name, Node) -> atom_to_list(Name) ++ "@" ++ atom_to_list(node_of(Node)).

%% The daemon and the three nodes, when what ?ORDERS orders did has been recorded.
orders_are_made(Config) ->
    Nodes = [A, B, C] = [start_node(Config, N) || N <- [front, orders, stock]],
    D = scope_daemon:start(Config, Nodes),
    scope_daemon:await_live(A, D, Nodes),
    Log = server(B, log, #{}),
    Stock = server(C, stock, #{log => {log, node_of(B)}}),
    Orders = server(B, orders, #{stock => {stock, node_of(C)}, log => {log, node_of(B)}}),
    Front = server(A, front, #{orders => {orders, node_of(B)}, stock => {stock, node_of(C)}}),
    #{nodes := Started} = scope_daemon:ask(A, D, {start, [{pids, [Log, Stock, Orders, Front]}, {events, [messages, state]}]}),
    [assert_eq(ok, R) || R <- maps:values(Started)],
    [assert_eq({ok, N}, rpc(A, gen_server, call, [Front, {order, N}])) || N <- lists:seq(1, ?ORDERS)],
    %% An order is handled by front, orders and stock, and told to log twice.
    States = fun() -> element(1, scope_daemon:all_events(A, D, #{type => state_change}, oldest_first)) end,
    wait_until(fun() -> length(States()) >= 5 * ?ORDERS end, 30000),
    {D, Nodes}.

server(Node, Name, Next) ->
    {ok, Pid} = rpc(Node, gen_server, start, [{local, Name}, scope_order, Next, []]),
    Pid.
