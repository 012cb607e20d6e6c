%% What OTP's documents promise of a process on another node, held to by ours: sys, proc_lib, supervisor, gen_server over several
%% nodes, send_request, node monitors, crashes of either side. dist_SUITE has the signals one by one.
-module(manners_SUITE).
-export([all/0, init/1, timeout/1]).
-export([sys_state_and_status/1, sys_refuses_what_would_change/1, stop_is_refused_with_a_reason/1, supervisor_children/1,
         every_process_answers_sys/1, multi_call_over_a_mix/1, erpc_multicall_over_a_mix/1, send_request_and_receive_response/1,
         late_replies_never_come/1, node_monitors_both_kinds/1, net_kernel_is_asked/1, crash_of_ours_is_told/1,
         crash_of_a_beam_is_told/1, global_and_pg_undisturbed/1, elixir_callers/1, newer_callers/1]).
-import(scope_test, [start_node/2, start_node/3, rpc/2, rpc/4, node_of/1, wait_until/2, assert_eq/2]).
-import(scope_peer, [peer/2, control/2, actor/1, next/0, nothing/0]).

all() -> [sys_state_and_status, sys_refuses_what_would_change, stop_is_refused_with_a_reason, supervisor_children,
          every_process_answers_sys, multi_call_over_a_mix, erpc_multicall_over_a_mix, send_request_and_receive_response,
          late_replies_never_come, node_monitors_both_kinds, net_kernel_is_asked, crash_of_ours_is_told, crash_of_a_beam_is_told,
          global_and_pg_undisturbed, elixir_callers, newer_callers].
timeout(_) -> 90000.

%% A BEAM node, the real daemon, and the peer whose processes can be told what to do.
init(Config0) ->
    Config = scope_peer:init(Config0),
    D = #{scope := Daemon} = scope_daemon:start(Config, []),
    Config#{daemon => Daemon, daemon_handle => D}.

on_a(#{a := A}, Fun) -> rpc(A, Fun).

%% --- sys -------------------------------------------------------------------------------------------------------------

sys_state_and_status(Config = #{daemon := Daemon}) ->
    on_a(Config, fun() -> sys_state(Daemon) end).

%% On the wire it is {ok, State}, which sys takes apart from OTP 27 on; one before that has the pair.
state({ok, State}) -> State;
state(State) -> State.

sys_state(Daemon) ->
    #{queue := _, work := _, memory := _} = state(sys:get_state({scope_store, Daemon})),
    Pid = erpc:call(Daemon, erlang, whereis, [scope_store]),
    #{} = state(sys:get_state(Pid)),
    {status, Pid, {module, gen_server}, [[], running, Parent, [], [{header, Header}, {data, Data}, {data, [{"State", #{}}]}]]} =
        sys:get_status({scope_store, Daemon}),
    true = is_pid(Parent) andalso is_list(Header),
    {"Status", running} = lists:keyfind("Status", 1, Data),
    {noproc, _} = catch_exit(fun() -> sys:get_state({no_such_name, Daemon}) end),
    ok.

catch_exit(Fun) -> try Fun() of V -> error({returned, V}) catch exit:R -> R end.

sys_refuses_what_would_change(Config = #{daemon := Daemon}) ->
    on_a(Config, fun() -> sys_refusals(Daemon) end).

sys_refusals(Daemon) ->
    P = {elixir_scope, Daemon},
    {error, {refused, Why}} = sys:suspend(P),
    true = is_binary(Why),
    ok = sys:resume(P),
    {refused, _} = try sys:replace_state(P, fun(S) -> S end) catch error:R -> R end,
    {error, {unknown_system_msg, {debug, no_debug}}} = sys:no_debug(P),
    {error, {unknown_system_msg, {change_code, _, _, _}}} = sys:change_code(P, m, v, []),
    {{refused, _}, {sys, terminate, _}} = catch_exit(fun() -> sys:terminate(P, normal) end),
    #{api := 1} = element(2, gen_server:call(P, hello)),
    ok.

stop_is_refused_with_a_reason(Config = #{daemon := Daemon}) ->
    on_a(Config, fun() -> stop_refused(Daemon) end).

stop_refused(Daemon) ->
    P = {elixir_scope, Daemon},
    {{refused, Why}, {sys, terminate, _}} = catch_exit(fun() -> gen_server:stop(P, normal, 10000) end),
    match = re:run(Why, "SIGTERM", [{capture, none}]),
    {{refused, _}, {sys, terminate, _}} = catch_exit(fun() -> proc_lib:stop(P, shutdown, 10000) end),
    noproc = catch_exit(fun() -> gen_server:stop({no_such_name, Daemon}, normal, 10000) end),
    %% Neither a kill nor an exit signal ends it.
    Pid = erpc:call(Daemon, erlang, whereis, [elixir_scope]),
    true = exit(Pid, kill),
    true = exit(Pid, normal),
    #{api := 1} = element(2, gen_server:call(Pid, hello)),
    ok.

supervisor_children(Config = #{daemon := Daemon}) ->
    on_a(Config, fun() ->
        Children = supervisor:which_children({elixir_scope_sup, Daemon}),
        [true = is_atom(Id) andalso node(Pid) =:= Daemon andalso is_list(Modules) || {Id, Pid, worker, Modules} <- Children],
        [{Id, Pid} = {Id, erpc:call(Daemon, erlang, whereis, [Id])} || {Id, Pid, _, _} <- Children],
        N = length(Children),
        assert_eq([{active, N}, {specs, N}, {supervisors, 0}, {workers, N}],
                  lists:sort(supervisor:count_children({elixir_scope_sup, Daemon}))),
        {error, notsup} = supervisor:terminate_child({elixir_scope_sup, Daemon}, elixir_scope),
        ok
    end).

%% Named ones, and those without a name.
every_process_answers_sys(Config = #{daemon := Daemon, scope := Scope}) ->
    on_a(Config, fun() ->
        [begin
             #{} = state(sys:get_state({N, Daemon}, 10000)),
             {status, _, _, _} = sys:get_status({N, Daemon}, 10000)
         end || N <- erpc:call(Daemon, erlang, registered, [])],
        [#{} = state(sys:get_state(P, 10000)) || P <- erpc:call(Daemon, erlang, processes, [])],
        #{} = state(sys:get_state(actor(Scope))),
        ok
    end).

%% --- several nodes at once ---------------------------------------------------------------------------------------------

multi_call_over_a_mix(Config = #{daemon := Daemon, scope := Scope}) ->
    B = start_node(Config, b),
    {ok, _} = rpc(B, gen_server, start, [{local, elixir_scope}, scope_counter, counter_b, []]),
    on_a(Config, fun() ->
        {ok, _} = gen_server:start({local, elixir_scope}, scope_counter, counter_a, []),
        Nodes = [node(), node_of(B), Daemon, Scope, 'none@localhost'],
        {Good, Bad} = gen_server:multi_call(Nodes, elixir_scope, get, 20000),
        assert_eq(lists:sort([Scope, 'none@localhost']), lists:sort(Bad)),
        assert_eq(lists:sort([node(), node_of(B), Daemon]), lists:sort([N || {N, _} <- Good])),
        {Daemon, {error, {_, #{}}}} = lists:keyfind(Daemon, 1, Good),
        ok = gen_server:stop(elixir_scope),
        abcast = gen_server:abcast(Nodes, elixir_scope, hello),
        nothing()
    end).

erpc_multicall_over_a_mix(Config = #{daemon := Daemon, scope := Scope}) ->
    B = start_node(Config, b),
    on_a(Config, fun() ->
        Nodes = [node(), node_of(B), Daemon, Scope, 'none@localhost'],
        assert_eq([{ok, node()}, {ok, node_of(B)}, {ok, Daemon}, {ok, Scope}, {error, {erpc, noconnection}}],
                  erpc:multicall(Nodes, erlang, node, [], 20000)),
        [{ok, _}, {ok, _}, {error, {exception, undef, _}}, {error, {exception, undef, _}}, {error, {erpc, noconnection}}] =
            erpc:multicall(Nodes, lists, seq, [1, 2], 20000),
        {[_, _, _, _], ['none@localhost']} = rpc:multicall(Nodes, erlang, node, [], 20000),
        Req = erpc:send_request(Daemon, erlang, node, []),
        Daemon = erpc:receive_response(Req, 20000),
        nothing()
    end).

send_request_and_receive_response(Config = #{daemon := Daemon, scope := Scope}) ->
    on_a(Config, fun() ->
        R1 = gen_server:send_request({echo, Scope}, one),
        {reply, {echo, one}} = gen_server:receive_response(R1, 20000),
        R2 = gen_server:send_request({echo, Scope}, {later, 20, two}),
        {reply, two} = gen_server:wait_response(R2, 20000),
        R3 = gen_server:send_request({nobody, Scope}, x),
        {error, {noproc, {nobody, Scope}}} = gen_server:receive_response(R3, 20000),
        %% Many, answered in any order (gen_server:reqids of OTP 25).
        Ids = lists:foldl(fun(N, Acc) -> gen_server:send_request({echo, Scope}, {later, 5 * (5 - N), N}, N, Acc) end,
                          gen_server:reqids_new(), [1, 2, 3, 4]),
        Collect = fun Collect(I, Acc) ->
                      case gen_server:receive_response(I, 20000, true) of
                          {{reply, N}, N, Rest} -> Collect(Rest, [N | Acc]);
                          no_request -> lists:sort(Acc)
                      end
                  end,
        [1, 2, 3, 4] = Collect(Ids, []),
        R4 = gen_server:send_request({elixir_scope, Daemon}, hello),
        {reply, {ok, #{api := 1}}} = gen_server:receive_response(R4, 20000),
        R5 = gen_server:send_request({echo, Scope}, five),
        (fun Check() ->
             receive M -> case gen_server:check_response(M, R5) of {reply, {echo, five}} -> ok; no_reply -> Check() end
             after 20000 -> error(nothing)
             end
         end)(),
        nothing()
    end).

%% Given up by a timeout: the alias is gone, and what comes late is not delivered. The end is awaited by a later answer of the same
%% process, which goes the same way.
late_replies_never_come(Config = #{scope := Scope}) ->
    on_a(Config, fun() ->
        {'EXIT', {timeout, _}} = (catch gen_server:call({echo, Scope}, {later, 100, late_call}, 10)),
        R = gen_server:send_request({echo, Scope}, {later, 100, late_request}),
        timeout = gen_server:receive_response(R, 10),
        {[], [Scope]} = gen_server:multi_call([Scope], echo, {later, 100, late_multi}, 10),
        timeout = try erpc:call(Scope, timer, sleep, [1000], 0) catch error:{erpc, E} -> E; error:{exception, undef, _} -> timeout end,
        after_all = gen_server:call({echo, Scope}, {later, 400, after_all}, 20000),
        nothing()
    end).

%% --- nodes that come and go ----------------------------------------------------------------------------------------------

node_monitors_both_kinds(Config) ->
    {P, Scope} = peer(Config, []),
    on_a(Config, fun() ->
        ok = net_kernel:monitor_nodes(true, [{node_type, all}, nodedown_reason]),
        true = erlang:monitor_node(Scope, true),     % connects
        {nodeup, Scope, Info} = next(),
        {node_type, hidden} = lists:keyfind(node_type, 1, Info),
        scope_test:kill(P, "KILL"),
        Both = [next(), next()],
        true = lists:member({nodedown, Scope}, Both),
        [{nodedown, Scope, _}] = Both -- [{nodedown, Scope}],
        true = erlang:monitor_node(Scope, true),     % not there
        {nodedown, Scope} = next(),
        ok = net_kernel:monitor_nodes(false, [{node_type, all}, nodedown_reason]),
        nothing()
    end).

net_kernel_is_asked(Config = #{daemon := Daemon}) ->
    on_a(Config, fun() ->
        pong = net_adm:ping(Daemon),
        yes = gen_server:call({net_kernel, Daemon}, {is_auth, node()}),
        {error, _} = gen_server:call({net_kernel, Daemon}, {spawn_opt, lists, seq, [1, 2], [], group_leader()}),
        false = lists:member(Daemon, nodes()),
        true = lists:member(Daemon, nodes(hidden)),
        ok
    end).

crash_of_ours_is_told(Config) ->
    {P, Scope} = peer(Config, []),
    on_a(Config, fun() ->
        process_flag(trap_exit, true),
        Actor = actor(Scope),
        M1 = monitor(process, Actor),
        M2 = monitor(process, {echo, Scope}),
        true = link(Actor),
        ok = control(Scope, {link, actor(Scope), self()}),       % it links to us
        R = gen_server:send_request({echo, Scope}, never),
        scope_test:kill(P, "KILL"),
        {error, {noconnection, {echo, Scope}}} = gen_server:receive_response(R, 20000),
        Told = lists:sort([next() || _ <- [1, 2, 3, 4]]),
        true = lists:member({'DOWN', M1, process, Actor, noconnection}, Told),
        true = lists:member({'DOWN', M2, process, {echo, Scope}, noconnection}, Told),
        true = lists:member({'EXIT', Actor, noconnection}, Told),
        [{'EXIT', _, noconnection}] =
            Told -- [{'DOWN', M1, process, Actor, noconnection}, {'DOWN', M2, process, {echo, Scope}, noconnection},
                     {'EXIT', Actor, noconnection}],
        nothing()
    end).

crash_of_a_beam_is_told(Config = #{scope := Scope}) ->
    B = start_node(Config, b),
    on_a(Config, fun() ->
        Name = node_of(B),
        pong = net_adm:ping(Name),
        Actor = actor(Scope),
        Self = self(),
        There = spawn(Name, fun() ->
                                monitor(process, Actor),
                                link(Actor),
                                Actor ! both,
                                Self ! {there, self()},
                                receive x -> x end
                            end),
        receive {there, There} -> ok after 20000 -> error(nothing) end,
        {message, Actor, both} = next(),
        Ref = control(Scope, {monitor, Actor, There}),
        scope_test:kill(B, "KILL"),
        Told = [next() || _ <- [1, 2, 3]],
        [true = lists:member(T, Told) || T <- [{down, Actor, Ref, noconnection}, {watcher_gone, Actor, There}, {exit, Actor, There, noconnection, true}]],
        nothing()
    end).

%% Being there, asked and gone changes nothing of what a cluster knows of itself.
global_and_pg_undisturbed(Config) ->
    B = start_node(Config, b),
    on_a(Config, fun() ->
        pong = net_adm:ping(node_of(B)),
        {ok, _} = pg:start(scope),
        ok
    end),
    {ok, _} = rpc(B, pg, start, [scope]),
    Keep = on_a(Config, fun() ->
                    K = spawn(fun() -> receive stop -> ok end end),
                    ok = pg:join(scope, group, K),
                    yes = global:register_name(kept, K),
                    K
                end),
    Members = fun(N) -> rpc(N, pg, get_members, [scope, group]) end,
    wait_until(fun() -> Members(B) =:= [Keep] andalso rpc(B, global, whereis_name, [kept]) =:= Keep end, 20000),
    {P, Scope} = peer(Config, []),
    on_a(Config, fun() -> pong = net_adm:ping(Scope), ok end),
    pong = rpc(B, net_adm, ping, [Scope]),
    assert_eq(Keep, rpc(B, global, whereis_name, [kept])),
    scope_test:kill(P, "KILL"),
    wait_until(fun() -> not lists:member(Scope, rpc(B, erlang, nodes, [hidden])) end, 20000),
    assert_eq(Keep, rpc(B, global, whereis_name, [kept])),
    assert_eq([Keep], Members(B)),
    true = lists:member(node_of(B), on_a(Config, fun() -> nodes() end)).

%% --- other callers -----------------------------------------------------------------------------------------------------

elixir_callers(Config = #{a := A, daemon := Daemon, scope := Scope}) ->
    _ = [throw({skip, "Elixir is not installed"}) || os:find_executable("elixir") =:= false],
    Ebin = filename:join(os:cmd("elixir -e 'IO.write :code.lib_dir(:elixir)'"), "ebin"),
    true = rpc(A, code, add_patha, [Ebin]),
    {ok, _} = rpc(A, application, ensure_all_started, [elixir]),
    on_a(Config, fun() ->
        Gen = 'Elixir.GenServer',
        P = {elixir_scope, Daemon},
        {ok, #{api := 1}} = Gen:call(P, hello, 20000),
        ok = Gen:cast(P, hello),
        {{{refused, _}, {sys, terminate, _}}, {Gen, stop, _}} = catch_exit(fun() -> Gen:stop(P, normal, 10000) end),
        {[{Scope, {echo, x}}], ['none@localhost']} = Gen:multi_call([Scope, 'none@localhost'], echo, x, 20000),
        {timeout, _} = catch_exit(fun() -> Gen:call({echo, Scope}, never, 20) end),
        {noproc, _} = catch_exit(fun() -> Gen:call({nobody, Scope}, x, 20000) end),
        true = 'Elixir.Node':monitor(Scope, true),
        true = 'Elixir.Node':monitor(Scope, false),
        pong = 'Elixir.Node':ping(Scope),
        [_ | _] = 'Elixir.Supervisor':which_children({elixir_scope_sup, Daemon}),
        nothing()
    end).

%% The same from a newer release; skipped where there is none.
newer_callers(Config = #{daemon := Daemon, scope := Scope}) ->
    N = start_node(Config, new, #{otp => scope_test:other_otp()}),
    rpc(N, fun() ->
        ok = sys_state(Daemon),
        ok = sys_refusals(Daemon),
        ok = stop_refused(Daemon),
        {reply, {echo, one}} = gen_server:receive_response(gen_server:send_request({echo, Scope}, one), 20000),
        {'EXIT', {timeout, _}} = (catch gen_server:call({echo, Scope}, {later, 100, late}, 10)),
        after_all = gen_server:call({echo, Scope}, {later, 300, after_all}, 20000),
        nothing()
    end).
