%% What tracing costs a real broker (test/support/rabbit_cluster, three nodes), with the real daemon and the native tracer.
%% Sides alternate within the run: without a trace (the daemon is attached all the time), with one, without one ...
%% The load tool is Python on the same two cores. Run by test/bench/capture; prints figures a line each.
-module(rabbit_bench).
-export([all/0, timeout/1, rabbitmq/1]).
-import(scope_test, [start_node/3]).
-import(scope_daemon, [ask/3]).

-define(WIDE, [rabbit_channel, rabbit_amqqueue_process, rabbit_basic, rabbit_exchange, rabbit_writer, rabbit_reader, gen_server2]).

all() -> [].
timeout(_) -> 600000.

rabbitmq(Config = #{tmp := Tmp}) ->
    Tool = filename:join([os:getenv("SCOPE_ROOT"), "test", "support", "rabbit_cluster"]),
    Dir = filename:join(Tmp, "rabbit"),
    Json = os:cmd(lists:join(" ", [Tool, "start", Dir, "--nodes", "3", "--owner", os:getpid()])),
    try measure(Config, Tool ++ " load " ++ Dir, Json)
    after os:cmd(lists:join(" ", [Tool, "stop", Dir]))
    end.

measure(Config0, Load, Json) ->
    Rabbits = [R1 | _] = [list_to_atom(N) || [N] <- matches(Json, "\"(rabbit[0-9]@[a-z0-9.-]+)\"")],
    [[Cookie] | _] = matches(Json, "\"cookie\": *\"([^\"]+)\""),
    [[Port] | _] = matches(Json, "\"epmd_port\": *([0-9]+)"),
    Config = Config0#{cookie => Cookie, epmd_port => list_to_integer(Port)},
    Asker = start_node(Config, asker, #{hidden => true}),
    D = scope_daemon:start(Config, [#{kind => node, node => R1, base => "rabbit", os_pid => 0}], #{budget => []}),
    scope_daemon:await_nodes(Asker, D, {[connected, tracing], Rabbits}),
    Pids = [list_to_integer(scope_test:rpc(Asker, erpc, call, [N, os, getpid, []])) || N <- Rabbits],
    Side = fun(Trace, Args) ->
                   Id = case Trace of
                            none -> none;
                            _ ->
                                #{id := I} = ask(Asker, D, {start, Trace#{for => 120000}}),
                                I
                        end,
                   Cpu0 = cpu(Pids),
                   Result = os:cmd(Load ++ Args),
                   Cpu1 = cpu(Pids),
                   _ = Id =:= none orelse stop(Asker, D, Id),
                   Field = fun(Name) -> [[V]] = matches(Result, "\"" ++ Name ++ "\": ([0-9.]+)"), number(V) end,
                   0 = Field("lost"),
                   #{cpu => (Cpu1 - Cpu0) / Field("received"), p99 => Field("latency_ms_p99"), rate => Field("received_rate")}
           end,
    _ = Side(none, " --messages 4000 --rate 1000"),               % the brokers' first second is another one
    Pairs = fun(N, Trace, Args) -> [{Side(none, Args), Side(Trace, Args)} || _ <- lists:seq(1, N)] end,
    Paced = Pairs(5, #{profile => balanced}, " --messages 2500 --rate 500"),
    io:format("paced ~0p~n", [Paced]),
    Unpaced = Pairs(9, #{modules => ?WIDE, events => [function_entry], force => true}, " --messages 12000 --rate 1000000"),
    _ = scope_daemon:stop(D),
    Ratios = fun(Key, Of) -> lists:sort([map_get(Key, B) / map_get(Key, A) || {A, B} <- Of]) end,
    Kept = Ratios(rate, Unpaced),
    Figures = #{rabbitmq_cpu_per_message_ratio => median(Ratios(cpu, Paced)),
                rabbitmq_delivery_p99_ratio => median(Ratios(p99, Paced)),
                rabbitmq_cpu_us_per_message => median([map_get(cpu, A) / 1000 || {A, _} <- Paced]),
                rabbitmq_delivery_p99_ms => median([map_get(p99, A) || {A, _} <- Paced]),
                rabbitmq_unpaced_rate_kept => median(Kept),
                %% Of nine pairs the second lowest and highest are the median's interval at 96 %.
                rabbitmq_unpaced_rate_kept_low => lists:nth(2, Kept), rabbitmq_unpaced_rate_kept_high => lists:nth(8, Kept),
                rabbitmq_unpaced_cpu_ratio => median(Ratios(cpu, Unpaced)),
                rabbitmq_unpaced_messages_per_s => median([map_get(rate, A) || {A, _} <- Unpaced])},
    io:format("unpaced ~0p~n", [Unpaced]),
    [io:format("~s ~.4f~n", [K, V * 1.0]) || {K, V} <- maps:to_list(Figures)].

%% The ladder may have ended it.
stop(Asker, D, Id) -> scope_daemon:call(Asker, D, {stop, Id}).

%% Of all threads, in ns.
cpu(Pids) ->
    lists:sum([number(hd(string:lexemes(B, " "))) || P <- Pids, F <- filelib:wildcard("/proc/" ++ integer_to_list(P) ++ "/task/*/schedstat"),
                                                     {ok, B0} <- [file:read_file(F)], B <- [binary_to_list(B0)]]).

median(L) -> lists:nth((length(L) + 1) div 2, lists:sort(L)).

number(Text) -> try list_to_float(Text) catch error:badarg -> list_to_integer(Text) end.

matches(Text, Re) ->
    case re:run(Text, Re, [global, {capture, all_but_first, list}]) of {match, M} -> M; nomatch -> [] end.
