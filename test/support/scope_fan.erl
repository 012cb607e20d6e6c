%% One handling that many others come of: a publisher tells all members of a pg group on three nodes, all that are registered
%% with an Elixir Registry, and a producer whose consumer asks for more after each event, by GenStage's protocol (the library is
%% not packaged; a stand-in speaks its messages, '$gen_producer' and '$gen_consumer').
%%
%%   {publish, N} -> {news, N} on each node            {told, N} twice on the first
%%                -> {queue, N} -> {events, N} -> ask
-module(scope_fan).
-behaviour(gen_server).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).
-export([record/2, expected/2, tree/4, registry/1]).
-import(scope_test, [start_node/3, rpc/2, rpc/4, node_of/1, wait_until/2, assert_eq/2]).
-import(scope_daemon, [ask/3, await_live/3, all_events/4]).

-define(GROUP, scope_fan).
-define(REGISTRY, 'Elixir.ScopeFan').

init(news) -> ok = pg:join(?GROUP, news, self()), {ok, #{}};
init(told) -> {ok, _} = 'Elixir.Registry':register(?REGISTRY, <<"told">>, []), {ok, #{}};
init(producer) -> {ok, #{demand => none}};
init({consumer, Producer}) -> Producer ! {'$gen_producer', {self(), make_ref()}, {ask, 1000}}, {ok, #{}};
init({publisher, Producer}) -> {ok, #{producer => Producer}}.

handle_call({publish, N}, _From, S = #{producer := Producer}) ->
    [P ! {news, N} || P <- pg:get_members(?GROUP, news)],
    'Elixir.Registry':dispatch(?REGISTRY, <<"told">>, fun(Entries) -> [P ! {told, N} || {P, _} <- Entries], ok end),
    gen_server:cast(Producer, {queue, N}),
    {reply, ok, S}.

handle_cast({queue, N}, S = #{demand := {{Consumer, Ref}, Left}}) when Left > 0 ->
    Consumer ! {'$gen_consumer', {self(), Ref}, [N]},
    {noreply, S#{demand := {{Consumer, Ref}, Left - 1}}}.

handle_info({'$gen_producer', To, {ask, More}}, S = #{demand := D}) ->
    {noreply, S#{demand := {To, More + case D of none -> 0; {To, Left} -> Left end}}};
handle_info({'$gen_consumer', {Producer, Ref}, Events}, S) ->
    Producer ! {'$gen_producer', {self(), Ref}, {ask, length(Events)}},
    {noreply, S};
handle_info(_, S) -> {noreply, S}.

%% What is handled for a request on so many nodes, each with the message whose handling caused it.
expected(N, Nodes) ->
    [{{publish, N}, client}, {{queue, N}, {publish, N}}, {{events, N}, {queue, N}}, {ask, {events, N}} |
     [{{news, N}, {publish, N}} || _ <- lists:seq(1, Nodes)]] ++ [{{told, N}, {publish, N}} || _ <- [1, 2]].

%% Takes: what was taken, by event id.
record(Config, Requests) ->
    Elixir = filename:join(os:cmd("elixir -e 'IO.write(:code.lib_dir(:elixir))'"), "ebin"),
    Nodes = [A | _] = [start_node(Config, N, #{args => ["-pa", Elixir]}) || N <- [publisher, second, third]],
    [{ok, _} = rpc(N, pg, start, [?GROUP]) || N <- Nodes],
    [pong = rpc(A, net_adm, ping, [node_of(N)]) || N <- tl(Nodes)],
    rpc(A, ?MODULE, registry, [?REGISTRY]),
    Server = fun(N, Arg) -> {ok, Pid} = rpc(N, gen_server, start, [?MODULE, Arg, []]), Pid end,
    News = [Server(N, news) || N <- Nodes],
    wait_until(fun() -> length(rpc(A, pg, get_members, [?GROUP, news])) =:= 3 end, 10000),
    Producer = Server(lists:last(Nodes), producer),
    All = [Publisher | _] = [Server(A, {publisher, Producer}), Producer, Server(A, told), Server(A, told),
                             Server(hd(tl(Nodes)), {consumer, Producer}) | News],
    D = scope_daemon:start(Config, Nodes),
    await_live(A, D, Nodes),
    #{nodes := Started} = ask(A, D, {start, [{pids, All}, {events, [messages, state]}]}),
    [assert_eq(ok, R) || R <- maps:values(Started)],
    Numbers = lists:seq(1, Requests),
    rpc(A, fun() -> [ok = gen_server:call(Publisher, {publish, N}) || N <- Numbers], ok end),
    Handled = fun() -> maps:from_list([{Id, What} || #{id := Id, message := M} <- element(1, all_events(A, D, #{type => message_take}, oldest_first)),
                                                     What <- said(M)]) end,
    Wanted = lists:sort([M || N <- Numbers, {M, _} <- expected(N, length(Nodes))]),
    wait_until(fun() -> Got = lists:sort(maps:values(Handled())), Got =:= Wanted orelse {missing, Wanted -- Got, beyond, Got -- Wanted} end, 30000),
    {A, D, Handled(), Numbers}.

said({'$gen_call', _, M}) -> [M];
said({'$gen_cast', M}) -> [M];
said({'$gen_consumer', _, [N]}) -> [{events, N}];
said({'$gen_producer', _, {ask, 1}}) -> [ask];
said(M = {_, N}) when is_integer(N) -> [M];
said(_) -> [].

%% Lives as long as its node.
registry(Name) ->
    {ok, _} = application:ensure_all_started(elixir),
    {ok, Registry} = 'Elixir.Registry':start_link([{keys, duplicate}, {name, Name}]),
    unlink(Registry).

%% The handlings of a request's tree, each with the one above it and how sure that is. One ask is as another: where the next comes
%% sooner than clocks can tell, it is `ambiguous` whose it is, though each was paired rightly.
tree(A, D, Takes, N) ->
    [Id] = [I || {I, {publish, M}} <- maps:to_list(Takes), M =:= N],
    #{spans := Spans, cut := []} = ask(A, D, {get_trace, Id}),
    ById = maps:from_list([{I, S} || S = #{id := I} <- Spans]),
    [{maps:get(I, Takes), scope_order:above(Parent, ById, Takes), Certainty}
     || #{id := I, parent := Parent, certainty := Certainty} <- Spans, is_map_key(I, Takes)].
