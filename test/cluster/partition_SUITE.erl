%% Hosts that lose each other, and a daemon that stands still: what is stated as lost, what is not lost, who waits for how long.
-module(partition_SUITE).
-export([all/0, timeout/1]).
-export([cut_off_and_back/1, one_way/1, between_two_nodes/1, a_stopped_daemon_frees_senders/1, stopped_under_load/1,
         cookie_changed/1, restarted_often/1, far_away/1, a_minute_between_two_nodes/1]).
-import(scope_test, [start_node/2, start_node/3, rpc/2, rpc/4, node_of/1, wait_until/2, assert_eq/2, kill/2, log/2]).
-import(scope_net, [nodes_and_daemon/3]).
-import(scope_daemon, [call/3, ask/3, await_live/3, await_nodes/3, all_events/4, lost/1]).

all() -> [cut_off_and_back, one_way, between_two_nodes, a_stopped_daemon_frees_senders, stopped_under_load, cookie_changed,
          restarted_often, far_away].
timeout(_) -> 180000.  % a_minute_between_two_nodes: label long

%% The numbers fetched by Pid, in order, and what is missing.
fetched(Asker, D, Pid) ->
    {Events, C} = all_events(Asker, D, #{pid => Pid, type => message_fetch}, oldest_first),
    {[K || #{message := {seq, K}} <- Events], C}.

await_all(Asker, D, Pid, Last, Ms) ->
    wait_until(fun() -> case catch fetched(Asker, D, Pid) of
                            {[_ | _] = Ks, _} -> lists:last(Ks) =:= Last orelse lists:last(Ks);
                            Other -> Other
                        end
               end, Ms),
    {Ks, C} = fetched(Asker, D, Pid),
    assert_eq(lists:seq(1, Last), Ks),
    C.

traced_counter(Node, Asker, D) ->
    {ok, Pid} = rpc(Node, scope_counter, start, [c]),
    #{nodes := PerNode} = ask(Asker, D, {start, #{pids => [Pid], events => [messages], for => 120000}}),
    [assert_eq(ok, R) || R <- maps:values(PerNode)],
    Pid.

%% Pumps from 1 to Last at Rate in a process of its own on Node.
pump(Node, Pid, Last, Rate) -> scope_test:cast(Node, fun() -> scope_counter:pump(Pid, 1, Last, Rate) end).

state_of(Asker, D, Node) ->
    #{nodes := #{Node := #{state := S}}} = ask(Asker, D, status),
    S.

%% A host without network for longer than it takes both sides to give the other up, under load: nothing lost, nothing twice.
cut_off_and_back(Config) ->
    scope_net:with_hosts(Config, 3, fun(Hosts = [H1 | _]) ->
        {[A, B], D} = nodes_and_daemon(Config, Hosts, []),
        Pid = traced_counter(A, B, D),
        pump(A, Pid, 20000, 1000),
        wait_until(fun() -> length(element(1, fetched(B, D, Pid))) > 500 end, 20000),
        scope_net:unplug(H1),
        await_nodes(B, D, {[down, connecting], [node_of(A)]}),
        wait_until(fun() -> not lists:member(maps:get(scope, D), rpc(A, erlang, nodes, [hidden])) end, 30000),
        scope_net:plug(H1),
        assert_eq([], lost(await_all(B, D, Pid, 20000, 60000)))
    end).

%% The node hears nothing of the daemon, the daemon would hear of it: the same.
one_way(Config) ->
    scope_net:with_hosts(Config, 3, fun(Hosts = [H1, _, H3]) ->
        {[A, B], D} = nodes_and_daemon(Config, Hosts, []),
        Pid = traced_counter(A, B, D),
        pump(A, Pid, 15000, 1000),
        wait_until(fun() -> length(element(1, fetched(B, D, Pid))) > 500 end, 20000),
        scope_net:drop(H3, H1),
        wait_until(fun() -> not lists:member(maps:get(scope, D), rpc(A, erlang, nodes, [hidden])) end, 30000),
        scope_net:undrop(H3, H1),
        assert_eq([], lost(await_all(B, D, Pid, 15000, 60000)))
    end).

%% Two nodes lose each other, the daemon sees both: what was sent and never came is not made up.
between_two_nodes(Config) ->
    scope_net:with_hosts(Config, 3, fun(Hosts = [H1, H2, _]) ->
        {[A, B], D} = nodes_and_daemon(Config, Hosts, []),
        true = rpc(A, net_kernel, connect_node, [node_of(B)]),
        {ok, Pid} = rpc(B, scope_counter, start, [c]),
        {ok, From} = rpc(A, scope_counter, start, [c]),
        _ = ask(B, D, {start, #{pids => [Pid, From], events => [messages, lifecycle], for => 120000}}),
        Send = fun(Ks) -> [rpc(A, gen_server, cast, [From, {relay, Pid, {add, K}}]) || K <- Ks] end,
        Send(lists:seq(1, 100)),
        wait_until(fun() -> length(flow(B, D, From, Pid)) =:= 100 end, 20000),
        scope_net:drop(H1, H2), scope_net:drop(H2, H1),
        Send(lists:seq(101, 200)),
        wait_until(fun() -> rpc(A, erlang, nodes, []) =:= [] andalso rpc(B, erlang, nodes, []) =:= [] end, 40000),
        scope_net:undrop(H1, H2), scope_net:undrop(H2, H1),
        wait_until(fun() -> rpc(A, net_kernel, connect_node, [node_of(B)]) end, 20000),
        Send(lists:seq(201, 300)),
        wait_until(fun() -> length([K || {K, _} <- flow(B, D, From, Pid), K > 200]) =:= 100 end, 20000),
        %% Nothing that was fetched lacks its sending, no pair is wrong, and what got lost has no fetch.
        #{n := Sum} = rpc(B, gen_server, call, [Pid, get]),
        Flow = flow(B, D, From, Pid),
        assert_eq(Sum, lists:sum([K || {K, come} <- Flow])),
        assert_eq(lists:seq(1, 300), [K || {K, _} <- Flow]),
        log("~b of 100 messages of the partition came", [length([K || {K, come} <- Flow, K > 100, K =< 200])]),
        %% The nodes themselves say that they lost each other.
        {Downs, _} = all_events(B, D, #{type => node_down}, oldest_first),
        [_ | _] = [E || #{node := N} = E <- Downs, N =:= node_of(A)]
    end).

%% [{K, come | under_way}] of the casts {add, K} from From to Pid, in order of sending.
flow(Asker, D, From, Pid) ->
    flow(Asker, D, From, Pid, #{limit => 500, order => oldest_first}).
flow(Asker, D, From, Pid, Filter) ->
    #{messages := Messages, next := none} = ask(Asker, D, {get_message_flow, From, Pid, Filter}),
    lists:sort([{K, case F of unknown -> under_way; _ -> come end}
                || #{message := {'$gen_cast', {add, K}}, sent := S, fetched := F} <- Messages, S =/= unknown]).

%% A minute in which two nodes do not hear each other, under traffic of which half is alike: {add, K}, each followed by {add, 0}. What
%% was fetched after {add, K} is what was sent after it; what is matched for sure is matched so. What did not come is `unknown`,
%% and both nodes say that they lost each other.
a_minute_between_two_nodes(Config) ->
    scope_net:with_hosts(Config, 3, fun(Hosts = [H1, H2, _]) ->
        {[A, B], D} = nodes_and_daemon(Config, Hosts, []),
        true = rpc(A, net_kernel, connect_node, [node_of(B)]),
        {ok, Pid} = rpc(B, scope_counter, start, [c]),
        {ok, From} = rpc(A, scope_counter, start, [c]),
        _ = ask(B, D, {start, #{pids => [Pid, From], events => [messages, lifecycle], for => 170000}}),
        Send = fun(K) -> [rpc(A, gen_server, cast, [From, {relay, Pid, {add, N}}]) || N <- [K, 0]] end,
        Come = fun() -> [K || {K, come} <- flow(B, D, From, Pid, #{limit => 1000, order => oldest_first}), K > 0] end,
        [Send(K) || K <- lists:seq(1, 50)],
        wait_until(fun() -> length(Come()) =:= 50 end, 20000),
        scope_net:drop(H1, H2), scope_net:drop(H2, H1),
        Until = erlang:monotonic_time(millisecond) + 60000,
        Last = (fun Go(K) -> case erlang:monotonic_time(millisecond) >= Until of
                                 true -> K - 1;
                                 false -> Send(K), timer:sleep(500), Go(K + 1)
                             end
                end)(51),
        scope_net:undrop(H1, H2), scope_net:undrop(H2, H1),
        wait_until(fun() -> rpc(A, net_kernel, connect_node, [node_of(B)]) end, 30000),
        [Send(K) || K <- lists:seq(Last + 1, Last + 50)],
        wait_until(fun() -> lists:member(Last + 50, Come()) end, 30000),
        #{messages := Messages, completeness := C1} =
            scope_daemon:steady(B, D, fun() -> ask(B, D, {get_message_flow, From, Pid, #{limit => 2000, order => oldest_first}}) end),
        {Fetches, C2} = all_events(B, D, #{pid => Pid, type => message_fetch}, oldest_first),
        [assert_eq([], lost(C)) || C <- [C1, C2]],
        Sent = after_which([{Id, N} || #{events := #{send := Id}, message := {'$gen_cast', {add, N}}} <- Messages]),
        Fetched = after_which([{Id, N} || #{id := Id, message := {'$gen_cast', {add, N}}} <- Fetches]),
        Pairs = [{M, maps:get(S, Sent), maps:get(F, Fetched)} || #{events := #{send := S, fetch := F}, matched := M} <- Messages, F =/= unknown],
        Sure = [P || {M, _, _} = P <- Pairs, M =/= ambiguous],
        log("~b sent, ~b matched, ~b of these for sure, ~b fetched", [length(Messages), length(Pairs), length(Sure), map_size(Fetched)]),
        assert_eq([], [P || {_, S, F} = P <- Sure, S =/= F]),
        assert_eq([], [P || {_, {S, N}, {F, N}} = P <- Pairs, N > 0, S =/= F]),
        true = length(Sure) >= 100,
        Lost = length(Messages) - map_size(Fetched),
        assert_eq(Lost, length([1 || #{matched := unknown} <- Messages])),
        true = Lost > 0,
        {Downs, _} = all_events(B, D, #{type => node_down}, oldest_first),
        [true = lists:member(node_of(N), [W || #{node := W} <- Downs]) || N <- [A, B]]
    end).

%% Of events in their process's order: each with its number and the last one over 0 up to it.
after_which(Events) ->
    {Out, _} = lists:mapfoldl(fun({Id, 0}, K) -> {{Id, {K, 0}}, K}; ({Id, N}, _) -> {{Id, {N, N}}, N} end, none, Events),
    maps:from_list(Out).

%% A node whose host is 20 ms away in one direction and 60 in the other: nothing is lost, the clocks say how unsure they are, and the
%% truth (all hosts have one clock here) lies within what they say.
far_away(Config) ->
    #{clock_width_over_min_rtt := Events, clock_now_width_over_min_rtt := Now, overlap := true, narrowest_ms := Narrowest} = scope_clocks:far(Config),
    true = Events =< 1.2,
    true = Now =< 1.2,
    %% What is narrower than what the forwarder adds would be wrong: rounds are no quicker, and no neighbour knows more.
    true = Narrowest >= 60,
    ok.

%% A daemon that stands still with its buffers full would keep whoever sends to it for ever. It does not: the agent cuts the link.
a_stopped_daemon_frees_senders(Config) ->
    A = start_node(Config, a),
    D = scope_daemon:start(Config, [A]),
    await_live(A, D, [A]),
    kill(D, "STOP"),
    Scope = maps:get(scope, D),
    Me = self(),
    Big = binary:copy(<<7>>, 100000),
    Begun = erlang:monotonic_time(millisecond),
    spawn_link(fun() ->
                       Sent = rpc(A, fun() -> suspended(Scope, Big, erlang:monotonic_time(millisecond) + 2000, 0) end),
                       Me ! {sent, Sent}
               end),
    receive {sent, Sent} -> ok after 60000 -> Sent = error(still_suspended) end,
    Ms = erlang:monotonic_time(millisecond) - Begun,
    log("~b sendings of 100 KB; the last one came back after ~b ms", [Sent, Ms]),
    false = lists:member(Scope, rpc(A, erlang, nodes, [hidden])),
    kill(D, "CONT"),
    await_live(A, D, [A]).

%% Sends until a sending takes as long as until Until.
suspended(Scope, Big, Until, N) ->
    {elixir_scope, Scope} ! Big,
    case erlang:monotonic_time(millisecond) > Until of
        true -> N + 1;
        false -> suspended(Scope, Big, Until, N + 1)
    end.

%% Stopped for 5 s under load and continued, and for 15 s: nothing is lost that fits into the hold.
stopped_under_load(Config) ->
    A = start_node(Config, a),
    D = scope_daemon:start(Config, [A]),
    await_live(A, D, [A]),
    Pid = traced_counter(A, A, D),
    pump(A, Pid, 25000, 1000),
    wait_until(fun() -> length(element(1, fetched(A, D, Pid))) > 500 end, 20000),
    [begin
         kill(D, "STOP"),
         receive after Ms -> ok end,
         kill(D, "CONT")
     end || Ms <- [4000, 14000]],
    assert_eq([], lost(await_all(A, D, Pid, 25000, 60000))).

%% A node whose cookie is changed keeps its link; once that is gone it is refused, until the cookie is the old one again.
cookie_changed(Config = #{cookie := Cookie}) ->
    A = start_node(Config, a),
    B = start_node(Config, b),
    D = scope_daemon:start(Config, [A, B]),
    await_live(B, D, [A, B]),
    true = rpc(A, erlang, set_cookie, [another]),
    true = lists:member(state_of(B, D, node_of(A)), [connected, tracing]),
    true = rpc(A, erlang, disconnect_node, [maps:get(scope, D)]),
    await_nodes(B, D, {[refused], [node_of(A)]}),
    #{nodes := Nodes} = ask(B, D, status),
    #{detail := Why} = maps:get(node_of(A), Nodes),
    log("~ts", [Why]),
    match = re:run(Why, "cookie", [{capture, none}]),
    true = rpc(A, erlang, set_cookie, [list_to_atom(Cookie)]),
    await_live(B, D, [A, B]).

%% One name, one node after the other: every one of them is told from the others, in pids and in answers.
restarted_often(Config) ->
    Times = case os:getenv("SCOPE_LONG") of false -> 8; _ -> 50 end,
    A = start_node(Config, a),
    Name = scope_test:unique_name(phoenix),
    D = scope_daemon:start(Config, [A]),
    await_live(A, D, [A]),
    _ = ask(A, D, {start, #{names => [c], events => [state], for => 600000}}),
    true = is_integer(Times),
    Pids = [one_life(Config, A, D, Name, K) || K <- lists:seq(1, Times)],
    Times = length(lists:usort(Pids)),
    [begin
         #{state := #{n := N}} = ask(A, D, {get_state_at, Pid, now}),
         assert_eq(K, N)
     end || {K, Pid} <- lists:zip(lists:seq(1, Times), Pids)],
    {Ups, _} = all_events(A, D, #{type => node_up}, oldest_first),
    log("~b lives, ~b times seen to come up", [Times, length([1 || #{peer := N} <- Ups, N =:= Name])]).

one_life(Config, A, D, Name, K) ->
    B = start_node(Config, Name),
    true = rpc(A, net_kernel, connect_node, [Name]),
    {ok, Pid} = rpc(B, scope_counter, start, [c]),
    await_live(A, D, [B]),
    %% The trace is there a moment after the node is.
    wait_until(fun() ->
                       rpc(B, gen_server, call, [c, {add, 0}]),
                       case call(A, D, {get_state_at, Pid, now}) of
                           {ok, #{state := #{n := 0}}} -> true;
                           Other -> Other
                       end
               end, 20000),
    K = rpc(B, gen_server, call, [c, {add, K}]),
    wait_until(fun() -> case call(A, D, {get_state_at, Pid, now}) of {ok, #{state := #{n := K}}} -> true; O -> O end end, 20000),
    scope_test:kill(B),
    Pid.
