%% `scope verify-clean`, as a program, on plain nodes on which traces of all kinds are planted.
-module(verify_clean_SUITE).
-export([all/0, init/1]).
-export([a_clean_node/1, planted_flags/1, planted_patterns/1, planted_code_and_names/1, planted_owners/1, planted_counters/1, planted_session/1, planted_monitor/1,
         planted_handlers/1, planted_files/1, other_owners_are_notes/1, unreachable_nodes/1, nodes_from_the_daemon/1, many_nodes_json/1, the_agent_itself/1]).
-export([held/0, agents_daemon/1]).

-import(scope_cli, [scope/2, has/2]).

-spec all() -> [atom()].
all() ->
    [a_clean_node, planted_flags, planted_patterns, planted_code_and_names, planted_owners, planted_counters, planted_session, planted_monitor,
     planted_handlers, planted_files, other_owners_are_notes, unreachable_nodes, nodes_from_the_daemon, many_nodes_json, the_agent_itself].

-spec init(scope_test:config()) -> scope_test:config().
init(Config) -> scope_cli:cookie(Config).

-spec a_clean_node(scope_test:config()) -> ok.
a_clean_node(Config) ->
    Node = target(Config, clean),
    Processes = fun() -> scope_test:rpc(Node, fun() -> processes() -- [self()] end) end,
    Modules = fun() -> lists:sort(scope_test:rpc(Node, code, all_loaded, [])) end,
    {_, _} = verify(Config, Node), % loads erpc, if it is not
    {Before, Loaded} = {Processes(), Modules()},
    {0, Out} = verify(Config, Node),
    has(Out, "  clean  \\([0-9]+ processes, [0-9]+ ports, [0-9]+ modules, [0-9]{4,} functions looked at\\)"),
    scope_test:wait_until(fun() -> scope_test:rpc(Node, erlang, nodes, [connected]) =:= [] end),
    scope_test:assert_eq([], Modules() -- Loaded),
    scope_test:wait_until(fun() -> Processes() -- Before =:= [] end),
    ok.

-spec planted_flags(scope_test:config()) -> ok.
planted_flags(Config) ->
    Node = target(Config, flags),
    Tracer = plant(Node, fun() -> 1 = erlang:trace(whereis(init), true, [call, {tracer, self()}]) end),
    {4, One} = verify(Config, Node),
    has(One, "not clean"),
    has(One, "tracing: 1 process is traced by <flags_.*>: <flags_.*>"),
    unplant(Node, Tracer),
    {0, _} = verify(Config, Node),
    Many = plant(Node, fun() -> _ = erlang:trace(new, true, [procs, {tracer, self()}]) end),
    {4, New} = verify(Config, Node),
    has(New, "tracing: new_processes will be traced by"),
    unplant(Node, Many),
    Ports = plant(Node, fun() -> _ = erlang:trace(existing_ports, true, [ports, {tracer, self()}]) end),
    {4, Port} = verify(Config, Node),
    has(Port, "traced by <flags_.*>: #Port<"),
    unplant(Node, Ports),
    ok.

-spec planted_patterns(scope_test:config()) -> ok.
planted_patterns(Config) ->
    Node = target(Config, patterns),
    Cases = [{{lists, map, 2}, true, [local], "1 function has a trace pattern, local: lists:map/2"},
             {{lists, flatmap, 2}, true, [global], "1 function has a trace pattern, global: lists:flatmap/2"},
             {{lists, flatmap, 2}, true, [call_count], "1 function has a trace pattern, call_count: lists:flatmap/2"},
             {{dict, '_', '_'}, true, [local], "[0-9]+ functions have a trace pattern, local: dict:.* and [0-9]+ more"},
             {send, [{['_', '_'], [], []}], [], "the event send has a match spec"},
             {'receive', [{['_', '_', '_'], [], []}], [], "the event receive has a match spec"},
             {on_load, true, [local], "modules to be loaded will have a local trace pattern"}],
    scope_test:rpc(Node, code, ensure_loaded, [dict]),
    [begin
         _ = scope_test:rpc(Node, erlang, trace_pattern, [What, Spec, How]),
         {4, Out} = verify(Config, Node),
         has(Out, "patterns: " ++ Text),
         Off = case What of send -> true; 'receive' -> true; _ -> false end,
         _ = scope_test:rpc(Node, erlang, trace_pattern, [What, Off, How]),
         {0, _} = verify(Config, Node)
     end || {What, Spec, How, Text} <- Cases],
    Meta = plant(Node, fun() -> 1 = erlang:trace_pattern({lists, map, 2}, true, [{meta, self()}]) end),
    {4, Found} = verify(Config, Node),
    has(Found, "patterns: 1 function has a trace pattern, meta \\(tracer <patterns_.*>\\): lists:map/2"),
    unplant(Node, Meta),
    ok.

-spec planted_code_and_names(scope_test:config()) -> ok.
planted_code_and_names(Config) ->
    Node = target(Config, code),
    {ok, scope_agent, Beam} = compile:forms([{attribute, 1, module, scope_agent}, {attribute, 2, export, [{wait, 0}]},
                                             {function, 3, wait, 0,
                                              [{clause, 3, [], [], [{'receive', 3, [{clause, 3, [{atom, 3, stop}], [], [{atom, 3, ok}]}]}]}]}]),
    {module, _} = scope_test:rpc(Node, code, load_binary, [scope_agent, "scope_agent.beam", Beam]),
    Pid = scope_test:rpc(Node, erlang, spawn, [scope_agent, wait, []]),
    true = scope_test:rpc(Node, erlang, register, [scope_sup, Pid]),
    {4, Out} = verify(Config, Node),
    has(Out, "modules: module scope_agent is loaded"),
    has(Out, "names: the name scope_sup is registered"),
    has(Out, "processes: process <code_.*> \\(scope_sup\\) runs scope_agent:wait/0"),
    true = scope_test:rpc(Node, code, delete, [scope_agent]),
    {4, Old} = verify(Config, Node),
    has(Old, "modules: old code of module scope_agent is left"),
    _ = scope_test:rpc(Node, code, purge, [scope_agent]),
    {0, _} = verify(Config, Node),
    %% A module of the user's own that happens to be called so.
    Own = filename:join(maps:get(tmp, Config), "scope_shop"),
    {ok, scope_shop, Shop} = compile:forms([{attribute, 1, module, scope_shop}]),
    {module, _} = scope_test:rpc(Node, code, load_binary, [scope_shop, Own ++ ".beam", Shop]),
    {0, _} = verify(Config, Node),
    ok.

-spec planted_counters(scope_test:config()) -> ok.
planted_counters(Config) ->
    Node = target(Config, counters),
    Kinds = [call_time | [call_memory || otp(Node) >= 26]],
    [begin
         1 = scope_test:rpc(Node, erlang, trace_pattern, [{lists, map, 2}, true, [Kind]]),
         {4, Out} = verify(Config, Node),
         has(Out, io_lib:format("patterns: 1 function has a trace pattern, ~s: lists:map/2", [Kind])),
         1 = scope_test:rpc(Node, erlang, trace_pattern, [{lists, map, 2}, false, [Kind]]),
         {0, _} = verify(Config, Node)
     end || Kind <- Kinds],
    ok.

%% Of OTP 27: ours by its name; another tool's is a remark.
-spec planted_session(scope_test:config()) -> ok.
planted_session(Config) ->
    Node = target(Config, session),
    otp(Node) >= 27 orelse throw({skip, "no trace sessions before OTP 27"}),
    Open = fun(Name) ->
                   plant(Node, fun() ->
                                       S = apply(trace, session_create, [Name, self(), []]),
                                       1 = apply(trace, process, [S, whereis(init), true, [call]]),
                                       put(kept, S)
                               end)
           end,
    Ours = Open(elixir_scope),
    {4, Out} = verify(Config, Node),
    has(Out, "sessions: the trace session \\{elixir_scope,[ 0-9]+\\} is open"),
    unplant(Node, Ours),
    _ = Open(profiler),
    {0, Note} = verify(Config, Node),
    has(Note, "sessions: the trace session \\{profiler,[ 0-9]+\\} is open, which is not of ElixirScope"),
    ok.

%% A daemon's process watches one of the node's.
-spec planted_monitor(scope_test:config()) -> ok.
planted_monitor(Config) ->
    Node = target(Config, monitored),
    Daemon = scope_test:start_node(Config, scope_left, #{hidden => true}),
    Watcher = plant(Daemon, fun() ->
                                    true = net_kernel:connect_node(scope_test:node_of(Node)),
                                    monitor(process, {init, scope_test:node_of(Node)})
                            end),
    scope_test:wait_until(fun() -> {monitored_by, By} = scope_test:rpc(Node, fun() -> process_info(whereis(init), monitored_by) end),
                                   lists:member(Watcher, By) end),
    {4, Out} = verify(Config, Node),
    has(Out, "monitors: process <monitored_.*> \\(init\\) is monitored by scope_left_"),
    scope_test:kill(Daemon),
    scope_test:wait_until(fun() -> element(1, verify(Config, Node)) =:= 0 end),
    ok.

-spec planted_handlers(scope_test:config()) -> ok.
planted_handlers(Config) ->
    Node = target(Config, handlers),
    Calm = fun() -> {0, _} = verify(Config, Node), ok end,
    ok = scope_test:rpc(Node, logger, add_primary_filter, [f, {fun scope_cut:filter/2, []}]),
    {4, Filter} = verify(Config, Node),
    has(Filter, "handlers: logger's configuration names module scope_cut"),
    ok = scope_test:rpc(Node, logger, remove_primary_filter, [f]),
    Calm(),
    ok = scope_test:rpc(Node, logger, add_handler_filter, [default, f, {fun scope_watch:filter/2, []}]),
    {4, Handler} = verify(Config, Node),
    has(Handler, "handlers: logger's configuration names module scope_watch"),
    ok = scope_test:rpc(Node, logger, remove_handler_filter, [default, f]),
    Calm(),
    %% A manager under each of the two names, with a handler called as a module of ours.
    {ok, scope_beat, Beam} = compile:forms(
        [{attribute, 1, module, scope_beat}, {attribute, 1, export, [{init, 1}, {terminate, 2}]},
         {function, 2, init, 1, [{clause, 2, [{var, 2, 'X'}], [], [{tuple, 2, [{atom, 2, ok}, {var, 2, 'X'}]}]}]},
         {function, 3, terminate, 2, [{clause, 3, [{var, 3, '_'}, {var, 3, '_'}], [], [{atom, 3, ok}]}]}]),
    [begin
         {module, _} = scope_test:rpc(Node, code, load_binary, [scope_beat, "/scope_beat.beam", Beam]),
         _ = scope_test:rpc(Node, fun() -> whereis(Manager) =:= undefined andalso gen_event:start({local, Manager}) end),
         ok = scope_test:rpc(Node, gen_event, add_handler, [Manager, scope_beat, []]),
         {4, Out} = verify(Config, Node),
         has(Out, io_lib:format("handlers: the handlers of ~s names? module scope_beat", [Manager])),
         _ = scope_test:rpc(Node, gen_event, delete_handler, [Manager, scope_beat, []]),
         _ = scope_test:rpc(Node, fun() -> code:delete(scope_beat), code:purge(scope_beat) end),
         Calm()
     end || Manager <- [error_logger, alarm_handler]],
    ok.

%% The library's folder, and the library in memory.
-spec planted_files(scope_test:config()) -> ok.
planted_files(Config = #{tmp := Tmp}) ->
    Node = target(Config, files, #{env => [{"TMPDIR", Tmp}]}),
    [begin
         Folder = filename:join(Dir, "scope-" ++ scope_test:rpc(Node, os, getpid, []) ++ "-c0ffee"),
         ok = file:make_dir(Folder),
         try
             {4, Out} = verify(Config, Node),
             has(Out, "files: the folder " ++ Folder ++ " is left")
         after
             file:del_dir(Folder)
         end,
         {0, _} = verify(Config, Node)
     end || Dir <- [Tmp, "/tmp", "/var/tmp"]],
    Ebin = filename:join(os:getenv("SCOPE_BUILD"), "erl/ebin"),
    [Nif, Library] = [element(2, {ok, _} = file:read_file(filename:join(Ebin, F))) || F <- ["scope_nif.beam", "scope_tracer.so"]],
    Load = fun() ->
                   {module, _} = code:load_binary(scope_nif, "scope_nif.beam", Nif),
                   scope_nif:load(Library, #{})
           end,
    {module, _} = scope_test:rpc(Node, code, load_binary,
                                 [scope_cut, "scope_cut.beam", element(2, file:read_file(filename:join(Ebin, "scope_cut.beam")))]),
    _ = scope_test:rpc(Node, Load),
    {4, Mapped} = verify(Config, Node),
    has(Mapped, "files: the native tracer's library is in memory"),
    scope_test:rpc(Node, fun() -> [begin code:delete(M), code:purge(M) end || M <- [scope_nif, scope_cut]], ok end),
    {0, _} = verify(Config, Node),
    ok.

-spec planted_owners(scope_test:config()) -> ok.
planted_owners(Config) ->
    Node = target(Config, owners),
    Owner = plant(Node, fun() ->
                                true = register(scope_guard, self()),
                                undefined = erlang:system_monitor(self(), [busy_port]),
                                false = seq_trace:set_system_tracer(self())
                        end),
    {4, Out} = verify(Config, Node),
    has(Out, "system_monitor: the system monitor is <owners_.*> \\(scope_guard\\)$"),
    has(Out, "seq_trace: the sequential tracer is <owners_.*> \\(scope_guard\\)$"),
    unplant(Node, Owner),
    {0, _} = verify(Config, Node),
    ok.

-spec other_owners_are_notes(scope_test:config()) -> ok.
other_owners_are_notes(Config) ->
    Node = scope_test:start_node(Config, others),
    _ = plant(Node, fun() -> true = register(rabbit_sysmon, self()), _ = erlang:system_monitor(self(), [busy_port]) end),
    {0, Out} = verify(Config, Node),
    has(Out, "system_monitor: the system monitor is <others_.*> \\(rabbit_sysmon\\), which is not of ElixirScope"),
    ok.

-spec unreachable_nodes(scope_test:config()) -> ok.
unreachable_nodes(Config) ->
    Node = scope_test:start_node(Config, here),
    {3, Out} = scope(Config, ["verify-clean", "nobody@localhost", atom_to_list(scope_test:node_of(Node))]),
    has(Out, "^nobody@localhost  not checked"),
    has(Out, "^here_.*  clean"),
    ok.

-spec nodes_from_the_daemon(scope_test:config()) -> ok.
nodes_from_the_daemon(Config) ->
    Node = scope_test:start_node(Config, known),
    {0, Alone} = scope(Config, ["verify-clean"]),
    has(Alone, "no daemon"),
    has(Alone, "^known_.*  clean"),
    D = cli_SUITE:start_daemon(Config),
    true = scope_test:rpc(D, net_kernel, connect_node, [scope_test:node_of(Node)]),
    {3, Out} = scope(Config, ["verify-clean"]), % the daemon speaks of nodes that are not there
    has(Out, "^shop1@localhost  not checked"),
    {0, Linked} = verify(Config, Node),
    has(Linked, "link: linked to scope@localhost, a daemon that is running"),
    ok.

-spec many_nodes_json(scope_test:config()) -> ok.
many_nodes_json(Config) ->
    A = scope_test:start_node(Config, a),
    B = scope_test:start_node(Config, b),
    _ = plant(B, fun() -> 1 = erlang:trace(whereis(init), true, [call, {tracer, self()}]) end),
    {4, [Line]} = scope(Config, ["verify-clean", "--json" | [atom_to_list(scope_test:node_of(N)) || N <- [A, B]]]),
    has([Line], "^\\{\"a_[^}]*\"clean\":true"),
    has([Line], "\"b_[^}]*\"clean\":false.*\"check\":\"tracing\""),
    ok.

%% Our own agent, as it is: found while it is there, and nothing found when it has gone.
-spec the_agent_itself(scope_test:config()) -> ok.
the_agent_itself(Config) ->
    Node = scope_test:start_node(Config, traced),
    {0, _} = verify(Config, Node),
    Sources = filelib:wildcard(filename:join([os:getenv("SCOPE_ROOT"), "erl", "agent", "scope_*.erl"])),
    [begin
         {ok, Module, Beam} = compile:file(Source, [binary, no_debug_info]),
         {module, Module} = scope_test:rpc(Node, code, load_binary, [Module, atom_to_list(Module) ++ ".beam", Beam])
     end || Source <- Sources],
    ok = scope_test:rpc(Node, fun() ->
                                      Self = self(),
                                      _ = spawn(fun() -> agents_daemon(Self) end),
                                      receive tracing -> ok after 5000 -> error(not_tracing) end
                              end),
    {4, Found} = verify(Config, Node),
    [has(Found, Text) || Text <- ["modules: module scope_agent is loaded", "names: the name scope_guard is registered",
                                  "processes: .* \\(scope_sup\\) runs scope_sup:loop/1",
                                  "traced by <traced_.*> \\(scope_tracer\\)", "patterns: .*lists:"]],
    nomatch = binary:match(iolist_to_binary(Found), <<"meta">>),
    true = scope_test:rpc(Node, fun() -> exit(whereis(scope_agent), kill) end),
    scope_test:wait_until(fun() -> element(1, verify(Config, Node)) =:= 0 end, 15000).

%% Attaches to the agent and starts a trace, as the daemon does.
-spec agents_daemon(pid()) -> no_return().
agents_daemon(Starter) ->
    ok = scope_agent:start(self(), #{}),
    Agent = receive {hello, #{agent := A}} -> A end,
    Agent ! {resume, #{store_id => 1, last_committed_seq => 0, credit => 1 bsl 20}},
    Agent ! {control, r, {start, 1, #{events => [calls], modules => [lists]}}},
    receive {control_reply, r, {ok, _}} -> Starter ! tracing end,
    agents_daemon_loop(Agent).

agents_daemon_loop(Agent) ->
    receive {batch, _, Seq, _, _, _, _} -> Agent ! {ack, Seq}
    after 500 -> Agent ! {ping, 1, 1}
    end,
    agents_daemon_loop(Agent).

%% --- helpers ---------------------------------------------------------------------------------------------------------

%% $SCOPE_TARGET_OTP says of which release the nodes are that are looked at.
target(Config, Name) -> target(Config, Name, #{}).
target(Config, Name, Opts) ->
    scope_test:start_node(Config, Name, case os:getenv("SCOPE_TARGET_OTP") of
                                            false -> Opts;
                                            Otp -> Opts#{otp => list_to_integer(Otp)}
                                        end).

otp(Node) -> list_to_integer(scope_test:rpc(Node, erlang, system_info, [otp_release])).

verify(Config, Node) -> scope(Config, ["verify-clean", atom_to_list(scope_test:node_of(Node))]).

%% A process on the node that runs Fun and then holds what it set.
plant(Node, Fun) ->
    scope_test:rpc(Node, fun() ->
                                 Self = self(),
                                 Pid = spawn(fun() -> Fun(), Self ! planted, held() end),
                                 receive planted -> Pid after 5000 -> error(not_planted) end
                         end).

-spec held() -> no_return().
held() -> receive stop -> exit(normal); _ -> held() end.

unplant(Node, Pid) ->
    scope_test:rpc(Node, fun() ->
                                 Ref = monitor(process, Pid),
                                 exit(Pid, kill),
                                 receive {'DOWN', Ref, _, _, _} -> ok end,
                                 _ = erlang:trace_pattern({lists, map, 2}, false, [meta]),
                                 ok
                         end).
