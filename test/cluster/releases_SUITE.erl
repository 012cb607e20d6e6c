%% A cluster of two releases of OTP, from a traced process to an answer. Runs by test/support/otp (ctest labels otp27, otp29).
-module(releases_SUITE).
-export([all/0, timeout/1]).
-export([native_on_both/1, states_of_every_behaviour/1, flow_both_ways/1, killed/1, beside_dbg/1, native_records/1,
         leaves_no_trace/1]).
-import(scope_test, [start_node/2, start_node/3, rpc/2, rpc/4, node_of/1, wait_until/2, assert_eq/2, log/2]).
-import(scope_daemon, [ask/3, await_live/3, all_events/4]).

-spec all() -> [atom()].
all() -> [native_on_both, states_of_every_behaviour, flow_both_ways, killed, beside_dbg, native_records, leaves_no_trace].
-spec timeout(atom()) -> pos_integer().
timeout(_) -> 90000.

cluster(Config) ->
    Nodes = [Old, New] = [start_node(Config, old), start_node(Config, new, #{otp => scope_test:other_otp()})],
    true = rpc(Old, net_kernel, connect_node, [node_of(New)]),
    Daemon = scope_daemon:start(Config, Nodes),
    await_live(Old, Daemon, Nodes),
    {Old, New, Daemon}.

start_trace(Node, Daemon, Opts) ->
    #{id := Id, nodes := PerNode, left_out := None} = ask(Node, Daemon, {start, Opts}),
    assert_eq(#{}, None),
    [assert_eq(ok, R) || R <- maps:values(PerNode)],
    Id.

await(Node, Daemon, Filter, N) ->
    Events = fun() -> element(1, all_events(Node, Daemon, Filter, oldest_first)) end,
    wait_until(fun() -> length(Events()) >= N end, 15000),
    Events().

-spec native_on_both(scope_test:config()) -> ok.
native_on_both(Config) ->
    {Old, New, D} = cluster(Config),
    Names = [node_of(N) || N <- [Old, New]],
    #{nodes := Nodes} = ask(Old, D, status),
    Asked = case os:getenv("SCOPE_CAPTURE") of "erlang" -> erlang; _ -> native end,
    assert_eq([{<<"25">>, Asked}, {integer_to_binary(scope_test:other_otp()), Asked}], [{O, C} || N <- Names, #{otp := O, capture := C} <- [map_get(N, Nodes)]]).

%% Asked from the other node; compared with what the process itself says.
-spec states_of_every_behaviour(scope_test:config()) -> ok.
states_of_every_behaviour(Config) ->
    {Old, New, D} = cluster(Config),
    {ok, _} = rpc(New, scope_counter, start, [server]),
    {ok, _} = rpc(New, gen_statem, start, [{local, statem}, scope_statem, [], []]),
    {ok, _} = rpc(New, gen_event, start, [{local, event}]),
    ok = rpc(New, gen_event, add_handler, [event, scope_handler, 40]),
    Sup = rpc(New, fun() ->
                           Me = self(),
                           spawn(fun() ->
                                         {ok, S} = supervisor:start_link({local, new_supervisor}, scope_handler, []),
                                         Me ! S,
                                         receive never -> ok end
                                 end),
                           receive S -> S end
                   end),
    Names = [server, statem, event, new_supervisor],
    _ = start_trace(Old, D, #{names => [{N, node_of(New)} || N <- Names], events => [state, messages, message_take]}),
    6 = rpc(New, gen_server, call, [server, {add, 6}]),
    ok = rpc(New, gen_statem, cast, [statem, chain]),
    {c, 3} = rpc(New, gen_statem, call, [statem, get]),
    ok = rpc(New, gen_event, sync_notify, [event, x]),
    {ok, _} = rpc(New, supervisor, start_child, [Sup, #{id => child, start => {scope_counter, start_link, [child]}}]),
    State = fun(Name) ->
                    case scope_daemon:call(Old, D, {get_state_at, {Name, node_of(New)}, now}) of
                        {ok, #{state := S}} -> S;
                        Other -> Other
                    end
            end,
    wait_until(fun() -> case State(server) of #{n := 6} -> true; Other -> Other end end, 10000),
    wait_until(fun() -> State(statem) =:= {c, 3} orelse State(statem) end, 10000),
    wait_until(fun() ->
                       case State(event) of
                           [Handler] when is_tuple(Handler) -> lists:member(41, tuple_to_list(Handler)) orelse Handler;
                           Other -> Other
                       end
               end, 10000),
    wait_until(fun() -> re:run(io_lib:format("~p", [State(new_supervisor)]), "scope_counter", [{capture, none}]) =:= match end, 10000),
    %% and why: the message that made it so
    #{transitions := Ts} = ask(Old, D, {get_state_history, {server, node_of(New)}, #{order => newest_first}}),
    [_ | _] = [add || #{cause := #{message := {'$gen_call', _, {add, 6}}}} <- Ts],
    ok.

-spec flow_both_ways(scope_test:config()) -> ok.
flow_both_ways(Config) ->
    {Old, New, D} = cluster(Config),
    {ok, POld} = rpc(Old, scope_counter, start, [c_old]),
    {ok, PNew} = rpc(New, scope_counter, start, [c_new]),
    _ = start_trace(Old, D, #{pids => [POld, PNew], events => [messages, message_take]}),
    [begin
         rpc(Old, gen_server, cast, [c_old, {relay, {c_new, node_of(New)}, {add, K}}]),
         rpc(New, gen_server, cast, [c_new, {relay, {c_old, node_of(Old)}, {add, -K}}])
     end || K <- lists:seq(1, 20)],
    Taken = fun() ->
                    #{messages := Ms} = ask(New, D, {get_message_flow, POld, PNew, #{limit => 200}}),
                    [{K, M} || M = #{message := {'$gen_cast', {add, K}}, taken := T, sent := S} <- Ms, is_integer(T), is_integer(S)]
            end,
    wait_until(fun() -> length(Taken()) =:= 40 orelse length(Taken()) end, 15000),
    assert_eq(lists:seq(-20, -1) ++ lists:seq(1, 20), lists:sort([K || {K, _} <- Taken()])),
    [assert_eq(unique, maps:get(matched, M)) || {_, M} <- Taken()],
    ok.

%% The node of the newer release is killed while it is traced: what it was is still known, and another of its name is traced again.
-spec killed(scope_test:config()) -> ok.
killed(Config) ->
    {Old, New, D} = cluster(Config),
    Name = node_of(New),
    {ok, Pid} = rpc(New, scope_counter, start, [c1]),
    Id = start_trace(Old, D, #{names => [{c1, Name}], events => [state]}),
    7 = rpc(New, gen_server, call, [c1, {add, 7}]),
    _ = await(Old, D, #{pid => Pid, type => state_change}, 1),
    ok = scope_test:kill(New),
    scope_daemon:await_nodes(Old, D, {[down, connecting], [Name]}),
    #{state := #{n := 7}} = ask(Old, D, {get_state_at, Pid, now}),
    #{stopped := [Id]} = ask(Old, D, {stop, Id}),
    Again = start_node(Config, Name, #{otp => scope_test:other_otp()}),
    await_live(Old, D, [Again]),
    {ok, Pid2} = rpc(Again, scope_counter, start, [c1]),
    _ = start_trace(Old, D, #{names => [{c1, Name}], events => [state]}),
    8 = rpc(Again, gen_server, call, [c1, {add, 8}]),
    _ = await(Old, D, #{pid => Pid2, type => state_change}, 1),
    #{state := #{n := 8}} = ask(Old, D, {get_state_at, {c1, Name}, now}),
    ok.

%% dbg traces what we trace, stops, and we go on.
-spec beside_dbg(scope_test:config()) -> ok.
beside_dbg(Config) ->
    {Old, New, D} = cluster(Config),
    {ok, Pid} = rpc(New, scope_counter, start, [c1]),
    Seen = rpc(New, fun() ->
                            C = counters:new(1, []),
                            {ok, _} = dbg:tracer(process, {fun(_, N) -> counters:add(C, 1, 1), N end, 0}),
                            {ok, _} = dbg:p(Pid, [call]),
                            {ok, _} = dbg:tpl(scope_counter, handle_call, 3, []),
                            persistent_term:put(seen, C),
                            fun() -> counters:get(persistent_term:get(seen), 1) end
                    end),
    _ = start_trace(Old, D, #{mfas => [{scope_counter, handle_call, 3}], pids => [Pid], nodes => [node_of(New)], events => [calls]}),
    [rpc(New, gen_server, call, [c1, {add, K}]) || K <- lists:seq(1, 10)],
    wait_until(fun() -> rpc(New, Seen) =:= 10 end, 5000),
    rpc(New, dbg, stop, []),
    [rpc(New, gen_server, call, [c1, {add, K}]) || K <- lists:seq(11, 20)],
    Events = await(Old, D, #{pid => Pid, type => function_entry}, 20),
    assert_eq(lists:seq(1, 20), [K || #{args := [{add, K}, _, _]} <- Events]).

%% OTP 29's records: read from a question, and left out of what is captured, which says so.
-spec native_records(scope_test:config()) -> ok.
native_records(Config) ->
    scope_test:other_otp() >= 29 orelse throw({skip, "no native records before OTP 29"}),
    {Old, New, D = #{scope := Scope}} = cluster(Config),
    Lines = ["-module(native).", "-export([point/0]).", "-record #point{x = 1, y = 2}.", "point() -> #point{x = 7}."],
    Sink = rpc(New, fun() ->
                            Forms = [begin {ok, Ts, _} = erl_scan:string(L), {ok, F} = erl_parse:parse_form(Ts), F end || L <- Lines],
                            {ok, native, Code} = compile:forms(Forms),
                            {module, native} = code:load_binary(native, "native", Code),
                            spawn(fun() -> receive never -> ok end end)
                    end),
    {error, {_, #{got := Got}}} = rpc(New, fun() -> gen_server:call({elixir_scope, Scope}, apply(native, point, [])) end),
    log("a native record is shown as ~ts", [Got]),
    {match, _} = re:run(Got, "#native:point{x = 7, ?y = 2}"),
    _ = start_trace(Old, D, #{pids => [Sink], events => [messages]}),
    ok = rpc(New, fun() -> Sink ! {seven, apply(native, point, [])}, ok end),
    %% The Erlang tracer hides whatever it cannot look into for secrets.
    case await(Old, D, #{pid => Sink, type => message_fetch}, 1) of
        [#{message := {seven, '...'}, truncated := Size}] -> true = is_integer(Size);
        [#{message := {seven, {'$scope_redacted', _}}, redacted := true}] -> ok
    end.

%% After a trace of everything: `scope verify-clean` finds nothing on either.
-spec leaves_no_trace(scope_test:config()) -> ok.
leaves_no_trace(Config = #{cookie := Cookie, tmp := Tmp}) ->
    {Old, New, D} = cluster(Config),
    _ = start_trace(Old, D, #{events => [messages, state, lifecycle], all => true, force => true}),
    {ok, _} = rpc(New, scope_counter, start, [c1]),
    [rpc(New, gen_server, call, [c1, {add, K}]) || K <- lists:seq(1, 10)],
    Unclean = verify(Config, New),
    4 = element(1, Unclean),
    {match, _} = re:run(element(2, Unclean), "sessions: the trace session"),
    assert_eq(0, scope_daemon:stop(D)),
    [wait_until(fun() -> case verify(Config, N) of {0, _} -> true; R -> R end end, 15000) || N <- [Old, New]],
    true = is_list(Cookie) andalso is_list(Tmp),
    ok.

verify(Config = #{cookie := Cookie}, Node) ->
    H = scope_test:start_program(Config, scope_test:bin("scope"), ["verify-clean", "--cookie", Cookie, atom_to_list(node_of(Node))]),
    lines(H, []).

lines(H = #{os_pid := OsPid}, Acc) ->
    receive
        {line, OsPid, Line} -> lines(H, [Acc, Line, $\n]);
        {exited, OsPid, Status} -> {Status, iolist_to_binary(Acc)}
    after 15000 -> error(still_running)
    end.
