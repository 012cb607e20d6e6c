%% The whole way, from a traced process to an answer: real nodes, the real daemon, asked from a node of the cluster.
-module(spine_SUITE).
-export([all/0, timeout/1]).
-export([stopped_while_deploying/1, answers_hello_and_status/1, wrong_requests/1, unknown_name_is_noproc_at_once/1, records_calls/1,
         state_at_any_time/1, an_idle_nodes_state_is_proven/1, state_history_and_causes/1, flow_across_nodes/1, lifecycle_and_names/1,
         finds_nodes_by_itself/1, a_node_that_is_gone_is_forgotten/1, coverage_is_by_time/1, what_no_trace_names_is_said/1, leaves_no_trace/1, a_second_start_is_a_union/1, trace_expires/1, what_is_not_there_is_named/1]).
-import(scope_test, [start_node/2, rpc/2, rpc/4, node_of/1, wait_until/2, assert_eq/2]).
-import(scope_daemon, [call/3, ask/3, await_live/3, all_events/4]).

all() -> [answers_hello_and_status, wrong_requests, unknown_name_is_noproc_at_once, records_calls, state_at_any_time, an_idle_nodes_state_is_proven,
          state_history_and_causes, flow_across_nodes, lifecycle_and_names, finds_nodes_by_itself, a_node_that_is_gone_is_forgotten, coverage_is_by_time, what_no_trace_names_is_said, leaves_no_trace,
          stopped_while_deploying,
          a_second_start_is_a_union, trace_expires, what_is_not_there_is_named].
timeout(_) -> 90000.

cluster(Config, Names) ->
    Nodes = [start_node(Config, N) || N <- Names],
    Daemon = scope_daemon:start(Config, Nodes),
    await_live(hd(Nodes), Daemon, Nodes),
    {Nodes, Daemon}.

start_trace(Node, Daemon, Opts) ->
    #{id := Id, nodes := PerNode} = ask(Node, Daemon, {start, Opts}),
    [assert_eq(ok, R) || R <- maps:values(PerNode)],
    Id.

%% Waits until events are there that satisfy Pred.
await_events(Node, Daemon, Filter, Pred) ->
    wait_until(fun() -> Pred(element(1, all_events(Node, Daemon, Filter, oldest_first))) end, 10000),
    {Events, _} = all_events(Node, Daemon, Filter, oldest_first),
    Events.

answers_hello_and_status(Config) ->
    {[A, B], D} = cluster(Config, [a, b]),
    #{api := 1, features := Features} = ask(A, D, hello),
    true = lists:member(get_events, Features),
    #{nodes := Nodes, store := #{events := _, bytes := _}, tracing := [], node := Scope} = ask(B, D, status),
    assert_eq(maps:get(scope, D), Scope),
    assert_eq(lists:sort([node_of(A), node_of(B)]), lists:sort(maps:keys(Nodes))),
    #{nodes := Clocks} = ask(A, D, clocks),
    wait_until(fun() ->
                       #{nodes := C} = ask(A, D, clocks),
                       map_size(C) =:= 2
               end, 5000),
    true = is_map(Clocks).

wrong_requests(Config) ->
    {[A], D} = cluster(Config, [a]),
    {error, {unknown_key, #{field := limitt, hint := Hint}}} = call(A, D, {get_events, #{limitt => 3}}),
    match = re:run(Hint, "limit", [{capture, none}]),
    {error, {bad_value, #{field := limit}}} = call(A, D, {get_events, #{limit => many}}),
    {error, {_, #{}}} = call(A, D, nonsense),
    {error, {_, #{}}} = call(A, D, {get_eventz, #{}}),
    {error, {not_available, #{}}} = call(A, D, {get_snapshot_at, now, []}),
    {error, {bad_value, #{field := id}}} = call(A, D, {get_trace, 1}),
    {error, {no_such_trace, #{}}} = call(A, D, {stop, 42}),
    {error, {_, #{}}} = call(A, D, {get_state_at, no_such_name, now}),
    {error, {unknown_key, #{field := colour}}} = call(A, D, {start, [{colour, blue}]}),
    Future = erlang:system_time(nanosecond) + 3600000000000,
    {error, {time_in_future, #{}}} = call(A, D, {get_state_at, self(), Future}),
    {error, {unknown_node, #{}}} = call(A, D, {start, [{nodes, ['nobody@localhost']}]}),
    {error, {unknown_key, #{}}} = call(A, D, {update_config, ping_mss, 3}),
    {error, {refused, #{}}} = call(A, D, {update_config, hold_bytes, 3}),
    {error, {refused, #{}}} = call(A, D, {update_config, query_deadline_ms, 300}),
    {ok, _} = call(A, D, {update_config, ping_ms, 300}),
    #{api := 1} = ask(A, D, hello).

%% A name or function with a slip of the pen traces nothing, and the start's answer says so.
what_is_not_there_is_named(Config) ->
    {[A, B], D} = cluster(Config, [a, b]),
    {ok, _} = rpc(A, scope_counter, start, [c1]),
    #{left_out := Out, nodes := Only} = ask(A, D, {start, #{names => [{c1, node_of(A)}, {c2, node_of(A)}],
                                             modules => [scope_countr], mfas => [{scope_counter, pum, 4}]}}),
    assert_eq([node_of(A)], maps:keys(Only)),       % it names nobody on the other: that is not everybody there
    assert_eq([{c2, not_registered}, {{scope_counter, pum, 4}, not_found}, {{scope_countr, '_', '_'}, not_found}],
              lists:sort(maps:get(node_of(A), Out))),
    #{left_out := None} = ask(A, D, {start, #{modules => [scope_counter]}}),
    assert_eq(#{}, None),
    true = is_map(B).

unknown_name_is_noproc_at_once(Config) ->
    {[A], #{scope := Scope}} = cluster(Config, [a]),
    {Us, {'EXIT', {noproc, _}}} =
        rpc(A, fun() -> timer:tc(fun() -> catch gen_server:call({no_such, Scope}, x, 5000) end) end),
    true = Us < 500000.

records_calls(Config) ->
    {[A], D} = cluster(Config, [a]),
    {ok, Pid} = rpc(A, scope_counter, start, [c1]),
    _ = start_trace(A, D, #{mfas => [{scope_counter, handle_call, 3}], pids => [Pid], events => [calls]}),
    [rpc(A, gen_server, call, [c1, {add, K}]) || K <- lists:seq(1, 20)],
    _ = await_events(A, D, #{pid => Pid, type => function_entry}, fun(L) -> length(L) >= 20 end),
    scope_daemon:steady(A, D, fun() -> filters_agree(A, D, Pid) end).

filters_agree(A, D, Pid) ->
    {Events, _} = all_events(A, D, #{pid => Pid, type => function_entry}, oldest_first),
    assert_eq(20, length(Events)),
    assert_eq(lists:seq(1, 20),
              [K || #{mfa := {scope_counter, handle_call, 3}, args := [{add, K}, _, _]} <- Events]),
    %% Times rise within a process, ids are unique, every filter agrees with the list.
    Times = [T || #{time := T} <- Events],
    assert_eq(Times, lists:sort(Times)),
    assert_eq(20, length(lists:usort([Id || #{id := Id} <- Events]))),
    T10 = lists:nth(10, Times),
    {Since, _} = all_events(A, D, #{pid => Pid, type => function_entry, since => T10}, oldest_first),
    assert_eq(11, length(Since)),
    {Newest, _} = all_events(A, D, #{pid => Pid, type => function_entry}, newest_first),
    assert_eq(lists:reverse(Events), Newest).

%% The state at T is compared with what the server itself noted.
state_at_any_time(Config) ->
    {[A, B], D} = cluster(Config, [a, b]),
    {ok, Pid} = rpc(A, scope_counter, start, [c1]),
    _ = start_trace(A, D, #{pids => [Pid], events => [state]}),
    [rpc(A, gen_server, call, [c1, {add, K}]) || K <- lists:seq(1, 30)],
    Events = await_events(A, D, #{pid => Pid, type => state_change}, fun(L) -> length(L) >= 30 end),
    %% After the n-th add, n is the sum of 1..n.
    States = [S || #{state := S} <- Events],
    assert_eq([K * (K + 1) div 2 || K <- lists:seq(1, 30)], [N || #{n := N, seq := Q} <- States, Q > 0]),
    scope_daemon:steady(B, D, fun() -> moments_are_inferred(B, D, Pid) end),
    %% Between two states, further from both than the clock's error, it is proven.
    receive after 100 -> ok end,
    rpc(A, gen_server, call, [c1, {add, 31}]),
    Two = await_events(A, D, #{pid => Pid, type => state_change}, fun(L) -> length(L) > length(Events) end),
    [#{time := T2, state := _}, #{time := T1, state := S1} | _] = lists:reverse(Two),
    wait_until(fun() ->
                       #{state := S1, why := Why} = ask(B, D, {get_state_at, Pid, (T1 + T2) div 2}),
                       Why =:= [] orelse Why
               end, 5000),
    #{state := Last} = ask(B, D, {get_state_at, Pid, now}),
    assert_eq(rpc(A, gen_server, call, [c1, get]), Last),
    %% By name, and by text with its node.
    #{state := Last} = ask(B, D, {get_state_at, {c1, node_of(A)}, now}),
    {error, {not_recorded, _}} = call(B, D, {get_state_at, Pid, maps:get(time, hd(Events)) - 10000000000}).

%% The moment of a change lies within the clock's error, and the answer says so: it may be the state before, and before the
%% first there is none.
moments_are_inferred(B, D, Pid) ->
    {Events, _} = all_events(B, D, #{pid => Pid, type => state_change}, oldest_first),
    States = [S || #{state := S} <- Events],
    [case call(B, D, {get_state_at, Pid, T}) of
         {ok, #{state := State, certainty := inferred, why := Why}} ->
             true = lists:member(clock, Why),
             true = lists:member(State, [S, Before]);
         {error, {not_recorded, _}} -> none = Before
     end || {#{time := T, state := S}, Before} <- lists:zip(Events, [none | lists:droplast(States)])].

%% Nothing happens on the node, and still what is known of it becomes certain: within a second or two.
an_idle_nodes_state_is_proven(Config) ->
    {[A], D} = cluster(Config, [a]),
    {ok, Pid} = rpc(A, scope_counter, start, [c1]),
    _ = start_trace(A, D, #{pids => [Pid], events => [state]}),
    5 = rpc(A, gen_server, call, [c1, {add, 5}]),
    _ = await_events(A, D, #{pid => Pid, type => state_change}, fun(L) -> length(L) >= 1 end),
    %% On a busy machine the clocks' error may reach from the change to now for a moment.
    wait_until(fun() ->
                       case ask(A, D, {get_state_at, Pid, now}) of
                           #{why := [not_final]} -> true;
                           #{why := Why} -> Why
                       end
               end, 5000),
    #{certainty := inferred, why := [not_final], time := Changed, asked := Asked} = ask(A, D, {get_state_at, Pid, now}),
    true = Asked > Changed,
    wait_until(fun() ->
                       case ask(A, D, {get_state_at, Pid, Asked}) of
                           #{certainty := proven, why := [], state := #{n := 5}, final_until := Until} -> Until >= Asked;
                           Other -> Other
                       end
               end, 5000).

state_history_and_causes(Config) ->
    {[A], D} = cluster(Config, [a]),
    {ok, Pid} = rpc(A, scope_counter, start, [c1]),
    _ = start_trace(A, D, #{pids => [Pid], events => [state, messages, message_take]}),
    [rpc(A, gen_server, call, [c1, {add, K}]) || K <- lists:seq(1, 10)],
    _ = await_events(A, D, #{pid => Pid, type => state_change}, fun(L) -> length(L) >= 10 end),
    #{transitions := Ts} = ask(A, D, {get_state_history, Pid, #{order => oldest_first}}),
    Adds = [{K, Diff} || #{cause := #{message := {'$gen_call', _, {add, K}}}, diff := Diff} <- Ts],
    assert_eq(lists:seq(1, 10), [K || {K, _} <- Adds]),
    {_, #{changed := Changed}} = lists:last(Adds),
    {[n], 45, 55} = lists:keyfind([n], 1, Changed).

flow_across_nodes(Config) ->
    {[A, B], D} = cluster(Config, [a, b]),
    {ok, PidA} = rpc(A, scope_counter, start, [ca]),
    {ok, PidB} = rpc(B, scope_counter, start, [cb]),
    true = rpc(A, net_kernel, connect_node, [node_of(B)]),
    _ = start_trace(A, D, #{pids => [PidA, PidB], events => [messages, message_take]}),
    [rpc(A, gen_server, cast, [ca, {relay, {cb, node_of(B)}, {add, K}}]) || K <- lists:seq(1, 25)],
    %% The two nodes' batches arrive when they do: both ends must be there.
    Added = fun() ->
                    #{messages := Ms} = ask(B, D, {get_message_flow, PidA, PidB, #{limit => 100}}),
                    [M || M = #{message := {'$gen_cast', {add, _}}, taken := T} <- Ms, is_integer(T)]
            end,
    _ = await_events(A, D, #{pid => PidB, type => message_take}, fun(L) -> length(L) >= 25 end),
    _ = await_events(A, D, #{pid => PidA, type => message_send}, fun(L) -> length(L) >= 25 end),
    wait_until(fun() -> length(Added()) =:= 25 end, 5000),
    [begin
         unique = maps:get(matched, M),
         #{sent := S, fetched := F, taken := T, error_ns := E} = M,
         true = is_integer(S) andalso is_integer(F) andalso is_integer(T),
         true = F - S >= -E,
         true = T >= F
     end || M <- Added()].

lifecycle_and_names(Config) ->
    {[A], D} = cluster(Config, [a]),
    _ = start_trace(A, D, #{events => [lifecycle, names]}),
    {ok, Pid} = rpc(A, scope_counter, start, [short_lived]),
    rpc(A, gen_server, cast, [short_lived, crash]),
    [#{reason := asked_to_crash}] =
        await_events(A, D, #{pid => Pid, type => process_exit}, fun(L) -> L =/= [] end),
    [#{name := short_lived} | _] = await_events(A, D, #{pid => Pid, type => process_register}, fun(L) -> L =/= [] end).

finds_nodes_by_itself(Config) ->
    [A, B] = [start_node(Config, N) || N <- [a, b]],
    true = rpc(A, net_kernel, connect_node, [node_of(B)]),
    D = scope_daemon:start(Config, [A]),
    await_live(A, D, [A, B]),
    C = start_node(Config, c),
    true = rpc(B, net_kernel, connect_node, [node_of(C)]),
    await_live(A, D, [A, B, C]),
    scope_test:kill(C),
    scope_daemon:await_nodes(A, D, {[down, connecting], [node_of(C)]}).

%% A node that was only found, and that does not come back, is listed no more; its past can still be asked for.
a_node_that_is_gone_is_forgotten(Config) ->
    [A, B] = [start_node(Config, N) || N <- [a, b]],
    true = rpc(A, net_kernel, connect_node, [node_of(B)]),
    D = scope_daemon:start(Config, [A], #{args => ["--forget-ms", "1s"]}),
    await_live(A, D, [A, B]),
    {ok, Pid} = rpc(B, scope_counter, start, [c1]),
    _ = start_trace(A, D, #{names => [c1], events => [state]}),
    7 = rpc(B, gen_server, call, [c1, {add, 7}]),
    _ = await_events(A, D, #{pid => Pid, type => state_change}, fun(L) -> length(L) >= 1 end),
    ok = scope_test:kill(B),
    wait_until(fun() ->
                       #{nodes := Nodes} = ask(A, D, status),
                       maps:keys(Nodes) =:= [node_of(A)] orelse Nodes
               end, 20000),
    #{state := #{n := 7}} = ask(A, D, {get_state_at, Pid, now}),
    %% Looking for it in vain is no failed handshake; one may have been under way when it died.
    #{counters := #{handshake_failed := Failed}} = ask(A, D, status),
    true = Failed =< 1,
    ok.

%% What was traced when: a range within a trace is complete, also long after; one that reaches beyond it is not, whether
%% tracing went on later or not.
coverage_is_by_time(Config) ->
    {[A], D} = cluster(Config, [a]),
    {ok, Pid} = rpc(A, scope_counter, start, [c1]),
    Trace = fun() -> start_trace(A, D, #{pids => [Pid], events => [state]}) end,
    Add = fun(K) ->
                  rpc(A, gen_server, call, [c1, {add, K}]),
                  Last = await_events(A, D, #{pid => Pid, type => state_change},
                                      fun(L) -> L =/= [] andalso maps:get(last, maps:get(state, lists:last(L))) =:= {add, K} end),
                  maps:get(time, lists:last(Last))
          end,
    Missing = fun(From, Until) ->
                      #{completeness := C} = ask(A, D, {get_events, #{node => node_of(A), since => From, until => Until}}),
                      lists:usort([{K, maps:get(reason, M, none)} || #{kind := K} = M <- maps:get(missing, C, [])])
              end,
    First = Trace(),
    T1 = Add(1),
    T2 = Add(2),
    assert_eq([], Missing(T1, T2)),
    %% A kind of events that nobody traces is not "none of them".
    #{events := [], completeness := #{missing := [#{kind := not_traced, reason := Reason, since := unknown}]}} =
        ask(A, D, {get_events, #{pid => Pid, type => message_send, since => T1, until => T2}}),
    'no trace there asks for message_send' = Reason,
    #{stopped := [First]} = ask(A, D, {stop, First}),
    assert_eq([], Missing(T1, T2)),
    #{asked := T3} = ask(A, D, {get_state_at, Pid, now}),
    %% Its end is a gap of no length, whose row comes with the next batch; that nothing is traced now is known at once.
    wait_until(fun() ->
                       Now = Missing(T2, T3 + 1000000000),
                       lists:member({gap, trace_stopped}, Now) andalso lists:keymember(not_traced, 1, Now) orelse Now
               end, 5000),
    #{certainty := inferred, why := Why} = ask(A, D, {get_state_at, Pid, T3}),
    true = lists:member(gap, Why),
    _ = Trace(),
    T4 = Add(4),
    T5 = Add(5),
    assert_eq([], Missing(T1, T2)),
    assert_eq([], Missing(T4, T5)),
    assert_eq([{gap, not_traced}, {gap, trace_stopped}], Missing(T2, T4)),
    assert_eq(#{}, maps:get(data_loss, ask(A, D, status))),
    %% The daemon goes and comes back: what happened meanwhile nobody saw.
    0 = scope_daemon:stop(D),
    D2 = scope_daemon:start(Config, [A], #{db => maps:get(db, D)}),
    await_live(A, D2, [A]),
    wait_until(fun() ->
                       #{completeness := C} = ask(A, D2, {get_events, #{node => node_of(A), since => T5}}),
                       Reasons = [R || #{kind := gap, reason := R} <- maps:get(missing, C, [])],
                       lists:member(not_recorded, Reasons) orelse Reasons
               end, 5000),
    %% Measured anew, the times are a little different.
    {[#{time := Again1}, #{time := Again2} | _], _} = all_events(A, D2, #{pid => Pid, type => state_change}, oldest_first),
    #{completeness := Between} = ask(A, D2, {get_events, #{node => node_of(A), since => Again1, until => Again2}}),
    %% It does not know since when nothing is traced.
    [#{kind := not_traced, since := unknown}] = maps:get(missing, Between).

%% Of a process or a function that no trace names, "nothing" is not an answer; of the time when one did, it is.
what_no_trace_names_is_said(Config) ->
    {[A], D} = cluster(Config, [a]),
    [P1, P2] = [begin {ok, P} = rpc(A, scope_counter, start, [N]), P end || N <- [c1, c2]],
    State = fun(P, K) ->
                    rpc(A, gen_server, call, [P, {add, K}]),
                    Events = await_events(A, D, #{pid => P, type => state_change}, fun(L) -> length(L) >= K end),
                    maps:get(time, lists:last(Events))
            end,
    Unnamed = fun(Filter) ->
                      #{completeness := C} = ask(A, D, {get_events, Filter}),
                      [{R, S} || #{kind := not_traced, reason := R, since := S} <- maps:get(missing, C, [])]
              end,
    Both = start_trace(A, D, #{pids => [P1, P2], events => [state]}),
    Since = State(P2, 1),
    assert_eq([], Unnamed(#{pid => P2, since => Since})),
    _ = start_trace(A, D, #{pids => [P1], events => [state]}),
    #{stopped := [Both]} = ask(A, D, {stop, Both}),
    _ = State(P1, 1),
    [{Process, When}] = Unnamed(#{pid => P2, since => Since}),
    assert_eq(lists:flatten(["no trace there names ", local(P2)]), atom_to_list(Process)),
    true = is_integer(When),           % by our clock; events' times may be off by more than lies between
    assert_eq([], Unnamed(#{pid => P1, since => Since})),
    assert_eq([], Unnamed(#{pid => P2, since => Since, until => When})),
    [{'no trace there names lists:nth/2', When}] = Unnamed(#{mfa => {lists, nth, 2}, since => Since}).

%% As its own node writes it.
local(Pid) ->
    [_, Id, Serial] = string:lexemes(pid_to_list(Pid), "<.>"),
    ["<0.", Id, ".", Serial, ">"].

leaves_no_trace(Config) ->
    {Nodes = [A | _], D} = cluster(Config, [a, b]),
    Before = [rpc(N, erlang, processes, []) || N <- Nodes],
    _ = start_trace(A, D, #{events => [messages, state, lifecycle], all => true}),
    {ok, _} = rpc(A, scope_counter, start, [c1]),
    [rpc(A, gen_server, call, [c1, {add, K}]) || K <- lists:seq(1, 10)],
    assert_eq(0, scope_daemon:stop(D)),
    [wait_until(fun() -> case scope_daemon:residue(N) of [] -> true; R -> R end end, 5000) || N <- Nodes],
    true = is_list(Before).

%% SIGTERM at any moment of the first 60 ms: whatever was under way, nothing stays behind.
stopped_while_deploying(Config) ->
    A = start_node(Config, a),
    [begin
         D = scope_daemon:start(Config, [A]),
         receive after Ms -> ok end,
         assert_eq(0, scope_daemon:stop(D)),
         wait_until(fun() -> case scope_daemon:residue(A) of [] -> true; R -> {after_ms, Ms, R} end end, 5000)
     end || Ms <- [0, 5, 10, 15, 20, 30, 45, 60]].

a_second_start_is_a_union(Config) ->
    {[A], D} = cluster(Config, [a]),
    {ok, P1} = rpc(A, scope_counter, start, [c1]),
    {ok, P2} = rpc(A, scope_counter, start, [c2]),
    Id1 = start_trace(A, D, #{pids => [P1], events => [state]}),
    Id2 = start_trace(A, D, #{pids => [P2], events => [state]}),
    #{tracing := T} = ask(A, D, status),
    assert_eq(lists:sort([Id1, Id2]), lists:sort([I || #{id := I} <- T])),
    Add = fun(Name) -> rpc(A, gen_server, call, [Name, {add, 1}]) end,
    Count = fun(Pid) -> length(element(1, all_events(A, D, #{pid => Pid, type => state_change}, oldest_first))) end,
    Add(c1), Add(c2),
    wait_until(fun() -> Count(P1) >= 1 andalso Count(P2) >= 1 end, 5000),
    {ok, _} = call(A, D, {stop, Id1}),
    N1 = Count(P1), N2 = Count(P2),
    Add(c1), Add(c2),
    wait_until(fun() -> Count(P2) > N2 end, 5000),
    assert_eq(N1, Count(P1)).

trace_expires(Config) ->
    {[A], D} = cluster(Config, [a]),
    {ok, Pid} = rpc(A, scope_counter, start, [c1]),
    _ = start_trace(A, D, #{pids => [Pid], events => [state], for => 700}),
    wait_until(fun() -> maps:get(tracing, ask(A, D, status)) =:= [] end, 5000),
    {flags, []} = rpc(A, erlang, trace_info, [Pid, flags]).
