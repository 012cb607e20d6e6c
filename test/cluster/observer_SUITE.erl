%% The daemon as OTP's tools see it: every function that Observer, etop and the process window call on a node is called from a
%% real node, and compared with what knows better: /proc, the daemon's own answers, the caller's counts.
-module(observer_SUITE).
-export([all/0, init/1, timeout/1]).
-export([system/1, memory_is_the_machines/1, processes/1, process_window/1, load/1, ports/1, tables/1, newest_events/1, drops_and_gaps/1,
         databases/1, applications/1, etop/1, what_is_not_served_is_undef/1, dbg/1, callers_that_vanish/1]).
-import(scope_test, [start_node/2, rpc/2, rpc/4, node_of/1, wait_until/2, assert_eq/2]).
-import(scope_daemon, [ask/3, await_live/3]).

all() -> [system, memory_is_the_machines, processes, process_window, load, ports, tables, newest_events, drops_and_gaps, databases,
          applications, etop, what_is_not_served_is_undef, dbg, callers_that_vanish].
timeout(_) -> 90000.

init(Config) ->
    A = start_node(Config, a),
    D = #{scope := Scope} = scope_daemon:start(Config, [A]),
    await_live(A, D, [A]),
    {ok, Pid} = rpc(A, scope_counter, start, [c1]),
    #{id := _} = ask(A, D, {start, #{mfas => [{scope_counter, handle_call, 3}], pids => [Pid], events => [calls]}}),
    [rpc(A, gen_server, call, [c1, {add, K}]) || K <- lists:seq(1, 20)],
    wait_until(fun() -> #{store := #{events := N}} = ask(A, D, status), N >= 20 end, 20000),
    Config#{a => A, daemon => D, scope => Scope}.

%% On the node, as Observer calls.
call(#{a := A, scope := Scope}, M, F, Args) -> rpc(A, rpc, call, [Scope, M, F, Args, 10000]).
backend(Config, F, Args) -> call(Config, observer_backend, F, Args).
on_a(#{a := A}, Fun) -> rpc(A, Fun).

system(Config = #{a := A, daemon := D}) ->
    {module, observer_backend} = call(Config, code, ensure_loaded, [observer_backend]),
    {error, nofile} = call(Config, code, ensure_loaded, [os]),
    [true = call(Config, erlang, function_exported, [observer_backend, F, N])
     || {F, N} <- [{sys_info, 0}, {procs_info, 1}, {fetch_stats, 2}, {etop_collect, 1}, {get_port_list, 0}, {get_socket_list, 0},
                   {get_table, 3}, {get_table_list, 2}]],
    false = call(Config, erlang, function_exported, [os, cmd, 1]),
    Info = backend(Config, sys_info, []),
    Value = fun(K) -> {K, V} = lists:keyfind(K, 1, Info), V end,
    #{uptime_ms := Uptime, version := Version} = ask(A, D, status),
    true = abs(Value(uptime) - Uptime) < 30000,
    assert_eq(binary_to_list(Version), Value(version)),
    assert_eq(rpc(A, erlang, system_info, [logical_processors_online]), Value(logical_processors_online)),
    assert_eq(length(filelib:wildcard("/proc/" ++ os_pid(D) ++ "/task/*")), Value(schedulers)),
    assert_eq(length(call(Config, erlang, processes, [])), Value(process_count)),
    true = Value(io_input) > 0 andalso Value(io_output) > 0,
    assert_eq(8, Value(wordsize_external)),
    [{heap, [{instance, 0, [{mbcs, [{blocks, [{heap, [{size, Used, Used, Used}]}]}, {carriers_size, Held, Held, Held}]}]}]} | _] =
        Value(alloc_info),
    true = Used > 0 andalso Used =< Held,
    %% The same by erpc; what is not measured is not there.
    Erpc = on_a(Config, fun() -> erpc:call(maps:get(scope, Config), observer_backend, sys_info, []) end),
    assert_eq([K || {K, _} <- Info], [K || {K, _} <- Erpc]),
    false = lists:keymember(atom_limit, 1, Info),
    {ok, Vsn} = backend(Config, vsn, []),
    true = is_list(Vsn).

os_pid(D) -> integer_to_list(scope_test:os_pid(D)).

%% What the kernel says of the daemon's memory, read just before and after, holds ours between.
memory_is_the_machines(Config = #{daemon := D}) ->
    Rss = fun() ->
                  {ok, F} = file:open("/proc/" ++ os_pid(D) ++ "/status", [read]),
                  Lines = (fun Read(Acc) -> case file:read_line(F) of {ok, L} -> Read([L | Acc]); eof -> Acc end end)([]),
                  ok = file:close(F),
                  [Kb] = [N || "VmRSS:" ++ T <- Lines, {N, _} <- [string:to_integer(string:trim(T))]],
                  Kb * 1024
          end,
    Before = Rss(),
    Memory = call(Config, erlang, memory, []),
    After = Rss(),
    Total = proplists:get_value(total, Memory),
    true = Total > min(Before, After) * 0.7 andalso Total < max(Before, After) * 1.3,
    assert_eq(Total, proplists:get_value(processes, Memory) + proplists:get_value(system, Memory)),
    true = proplists:get_value(code, Memory) > 1 bsl 20,
    true = proplists:get_value(ets, Memory) > 0.

procs_info(Scope) ->
    process_flag(trap_exit, true),
    P = spawn_link(Scope, observer_backend, procs_info, [self()]),
    Procs = receive {procs_info, P, All} -> All after 10000 -> error(no_procs) end,
    receive {'EXIT', P, normal} -> ok after 10000 -> error(no_exit) end,
    Procs.

processes(Config = #{scope := Scope}) ->
    on_a(Config, fun() ->
        Find = fun(Name) -> {_, _, _, _, Name, _, _, _} = lists:keyfind(Name, 5, procs_info(Scope)) end,
        {etop_proc_info, Pid, Mem, Work, elixir_scope, 0, {elixir_scope, elixir_scope, 1}, Queue} = Find(elixir_scope),
        assert_eq(Scope, node(Pid)),
        true = is_integer(Mem) andalso is_integer(Queue),
        %% Work is what it did: a message each.
        [#{api := 1} = element(2, gen_server:call({elixir_scope, Scope}, hello)) || _ <- lists:seq(1, 25)],
        {_, _, _, Work2, _, _, _, _} = Find(elixir_scope),
        true = Work2 >= Work + 25,
        [_ = Find(N) || N <- [net_kernel, rex, scope_store, scope_agents, scope_service, elixir_scope_sup]],
        %% The errand itself is gone.
        Names = erpc:call(Scope, erlang, registered, []),
        assert_eq([], Names -- [element(5, P) || P <- procs_info(Scope)]),
        ok
    end).

process_window(Config = #{scope := Scope}) ->
    on_a(Config, fun() ->
        Call = fun(M, F, A) -> rpc:call(Scope, M, F, A, 10000) end,
        Pid = Call(erlang, whereis, [elixir_scope]),
        Items = [binary, catchlevel, current_function, error_handler, garbage_collection, group_leader, heap_size, initial_call,
                 last_calls, links, memory, message_queue_len, monitored_by, monitors, priority, reductions, registered_name,
                 sequential_trace_token, stack_size, status, suspending, total_heap_size, trace, trap_exit],
        Info = Call(erlang, process_info, [Pid, Items]),
        assert_eq(Items, [K || {K, _} <- Info]),
        {registered_name, elixir_scope} = Call(erlang, process_info, [Pid, registered_name]),
        [{current_stacktrace, []} , {messages, []}, {dictionary, []}] =
            [Call(erlang, process_info, [Pid, I]) || I <- [current_stacktrace, messages, dictionary]],
        {elixir_scope, _, _} = Call(proc_lib, translate_initial_call, [Pid]),
        [{behaviour, [gen_server]}] = Call(elixir_scope, module_info, [attributes]),
        {status, Pid, {module, _}, [_, running, _, [], #{work := _}]} = Call(sys, get_status, [Pid, 200]),
        8 = Call(erlang, system_info, [wordsize]),
        0 = Call(erlang, system_info, [dirty_cpu_schedulers]),
        true = is_list(Call(erlang, process_info, [Pid])),
        true = Call(erlang, is_process_alive, [Pid]),
        %% A monitor of ours is seen there.
        Ref = monitor(process, Pid),
        {monitored_by, By} = Call(erlang, process_info, [Pid, monitored_by]),
        true = lists:member(self(), By),
        demonitor(Ref),
        {badrpc, {'EXIT', {badarg, _}}} = Call(erlang, process_info, [Pid, colour]),
        {badrpc, {'EXIT', {badarg, _}}} = Call(erlang, process_info, [self(), status]),
        Gone = spawn_link_and_gone(Scope),
        undefined = Call(erlang, process_info, [Gone, status]),
        false = Call(erlang, is_process_alive, [Gone]),
        {badrpc, {'EXIT', {noproc, _}}} = Call(sys, get_status, [Gone, 200]),
        ok
    end).

spawn_link_and_gone(Scope) ->
    process_flag(trap_exit, true),
    P = spawn_link(Scope, observer_backend, procs_info, [self()]),
    receive {'EXIT', P, normal} -> P after 10000 -> error(no_exit) end.

load(Config = #{scope := Scope}) ->
    on_a(Config, fun() ->
        process_flag(trap_exit, true),
        P = spawn_link(Scope, observer_backend, fetch_stats, [self(), 200]),
        Samples = [receive {stats, 1, _, _, _} = S -> S after 20000 -> error(no_stats) end || _ <- lists:seq(1, 3)],
        [{_, _, T1, {{input, I1}, {output, O1}}, M1}, {_, _, T2, _, _}, {_, _, T3, {{input, I3}, {output, O3}}, _}] = Samples,
        assert_eq([Id || {Id, _, _} <- T1], [Id || {Id, _, _} <- T3]),
        [true = Total1 < Total2 andalso Total2 < Total3 andalso Active1 =< Active3
         || {{_, Active1, Total1}, {_, _, Total2}, {_, Active3, Total3}} <- lists:zip3(T1, T2, T3)],
        true = I1 =< I3 andalso O1 < O3,     % the samples themselves go out
        true = proplists:get_value(total, M1) > 0,
        P ! exit,
        receive {'EXIT', P, normal} -> ok after 10000 -> error(no_exit) end,
        false = erpc:call(Scope, erlang, is_process_alive, [P]),
        ok
    end).

ports(Config = #{a := A, scope := Scope}) ->
    Mine = fun() ->
                   [P] = [P || P <- backend(Config, get_port_list, []),
                               proplists:get_value(name, P) =:= "link to " ++ atom_to_list(node_of(A))],
                   P
           end,
    P1 = Mine(),
    Port = proplists:get_value(port_id, P1),
    true = is_port(Port),
    assert_eq(Scope, node(Port)),
    %% 100 kB more in, by the port's own counter.
    {error, _} = on_a(Config, fun() -> gen_server:call({elixir_scope, Scope}, {nonsense, binary:copy(<<"x">>, 100000)}) end),
    P2 = Mine(),
    true = proplists:get_value(input, P2) - proplists:get_value(input, P1) >= 100000,
    true = proplists:get_value(output, P2) > proplists:get_value(output, P1),
    [true = is_integer(proplists:get_value(K, P2)) || K <- [queue_size, memory, id]],
    [] = backend(Config, get_socket_list, []),
    [] = backend(Config, socket_info, []).

%% As observer_tv_table does.
rows(Config = #{scope := Scope}, Name) ->
    on_a(Config, fun() ->
        P = rpc:call(Scope, observer_backend, get_table, [self(), Name, ets]),
        true = is_pid(P),
        (fun Collect(Acc) ->
             receive
                 {P, '$end_of_table'} -> lists:append(lists:reverse(Acc));
                 {P, Rows} -> Collect([[Object || [Object] <- Rows] | Acc])
             after 20000 -> error(no_rows)
             end
         end)([])
    end).

tables(Config = #{a := A, daemon := D}) ->
    List = backend(Config, get_table_list, [ets, [{sys_hidden, true}, {unread_hidden, true}]]),
    Names = [proplists:get_value(name, T) || T <- List],
    [true = lists:member(N, Names) || N <- [scope_nodes, scope_traces, scope_newest_events, scope_drops_and_gaps, scope_counters]],
    [begin
         [true = lists:keymember(K, 1, T) || K <- [id, protection, owner, size, reg_name, type, keypos, heir, memory, compressed, fixed]],
         assert_eq(1, call(Config, ets, info, [proplists:get_value(name, T), keypos]))
     end || T <- List],
    %% Nodes: as status has them.
    #{nodes := Nodes} = ask(A, D, status),
    assert_eq(maps:keys(Nodes), [N || {N, _, #{state := _}} <- rows(Config, scope_nodes)]),
    [{Id, #{id := Id, by := _}}] = rows(Config, scope_traces),
    Counters = rows(Config, scope_counters),
    #{counters := #{commits := _} = Known} = ask(A, D, status),
    assert_eq(lists:sort(maps:keys(Known)), lists:sort([N || {N, V, S, H} <- Counters, is_integer(V), is_atom(S), is_binary(H)])),
    {badrpc, {'EXIT', {badarg, _}}} = backend(Config, get_table, [self(), no_such_table, ets]),
    undefined = call(Config, ets, info, [no_such_table, size]),
    {error, "Mnesia is not running" ++ _} = backend(Config, get_table_list, [mnesia, []]).

newest_events(Config = #{a := A, daemon := D}) ->
    scope_daemon:steady(A, D, fun() -> the_same_events(Config) end).

the_same_events(Config = #{a := A, daemon := D}) ->
    Rows = rows(Config, scope_newest_events),
    #{events := Events} = ask(A, D, {get_events, #{limit => 500, order => newest_first}}),
    %% More may have come in between: what both have is the same, and the newest first.
    Both = [E || {_, _, _, _, E} <- Rows, lists:member(E, Events)],
    true = length(Both) >= 20,
    [assert_eq({I, T, N, Y}, {maps:get(id, E), maps:get(time, E), maps:get(node, E), maps:get(type, E)}) || {I, T, N, Y, E} <- Rows],
    Times = [T || {_, T, _, _, _} <- Rows],
    assert_eq(lists:reverse(lists:sort(Times)), Times).

drops_and_gaps(Config = #{a := A, daemon := D}) ->
    #{events := Gaps} = ask(A, D, {get_events, #{limit => 500, order => newest_first, type => gap}}),
    Rows = rows(Config, scope_drops_and_gaps),
    assert_eq([], [maps:get(id, E) || E <- Gaps] -- [I || {I, _, _, gap, _} <- Rows]).

databases(Config = #{a := A, daemon := D}) ->
    Wanted = [scope_store_agents, scope_store_blk, scope_store_clock, scope_store_hot, scope_store_lives, scope_store_names, scope_store_seg],
    Sizes = fun() -> [{proplists:get_value(name, T), proplists:get_value(size, T), proplists:get_value(memory, T)}
                      || T <- backend(Config, get_table_list, [ets, []])]
            end,
    wait_until(fun() ->
                       {_, Size, Memory} = lists:keyfind(scope_store_agents, 1, Sizes()),
                       Size > 0 andalso Memory >= 4096
               end, 20000),
    assert_eq([], Wanted -- [N || {N, _, _} <- Sizes()]),
    #{partitions := [#{number := 1, databases := #{agents := #{entries := Entries, bytes := Bytes}}}]} = ask(A, D, {store, info}),
    assert_eq([{1, agents, Entries, Bytes}], rows(Config, scope_store_agents)).

applications(Config = #{scope := Scope}) ->
    [{elixir_scope, _, Version}] = call(Config, application, which_applications, []),
    on_a(Config, fun() ->
        {ok, P} = appmon_info:start_link(Scope, self(), []),
        ok = appmon_info:app_ctrl(P, Scope, true, []),
        {SupPid, elixir_scope, {elixir_scope, _, Version}} =
            receive {delivery, P, app_ctrl, Scope, [App]} -> App after 10000 -> error(nothing) end,
        ok = appmon_info:app(P, elixir_scope, true, []),
        {"elixir_scope_sup", Pids, Links, []} =
            receive {delivery, P, app, elixir_scope, Tree} -> Tree after 10000 -> error(nothing) end,
        {SupPid, "elixir_scope_sup"} = lists:keyfind(SupPid, 1, Pids),
        Children = supervisor:which_children({elixir_scope_sup, Scope}),
        assert_eq(lists:sort([{Pid, atom_to_list(Id)} || {Id, Pid, worker, _} <- Children]),
                  lists:sort(Pids -- [{SupPid, "elixir_scope_sup"}])),
        assert_eq(lists:sort([{"elixir_scope_sup", N} || {Pid, N} <- Pids, Pid =/= SupPid]), lists:sort(Links)),
        [true = erpc:call(Scope, erlang, is_process_alive, [Pid]) || {Pid, _} <- Pids],
        ok = appmon_info:app(P, elixir_scope, false, []),
        P ! exit,
        wait_gone(Scope, P)
    end).

wait_gone(Scope, P) ->
    case erpc:call(Scope, erlang, is_process_alive, [P]) of
        false -> ok;
        true -> receive after 20 -> ok end, wait_gone(Scope, P)
    end.

%% What etop's own printer makes of it.
etop(Config = #{scope := Scope}) ->
    on_a(Config, fun() ->
        process_flag(trap_exit, true),
        P = spawn_link(Scope, observer_backend, etop_collect, [self()]),
        {etop_info, {_, _, _}, N, undefined, [{1, _, _} | _], RunQ, [], Memi, Procs} =
            receive {P, Info} -> Info after 10000 -> error(nothing) end,
        receive {'EXIT', P, normal} -> ok after 10000 -> error(no_exit) end,
        assert_eq(N, length(Procs)),
        true = is_integer(RunQ),
        [true = is_integer(proplists:get_value(K, Memi)) || K <- [total, processes, ets, atom, code, binary]],
        ok
    end).

%% What recon, observer_cli and runtime_tools (ttb, dbg, msacc) call on a node and we do not serve: `undef`, at once, by rpc, erpc and
%% cast. recon and observer_cli send funs; those run in erpc's own module there.
what_is_not_served_is_undef(Config = #{scope := Scope}) ->
    on_a(Config, fun() ->
        [begin
             {badrpc, {'EXIT', {undef, [{M, F, A, []} | _]}}} = rpc:call(Scope, M, F, A, 10000),
             {M, F, undef} = {M, F, try erpc:call(Scope, M, F, A, 10000) catch error:{exception, R, _} -> R end},
             [{error, {exception, undef, _}}] = erpc:multicall([Scope], M, F, A, 10000)
         end || {M, F, A} <- [{recon, info, [self()]}, {recon, proc_count, [memory, 3]}, {recon, bin_leak, [3]},
                              {recon_alloc, memory, [used]}, {recon_trace, calls, [{a, b, '_'}, 1]}, {recon, node_stats, [1, 1000]},
                              {observer_cli_store, start_link, []}, {observer_cli, start_plugin, []}, {erlang, statistics, [io]},
                              {erlang, port_info, [self()]}, {erlang, trace, [all, true, [call]]}, {erlang, halt, []},
                              {erlang, apply, [fun erlang:halt/0, []]}, {erlang, exit, [self(), kill]}, {init, stop, []},
                              {observer_backend, ttb_init_node, [a, b, c]}, {observer_backend, ttb_stop, [a]},
                              {observer_backend, ttb_fetch, [a, b]}, {dbg, tracer, []}, {dbg, stop, []}, {msacc, start, [100]},
                              {scheduler, sample, []}, {system_information, report, []}, {rb, start, []}, {rb, log_list, []},
                              {ets, delete_object, [scope_nodes, x]}, {ets, insert, [scope_nodes, x]}, {os, cmd, ["true"]},
                              {file, read_file, ["/etc/passwd"]}, {cpu_sup, util, []}]],
        %% A spawn of anything else is refused: never left waiting.
        process_flag(trap_exit, true),
        [begin
             R = spawn_request(Scope, M, F, A, [link, monitor]),
             receive {spawn_reply, R, error, notsup} -> ok after 10000 -> error({M, F}) end
         end || {M, F, A} <- [{os, cmd, ["true"]}, {observer_backend, procs_info, [x]}, {observer_backend, fetch_stats, [self()]},
                              {observer_backend, fetch_stats, [self(), x]}, {observer_backend, etop_collect, []},
                              {observer_backend, get_table, [self(), scope_nodes, ets]}]],
        {badrpc, nodedown} = rpc:call('none@localhost', erlang, node, []),
        ok
    end).

%% dbg of another node is let in, is told that here nothing can be traced, and leaves nothing behind when it stops.
dbg(Config = #{scope := Scope}) ->
    on_a(Config, fun() ->
        Count = fun() -> length(erpc:call(Scope, erlang, processes, [])) end,
        Before = Count(),
        {ok, _} = dbg:tracer(process, {fun(_, S) -> S end, []}),
        {ok, Scope} = dbg:n(Scope),
        true = Before + 1 =:= Count(),
        {ok, Matched} = dbg:p(all, [call]),
        [{matched, Scope, 0, {'EXIT', {undef, _}}}] = [M || M <- Matched, element(2, M) =:= Scope],
        _ = dbg:stop(),
        wait_until(fun() -> Count() =< Before end, 10000)
    end).

%% Callers that vanish leave nothing behind.
callers_that_vanish(Config = #{scope := Scope}) ->
    on_a(Config, fun() ->
        Count = fun() -> length(erpc:call(Scope, erlang, processes, [])) end,
        Before = Count(),
        Callers = [spawn(fun() ->
                             _ = spawn_link(Scope, observer_backend, fetch_stats, [self(), 200]),
                             {ok, _} = appmon_info:start_link(Scope, self(), []),
                             receive {stats, _, _, _, _} -> ok end,
                             exit(gone)
                         end) || _ <- lists:seq(1, 20)],
        [begin M = monitor(process, C), receive {'DOWN', M, _, _, _} -> ok after 20000 -> error(stuck) end end || C <- Callers],
        (fun Wait(N) ->
             case Count() of
                 Now when Now =< Before -> ok;
                 Now when N =:= 0 -> error({left, Now - Before});
                 _ -> receive after 50 -> ok end, Wait(N - 1)
             end
         end)(200)
    end).
