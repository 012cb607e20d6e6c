%% Real input: a three-node RabbitMQ cluster (test/support/rabbit_cluster), joined with nothing but its cookie while
%% messages flow at 500/s from node 1 to node 3.
-module(rabbit_SUITE).
-export([all/0, timeout/1, records_a_broker/1]).
-import(scope_test, [start_node/3, rpc/4, wait_until/2, assert_eq/2]).
-import(scope_daemon, [ask/3, await_nodes/3, all_events/4]).

all() -> [records_a_broker].
timeout(_) -> 240000.

records_a_broker(Config = #{tmp := Tmp}) ->
    Tool = filename:join([os:getenv("SCOPE_ROOT"), "test", "support", "rabbit_cluster"]),
    Dir = filename:join(Tmp, "rabbit"),
    Json = os:cmd(lists:join(" ", [Tool, "start", Dir, "--nodes", "3", "--owner", os:getpid()])),
    try with_broker(Config, Tool, Dir, Json)
    after os:cmd(lists:join(" ", [Tool, "stop", Dir]))
    end.

with_broker(Config0, Tool, Dir, Json) ->
    Rabbits = [R1, _, R3] = [list_to_atom(N) || [N] <- matches(Json, "\"(rabbit[0-9]@[a-z0-9.-]+)\"")],
    [[Cookie] | _] = matches(Json, "\"cookie\": *\"([^\"]+)\""),
    [[Port] | _] = matches(Json, "\"epmd_port\": *([0-9]+)"),
    Config = Config0#{cookie => Cookie, epmd_port => list_to_integer(Port)},
    Asker = start_node(Config, asker, #{hidden => true}),
    R1Handle = #{kind => node, node => R1, base => "rabbit", os_pid => 0},
    D = scope_daemon:start(Config, [R1Handle]),
    await_nodes(Asker, D, {[connected, tracing], Rabbits}),

    Load = scope_test:start_program(Config, Tool, ["load", Dir, "--messages", "5000", "--rate", "500"]),
    Remote = fun(Node, M, F, A) -> rpc(Asker, erpc, call, [Node, M, F, A]) end,
    QueuePid = await(fun() -> [element(2, lists:keyfind(pid, 1, I))
                               || I <- Remote(R1, rabbit_amqqueue, info_all, [<<"/">>, [pid]])] end),
    %% The consumer's channel, on node 3; the queue lives on node 1.
    Consumer = await(fun() -> [P || P <- Remote(R3, rabbit_channel, list_local, [])] end),
    true = node(QueuePid) =/= node(Consumer),

    #{id := Calls, nodes := N1} = ask(Asker, D, {start, #{modules => [rabbit_channel], events => [calls], for => 30000}}),
    assert_eq([ok, ok, ok], maps:values(N1)),
    #{id := Messages} =
        ask(Asker, D, {start, #{pids => [QueuePid, Consumer], events => [messages, message_take, state], for => 30000}}),

    wait_until(fun() ->
                       {Es, _} = all_events(Asker, D, #{module => rabbit_channel, type => function_entry}, newest_first),
                       length(Es) > 1000 orelse {calls, length(Es)}
               end, 20000),
    %% gen_server2: taking and state of the queue.
    wait_until(fun() ->
                       {Es, _} = all_events(Asker, D, #{pid => QueuePid, type => state_change}, newest_first),
                       length(Es) > 100 orelse {states, length(Es)}
               end, 20000),
    #{state := QueueState} = ask(Asker, D, {get_state_at, QueuePid, now}),
    true = is_tuple(QueueState),
    %% A message followed across nodes: deliveries from the queue to the consumer's channel.
    #{messages := Flow} = ask(Asker, D, {get_message_flow, QueuePid, Consumer, #{limit => 200}}),
    Followed = [M || M = #{matched := unique, from := F, sent := S, fetched := T} <- Flow,
                     F =:= QueuePid, is_integer(S), is_integer(T)],
    Kinds = lists:foldl(fun(#{from := F, matched := K, fetched := T}, Acc) ->
                                Key = {F =:= QueuePid, K, is_integer(T)},
                                Acc#{Key => maps:get(Key, Acc, 0) + 1}
                        end, #{}, Flow),
    scope_test:log("flow, {from the queue, matched, fetched}: ~p~n~P", [Kinds, hd(Flow), 60]),
    scope_test:log("~b messages of the queue followed to node 3, of ~b", [length(Followed), length(Flow)]),
    true = length(Followed) > 0,

    {ok, _} = rpc(Asker, gen_server, call, [{elixir_scope, maps:get(scope, D)}, {stop, Calls}]),
    {ok, _} = rpc(Asker, gen_server, call, [{elixir_scope, maps:get(scope, D)}, {stop, Messages}]),
    [_] = [L || L <- [scope_test:await_line(Load, "\"received\": *5000", 60000)]],
    assert_eq(#{}, maps:get(data_loss, ask(Asker, D, status))),
    assert_eq(0, scope_daemon:stop(D)),
    Out = os:cmd(verify_clean(Config, Rabbits) ++ "; echo status=$?"),
    scope_test:log("~ts", [Out]),
    match = re:run(Out, "status=0", [{capture, none}]).

verify_clean(#{tmp := Tmp, cookie := Cookie, epmd_port := Port}, Nodes) ->
    lists:flatten(io_lib:format("HOME=~s ERL_EPMD_ADDRESS=127.0.0.1 ERL_EPMD_PORT=~b ~s verify-clean --cookie ~s ~s 2>&1",
                                [Tmp, Port, scope_test:bin("scope"), Cookie,
                                 lists:join(" ", [atom_to_list(N) || N <- Nodes])])).

%% The first of what Fun finds, once it finds something.
await(Fun) ->
    wait_until(fun() -> case catch Fun() of [_ | _] -> true; Other -> Other end end, 20000),
    hd(Fun()).

matches(Text, Regex) ->
    case re:run(Text, Regex, [global, {capture, all_but_first, list}]) of
        {match, Found} -> Found;
        nomatch -> error({no, Regex, in, Text})
    end.
