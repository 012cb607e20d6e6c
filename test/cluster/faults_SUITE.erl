%% What goes wrong in a cluster, on purpose: the daemon, the agent, nodes, disks, clocks and other tools.
-module(faults_SUITE).
-export([all/0, timeout/1]).
-export([daemon_killed_within_the_hold/1, daemon_killed_beyond_the_hold/1, grace_over_removes_everything/1,
         traced_node_killed/1, node_restarted_keeps_incarnations_apart/1, agent_killed/1,
         agent_of_another_version_is_replaced/1, two_daemons/1,
         wrong_cookie/1, disabled_node_is_left_alone/1, other_tools_pattern_is_refused/1, other_tools_monitor_is_kept/1, dbg_stop_clear/1,
         many_schedulers/1, big_dist_buffer/1, short_ticktime/1, disk_full/1, restart_knows_its_traces/1,
         started_while_it_goes_live/1]).
-import(scope_test, [start_node/2, start_node/3, rpc/2, rpc/4, node_of/1, wait_until/2, assert_eq/2, kill/1]).
-import(scope_daemon, [call/3, ask/3, await_live/3, await_nodes/3, all_events/4, lost/1]).

all() -> [daemon_killed_within_the_hold, daemon_killed_beyond_the_hold, grace_over_removes_everything,
          traced_node_killed, node_restarted_keeps_incarnations_apart, agent_killed, agent_of_another_version_is_replaced, two_daemons,
          wrong_cookie,
          disabled_node_is_left_alone, other_tools_pattern_is_refused, other_tools_monitor_is_kept, dbg_stop_clear,
          many_schedulers,
          big_dist_buffer, short_ticktime, disk_full, restart_knows_its_traces, started_while_it_goes_live].
timeout(_) -> 120000.

recorded(Config, NodeOpts, DaemonOpts) ->
    A = start_node(Config, a, NodeOpts),
    D = scope_daemon:start(Config, [A], DaemonOpts),
    await_live(A, D, [A]),
    {ok, Pid} = rpc(A, scope_counter, start, [c1]),
    {A, D, Pid}.

start_trace(A, D, Opts) ->
    #{id := Id, nodes := PerNode} = ask(A, D, {start, Opts}),
    [assert_eq(ok, R) || R <- maps:values(PerNode)],
    Id.

fetched(A, D, Pid) ->
    {Events, C} = all_events(A, D, #{pid => Pid, type => message_fetch}, oldest_first),
    {[K || #{message := {seq, K}} <- Events], C}.

await_fetched(A, D, Pid, Last) ->
    wait_until(fun() ->
                       case element(1, fetched(A, D, Pid)) of
                           [] -> none;
                           L -> lists:last(L) =:= Last orelse lists:last(L)
                       end
               end, 30000).

%% The same daemon once more: its name and its store.
again(#{scope := Name, db := Db}) -> #{name => Name, db => Db}.

%% Killed with -9 under load and started again: within the hold nothing is lost and nothing is twice.
daemon_killed_within_the_hold(Config) ->
    {A, D, Pid} = recorded(Config, #{}, #{}),
    _ = start_trace(A, D, #{pids => [Pid], events => [message_fetch], for => 60000}),
    Self = self(),
    Pump = spawn_link(fun() -> Self ! {sent, rpc(A, scope_counter, pump, [Pid, 1, 6000, 1000])} end),
    wait_until(fun() -> length(element(1, fetched(A, D, Pid))) > 500 end, 10000),
    kill(D),
    D2 = scope_daemon:start(Config, [A], again(D)),
    await_live(A, D2, [A]),
    receive {sent, 6000} -> ok end,
    unlink(Pump),
    await_fetched(A, D2, Pid, 6000),
    {Ks, Completeness} = fetched(A, D2, Pid),
    assert_eq(lists:seq(1, 6000), Ks),
    assert_eq([], lost(Completeness)),
    assert_eq(#{}, maps:get(data_loss, ask(A, D2, status))).

%% Beyond the hold: what was dropped is counted exactly, and the answer says so.
daemon_killed_beyond_the_hold(Config) ->
    {A, D, Pid} = recorded(Config, #{}, #{args => ["--hold-bytes", "1M"]}),
    _ = start_trace(A, D, #{pids => [Pid], events => [message_fetch], for => 60000}),
    wait_until(fun() -> rpc(A, erlang, trace_info, [Pid, flags]) =/= {flags, []} end, 5000),
    kill(D),
    Total = 40000,
    Total = rpc(A, scope_counter, pump, [Pid, 1, Total, 20000]),
    D2 = scope_daemon:start(Config, [A], again(D)),
    await_live(A, D2, [A]),
    %% The gap and the events together make the whole. (The agent's own events that the daemon's node went and came may
    %% have been dropped, too.)
    wait_until(fun() ->
                       {Ks, C} = fetched(A, D2, Pid),
                       case C =/= none andalso lost(C) of
                           false -> nothing_arrived;
                           Gaps = [_ | _] ->
                               Dropped = [N || #{kind := gap, dropped := N} <- Gaps],
                               lists:all(fun is_integer/1, Dropped)
                                   andalso lists:member(length(Ks) + lists:sum(Dropped) - Total, [0, 1, 2])
                                   orelse {length(Ks), Gaps};
                           [] -> {length(Ks), C}
                       end
               end, 20000).

grace_over_removes_everything(Config) ->
    {A, D, Pid} = recorded(Config, #{}, #{args => ["--grace-ms", "1500"]}),
    _ = start_trace(A, D, #{pids => [Pid], events => [messages, state]}),
    kill(D),
    wait_until(fun() -> case scope_daemon:residue(A) of [] -> true; R -> R end end, 10000).

traced_node_killed(Config) ->
    {A, D, _} = recorded(Config, #{}, #{}),
    B = start_node(Config, b),
    true = rpc(A, net_kernel, connect_node, [node_of(B)]),
    await_live(A, D, [B]),
    {ok, P} = rpc(B, scope_counter, start, [c2]),
    _ = start_trace(A, D, #{pids => [P], events => [state]}),
    [rpc(B, gen_server, call, [c2, {add, K}]) || K <- lists:seq(1, 10)],
    wait_until(fun() -> length(element(1, all_events(A, D, #{pid => P, type => state_change}, oldest_first))) >= 10 end, 5000),
    kill(B),
    await_nodes(A, D, {[down, connecting], [node_of(B)]}),
    %% A pid of a dead node is answered from the record, and the answer says that what follows is not known.
    #{state := #{n := 55}} = ask(A, D, {get_state_at, P, now}).

node_restarted_keeps_incarnations_apart(Config) ->
    A = start_node(Config, a),
    Name = scope_test:unique_name(phoenix),
    B1 = start_node(Config, Name),
    D = scope_daemon:start(Config, [A, B1]),
    await_live(A, D, [A, B1]),
    {ok, P1} = rpc(B1, scope_counter, start, [c]),
    _ = start_trace(A, D, #{names => [c], events => [state]}),
    [rpc(B1, gen_server, call, [c, {add, 100}]) || _ <- [1, 2]],
    wait_until(fun() -> catch maps:get(n, maps:get(state, ask(A, D, {get_state_at, P1, now}))) =:= 200 end, 5000),
    kill(B1),
    B2 = start_node(Config, Name),
    {ok, P2} = rpc(B2, scope_counter, start, [c]),
    await_live(A, D, [B2]),
    rpc(B2, gen_server, call, [c, {add, 7}]),
    wait_until(fun() -> rpc(B2, gen_server, call, [c, {add, 0}]),
                        case call(A, D, {get_state_at, P2, now}) of
                            {ok, #{state := #{n := 7}}} -> true;
                            Other -> Other
                        end
               end, 10000),
    true = P1 =/= P2,
    #{state := #{n := 200}} = ask(A, D, {get_state_at, P1, now}).

agent_killed(Config) ->
    {A, D, Pid} = recorded(Config, #{}, #{}),
    _ = start_trace(A, D, #{pids => [Pid], events => [state], for => 60000}),
    rpc(A, fun() -> exit(whereis(scope_agent), kill) end),
    wait_until(fun() -> rpc(A, erlang, trace_info, [Pid, flags]) =:= {flags, []} end, 5000),
    %% The panic button: the node is left clean, and a fresh agent comes by itself.
    await_live(A, D, [A]).

%% What an older build's daemon left there is asked for all that it holds, and goes; then ours comes.
agent_of_another_version_is_replaced(Config) ->
    A = start_node(Config, a),
    {ok, Pid} = rpc(A, scope_counter, start, [c1]),
    Beams = filelib:wildcard(filename:join(os:getenv("SCOPE_AGENT_EBIN"), "scope_*.beam")),
    _ = [begin
             {ok, Code} = file:read_file(File),
             Module = list_to_atom(filename:basename(File, ".beam")),
             {module, Module} = rpc(A, code, load_binary, [Module, File, Code])
         end || File <- Beams],
    Old = rpc(A, fun() -> older_daemons_agent(Pid) end),
    20 = rpc(A, scope_counter, pump, [Pid, 1, 20, 1000]),
    D = scope_daemon:start(Config, [A]),
    await_live(A, D, [A]),
    await_fetched(A, D, Pid, 20),
    assert_eq(lists:seq(1, 20), element(1, fetched(A, D, Pid))),
    %% It is live also while the old one drains: who is there tells.
    wait_until(fun() -> rpc(A, fun() -> not is_process_alive(Old) andalso is_pid(whereis(scope_agent)) end) end, 20000),
    await_live(A, D, [A]),
    %% Ours traces, and counts from one.
    _ = start_trace(A, D, #{pids => [Pid], events => [message_fetch], for => 60000}),
    30 = rpc(A, scope_counter, pump, [Pid, 21, 30, 1000]),
    await_fetched(A, D, Pid, 30),
    assert_eq(lists:seq(1, 30), element(1, fetched(A, D, Pid))).

%% On the node: an agent that traces Pid, whose daemon never resumed it and is gone.
older_daemons_agent(Pid) ->
    {Daemon, Mon} = spawn_monitor(fun() ->
        ok = scope_agent:start(self(), #{version => <<"older">>}),
        Agent = receive {hello, #{agent := Who, version := <<"older">>}} -> Who end,
        Agent ! {control, 1, {start, 1, #{pids => [Pid], events => [fetches]}}},
        receive {control_reply, 1, {ok, _}} -> exit({agent, Agent}) end
    end),
    receive {'DOWN', Mon, process, Daemon, {agent, Agent}} -> Agent end.

two_daemons(Config) ->
    {A, D, _} = recorded(Config, #{}, #{}),
    D2 = scope_daemon:start(Config, [A]),
    await_nodes(A, D2, {[refused], [node_of(A)]}),
    #{nodes := Nodes} = ask(A, D2, status),
    [#{detail := Why}] = maps:values(Nodes),
    match = re:run(Why, atom_to_list(maps:get(scope, D)), [{capture, none}]).

wrong_cookie(Config) ->
    A = start_node(Config, a),
    B = start_node(Config, b, #{cookie => "another"}),
    D = scope_daemon:start(Config, [A, B]),
    await_live(A, D, [A]),
    await_nodes(A, D, {[refused], [node_of(B)]}).

disabled_node_is_left_alone(Config) ->
    A = start_node(Config, a),
    B = start_node(Config, b, #{args => ["-kernel", "elixir_scope", "disabled"]}),
    D = scope_daemon:start(Config, [A, B]),
    await_nodes(A, D, {[refused], [node_of(B)]}),
    wait_until(fun() -> case scope_daemon:residue(B) of [] -> true; R -> R end end, 5000).

other_tools_pattern_is_refused(Config) ->
    {A, D, Pid} = recorded(Config, #{}, #{}),
    rpc(A, fun() ->
                   Tracer = spawn(fun() -> receive stop -> ok end end),
                   erlang:trace(whereis(c1), true, [call, {tracer, Tracer}]),
                   1 = erlang:trace_pattern({scope_counter, handle_call, 3}, true, [local])
           end),
    {error, {owned_by, #{hint := _}}} =
        call(A, D, {start, #{pids => [Pid], mfas => [{scope_counter, handle_call, 3}], events => [calls]}}),
    %% The other's is as it was.
    {traced, local} = rpc(A, erlang, trace_info, [{scope_counter, handle_call, 3}, traced]).

%% Who owns the system monitor and the sequential tracer goes on hearing what he asked for, while we record and after.
other_tools_monitor_is_kept(Config) ->
    {A, D, Pid} = recorded(Config, #{}, #{}),
    Owner = rpc(A, fun() ->
                           P = spawn(fun() -> (fun Loop(Heard) ->
                                                       receive
                                                           {heard, From} -> From ! {self(), Heard}, Loop([]);
                                                           {monitor, _, Tag, _} -> Loop([Tag | Heard]);
                                                           {seq_trace, _, {send, _, _, _, M}} -> Loop([M | Heard]);
                                                           _ -> Loop(Heard)
                                                       end
                                               end)([])
                                     end),
                           _ = erlang:system_monitor(P, [{large_heap, 200000}]),
                           _ = seq_trace:set_system_tracer(P),
                           P
                   end),
    Heard = fun(N) ->
                    rpc(A, fun() ->
                                   {_, M} = spawn_monitor(fun() -> length(lists:seq(1, 500000)) end),
                                   receive {'DOWN', M, _, _, _} -> ok end,
                                   seq_trace:set_token(send, true),
                                   Pid ! {seq, N},
                                   seq_trace:set_token([])
                           end),
                    wait_until(fun() ->
                                       L = rpc(A, fun() -> Owner ! {heard, self()}, receive {Owner, X} -> X end end),
                                       (lists:member(large_heap, L) andalso lists:member({seq, N}, L)) orelse L
                               end, 5000)
            end,
    Heard(1),
    _ = start_trace(A, D, #{all => true, pids => [Pid], events => [messages, state, lifecycle], for => 60000, force => true}),
    Heard(2),
    wait_until(fun() -> element(1, fetched(A, D, Pid)) =:= [2] end, 5000),
    assert_eq(0, scope_daemon:stop(D)),
    Heard(3),
    assert_eq({Owner, [{large_heap, 200000}]}, rpc(A, erlang, system_monitor, [])),
    assert_eq(Owner, rpc(A, seq_trace, get_system_tracer, [])).

dbg_stop_clear(Config) ->
    {A, D, Pid} = recorded(Config, #{}, #{}),
    _ = start_trace(A, D, #{pids => [Pid], mfas => [{scope_counter, handle_call, 3}], events => [calls], for => 60000}),
    rpc(A, gen_server, call, [c1, {add, 1}]),
    rpc(A, fun() -> dbg:tracer(), dbg:stop_clear() end),
    rpc(A, gen_server, call, [c1, {add, 2}]),
    %% Found within about a second: a gap, and armed once more.
    wait_until(fun() ->
                       rpc(A, gen_server, call, [c1, {add, 3}]),
                       {Es, C} = all_events(A, D, #{pid => Pid, type => function_entry}, oldest_first),
                       Again = [1 || #{args := [{add, 3} | _]} <- Es],
                       (Again =/= [] andalso [g || #{kind := gap} <- lost(C)] =/= []) orelse {Again, C}
               end, 10000).

many_schedulers(Config) -> records_with(Config, #{args => ["+S", "64"]}).
big_dist_buffer(Config) -> records_with(Config, #{args => ["+zdbbl", "128000"]}).
short_ticktime(Config) ->
    {A, D, _} = records_with(Config, #{args => ["-kernel", "net_ticktime", "8"]}),
    %% An idle link must live longer than the tick time.
    receive after 12000 -> ok end,
    #{nodes := Nodes} = ask(A, D, status),
    [#{state := S}] = maps:values(Nodes),
    true = lists:member(S, [connected, tracing]).

records_with(Config, NodeOpts) ->
    {A, D, Pid} = recorded(Config, NodeOpts, #{}),
    _ = start_trace(A, D, #{pids => [Pid], events => [message_fetch]}),
    2000 = rpc(A, scope_counter, pump, [Pid, 1, 2000, 2000]),
    await_fetched(A, D, Pid, 2000),
    {Ks, _} = fetched(A, D, Pid),
    assert_eq(lists:seq(1, 2000), Ks),
    {A, D, Pid}.

%% A store on a full file system: nothing acknowledged is lost, the node is not hurt, and it goes on when there is room.
disk_full(Config) ->
    scope_test:on_small_disk(Config, 6, fun(Dir) ->
        {A, D, Pid} = recorded(Config, #{}, #{db => filename:join(Dir, "db")}),
        _ = start_trace(A, D, #{pids => [Pid], events => [message_fetch], for => 60000}),
        Fill = filename:join(Dir, "fill"),
        _ = os:cmd("dd if=/dev/zero of=" ++ Fill ++ " bs=64k 2>&1"),
        1000 = rpc(A, scope_counter, pump, [Pid, 1, 1000, 1000]),
        wait_until(fun() -> maps:get(commit_failures, maps:get(store, ask(A, D, status)), 0) > 0 end, 15000),
        ok = file:delete(Fill),
        await_fetched(A, D, Pid, 1000),
        {Ks, _} = fetched(A, D, Pid),
        assert_eq(lists:seq(1, 1000), Ks),
        scope_test:kill(D)
    end).

%% What agents still trace is learnt from them after a restart: who asked, and until when.
restart_knows_its_traces(Config) ->
    {A, D, Pid} = recorded(Config, #{}, #{}),
    Id = start_trace(A, D, #{pids => [Pid], events => [state], for => 60000}),
    kill(D),
    D2 = scope_daemon:start(Config, [A], again(D)),
    await_live(A, D2, [A]),
    wait_until(fun() -> [I || #{id := I} <- maps:get(tracing, ask(A, D2, status))] =:= [Id] end, 5000),
    {ok, _} = call(A, D2, {stop, Id}),
    wait_until(fun() -> rpc(A, erlang, trace_info, [Pid, flags]) =:= {flags, []} end, 5000).

%% Asked for between the moment when a node is live again and its word of what it traces: told to it once.
started_while_it_goes_live(Config) ->
    {A, D = #{scope := Scope}, Pid} = recorded(Config, #{}, #{}),
    ok = logged(<<": recording (">>, 5000),
    Guard = rpc(A, erlang, whereis, [scope_guard]),         %% after 3 s of silence it counts as lost
    Holder = rpc(A, fun() -> spawn(fun() -> true = erlang:suspend_process(Guard), receive stop -> ok end end) end),
    true = rpc(A, erlang, disconnect_node, [Scope]),
    ok = logged(<<": recording (">>, 2000),
    Self = self(),
    spawn_link(fun() -> Self ! {started, ask(A, D, {start, #{pids => [Pid], events => [state]}})} end),
    wait_until(fun() ->
                       {messages, Queue} = rpc(A, erlang, process_info, [Guard, messages]),
                       Asked = [R || {request, _, _, R} <- Queue],
                       lists:member(status, Asked) andalso lists:keymember(start, 1, Asked) orelse Asked
               end, 2000),
    rpc(A, fun() -> Holder ! stop end),
    receive {started, #{nodes := PerNode}} -> assert_eq([ok], maps:values(PerNode)) end,
    assert_eq(not_logged, logged(<<"does not start">>, 300)).

%% A line of the daemon's, from now on.
logged(What, Ms) ->
    receive
        {line, _, Line} -> case binary:match(Line, What) of nomatch -> logged(What, Ms); _ -> ok end
    after Ms -> not_logged
    end.
