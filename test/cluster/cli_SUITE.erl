%% The command line, as a program, against a node that answers as our daemon would. verify-clean: verify_clean_SUITE.
-module(cli_SUITE).
-export([all/0, init/1]).
-export([status_is_a_table/1, status_is_quick/1, json_is_one_document/1, requests_are_as_api_md_has_them/1,
         trace_and_untrace/1, all_pages/1, states_and_flows/1, an_error_is_explained/1, wrong_cookie/1,
         no_daemon/1, not_a_daemon/1, a_silent_daemon/1, usage/1, nothing_harmful_reaches_the_terminal/1,
         it_leaves_no_trace/1, on_a_terminal/1, settings/1]).
-export([daemon/1, start_daemon/1]).

-import(scope_cli, [scope/2, scope/3, on_terminal/3, uncoloured/1, has/2]).

-define(SECOND, 1714557600000000000). % 2024-05-01T10:00:00Z

-spec all() -> [atom()].
all() ->
    [status_is_a_table, status_is_quick, json_is_one_document, requests_are_as_api_md_has_them, trace_and_untrace,
     all_pages, states_and_flows, an_error_is_explained, wrong_cookie, no_daemon, not_a_daemon, a_silent_daemon, usage,
     nothing_harmful_reaches_the_terminal, it_leaves_no_trace, on_a_terminal, settings].

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
    scope_test:assert_eq({get_order, <<0:192>>, <<1:192>>},
                         Asked(["order", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB"])),
    scope_test:assert_eq(status, Asked(["status"])),
    scope_test:assert_eq(clocks, Asked(["clocks"])),
    ok.

-spec trace_and_untrace(scope_test:config()) -> ok.
trace_and_untrace(Config) ->
    D = start_daemon(Config),
    {0, Out} = scope(Config, ["trace", "--profile", "balanced", "--module", "Shop.Stock", "--mfa", "gen_server:call/3,lists:map",
                              "--pid", "0.5.0@a@h", "--name", "stock", "--events", "calls,state", "--args", "--sample",
                              "0.5", "--fan-out", "0.25", "--budget", "1.5%", "--for", "10m"]),
    scope_test:assert_eq({start, [{profile, balanced}, {modules, ['Elixir.Shop.Stock']}, {events, [calls, state]},
                                  {mfas, [{gen_server, call, 3}, {lists, map}]}, {pids, [{<<"<0.5.0>">>, 'a@h'}]},
                                  {names, [stock]}, {args, true}, {sample, 0.5}, {fan_out, 0.25}, {budget, 1.5}, {for, 600000}]},
                         last_request(D)),
    has(Out, "^tracing with id 3, until 2024-05-01T10:00:01.000000Z$"),
    has(Out, "shop1@localhost'? +ok"),
    has(Out, "shop2@localhost'? +error +owned_by: traced by dbg"),
    {0, _} = scope(Config, ["trace", "--follow", "front@a@h", "--follow", "0.5.0@a@h", "--follow", "shop:place/2", "--shots", "5"]),
    {start, [{follow, [{front, 'a@h'}, {<<"<0.5.0>">>, 'a@h'}, {shop, place, 2}]}, {shots, 5} | _]} = last_request(D),
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
    {0, Order} = scope(Config, ["order", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB"]),
    has(Order, "^the first came before the second: a chain of 2 events leads there \\(unique\\)$"),
    has(Order, "^ +AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB$"),
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
             [["trace", "--sample", "2"], "--sample"], [["trace", "--shots", "2"], "--follow"], [["trace", "--pid", "0.5.0"], "needs its node"],
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

%% --- helpers ---------------------------------------------------------------------------------------------------------

-spec start_daemon(scope_test:config()) -> scope_test:handle().
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
answer({get_order, A, B}) ->
    {ok, #{order => before, why => messages, certainty => unique, path => [A, B], doubts => [], time_a => ?SECOND,
           time_a_error => 12000, time_b => ?SECOND, time_b_error => 12000, completeness => #{complete => true}}};
answer(_) -> {error, {bad_request, #{field => none, got => none, hint => <<"no">>}}}.

%% A pid of a node that is not there.
shop_pid(Id) ->
    binary_to_term(<<131, 88, 119, 15, "shop1@localhost", Id:32, 0:32, 7:32>>).
