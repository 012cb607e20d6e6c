%% The behaviour table against real servers: messages taken, states and ends, and nothing else.
-module(agent_behaviour_SUITE).

-compile([export_all, nowarn_export_all]).

-import(scope_test, [start_node/3, rpc/2, rpc/4, wait_until/1, wait_until/2, assert_eq/2, log/2, node_of/1]).
-import(agent_test, [setup/1, setup/2, d/3, nothing_left/1]).

all() ->
    [gen_server_all_ways, gen_server_crash, gen_statem_events, gen_statem_state_functions,
     behaviour_loaded_late, gen_event_handlers, supervisor,
     elixir_genserver_agent, gen_server2, unknown_shape].

gen_server_all_ways(Config) ->
    {T, D, Pid} = setup(Config),
    start(D, Pid, #{all => true, events => [takes, state]}),
    rpc(T, fun() ->
                   P = scope_victim:start(srv, {continue, x}),
                   {continued, x} = gen_server:call(P, get),
                   ok = gen_server:call(P, {set, 1}),
                   ok = gen_server:cast(P, {set, 2}),
                   P ! info,
                   ok = gen_server:call(P, {hibernate, 3}),
                   3 = gen_server:call(P, get),
                   ok = gen_server:call(P, {timeout, 4}),
                   timer:sleep(60),         % to look at it would put its timeout off
                   {timed_out, 4} = sys:get_state(P),
                   sys:suspend(P),
                   sys:replace_state(P, fun(_) -> 5 end),
                   sys:resume(P),
                   ok = gen_server:call(P, stop)
           end),
    {takes, Takes, states, States} = of_name(D, Pid, T, 5),
    Calls = [M || {'$gen_call', _, M} <- Takes],
    assert_eq([get, {set, 1}, {hibernate, 3}, get, {timeout, 4}, stop], Calls),
    assert_eq([{set, 2}], [M || {'$gen_cast', M} <- Takes]),
    assert_eq([info], [info || info <- Takes]),
    assert_eq([timeout], [timeout || timeout <- Takes]),
    %% what comes while it is suspended is taken by sys, not by the server
    [suspend] = [R || {system, _, R} <- Takes, R =/= get_state],
    assert_eq([x, {continued, x}, 1, 2, 3, 4, {timed_out, 4}, 5, {final, 5}], once(States)),
    ok = d(D, control, [Pid, unload]),
    nothing_left(T).

gen_server_crash(Config) ->
    {T, D, Pid} = setup(Config),
    start(D, Pid, #{all => true, events => [takes, state, procs]}),
    rpc(T, fun() ->
                   P = scope_victim:start(srv, 1),
                   M = monitor(process, P),
                   gen_server:cast(P, crash),
                   receive {'DOWN', M, _, _, _} -> ok end
           end),
    {takes, [{'$gen_cast', crash}], states, [1, {final, 1}]} = of_name(D, Pid, T, 1),
    Exits = [R || {trace_ts, _, exit, R, _} <- d(D, events, [Pid])],
    true = lists:any(fun({crash, [_ | _]}) -> true; ({'$scope_cut', _, {crash, [_ | _]}, _}) -> true; (_) -> false end, Exits).

%% Three transitions made by next_event are three states; postponed events are taken once.
gen_statem_events(Config) ->
    {T, D, Pid} = setup(Config),
    _ = rpc(T, code, ensure_loaded, [gen_statem]),
    start(D, Pid, #{all => true, events => [takes, state]}),
    rpc(T, fun() ->
                   {ok, P} = gen_statem:start(scope_statem, handle_event_function, []),
                   gen_statem:cast(P, chain),
                   {c, 3} = gen_statem:call(P, get),
                   gen_statem:cast(P, later),          % postponed until `go`
                   gen_statem:cast(P, go),
                   P ! hello,
                   {d, 5} = gen_statem:call(P, get),
                   gen_statem:cast(P, timer),
                   wait_until(fun() -> element(1, sys:get_state(P)) =:= timed end),
                   gen_statem:stop(P)
           end),
    {takes, Takes, states, States} = of_module(D, Pid, gen_statem),
    log("~p~n~p", [Takes, States]),
    assert_eq([{'$gen_cast', chain}, {'$gen_cast', later}, {'$gen_cast', go}, {'$gen_cast', timer}],
              [M || M = {'$gen_cast', _} <- Takes]),
    assert_eq([get, get], [M || {'$gen_call', _, M} <- Takes]),
    assert_eq([hello], [hello || hello <- Takes]),
    [{timeout, state_timeout, x}] = [M || M = {timeout, _, _} <- Takes],
    true = lists:member({system, terminate}, [{system, element(1, R)} || {system, _, R} <- Takes, is_tuple(R)]),
    assert_eq([{a, 0}, {a, 1}, {b, 2}, {c, 3}, {c, 3}, {c, 3}, {d, 3}, {d, 4}, {d, 5}, {d, 5}, {t, 5}, {timed, 5},
               {final, {timed, 5}}], no_system(States)).

%% sys:get_state shows the state again (system_continue); how often depends on the test's polling.
no_system(States) -> no_system(States, []).
no_system([{timed, 5} = S | T], [S | _] = Acc) -> no_system(T, Acc);
no_system([{t, 5} = S | T], [S | _] = Acc) -> no_system(T, Acc);
no_system([S | T], Acc) -> no_system(T, [S | Acc]);
no_system([], Acc) -> lists:reverse(Acc).

%% gen_statem comes with the first server: what it did before is a gap.
behaviour_loaded_late(Config) ->
    {T, D, Pid} = setup(Config),
    {ok, #{behaviours := B}} = d(D, control, [Pid, {start, a, #{all => true, events => [state]}}]),
    {gen_statem, absent} = lists:keyfind(gen_statem, 1, B),
    P = rpc(T, fun() -> {ok, P} = gen_statem:start(scope_statem_f, [], []), P end),
    {gap, _} = d(D, wait, [Pid, fun({gap, {behaviour_loaded, unknown, _, _}}) -> true end]),
    rpc(T, gen_statem, cast, [P, flip]),
    d(D, wait, [Pid, fun({event, {trace_ts, _, call, {gen_statem, _, _}, {state, {on, 1}}, _}}) -> true end]).

gen_statem_state_functions(Config) ->
    {T, D, Pid} = setup(Config),
    _ = rpc(T, code, ensure_loaded, [gen_statem]),
    start(D, Pid, #{all => true, events => [takes, state]}),
    rpc(T, fun() ->
                   {ok, P} = gen_statem:start(scope_statem_f, [], []),
                   gen_statem:cast(P, flip),
                   1 = gen_statem:call(P, count),
                   M = monitor(process, P),
                   gen_statem:cast(P, crash),
                   receive {'DOWN', M, _, _, _} -> ok end
           end),
    {takes, Takes, states, States} = of_module(D, Pid, gen_statem),
    assert_eq([flip, crash], [M || {'$gen_cast', M} <- Takes]),
    assert_eq([{off, 0}, {on, 1}, {on, 1}, {final, {on, 1}}], States).

gen_event_handlers(Config) ->
    {T, D, Pid} = setup(Config),
    start(D, Pid, #{all => true, events => [takes, state]}),
    rpc(T, fun() ->
                   {ok, P} = gen_event:start(),
                   ok = gen_event:add_handler(P, scope_handler, 0),
                   gen_event:notify(P, one),
                   ok = gen_event:sync_notify(P, two),
                   2 = gen_event:call(P, scope_handler, get),
                   P ! info,
                   [scope_handler] = gen_event:which_handlers(P),
                   gen_event:stop(P)
           end),
    {takes, Takes, states, States} = of_module(D, Pid, gen_event),
    [{_, _, {add_handler, _, _}}, {notify, one}, {_, _, {sync_notify, two}}, {_, _, {call, _, get}}, info,
     {_, _, which_handlers}, {system, _, {terminate, _}}] = Takes,
    assert_eq(8, length(States)),
    {final, _} = lists:last(States).

supervisor(Config) ->
    {T, D, Pid} = setup(Config),
    start(D, Pid, #{all => true, events => [takes, state]}),
    rpc(T, fun() ->
                   {ok, P} = supervisor:start_link(scope_handler, []),
                   unlink(P),
                   [] = supervisor:which_children(P),
                   M = monitor(process, P),
                   exit(P, shutdown),
                   receive {'DOWN', M, _, _, _} -> ok after 100 -> ok end
           end),
    {takes, Takes, states, States} = of_module(D, Pid, gen_server),
    [which_children] = [M || {'$gen_call', _, M} <- Takes],
    true = lists:all(fun(St) -> element(1, St) =:= state orelse element(1, St) =:= final end, States).

elixir_genserver_agent(Config) ->
    Ebin = elixir_ebin(),
    {T, D, Pid} = setup(Config, #{target => #{args => ["-pa" | Ebin]}}),
    element(1, rpc(T, application, ensure_all_started, [elixir])) =:= ok orelse throw({skip, no_elixir_there}),
    start(D, Pid, #{all => true, events => [takes, state]}),
    rpc(T, fun() ->
                   Counter = 'Elixir.Agent',
                   {ok, P} = Counter:start(fun() -> #{n => 0} end),
                   ok = Counter:update(P, fun(#{n := N}) -> #{n => N + 1} end),
                   #{n := 1} = Counter:get(P, fun(S) -> S end),
                   ok = Counter:stop(P),
                   {ok, G} = 'Elixir.GenServer':start(scope_victim, 7),
                   7 = 'Elixir.GenServer':call(G, get),
                   ok = 'Elixir.GenServer':stop(G)
           end),
    {takes, _, states, States} = of_module(D, Pid, gen_server),
    assert_eq([#{n => 0}, #{n => 1}, #{n => 1}, {final, #{n => 1}}, 7, 7, {final, 7}], States).

elixir_ebin() ->
    case os:find_executable("elixir") of
        false -> throw({skip, no_elixir});
        _ -> string:lexemes(string:trim(os:cmd("elixir -e 'IO.puts(:code.lib_dir(:elixir, :ebin))'")), "\n")
    end.

%% RabbitMQ's own server, from the package unpacked under the build folder.
gen_server2(Config) ->
    Root = filename:join([os:getenv("SCOPE_ROOT", "."), "build", "rabbitmq", "root"]),
    Dirs = filelib:wildcard(filename:join(os:getenv("SCOPE_RABBIT", Root),
                                          "usr/lib/rabbitmq/lib/*/plugins/rabbit_common-*/ebin")),
    Dirs =/= [] orelse throw({skip, no_rabbit}),
    {T, D, Pid} = setup(Config, #{target => #{args => ["-pa" | Dirs]}}),
    element(1, rpc(T, code, ensure_loaded, [gen_server2])) =:= module orelse throw({skip, no_rabbit_there}),
    start(D, Pid, #{all => true, events => [takes, state], behaviours => [gen_server2]}),
    rpc(T, fun() ->
                   {ok, P} = gen_server2:start(scope_victim, 0, []),
                   ok = gen_server2:call(P, {set, 1}),
                   gen_server2:cast(P, add),
                   P ! info,
                   2 = gen_server2:call(P, get),
                   ok = gen_server2:call(P, {timeout, 4}),
                   timer:sleep(100),
                   {timed_out, 4} = gen_server2:call(P, get),
                   ok = gen_server2:call(P, stop)
           end),
    {takes, Takes, states, States} = of_module(D, Pid, gen_server2),
    log("~p~n~p", [Takes, States]),
    [{set, 1}, get, {timeout, 4} | _] = [M || {'$gen_call', _, M} <- Takes],
    [add] = [M || {'$gen_cast', M} <- Takes],
    [0, 1, 2, 2, 2, 4 | _] = States,
    {final, {timed_out, 4}} = lists:last(States).

%% A module with the behaviour's name and other functions: reported, not traced.
unknown_shape(Config) ->
    {T, D, Pid} = setup(Config),
    rpc(T, fun() ->
                   {ok, gen_server2, Bin} = compile:forms([{attribute, 1, module, gen_server2}], []),
                   {module, _} = code:load_binary(gen_server2, "gen_server2", Bin)
           end),
    {ok, #{behaviours := Shapes, patterns := Patterns}} =
        d(D, control, [Pid, {start, a, #{all => true, events => [takes, state]}}]),
    assert_eq({gen_server2, unknown}, lists:keyfind(gen_server2, 1, Shapes)),
    [] = [P || P = {{gen_server2, _, _}, _} <- Patterns].

%% --- helpers ---------------------------------------------------------------------------------------------------------

start(D, Pid, Spec) ->
    {ok, #{behaviours := B}} = d(D, control, [Pid, {start, a, Spec}]),
    log("~p", [B]),
    [] = [M || {M, unknown} <- B],
    ok.

%% What the server of scope_victim did: it is told by its last state.
of_name(D, Pid, _T, Last) ->
    ok = d(D, control, [Pid, flush]),
    d(D, wait, [Pid, fun({event, {trace_ts, _, call, _, {final, S}, _}}) -> S =:= Last end]),
    Events = d(D, events, [Pid]),
    [P] = [P || {trace_ts, P, call, _, {final, S}, _} <- Events, S =:= Last],
    split([{Role, X} || {trace_ts, P1, call, _, {Role, X}, _} <- Events, P1 =:= P]).

of_module(D, Pid, Module) ->
    ok = d(D, control, [Pid, flush]),
    d(D, wait, [Pid, fun({event, {trace_ts, _, call, {M, _, _}, {final, _}, _}}) -> M =:= Module end]),
    Events = d(D, events, [Pid]),
    Pids = [P || {trace_ts, P, call, {M, _, _}, {final, _}, _} <- Events, M =:= Module],
    split([{Role, X} || {trace_ts, P, call, _, {Role, X}, _} <- Events, lists:member(P, Pids)]).

split(Roles) ->
    {takes, [M || {take, M} <- Roles],
     states, [case R of state -> S; final -> {final, S} end || {R, S} <- Roles, R =/= take]}.

%% Without repetitions: each message that changes nothing shows the state again.
once([S, S | T]) -> once([S | T]);
once([S | T]) -> [S | once(T)];
once([]) -> [].
