%% The command line, as a program: against a node that answers as our daemon would, and against plain nodes on which
%% traces of all kinds are planted.
-module(cli_SUITE).
-export([all/0, init/1]).
-export([status_is_a_table/1, status_is_quick/1, json_is_one_document/1, requests_are_as_api_md_has_them/1,
         trace_and_untrace/1, all_pages/1, states_and_flows/1, an_error_is_explained/1, wrong_cookie/1,
         no_daemon/1, not_a_daemon/1, a_silent_daemon/1, usage/1, nothing_harmful_reaches_the_terminal/1,
         it_leaves_no_trace/1, on_a_terminal/1, settings/1, the_agent_itself/1, a_clean_node/1, planted_flags/1, planted_patterns/1, planted_code_and_names/1,
         planted_owners/1, planted_counters/1, planted_session/1, planted_monitor/1, planted_handlers/1, planted_files/1,
         other_owners_are_notes/1, unreachable_nodes/1, nodes_from_the_daemon/1, many_nodes_json/1]).
-export([daemon/1, held/0, agents_daemon/1]).

-import(scope_cli, [scope/2, scope/3, on_terminal/3, uncoloured/1, has/2]).

-define(SECOND, 1714557600000000000). % 2024-05-01T10:00:00Z

-spec all() -> [atom()].
all() ->
    [status_is_a_table, status_is_quick, json_is_one_document, requests_are_as_api_md_has_them, trace_and_untrace,
     all_pages, states_and_flows, an_error_is_explained, wrong_cookie, no_daemon, not_a_daemon, a_silent_daemon, usage,
     nothing_harmful_reaches_the_terminal, it_leaves_no_trace, on_a_terminal, settings, a_clean_node, planted_flags, planted_patterns,
     planted_code_and_names, planted_owners, planted_counters, planted_session, planted_monitor, planted_handlers,
     planted_files, other_owners_are_notes, unreachable_nodes, nodes_from_the_daemon,
     many_nodes_json, the_agent_itself].

-spec init(scope_test:config()) -> scope_test:config().
init(Config) -> scope_cli:cookie(Config).

%% --- questions -------------------------------------------------------------------------------------------------------

-spec status_is_a_table(scope_test:config()) -> ok.
status_is_a_table(Config) ->
    _ = start_daemon(Config),
    {0, Out} = scope(Config, ["status"]),
    has(Out, "^scope scope@localhost, version 9.9, up 1 h 1 min$"),
    has(Out, "^store: 12,345 events, 2.00 MB in 2 partitions, from 2024-05-01T10:00:00.000000Z to"),
    has(Out, "^'?shop1@localhost'? +tracing +25 +erlang +1.00 % +0.12 % +7 +60 s +1.50 ms ±30.0 µs"),
    has(Out, "^ +3 +<0.5.0> on a@b +2024-05-01T10:00:01.000000Z +#\\{profile => balanced\\}"),
    ok.

-spec status_is_quick(scope_test:config()) -> ok.
status_is_quick(Config) ->
    _ = start_daemon(Config),
    Times = [begin
                 Start = erlang:monotonic_time(microsecond),
                 {0, _} = scope(Config, ["status"]),
                 erlang:monotonic_time(microsecond) - Start
             end || _ <- lists:seq(1, 10)],
    scope_test:log("scope status, of 10: ~b us best, ~b us worst", [lists:min(Times), lists:max(Times)]),
    true = lists:min(Times) < 100000,
    ok.

-spec json_is_one_document(scope_test:config()) -> ok.
json_is_one_document(Config) ->
    _ = start_daemon(Config),
    {0, [Line]} = scope(Config, ["clocks", "--json"]),
    scope_test:assert_eq(<<"{\"nodes\":{\"shop1@localhost\":{\"age_ms\":12,\"drift_ppm\":0.5,\"lower_ns\":1,\"offset_ns\":2,"
                           "\"upper_ns\":3}},\"reference\":\"scope@localhost\",\"version\":1}">>, Line),
    {1, [Error]} = scope(Config, ["state", "nobody", "--json"]),
    has([Error], "^\\{\"error\":\\{.*\"code\":\"no_such_process\""),
    ok.

-spec requests_are_as_api_md_has_them(scope_test:config()) -> ok.
requests_are_as_api_md_has_them(Config) ->
    D = start_daemon(Config),
    Asked = fun(Args) -> {0, _} = scope(Config, Args), last_request(D) end,
    scope_test:assert_eq({get_events, []}, Asked(["events"])),
    scope_test:assert_eq(
      {get_events, [{pid, {<<"<0.123.0>">>, 'a@h'}}, {node, ['a@h']}, {type, [message_send, state_change]},
                    {module, ['Elixir.Shop.Stock', lists]}, {mfa, {'Elixir.Shop.Stock', take, 2}},
                    {peer, {stock, 'b@h'}}, {min_duration, 2000000}, {since, {ago, 10000000000, nanosecond}},
                    {until, ?SECOND}, {limit, 5}, {order, oldest_first}, {cursor, <<1, 2, 255>>}]},
      Asked(["events", "--pid", "0.123.0", "--node", "a@h", "--type", "message_send,state_change", "--module",
             "Shop.Stock", "--module", "lists", "--mfa", "Shop.Stock.take/2", "--peer", "stock@b@h", "--min-duration",
             "2ms", "--since", "-10s", "--until", "2024-05-01T12:00:00+02:00", "--limit", "5", "--order", "oldest",
             "--cursor", "AQL_"])),
    scope_test:assert_eq({get_state_at, {'Elixir.Shop.Stock', 'a@h'}, now}, Asked(["state", "Shop.Stock@a@h"])),
    scope_test:assert_eq({get_state_at, stock, {ago, 5000000000, nanosecond}}, Asked(["state", "stock", "--at", "5s ago"])),
    scope_test:assert_eq({get_state_history, {<<"<0.9.1>">>, 'a@h'}, [{limit, 3}]},
                         Asked(["state", "<a@h.9.1>", "--history", "--limit", "3"])),
    scope_test:assert_eq({get_message_flow, {a, 'x@h'}, {<<"<0.7.0>">>, 'y@h'}, []},
                         Asked(["flow", "{a,x@h}", "<0.7.0>@y@h"])),
    scope_test:assert_eq({get_traces, [{pid, stock}, {module, ['Elixir.Shop.Stock']}, {min_duration, 2000000}, {errors, false},
                                       {limit, 3}]},
                         Asked(["traces", "--pid", "stock", "--module", "Shop.Stock", "--min-duration", "2ms", "--no-errors",
                                "--limit", "3"])),
    scope_test:assert_eq({get_trace, <<0:192>>}, Asked(["traces", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"])),
    scope_test:assert_eq(status, Asked(["status"])),
    scope_test:assert_eq(clocks, Asked(["clocks"])),
    ok.

-spec trace_and_untrace(scope_test:config()) -> ok.
trace_and_untrace(Config) ->
    D = start_daemon(Config),
    {0, Out} = scope(Config, ["trace", "--profile", "balanced", "--module", "Shop.Stock", "--mfa", "gen_server:call/3,lists:map",
                              "--pid", "0.5.0@a@h", "--name", "stock", "--events", "calls,state", "--args", "--sample",
                              "0.5", "--budget", "1.5%", "--for", "10m"]),
    scope_test:assert_eq({start, [{profile, balanced}, {modules, ['Elixir.Shop.Stock']}, {events, [calls, state]},
                                  {mfas, [{gen_server, call, 3}, {lists, map}]}, {pids, [{<<"<0.5.0>">>, 'a@h'}]},
                                  {names, [stock]}, {args, true}, {sample, 0.5}, {budget, 1.5}, {for, 600000}]},
                         last_request(D)),
    has(Out, "^tracing with id 3, until 2024-05-01T10:00:01.000000Z$"),
    has(Out, "shop1@localhost'? +ok"),
    has(Out, "shop2@localhost'? +error +owned_by: traced by dbg"),
    {0, Stopped} = scope(Config, ["untrace", "3"]),
    has(Stopped, "^stopped 3$"),
    scope_test:assert_eq({stop, 3}, last_request(D)),
    {0, _} = scope(Config, ["untrace", "all"]),
    scope_test:assert_eq({stop, all}, last_request(D)),
    ok.

-spec all_pages(scope_test:config()) -> ok.
all_pages(Config) ->
    _ = start_daemon(Config),
    {0, One} = scope(Config, ["events"]),
    has(One, "^more: --cursor AQ$"),
    has(One, "^not complete:"),
    has(One, "^  shop1@localhost: a gap from 2024-05-01T10:00:00.000000Z to 2024-05-01T10:00:01.000000Z, 12 events dropped \\(hold_full\\)"),
    {0, Out} = scope(Config, ["events", "--all"]),
    has(Out, "message_send +to <shop1@localhost.9.0>: \\{page,1\\}"),
    has(Out, "message_send +to <shop1@localhost.9.0>: \\{page,2\\}"),
    has(Out, "message_send +to <shop1@localhost.9.0>: \\{page,3\\}"),
    has(Out, "^complete$"),
    {0, Elixir} = scope(Config, ["events", "--all", "--syntax", "elixir"]),
    has(Elixir, "to #PID<shop1@localhost.9.0>: \\{:page, 3\\}"),
    {0, [Json]} = scope(Config, ["events", "--all", "--json"]),
    {match, Pages} = re:run(Json, "\\[\"page\",\\d\\]", [global]),
    scope_test:assert_eq(3, length(Pages)),
    has([Json], "^\\{\"events\":\\[.*\"whole\":true\\}$"),
    ok.

-spec states_and_flows(scope_test:config()) -> ok.
states_and_flows(Config) ->
    _ = start_daemon(Config),
    {0, State} = scope(Config, ["state", "stock"]),
    has(State, "^#\\{apples => 3\\}$"),
    has(State, "^since 2024-05-01T10:00:00.000000Z ±12.0 µs, inferred \\(gap\\)$"),
    {0, History} = scope(Config, ["state", "stock", "--history"]),
    has(History, "proven +<shop1@localhost.9.0> +\\{take,1\\} +apples: 4 -> 3"),
    {0, Flow} = scope(Config, ["flow", "a", "b"]),
    has(Flow, "250 µs +10.0 ms +±5.00 µs +unique +hello"),
    {0, Traces} = scope(Config, ["traces", "--errors", "--min-duration", "2ms"]),
    has(Traces, "±12.0 µs +12.0 ms +2 +1 +unique +<shop1@localhost.9.0> +call take/2 \\(process\\) +shop1@localhost +AAAA"),
    {0, Trace} = scope(Config, ["traces", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"]),
    has(Trace, "^ *0 ns +±12.0 µs +\\* call take/2 \\(process\\) +<shop1@localhost.9.0> +shop1@localhost +12.0 ms"),
    has(Trace, "^ *1.00 ms +±12.0 µs +- handle take/2 +<shop1@localhost.9.0> +shop1@localhost +1.00 ms +5.00 ms +exact +boom"),
    has(Trace, "^not whole: cut by its bound of depth$"),
    ok.

-spec an_error_is_explained(scope_test:config()) -> ok.
an_error_is_explained(Config) ->
    _ = start_daemon(Config),
    {1, Out} = scope(Config, ["state", "nobody"]),
    has(Out, "^scope state: no_such_process: no such process was seen \\(field pid\\) \\(got nobody\\)$"),
    ok.

%% --- connection ------------------------------------------------------------------------------------------------------

-spec wrong_cookie(scope_test:config()) -> ok.
wrong_cookie(Config) ->
    _ = start_daemon(Config),
    {3, Out} = scope(Config, ["status", "--cookie", "another"]),
    has(Out, "cookie"),
    has(Out, "--cookie-file"),
    ok.

-spec no_daemon(scope_test:config()) -> ok.
no_daemon(Config) ->
    {3, None} = scope(Config, ["status"]),
    has(None, "no connection to the daemon: the local epmd knows no node at all"),
    Node = scope_test:start_node(Config, lonely),
    [Short, _] = string:split(atom_to_list(scope_test:node_of(Node)), "@"),
    {3, Others} = scope(Config, ["status"]),
    has(Others, "no scope node, only " ++ Short),
    {3, Named} = scope(Config, ["status", "--scope", "nobody@localhost"]),
    has(Named, "no connection to nobody@localhost"),
    has(Named, "the local epmd knows " ++ Short),
    ok.

-spec not_a_daemon(scope_test:config()) -> ok.
not_a_daemon(Config) ->
    Node = scope_test:start_node(Config, plain),
    {3, Out} = scope(Config, ["status", "--scope", atom_to_list(scope_test:node_of(Node))]),
    has(Out, "it is no scope daemon"),
    {3, Env} = scope(Config, ["status"], [{"SCOPE_NODE", atom_to_list(scope_test:node_of(Node))}]),
    has(Env, "it is no scope daemon"),
    ok.

-spec a_silent_daemon(scope_test:config()) -> ok.
a_silent_daemon(Config) ->
    _ = start_daemon(Config),
    {3, Out} = scope(Config, ["state", "silent", "--timeout", "200ms"]),
    has(Out, "--timeout"),
    ok.

-spec usage(scope_test:config()) -> ok.
usage(Config) ->
    Wrong = [[["evnts"], "did you mean events\\?"], [["events", "--since", "yesterday"], "--since: a time is now"],
             [["trace", "--sample", "2"], "--sample"], [["trace", "--pid", "0.5.0"], "needs its node"],
             [["state"], "required"], [["untrace", "x"], "a number, or all"], [["events", "--node", "shop"], "name@host"],
             [["start", "--grace-ms", "x"], "--grace-ms"], [["events", "--sinc", "now"], "no such flag: --sinc; did you mean --since\\?"],
             [["status", "--scope", "scope"], "name@host"]],
    [begin {2, Out} = scope(Config, Args), has(Out, Text) end || [Args, Text] <- Wrong],
    {0, Help} = scope(Config, ["events", "--help"]),
    has(Help, "^  scope events --since -10s$"),
    has(Help, "^Exit status: 0"),
    {0, [Version]} = scope(Config, ["--version"]),
    has([Version], "^scope [0-9]"),
    ok.

-spec nothing_harmful_reaches_the_terminal(scope_test:config()) -> ok.
nothing_harmful_reaches_the_terminal(Config) ->
    _ = start_daemon(Config),
    {_, Out} = scope(Config, ["state", "evil"]),
    nomatch = binary:match(iolist_to_binary(Out), [<<"\e">>, <<"\r">>, <<16#9b/utf8>>, <<16#202e/utf8>>]),
    ok.

-spec it_leaves_no_trace(scope_test:config()) -> ok.
it_leaves_no_trace(Config) ->
    Node = start_daemon(Config),
    {0, _} = scope(Config, ["status"]),
    scope_test:wait_until(fun() -> scope_test:rpc(Node, erlang, nodes, [connected]) =:= [] end),
    [{"scope", _}] = scope_test:epmd_names(Config),
    ok.

%% Under script(1), which gives it a terminal.
-spec on_a_terminal(scope_test:config()) -> ok.
on_a_terminal(Config) ->
    _ = start_daemon(Config),
    Run = fun(Args, Env) -> {0, Lines} = on_terminal(Config, Args, Env), Lines end,
    Coloured = Run(["events"], [{"COLUMNS", "80"}]),
    {_, _} = binary:match(iolist_to_binary(Coloured), <<"\e[32mmessage_send\e[0m">>),
    Plain = uncoloured(Coloured),
    [true = string:length(L) =< 80 || L <- lists:sublist(Plain, 2)],
    has(Plain, "^2024-05-01Z +error"), % what all rows share
    has(Plain, "^10:00:00.000000 "),
    [nomatch = binary:match(iolist_to_binary(Run(Args, Env)), <<"\e">>)
     || {Args, Env} <- [{["events", "--no-color"], []}, {["events"], [{"NO_COLOR", "1"}]}, {["events"], [{"TERM", "dumb"}]}]],
    ok.

-spec settings(scope_test:config()) -> ok.
settings(Config = #{tmp := Tmp}) ->
    {0, Out} = scope(Config, ["config"]),
    has(Out, "^hold_bytes +16M +bytes that an agent keeps"),
    has(Out, "^grace_ms +1m "),
    File = filename:join(Tmp, "scope.toml"),
    ok = file:write_file(File, "grace_ms = \"5s\"\ncookie = \"hunter2\"\nnode = [\"a@h\", \"b@h\"]\n"),
    {0, Changed} = scope(Config, ["config", "--config", File, "--hold-bytes", "32M"]),
    has(Changed, "^hold_bytes +32M"),
    has(Changed, "^grace_ms +5s"),
    has(Changed, "^cookie +\\*\\*\\*"),
    has(Changed, "^node +a@h,b@h"),
    nomatch = binary:match(iolist_to_binary(Changed), <<"hunter2">>),
    ok = file:write_file(File, "grace = 5\n"),
    {2, Wrong} = scope(Config, ["config", "--config", File]),
    has(Wrong, "grace"),
    ok.

%% --- verify-clean ----------------------------------------------------------------------------------------------------

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
    D = start_daemon(Config),
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

%% With $SCOPE_TARGET_OTP=27 the nodes that are looked at run that OTP.
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

start_daemon(Config) ->
    Node = scope_test:start_node(Config, 'scope@localhost', #{hidden => true}),
    ok = scope_test:rpc(Node, fun() ->
                                      Self = self(),
                                      _ = spawn(fun() -> true = register(elixir_scope, self()), Self ! up, daemon(none) end),
                                      receive up -> ok end
                              end),
    Node.

last_request(Node) ->
    scope_test:rpc(Node, fun() -> elixir_scope ! {last, self()}, receive {last_is, R} -> R after 5000 -> error(timeout) end end).

%% A double of the daemon: answers in the shapes of api.md, and remembers what it was asked.
-spec daemon(term()) -> no_return().
daemon(Last) ->
    receive
        {'$gen_call', _, {get_state_at, silent, _}} ->
            daemon(Last);
        {'$gen_call', {Pid, Tag}, Request} ->
            gen_server:reply({Pid, Tag}, answer(Request)),
            daemon(Request);
        {last, Pid} ->
            Pid ! {last_is, Last},
            daemon(Last)
    end.

answer(status) ->
    {ok, #{version => <<"9.9">>, uptime_ms => 3660000, node => 'scope@localhost',
           nodes => #{'shop1@localhost' => #{state => tracing, otp => <<"25">>, agent => 5, capture => erlang, budget => 1.0,
                                             spent => 0.12, dropped => 7, hold_seconds => 60.0,
                                             clock => #{offset_ns => 1500000, lower_ns => 1470000, upper_ns => 1530000}}},
           store => #{events => 12345, bytes => 2097152, oldest => ?SECOND, newest => ?SECOND, partitions => 2},
           tracing => [#{id => 3, by => <<"<0.5.0> on a@b">>, opts => #{profile => balanced},
                         expires => ?SECOND + 1000000000}]}};
answer(clocks) ->
    {ok, #{reference => 'scope@localhost', version => 1,
           nodes => #{'shop1@localhost' => #{offset_ns => 2, lower_ns => 1, upper_ns => 3, drift_ppm => 0.5, age_ms => 12}}}};
answer({start, _}) ->
    {ok, #{id => 3, nodes => #{'shop1@localhost' => ok,
                               'shop2@localhost' => {error, {owned_by, #{field => none, got => none, hint => <<"traced by dbg">>}}}},
           expires => ?SECOND + 1000000000}};
answer({stop, _}) -> {ok, #{stopped => [3], nodes => #{'shop1@localhost' => ok}}};
answer({get_events, Filter}) ->
    Page = case lists:keyfind(cursor, 1, Filter) of {cursor, <<N>>} -> N + 1; _ -> 1 end,
    {ok, #{events => [#{id => <<0:192>>, node => node(), pid => self(), type => message_send, time => ?SECOND, time_error => 12000,
                        to => shop_pid(9), message => {page, Page}}],
           next => case Page of 3 -> none; _ -> <<Page>> end,
           completeness => case Page of
                               3 -> #{complete => true};
                               _ -> #{complete => false, missing => [#{kind => gap, node => 'shop1@localhost', from => ?SECOND,
                                                                       until => ?SECOND + 1000000000, dropped => 12, reason => hold_full}]}
                           end}};
answer({get_state_at, nobody, _}) ->
    {error, {no_such_process, #{field => pid, got => <<"nobody">>, hint => <<"no such process was seen">>}}};
answer({get_state_at, evil, _}) ->
    {ok, #{state => [<<"\e[31mred\r">>, 'a\e]0;title', <<16#9b/utf8, 16#202e/utf8>>, "x\ey"], time => ?SECOND, time_error => unknown,
           certainty => 'pr\eoven', why => [<<"\e[0m">>], completeness => #{complete => true}}};
answer({get_state_at, _, _}) ->
    {ok, #{state => #{apples => 3}, time => ?SECOND, time_error => 12000, event => <<0:192>>, certainty => inferred, why => [gap],
           completeness => #{complete => true}}};
answer({get_state_history, _, _}) ->
    {ok, #{transitions => [#{event => <<0:192>>, time => ?SECOND, time_error => 12000, callback => handle_call,
                             cause => #{message => {take, 1}, from => shop_pid(9), event => <<0:192>>}, state => #{apples => 3},
                             diff => #{added => [], removed => [], changed => [{[apples], 4, 3}]}, certainty => proven}],
           next => none, completeness => #{complete => true}}};
answer({get_message_flow, _, _, _}) ->
    {ok, #{messages => [#{from => shop_pid(1), to => shop_pid(9), message => hello, sent => ?SECOND, fetched => ?SECOND + 250000,
                          taken => unknown, latency_ns => 250000, queue_ns => 10000000, error_ns => 5000, matched => unique,
                          events => #{}}],
           next => none, completeness => #{complete => true}}};
answer({get_traces, _}) ->
    {ok, #{traces => [#{id => <<0:192>>, root => #{pid => shop_pid(9), node => 'shop1@localhost', kind => call, name => <<"take/2">>,
                                                   origin => process},
                        start => ?SECOND, start_error => 12000, duration_ns => 12000000, spans => 2, nodes => ['shop1@localhost'],
                        errors => 1, certainty => unique}],
           next => none, completeness => #{complete => true}}};
answer({get_trace, Id}) ->
    Span = #{id => Id, parent => none, depth => 0, kind => call, pid => shop_pid(9), node => 'shop1@localhost', name => <<"take/2">>,
             origin => process, start => ?SECOND, start_error => 12000, stop => ?SECOND + 12000000, stop_error => 12000,
             queue_ns => unknown, service_ns => 12000000, error => none, critical => true, certainty => exact, events => [Id]},
    {ok, #{id => Id, links => [], cut => [depth], completeness => #{complete => true},
           spans => [Span, Span#{id => <<1:192>>, parent => Id, depth => 1, kind => handle, origin => none, start => ?SECOND + 1000000,
                                 queue_ns => 1000000, service_ns => 5000000, error => <<"boom">>, critical => false}]}};
answer(_) -> {error, {bad_request, #{field => none, got => none, hint => <<"no">>}}}.

%% A pid of a node that is not there.
shop_pid(Id) ->
    binary_to_term(<<131, 88, 119, 15, "shop1@localhost", Id:32, 0:32, 7:32>>).
