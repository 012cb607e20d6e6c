%% The session: sequence, acknowledgement, hold, loss of the daemon, lease, leaving.
-module(agent_SUITE).

-compile([export_all, nowarn_export_all]).

-import(scope_test, [start_node/3, rpc/2, rpc/4, wait_until/1, wait_until/2, assert_eq/2, log/2, node_of/1]).
-import(agent_test, [setup/1, setup/2, d/3, daemon/3, args/1, calls/1, nothing_left/1, nothing_left/2]).

all() ->
    [records_and_leaves, disabled, resume_is_exact, link_lost_is_exact, overflow_is_counted, window_bounds, credit,
     dead_man, grace, hold_full_removes_tracing, lease, other_store, start_twice, bad_requests, node_events].

timeout(_) -> 60000.

records_and_leaves(Config) ->
    {T, D, Pid} = setup(Config),
    Before = rpc(T, fun() -> {length(code:all_loaded()), length(processes()), length(registered())} end),
    _ = Before,
    {ok, #{patterns := [{_, 1}]}} =
        d(D, control, [Pid, {start, a, #{mfas => [{scope_victim, work, 1}], args => true, events => [calls, returns]}}]),
    produce(T, 100),
    ok = d(D, control, [Pid, flush]),
    d(D, wait, [Pid, fun({event, {trace_ts, _, return_from, _, 201, _}}) -> true end]),
    Events = d(D, events, [Pid]),
    assert_eq(lists:seq(1, 100), args(Events)),
    assert_eq([2 * X + 1 || X <- lists:seq(1, 100)], [X || {trace_ts, _, return_from, _, X, _} <- Events]),
    ok = d(D, control, [Pid, unload]),
    {bye, unload} = d(D, wait, [Pid, fun({bye, _}) -> true end]),
    nothing_left(T).

disabled(Config) ->
    {T, D, Pid} = setup(Config, #{target => #{args => ["-kernel", "elixir_scope", "disabled"]}, resume => false}),
    {error, disabled} = d(D, wait, [Pid, fun({error, _}) -> true end]),
    nothing_left(T).

%% The daemon dies under load, and another reads on from what was committed.
resume_is_exact(Config) ->
    {T, D, Pid} = setup(Config),
    {ok, _} = d(D, control, [Pid, {start, a, calls([{scope_victim, work, 1}])}]),
    Producer = paced(T, 20),
    Pid4 = lists:foldl(fun(_, P) ->
                               timer:sleep(600),
                               d(D, stop, [P]),
                               timer:sleep(300),
                               again(T, D, P, #{})
                       end, Pid, [1, 2, 3]),
    timer:sleep(300),
    exact(T, D, Pid4, Producer).

%% The link goes, with batches in it.
link_lost_is_exact(Config) ->
    {T, D, Pid} = setup(Config),
    {ok, _} = d(D, control, [Pid, {start, a, calls([{scope_victim, work, 1}])}]),
    Producer = paced(T, 20),
    Pid2 = lists:foldl(fun(_, P) ->
                               timer:sleep(600),
                               true = rpc(D, erlang, disconnect_node, [node_of(T)]),
                               d(D, stop, [P]),
                               timer:sleep(200),
                               again(T, D, P, #{})
                       end, Pid, [1, 2, 3]),
    exact(T, D, Pid2, Producer).

exact(T, D, Pid, Producer) ->
    N = stop_paced(T, Producer),
    ok = d(D, control, [Pid, flush]),
    d(D, wait, [Pid, fun({event, {trace_ts, _, call, _, {args, [X]}, _}}) -> X =:= N end]),
    Args = args(d(D, events, [Pid])),
    log("~b events", [N]),
    assert_eq(N, length(Args)),
    assert_eq(lists:seq(1, N), Args),
    assert_eq([], d(D, gaps, [Pid])),
    #{holes := []} = d(D, call, [Pid, summary]).

%% More than the hold takes: captured + counted = made, and the gap comes with the next batch.
overflow_is_counted(Config) ->
    {T, D, Pid} = setup(Config, #{agent => #{hold_bytes => 100000, hold_full_ms => 60000}}),
    {ok, _} = d(D, control, [Pid, {start, a, calls([{scope_victim, work, 1}])}]),
    Producer = paced(T, 10),
    timer:sleep(300),
    d(D, stop, [Pid]),
    timer:sleep(2000),
    Pid2 = again(T, D, Pid, #{}),
    timer:sleep(300),
    Made = stop_paced(T, Producer),
    ok = d(D, control, [Pid2, flush]),
    {ok, _} = status_until(D, Pid2, fun(#{held_batches := H}) -> H =:= 0 end),
    Got = args(d(D, events, [Pid2])),
    Gaps = d(D, gaps, [Pid2]),
    Lost = lists:sum([N || {hold_full, N, _, _} <- Gaps]),
    log("made ~b, got ~b, lost ~b, gaps ~p", [Made, length(Got), Lost, Gaps]),
    true = Lost > 0,
    assert_eq([hold_full], lists:usort([R || {R, _, _, _} <- Gaps])),
    assert_eq(Got, lists:usort(Got)),
    assert_eq(Made, length(Got) + Lost).

%% Unacknowledged bytes stay within the window, whatever is captured.
window_bounds(Config) ->
    {T, D, Pid} = setup(Config, #{ack => false, agent => #{window => 50000}}),
    {ok, _} = d(D, control, [Pid, {start, a, calls([{scope_victim, work, 1}])}]),
    Producer = paced(T, 10),
    timer:sleep(1000),
    N = stop_paced(T, Producer),
    ok = d(D, control, [Pid, flush]),
    Sent = lists:sum([byte_size(term_to_binary(E, [{minor_version, 2}])) + 64
                      || {_, _, _, _, _, E} <- d(D, batches, [Pid])]),
    log("sent ~b bytes", [Sent]),
    %% The compact form of these has 40 bytes an event, and 16 for a name now and then; the tuples have 93.
    true = Sent > 0 andalso Sent =< case agent_test:native() of true -> 50000 * 93 div 40; false -> 50000 end,
    ok = d(D, call, [Pid, {set, #{ack => true}}]),
    #{seq := Seq} = d(D, call, [Pid, summary]),
    ok = d(D, call, [Pid, {tell, {ack, Seq}}]),
    {ok, _} = status_until(D, Pid, fun(#{held_batches := H}) -> H =:= 0 end),
    assert_eq(lists:seq(1, N), args(d(D, events, [Pid]))).

%% Credit in both forms: counted from the session's start, and from the end of a batch. Less than before is no less.
credit(Config) ->
    {T, D, Pid} = setup(Config, #{credit => 0}),
    {ok, _} = d(D, control, [Pid, {start, a, calls([{scope_victim, work, 1}])}]),
    produce(T, 100),
    ok = d(D, control, [Pid, flush]),
    {ok, #{held_batches := Held}} = d(D, control, [Pid, status]),
    true = Held > 0,
    assert_eq([], d(D, batches, [Pid])),
    ok = d(D, call, [Pid, {tell, {credit, 1000000}}]),
    ok = d(D, call, [Pid, {tell, {credit, 0}}]),
    wait_until(fun() -> args(d(D, events, [Pid])) =:= lists:seq(1, 100) end),
    #{seq := Seq} = d(D, call, [Pid, summary]),
    ok = d(D, call, [Pid, {tell, {credit, Seq, 2000000}}]),
    produce(T, 100),
    wait_until(fun() -> length(args(d(D, events, [Pid]))) =:= 200 end).

%% A daemon that is silent for 2 s gets nothing more; when it speaks again, all of it.
dead_man(Config) ->
    {T, D, Pid} = setup(Config, #{agent => #{deadman_ms => 700}}),
    {ok, _} = d(D, control, [Pid, {start, a, calls([{scope_victim, work, 1}])}]),
    ok = d(D, call, [Pid, {set, #{ping => none, ack => false}}]),
    timer:sleep(1200),
    produce(T, 100),
    timer:sleep(300),
    assert_eq([], args(d(D, events, [Pid]))),
    ok = d(D, call, [Pid, {set, #{ping => 100, ack => true}}]),
    wait_until(fun() -> args(d(D, events, [Pid])) =:= lists:seq(1, 100) end).

grace(Config) ->
    {T, D, Pid} = setup(Config, #{agent => #{grace_ms => 1500}}),
    {ok, _} = d(D, control, [Pid, {start, a, (calls([{scope_victim, work, 1}]))#{all => true}}]),
    d(D, stop, [Pid]),
    timer:sleep(700),
    true = is_pid(rpc(T, erlang, whereis, [scope_agent])),
    nothing_left(T, 4000).

hold_full_removes_tracing(Config) ->
    {T, D, Pid} = setup(Config, #{agent => #{hold_bytes => 50000, hold_full_ms => 1000, deadman_ms => 500}}),
    {ok, _} = d(D, control, [Pid, {start, a, calls([{scope_victim, work, 1}])}]),
    d(D, stop, [Pid]),
    Producer = paced(T, 20),
    wait_until(fun() -> agent_test:info(T, {scope_victim, work, 1}, traced) =:= {traced, false} end),
    N = stop_paced(T, Producer),
    Pid2 = again(T, D, Pid, #{}),
    {ok, #{mode := removed, tracing := Tracing}} =
        status_until(D, Pid2, fun(#{held_batches := H}) -> H =:= 0 end),
    assert_eq(#{}, Tracing),
    {gap, _} = d(D, wait, [Pid2, fun({gap, {hold_full, _, _, _}}) -> true end]),
    Args = args(d(D, events, [Pid2])),
    log("~b of ~b", [length(Args), N]),
    assert_eq(lists:usort(Args), Args),
    {ok, _} = d(D, control, [Pid2, {start, b, calls([{scope_victim, work, 1}])}]).

%% A second daemon is told who owns the node while the first is alive, and gets it when the lease is over.
lease(Config) ->
    {T, D, Pid} = setup(Config, #{agent => #{lease_ms => 1000}}),
    D2 = start_node(Config, second, #{hidden => true}),
    Other = rpc(D2, scope_fake_daemon, start, [node_of(T), #{}]),
    {error, {owned_by, Owner}} = d(D2, wait, [Other, fun({error, _}) -> true end]),
    assert_eq(node_of(D), Owner),
    {ok, _} = d(D, control, [Pid, status]),
    d(D, stop, [Pid]),
    timer:sleep(1500),
    ok = d(D2, call, [Other, {attach, node_of(T)}]),
    {hello, _} = d(D2, wait, [Other, fun({hello, _}) -> true end]),
    {ok, _} = d(D2, control, [Other, status]).

%% Another store than before: what is held is sent, what was acknowledged to the other is a gap.
other_store(Config) ->
    {T, D, Pid} = setup(Config),
    {ok, _} = d(D, control, [Pid, {start, a, calls([{scope_victim, work, 1}])}]),
    produce(T, 100),
    ok = d(D, control, [Pid, flush]),
    {ok, _} = status_until(D, Pid, fun(#{held_batches := H}) -> H =:= 0 end),
    d(D, stop, [Pid]),
    Pid2 = again(T, D, Pid, #{store_id => store2}),
    {gap, {other_store, unknown, From, Until}} =
        d(D, wait, [Pid2, fun({gap, {other_store, _, _, _}}) -> true end]),
    true = From =< Until.

start_twice(Config) ->
    {T, D, Pid} = setup(Config),
    Spec = calls([{scope_victim, work, 1}]),
    {ok, _} = d(D, control, [Pid, {start, a, Spec}]),
    {ok, #{already := true}} = d(D, control, [Pid, {start, a, Spec}]),
    {error, exists} = d(D, control, [Pid, {start, a, Spec#{args => false}}]),
    %% a second spawn of the agent attaches instead
    rpc(D, scope_fake_daemon, spawn_agent, [node_of(T), Pid, #{}]),
    wait_until(fun() -> length([x || {hello, _} <- maps:get(inbox, d(D, call, [Pid, summary]))]) =:= 2 end),
    {ok, #{tracing := #{a := _}}} = d(D, control, [Pid, status]).

bad_requests(Config) ->
    {T, D, Pid} = setup(Config),
    [begin
         {error, {bad_spec, Key, _}} = d(D, control, [Pid, {start, a, Spec}])
     end || {Key, Spec} <- [{modulez, #{modulez => []}}, {events, #{events => [nonsense]}}, {pids, #{pids => [x]}},
                            {mfas, #{mfas => [{a, b}]}}, {all, #{all => 1}}, {limit, #{limit => #{ms => -1}}},
                            {limit, #{limit => 3}}, {follow, #{follow => 3}}, {follow, #{follow => #{shots => 0}}},
                            {pids, #{follow => #{shots => 1, pids => [x]}}}, {follow, #{follow => #{shots => 1, modules => []}}}, {modules, #{modules => lists}}, {spec, []}]],
    {error, not_found} = d(D, control, [Pid, {stop, nothing}]),
    {error, unknown_request} = d(D, control, [Pid, {dance, 1}]),
    {ok, #{patterns := [{{no_such_module, '_', '_'}, 0}]}} =
        d(D, control, [Pid, {start, b, #{modules => [no_such_module]}}]),
    [d(D, call, [Pid, {tell, M}]) || M <- [nonsense, {ack, x}, {credit, -1, y}, {resume, 1}, {attach, 1, 2}, {batch, 1},
                                           {ping}, {control, 1}]],
    {ok, _} = d(D, control, [Pid, status]),
    true = is_pid(rpc(T, erlang, whereis, [scope_agent])).

node_events(Config) ->
    {T, D, Pid} = setup(Config),
    {ok, _} = d(D, control, [Pid, {start, a, calls([{scope_victim, work, 1}])}]),
    N = start_node(Config, third, #{}),
    Third = node_of(N),
    pong = rpc(N, net_adm, ping, [node_of(T)]),
    {nodes, Nodes} = d(D, wait, [Pid, fun({nodes, #{visible := L}}) -> lists:member(Third, L) end]),
    #{hidden := [_]} = Nodes,
    d(D, wait, [Pid, fun({event, {scope, node_up, X, _}}) -> X =:= Third end]),
    scope_test:kill(N),
    d(D, wait, [Pid, fun({event, {scope, node_down, X, _}}) -> X =:= Third end]).

%% --- helpers ---------------------------------------------------------------------------------------------------------

%% Calls work(1..N), returns when done.
produce(T, N) -> rpc(T, fun() -> [scope_victim:work(I) || I <- lists:seq(1, N)], ok end).

%% Calls work(1), work(2), ... in rounds, each millisecond, in a process of the target.
paced(T, Chunk) ->
    rpc(T, fun() ->
                   spawn(fun() -> put(chunk, Chunk), paced_loop(0) end)
           end).

paced_loop(N) ->
    Chunk = get(chunk),
    [scope_victim:work(I) || I <- lists:seq(N + 1, N + Chunk)],
    receive {stop, From} -> From ! {made, N + Chunk}
    after 1 -> paced_loop(N + Chunk)
    end.

stop_paced(T, Pid) ->
    rpc(T, fun() -> Pid ! {stop, self()}, receive {made, N} -> N end end).

%% A new daemon on the same node, which attaches to the agent that runs.
again(T, D, _Old, Opts) ->
    Pid = rpc(D, scope_fake_daemon, start, [Opts]),
    pong = rpc(D, net_adm, ping, [node_of(T)]),
    ok = d(D, call, [Pid, {attach, node_of(T)}]),
    {hello, _} = d(D, wait, [Pid, fun({hello, _}) -> true end]),
    Pid.

status_until(D, Pid, Pred) ->
    wait_until(fun() -> {ok, S} = d(D, control, [Pid, status]), Pred(S) end),
    d(D, control, [Pid, status]).
