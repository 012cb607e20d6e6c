%% Requests followed by seq_trace's tokens, through front -> orders -> stock on three real nodes. $SCOPE_TARGET_OTP says of
%% which OTP the first two nodes are.
-module(follow_SUITE).
-export([all/0, timeout/1]).
-export([one_of_many/1, several_shots/1, where_the_inferred_tree_differs/1, a_function/1, bounded_and_redacted/1,
         another_tool_holds_the_tracer/1, leaves_no_trace/1, too_many_events/1, the_budget_ends_it/1,
         the_agent_is_killed/1]).
-export([followed_function/1]).
-import(scope_test, [start_node/2, start_node/3, rpc/2, rpc/4, node_of/1, wait_until/2, assert_eq/2]).
-import(scope_daemon, [ask/3, call/3, await_live/3, all_events/4]).
-import(scope_cli, [scope/2, scope/3, has/2]).

all() -> [one_of_many, several_shots, where_the_inferred_tree_differs, a_function, bounded_and_redacted, another_tool_holds_the_tracer,
          leaves_no_trace, too_many_events, the_budget_ends_it, the_agent_is_killed].
timeout(_) -> 90000.

cluster(Config) -> cluster(Config, #{}).
cluster(Config, Opts) ->
    Nodes = [A, B, C] = [start_node(Config, front, target()), start_node(Config, orders, target()), start_node(Config, stock)],
    D = scope_daemon:start(scope_cli:cookie(Config), Nodes, Opts),
    await_live(A, D, Nodes),
    Log = server(B, log, #{}),
    Stock = server(C, stock, #{log => {log, node_of(B)}}),
    Orders = server(B, orders, #{stock => {stock, node_of(C)}, log => {log, node_of(B)}}),
    Front = server(A, front, #{orders => {orders, node_of(B)}, stock => {stock, node_of(C)}}),
    {Nodes, D, [Front, Orders, Stock, Log]}.

target() ->
    case os:getenv("SCOPE_TARGET_OTP") of
        false -> #{};
        Otp -> #{otp => list_to_integer(Otp)}
    end.

server(Node, Name, Next) ->
    {ok, Pid} = rpc(Node, gen_server, start, [{local, Name}, scope_order, Next, []]),
    Pid.

follow(A, D, Opts) ->
    #{id := Id, nodes := Per} = ask(A, D, {start, Opts}),
    [assert_eq(ok, R) || R <- maps:values(Per)],
    3 = map_size(Per),
    Id.

%% Each request by a process of its own, all at once; true when all have their answers.
requests(A, Front, Numbers) ->
    Pids = rpc(A, fun() -> [spawn(fun() -> {ok, N} = gen_server:call(Front, {order, N}, 30000) end) || N <- Numbers] end),
    wait_until(fun() -> not rpc(A, fun() -> lists:any(fun is_process_alive/1, Pids) end) end, 30000).

seq(A, D, Type) -> element(1, all_events(A, D, #{type => Type}, oldest_first)).

number_in({'$gen_call', _, {_, N}}) -> [N];
number_in({'$gen_cast', {_, N}}) -> [N];
number_in({_, {ok, N}}) -> [N];
number_in(_) -> [].

said({'$gen_call', _, M}) -> M;
said({'$gen_cast', M}) -> M;
said(M) -> M.

%% Each handling of the trace that holds the event, with the one above it.
handlings(A, D, Id) ->
    #{spans := Spans, cut := []} = ask(A, D, {get_trace, Id}),
    Takes = maps:from_list([{I, said(M)} || T <- [message_take, seq_receive], #{id := I, message := M} <- seq(A, D, T)]),
    ById = maps:from_list([{I, S} || S = #{id := I} <- Spans]),
    {[{maps:get(I, Takes), scope_order:above(P, ById, Takes)} || #{id := I, kind := K, parent := P} <- Spans, K =:= handle orelse K =:= cast],
     Spans}.

expected(N) ->
    [{{order, N}, client}, {{place, N}, {order, N}}, {{reserve, N}, {place, N}}, {{placed, N}, {place, N}}, {{reserved, N}, {reserve, N}}].

%% Nothing but the follow is traced. What the VM says of the token is the request, and only it.
one_of_many(Config) ->
    {[A | _], D, [Front | _]} = cluster(Config),
    Id = follow(A, D, [{follow, {front, node(Front)}}]),
    requests(A, Front, lists:seq(1, 40)),
    %% place, reserve and two casts; the answers of stock, orders and front: 7 messages.
    wait_until(fun() -> {length(seq(A, D, seq_send)), length(seq(A, D, seq_receive))} =:= {7, 7} end, 20000),
    Events = seq(A, D, seq_send) ++ seq(A, D, seq_receive),
    [N] = lists:usort(lists:append([number_in(M) || #{message := M} <- Events])),
    assert_eq([1], lists:usort([length(number_in(M)) || #{message := M} <- Events])),
    [_] = lists:usort([L || #{label := L} <- Events]),
    %% Sends and receives are the same pairs.
    Pairs = fun(T, Key) -> lists:sort([{S, M, case Key of pid -> maps:get(pid, E); from -> maps:get(from, E) end}
                                       || E = #{serial := S, message := M} <- seq(A, D, T)]) end,
    assert_eq(Pairs(seq_send, pid), Pairs(seq_receive, from)),
    [Take] = [I || #{id := I, message := {'$gen_call', _, {order, X}}} <- seq(A, D, message_take), X =:= N],
    wait_until(fun() -> length(element(1, handlings(A, D, Take))) =:= 5 end, 10000),
    {Tree, Spans} = handlings(A, D, Take),
    assert_eq(lists:sort(expected(N)), lists:sort(Tree)),
    assert_eq([exact], lists:usort([C || #{certainty := C} <- Spans])),
    %% The first one has no token yet when it is taken.
    assert_eq(4, length([T || #{kind := K, token := T} <- Spans, K =:= handle orelse K =:= cast, is_binary(T)])),
    assert_eq([none], lists:usort([Df || #{differs := Df} <- Spans])),
    [#{differs := 0}] = [T || T = #{tokens := 4} <- maps:get(traces, ask(A, D, {get_traces, #{limit => 1000}}))],
    {0, Shown} = scope(Config, ["traces", shown(maps:get(id, hd(Spans)))], [{"SCOPE_NODE", atom_to_list(maps:get(scope, D))}]),
    has(Shown, "exact \\(token\\)"),
    _ = ask(A, D, {stop, Id}),
    ok.

%% With everything traced besides: the token's tree is the inferred one.
several_shots(Config) ->
    {[A | _], D, Pids = [Front | _]} = cluster(Config),
    _ = follow(A, D, [{follow, {front, node(Front)}}, {shots, 3}, {pids, Pids}, {events, [messages, state]}]),
    requests(A, Front, lists:seq(1, 40)),
    wait_until(fun() -> length(seq(A, D, seq_receive)) =:= 21 andalso length(seq(A, D, message_take)) >= 200 end, 20000),
    Add = fun(#{label := L, message := M}, Acc) -> Acc#{L => lists:usort(number_in(M) ++ maps:get(L, Acc, []))} end,
    By = lists:foldl(Add, #{}, seq(A, D, seq_receive)),
    Numbers = lists:append(maps:values(By)),
    assert_eq({3, 3}, {map_size(By), length(lists:usort(Numbers))}),
    Firsts = [I || #{id := I, message := {'$gen_call', _, {order, N}}} <- seq(A, D, message_take), lists:member(N, Numbers)],
    wait_until(fun() -> [length(element(1, handlings(A, D, F))) || F <- Firsts] =:= [5, 5, 5] end, 10000),
    [begin
         {Tree, Spans} = handlings(A, D, First),
         [N] = [X || {{order, X}, _} <- Tree],
         assert_eq(lists:sort(expected(N)), lists:sort(Tree)),
         assert_eq([exact], lists:usort([C || #{certainty := C} <- Spans])),
         assert_eq([none], lists:usort([Df || #{differs := Df} <- Spans])),
         assert_eq(4, length([T || #{token := T} <- Spans, is_binary(T)]))
     end || First <- Firsts],
    ok.

%% A plain process has three messages when it begins to send: which of them made it send is a guess, and a wrong one.
where_the_inferred_tree_differs(Config) ->
    {[A | _], D, _} = cluster(Config),
    {ok, First} = rpc(A, gen_server, start, [{local, first}, scope_relay, none, []]),
    {ok, Sink} = rpc(A, gen_server, start, [{local, sink}, scope_relay, none, []]),
    Worker = rpc(A, fun() -> spawn(fun() -> worker(Sink) end) end),
    _ = follow(A, D, [{follow, {first, node(First)}}, {pids, [First, Sink, Worker]}, {events, [messages, state]}]),
    ok = rpc(A, gen_server, cast, [First, {pass, Worker, {job, 1}}]),
    wait_until(fun() -> rpc(A, erlang, process_info, [Worker, message_queue_len]) =:= {message_queue_len, 1} end, 5000),
    rpc(A, fun() -> Worker ! {job, 2}, Worker ! go end),
    Taken = fun() -> [I || #{id := I, message := {'$gen_cast', {done, 1}}} <- seq(A, D, message_take)] end,
    wait_until(fun() -> length(Taken()) =:= 1 andalso length(seq(A, D, seq_receive)) =:= 2 end, 10000),
    [Done] = Taken(),
    wait_until(fun() -> length(maps:get(spans, ask(A, D, {get_trace, Done}))) >= 3 end, 10000),
    #{spans := Spans} = ask(A, D, {get_trace, Done}),
    ById = maps:from_list([{I, S} || S = #{id := I} <- Spans]),
    #{parent := Job, certainty := exact, token := Token, differs := none} = map_get(Done, ById),
    true = is_binary(Token),
    #{name := <<"job/2">>, certainty := exact, parent := Pass, differs := #{cause := Guess, certainty := ambiguous}} = map_get(Job, ById),
    #{name := <<"pass/3">>} = map_get(Pass, ById),
    [_] = [1 || #{id := I, message := go} <- seq(A, D, message_fetch), I =:= Guess],
    [_] = [T || T = #{differs := 1} <- maps:get(traces, ask(A, D, {get_traces, #{limit => 100}}))],
    ok.

%% Calls of a function, by whomever.
a_function(Config) ->
    {[A | _], D, [_, Orders | _]} = cluster(Config),
    _ = follow(A, D, [{follow, {?MODULE, followed_function, 1}}, {shots, 2}]),
    rpc(A, fun() -> [spawn(fun() -> followed_function(fun() -> gen_server:cast(Orders, {n, N}) end) end) || N <- [1, 2, 3, 4]] end),
    wait_until(fun() -> length(seq(A, D, seq_receive)) >= 2 end, 10000),
    assert_eq([A1 || A1 <- [node(Orders)]], lists:usort([node(P) || #{pid := P} <- seq(A, D, seq_receive)])),
    %% Counted in a word of the node: two that call at the same instant may both be the last.
    true = length(seq(A, D, seq_send)) =< 4,
    ok.

followed_function(Fun) -> Fun().

%% A message that a token shows is cut and hidden as every other is.
bounded_and_redacted(Config) ->
    {[A | _], D, _} = cluster(Config),
    {ok, First} = rpc(A, gen_server, start, [{local, first}, scope_relay, none, []]),
    _ = follow(A, D, [{follow, {first, node(First)}}]),
    Sink = rpc(A, fun() -> spawn(fun sink/0) end),
    ok = rpc(A, gen_server, cast, [First, {pass, Sink, #{password => <<"hunter2">>, list => lists:duplicate(3000, large_and_dull)}}]),
    wait_until(fun() -> length(seq(A, D, seq_receive)) =:= 1 end, 10000),
    [begin
         [#{message := #{password := Hidden, list := List}, redacted := true, truncated := Bytes} = E] = seq(A, D, Type),
         {'$scope_redacted', _} = Hidden,
         nomatch = re:run(term_to_binary(E), "hunter2"),
         true = Bytes > 10000 andalso length(lists:sublist(improper(List), 100)) < 100
     end || Type <- [seq_send, seq_receive]],
    ok.

improper([H | T]) -> [H | improper(T)];
improper(_) -> [].

%% On one node somebody else is the system tracer: nothing is followed anywhere, and he is named.
another_tool_holds_the_tracer(Config) ->
    {Nodes = [A, B, _], D, [Front | _]} = cluster(Config),
    Other = rpc(B, fun() -> P = spawn(fun() -> register(other_tool, self()), receive stop -> ok end end), P end),
    wait_until(fun() -> rpc(B, erlang, whereis, [other_tool]) =:= Other end, 5000),
    false = rpc(B, seq_trace, set_system_tracer, [Other]),
    {error, {owned_by, #{hint := Hint}}} = call(A, D, {start, [{follow, {front, node(Front)}}]}),
    has([Hint], atom_to_list(node_of(B))),
    has([Hint], "seq_trace,\\{other_tool,"),
    assert_eq([false, Other, false], [rpc(N, seq_trace, get_system_tracer, []) || N <- Nodes]),
    assert_eq([], maps:get(tracing, ask(A, D, status))),
    requests(A, Front, [1, 2]),
    assert_eq([], seq(A, D, seq_send)),
    %% One follow at a time, too: there is one system tracer.
    Other = rpc(B, seq_trace, set_system_tracer, [false]),
    Id = follow(A, D, [{follow, {front, node(Front)}}]),
    {error, {refused, #{field := follow}}} = call(A, D, {start, [{follow, {front, node(Front)}}]}),
    requests(A, Front, [3]),
    wait_until(fun() -> length(seq(A, D, seq_receive)) =:= 7 end, 10000),
    _ = ask(A, D, {stop, Id}),
    ok.

leaves_no_trace(Config) ->
    {Nodes = [A | _], D, [Front | _]} = cluster(Config),
    Id = follow(A, D, [{follow, {front, node(Front)}}, {shots, 2}]),
    requests(A, Front, [1, 2, 3]),
    wait_until(fun() -> length(seq(A, D, seq_receive)) =:= 14 end, 10000),
    assert_eq([true, true, true], [is_pid(rpc(N, seq_trace, get_system_tracer, [])) || N <- Nodes]),
    _ = ask(A, D, {stop, Id}),
    assert_eq([false, false, false], [rpc(N, seq_trace, get_system_tracer, []) || N <- Nodes]),
    assert_eq([0, 0, 0], [rpc(N, erlang, system_info, [trace_control_word]) || N <- Nodes]),
    %% A token goes with the next message that is taken.
    requests(A, Front, [4]),
    assert_eq([], [{N, P} || N <- Nodes, P <- tokens(N)]),
    %% A user's own tokens are his.
    Own = rpc(A, fun() -> spawn(fun() -> seq_trace:set_token(label, mine), receive stop -> ok end end) end),
    0 = scope_daemon:stop(D),
    [assert_eq([], [R || R = {K, _} <- scope_daemon:residue(N), K =/= modules]) || N <- Nodes],
    [{0, _} = scope(Config, ["verify-clean", atom_to_list(node_of(N))]) || N <- Nodes],
    {sequential_trace_token, {_, mine, _, _, _}} = rpc(A, erlang, process_info, [Own, sequential_trace_token]),
    ok.

shown(Id) -> [case C of $+ -> $-; $/ -> $_; _ -> C end || C <- base64:encode_to_string(Id)].

tokens(Node) ->
    rpc(Node, fun() -> [P || P <- processes(), {_, {_, L, _, _, _}} <- [process_info(P, sequential_trace_token)],
                             is_integer(L), L bsr 22 =:= 23] end).

%% A request that sets off a storm: the follow goes, what is missing is counted, and the node works on.
too_many_events(Config) ->
    {Nodes = [A | _], D, _} = cluster(Config),
    {ok, First} = rpc(A, gen_server, start, [{local, first}, scope_relay, none, []]),
    Id = follow(A, D, [{follow, {first, node(First)}}]),
    Sink = rpc(A, fun() -> spawn(fun sink/0) end),
    ok = rpc(A, gen_server, cast, [First, {storm, Sink, 100000}]),
    wait_until(fun() -> rpc(A, seq_trace, get_system_tracer, []) =:= false end, 10000),
    ok = rpc(A, gen_server, call, [First, ping]),
    %% What came and what is said to be missing are what was made: so many in a second, or in the queue.
    Came = fun() -> length(seq(A, D, seq_send)) + length(seq(A, D, seq_receive)) end,
    wait_until(fun() -> [Lost || #{reason := over_budget, dropped := Lost} <- seq(A, D, gap),
                                 is_integer(Lost), Lost + Came() >= 5000] =/= [] end, 10000),
    true = Came() =< 5100,
    %% The others follow on; here it has ended.
    assert_eq([false, true, true], [is_pid(rpc(Node, seq_trace, get_system_tracer, [])) || Node <- Nodes]),
    assert_eq(0, rpc(A, erlang, system_info, [trace_control_word])),
    _ = ask(A, D, {stop, Id}),
    assert_eq([false, false, false], [rpc(Node, seq_trace, get_system_tracer, []) || Node <- Nodes]),
    ok.

sink() -> receive _ -> sink() end.

%% Something else on the node spends the budget: the follow is what the first step down takes away, and the step says why.
the_budget_ends_it(Config) ->
    {Nodes = [A | _], D, [Front | _]} = cluster(Config, #{budget => ["--budget-percent", "0.2"]}),
    Id = follow(A, D, [{follow, {front, node(Front)}}, {shots, 100}, {force, true}]),
    requests(A, Front, [1]),
    wait_until(fun() -> {length(seq(A, D, seq_send)), length(seq(A, D, seq_receive))} =:= {7, 7} end, 20000),
    1 = rpc(A, erlang, system_info, [trace_control_word]),
    _ = ask(A, D, {start, [{mfas, [{?MODULE, followed_function, 1}]}, {nodes, [node_of(A)]}, {force, true}]}),
    Busy = rpc(A, fun() -> spawn(fun busy/0) end),
    Steps = fun() -> lists:sort([{U, F} || #{reason := stepped_down, node := N, until := U, figures := F} <- seq(A, D, gap), N =:= node_of(A)]) end,
    wait_until(fun() -> rpc(A, seq_trace, get_system_tracer, []) =:= false andalso Steps() =/= [] end, 20000),
    [{_, #{ended := follow, cause := Cause, from := full, to := full, budget := #{cpu := 0.2}, spent := #{events := _, cpu := _}}} | _] = Steps(),
    true = lists:member(Cause, [cpu, events]),
    %% That it ended is a gap, and an answer over that time is not complete.
    wait_until(fun() ->
                       {Gaps, C} = all_events(A, D, #{node => node_of(A), type => gap}, oldest_first),
                       [ok || #{reason := trace_stopped} <- Gaps] =/= [] andalso not maps:get(complete, C)
               end, 10000),
    %% The others follow on. Here nobody gets a token any more, and what has one loses it with the next message.
    assert_eq([false, true, true], [is_pid(rpc(N, seq_trace, get_system_tracer, [])) || N <- Nodes]),
    assert_eq(0, rpc(A, erlang, system_info, [trace_control_word])),
    Before = length(seq(A, D, seq_send)),
    requests(A, Front, [2, 3]),
    assert_eq([], [{N, P} || N <- Nodes, P <- tokens(N)]),
    assert_eq(Before, length(seq(A, D, seq_send))),
    rpc(A, erlang, exit, [Busy, kill]),
    _ = ask(A, D, {stop, Id}),
    0 = scope_daemon:stop(D),
    [{0, _} = scope(Config, ["verify-clean", atom_to_list(node_of(N))]) || N <- Nodes],
    ok.

busy() ->
    _ = [followed_function(fun() -> ok end) || _ <- lists:seq(1, 200)],
    receive after 1 -> busy() end.

%% Without the guard nobody gives anything back but the VM itself, and whoever is left.
the_agent_is_killed(Config) ->
    {[A | _], D, [Front | _]} = cluster(Config),
    _ = follow(A, D, [{follow, {front, node(Front)}}]),
    requests(A, Front, [1]),
    1 = rpc(A, erlang, system_info, [trace_control_word]),
    true = rpc(A, fun() -> exit(whereis(scope_agent), kill) end),
    wait_until(fun() -> rpc(A, seq_trace, get_system_tracer, []) =:= false andalso rpc(A, erlang, system_info, [trace_control_word]) =:= 0
                            andalso rpc(A, erlang, whereis, [scope_follow]) =:= undefined end, 5000),
    requests(A, Front, [2]),
    ok.

%% --- processes --------------------------------------------------------------------------------------------------------

worker(Sink) ->
    receive go -> ok end,
    receive {job, 1} -> gen_server:cast(Sink, {done, 1}) end,
    receive {job, 2} -> gen_server:cast(Sink, {done, 2}) end,
    receive never -> ok end.
