%% What was recorded, in the forms of others: requests through front -> orders -> stock on three real nodes, as sequence diagrams and as
%% OpenTelemetry's spans, sent to a small HTTP receiver.
-module(export_SUITE).
-export([all/0, init/1, timeout/1, a_flow_as_a_diagram/1, traces_as_otlp/1, under_their_own_id/1,
         contexts_in_dictionaries/1, nobody_receives/1]).
-import(scope_test, [start_node/2, rpc/4, node_of/1, wait_until/2, assert_eq/2]).
-import(scope_cli, [scope/2, on_terminal/3, uncoloured/1, has/2]).

-spec all() -> [atom()].
all() -> [a_flow_as_a_diagram, traces_as_otlp, under_their_own_id, contexts_in_dictionaries, nobody_receives].

-spec init(scope_test:config()) -> scope_test:config().
init(Config) -> scope_cli:cookie(Config).

-spec timeout(atom()) -> pos_integer().
timeout(_) -> 120000.

-define(ORDERS, 4).

%% front calls orders for each order: a request and its reply, all four of which are proved by their reference.
-spec a_flow_as_a_diagram(scope_test:config()) -> ok.
a_flow_as_a_diagram(Config) ->
    {D = #{scope := Scope}, [A, B, _]} = orders_are_made(Config),
    Ends = [process(front, A), process(orders, B)],
    Flow = fun() -> maps:get(messages, scope_daemon:ask(A, D, {get_message_flow, {front, node_of(A)}, {orders, node_of(B)}, #{}})) end,
    wait_until(fun() -> Found = Flow(), length(Found) =:= 2 * ?ORDERS andalso [] =:= [M || M = #{matched := How} <- Found, How =/= exact] end, 20000),
    Args = ["flow" | Ends] ++ ["--scope", atom_to_list(Scope)],
    {0, Coloured} = on_terminal(Config, Args ++ ["--diagram"], [{"COLUMNS", "90"}]),
    {match, _} = re:run(iolist_to_binary(Coloured), "\e\\[32m├", [unicode]),
    Lines = uncoloured(Coloured),
    [true = string:length(L) =< 90 || L <- Lines],
    Drawn = [L || L <- Lines, {match, _} <- [re:run(L, "[▶◀]", [unicode])]],
    assert_eq(2 * ?ORDERS, length(Drawn)),
    %% In the order in which they were sent: each request, then its reply.
    [begin
         has([Request], io_lib:format("^ [0-9:.]+ +├─ call \\{place,~b\\} ─*▶│ +[-0-9.]+ .?s ±[0-9.]+ .?s", [N])),
         has([Reply], io_lib:format("^ [0-9:.]+ +│◀─+ reply \\{ok,~b\\} ─┤ +[-0-9.]+ .?s ±", [N]))
     end || {N, [Request, Reply]} <- lists:zip(lists:seq(1, ?ORDERS), pairs(Drawn))],
    {0, [<<"sequenceDiagram">>, First, Second | Source]} = scope(Config, Args ++ ["--mermaid"]),
    has([First], "^    participant a as #60;front_"),
    has([Second], "^    participant b as #60;orders_"),
    assert_eq(?ORDERS, length([L || L <- Source, {match, _} <- [re:run(L, "^    a->>b: ")]])),
    assert_eq(?ORDERS, length([L || L <- Source, {match, _} <- [re:run(L, "^    b->>a: ")]])),
    {2, _} = scope(Config, Args ++ ["--mermaid", "--diagram"]),
    {2, _} = scope(Config, Args ++ ["--mermaid", "--json"]),
    ok.

%% The receiver refuses twice; what it then gets is the same as what is written into files, in both encodings, and it is what
%% get_trace says. With $SCOPE_OTLP_SCHEMA the official schema reads it, too.
-spec traces_as_otlp(scope_test:config()) -> ok.
traces_as_otlp(Config = #{tmp := Tmp}) ->
    {D = #{scope := Scope}, [A | _]} = orders_are_made(Config),
    wait_until(fun() -> length(whole(A, D)) =:= ?ORDERS end, 20000),
    Traces = whole(A, D),
    Spans = lists:append([S || #{spans := S} <- Traces]),
    To = fun(Args) -> scope(Config, ["export", "--scope", atom_to_list(Scope), "--json" | Args]) end,
    {Port, Got} = receiver([503, 503, 200, 200]),
    Url = "http://127.0.0.1:" ++ integer_to_list(Port),
    {0, [Sent]} = To(["--otlp", Url]),
    has([Sent], io_lib:format("\"traces\":~b,\"failed\":0,\"spans\":~b,\"dropped\":0,\"requests\":3,\"retries\":2", [?ORDERS, length(Spans)])),
    {0, [_]} = To(["--otlp", Url, "--protocol", "http/json"]),
    [{503, #{at := At}, Protobuf}, {503, First = #{at := Next}, Protobuf}, {200, Second, Protobuf}, {200, Third, Json}] = Got(4),
    true = Next - At >= 1000, % as Retry-After said; of itself it waits about half as long
    assert_eq([<<"application/x-protobuf">>, <<"application/x-protobuf">>, <<"application/json">>],
              [maps:get(<<"content-type">>, H) || H <- [First, Second, Third]]),
    [{'POST', "/v1/traces"} = maps:get(request, H) || H <- [First, Second, Third]],
    Files = [filename:join(Tmp, F) || F <- ["t.binpb", "t.json"]],
    [{0, [_]} = To(["--file", F]) || F <- Files],
    [{ok, _}, {ok, JsonFile}] = [file:read_file(F) || F <- Files],
    %% Clocks are measured anew all the time, so what is exported later has other times, and what follows from them.
    Timeless = fun(Document) -> re:replace(Document, "(Nano\":|\"intValue\":|\"boolValue\":)(\"-?[0-9]+\"|true|false)", "\\1", [global, {return, binary}]) end,
    assert_eq(Timeless(Json), string:trim(Timeless(JsonFile))),
    %% Every name, in every resource; every sure edge a parent, and the rest links: counted in the document as it stands.
    Count = fun(What) -> length(binary:matches(Json, What)) end,
    assert_eq(length(Spans), Count(<<"\"startTimeUnixNano\"">>)),
    Sure = [S || S = #{parent := P, certainty := C} <- Spans, P =/= none, lists:member(C, [exact, unique])],
    assert_eq(length(Sure), Count(<<"\"parentSpanId\"">>)),
    assert_eq(length([S || S = #{kind := call} <- Spans]), Count(<<"\"kind\":3,">>)),
    assert_eq(length([S || S = #{kind := handle} <- Spans]), Count(<<"\"kind\":2,">>)),
    assert_eq(length(lists:usort([N || #{node := N} <- Spans])), Count(<<"\"service.instance.id\"">>)),
    case os:getenv("SCOPE_OTLP_SCHEMA") of
        false -> ok;
        Schema ->
            P = scope_test:start_program(Config, Schema, ["timeless" | Files]),
            [N] = scope_test:await_line(P, "^([0-9]+) spans", 30000),
            assert_eq(length(Spans), binary_to_integer(N)),
            assert_eq(0, scope_test:await_exit(P, 10000))
    end.

%% Messages with a traceparent: their traces are found by its id, and exported as parts of that trace, under the span that sent them.
-spec under_their_own_id(scope_test:config()) -> ok.
under_their_own_id(Config = #{tmp := Tmp}) ->
    A = start_node(Config, a),
    D = #{scope := Scope} = scope_daemon:start(Config, [A]),
    scope_daemon:await_live(A, D, [A]),
    {ok, Pid} = rpc(A, scope_counter, start, [c1]),
    _ = scope_daemon:ask(A, D, {start, #{pids => [Pid], events => [messages, state], for => 60000}}),
    Id = "4bf92f3577b34da6a3ce929d0e0e4736",
    Parent = "00f067aa0ba902b7",
    Header = "00-" ++ Id ++ "-" ++ Parent ++ "-01",
    [ok = rpc(A, gen_server, call, [c1, {bulk, Term}])
     || Term <- [#{<<"traceparent">> => list_to_binary(Header)}, none, [{"traceparent", list_to_binary(Header)}], list_to_binary("00-" ++ Id)]],
    All = fun(Filter) -> maps:get(traces, scope_daemon:ask(A, D, {get_traces, Filter})) end,
    wait_until(fun() -> length(All(#{text => <<"bulk">>})) =:= 4 end, 20000),
    [_, _] = Found = All(#{trace_id => list_to_binary(Id), text => <<"bulk">>}),
    assert_eq([], All(#{trace_id => <<"4bf92f3577b34da6a3ce929d0e0e4737">>})),
    Context = #{trace_id => list_to_binary(Id), parent_id => list_to_binary(Parent)},
    [#{spans := [#{parent := none, context := Context} | _]} = scope_daemon:ask(A, D, {get_trace, T}) || #{id := T} <- Found],
    File = filename:join(Tmp, "ids.json"),
    {0, _} = scope(Config, ["export", "--scope", atom_to_list(Scope), "--file", File]),
    {ok, Json} = file:read_file(File),
    Count = fun(What) -> length(binary:matches(Json, list_to_binary(What))) end,
    assert_eq({2, 2}, {Count("\"traceId\":\"" ++ Id ++ "\""), Count("\"parentSpanId\":\"" ++ Parent ++ "\"")}).

%% A context that opentelemetry_api keeps in a process's dictionary, seen as its otel_ctx:attach/1 is traced; and a traceparent in an
%% argument of any function that is. A stand-in has the API's name and shapes (opentelemetry.hrl): ids as integers.
-spec contexts_in_dictionaries(scope_test:config()) -> ok.
contexts_in_dictionaries(Config = #{tmp := Tmp}) ->
    A = start_node(Config, a),
    [begin
         File = filename:join(Tmp, Module ++ ".erl"),
         ok = file:write_file(File, ["-module(", Module, ").\n", Text]),
         {ok, M, Beam} = compile:file(File, [binary, report]),
         {module, M} = rpc(A, code, load_binary, [M, File, Beam])
     end || {Module, Text} <-
                [{"otel_ctx", "-export([attach/1]).\nattach(Ctx) -> erlang:put('$__current_otel_ctx', Ctx).\n"},
                 {"otel_user", "-export([init/1, handle_call/3, handle_cast/2, headers/1]).\n"
                               "init(S) -> {ok, S}.\nhandle_cast(_, S) -> {noreply, S}.\nheaders(H) -> H.\n"
                               "handle_call({with, Ctx}, _, S) ->\n"
                               "    T = otel_ctx:attach(#{{otel_tracer, span_ctx} => element(Ctx, S)}), otel_ctx:attach(T), {reply, ok, S};\n"
                               "handle_call({headers, I}, _, S) -> ?MODULE:headers(element(I, S)), {reply, ok, S};\n"
                               "handle_call(_, _, S) -> {reply, ok, S}.\n"}]],
    D = scope_daemon:start(Config, [A]),
    scope_daemon:await_live(A, D, [A]),
    Id = "4bf92f3577b34da6a3ce929d0e0e4736",
    Parent = "00f067aa0ba902b7",
    Header = "00-" ++ Id ++ "-" ++ Parent ++ "-01",
    SpanCtx = {span_ctx, list_to_integer(Id, 16), list_to_integer(Parent, 16), 1, [], true, false, true, undefined},
    %% What is asked for does not say: it is in the server's state, which no message carries.
    {ok, Pid} = rpc(A, gen_server, start, [otel_user, {SpanCtx, #{<<"traceparent">> => list_to_binary(Header)}}, []]),
    _ = scope_daemon:ask(A, D, {start, #{pids => [Pid], mfas => [{otel_ctx, attach, 1}, {otel_user, headers, 1}],
                                         events => [messages, function_entry], for => 60000}}),
    [ok = rpc(A, gen_server, call, [Pid, What]) || What <- [{with, 1}, none, {headers, 2}]],
    All = fun(Filter) -> maps:get(traces, scope_daemon:ask(A, D, {get_traces, Filter})) end,
    wait_until(fun() -> length(All(#{pid => Pid})) =:= 3 end, 20000),
    Context = #{trace_id => list_to_binary(Id), parent_id => list_to_binary(Parent)},
    Contexts = [C || #{id := T} <- All(#{pid => Pid, order => oldest_first}),
                     #{spans := [#{parent := none, context := C} | _]} <- [scope_daemon:ask(A, D, {get_trace, T})]],
    assert_eq([Context, none, Context], Contexts),
    %% All of it is in the tail. Of sealed blocks the index of ids knows text, no integers: there it is the last one only.
    [_, _] = All(#{trace_id => list_to_binary(Id)}),
    assert_eq([], All(#{trace_id => <<"4bf92f3577b34da6a3ce929d0e0e4737">>})),
    ok.

%% What cannot be sent is counted, said, and the exit status; so is what a receiver refuses for good.
-spec nobody_receives(scope_test:config()) -> ok.
nobody_receives(Config = #{tmp := Tmp}) ->
    {D = #{scope := Scope}, [A | _]} = orders_are_made(Config),
    wait_until(fun() -> length(whole(A, D)) =:= ?ORDERS end, 20000),
    To = fun(Args) -> scope(Config, ["export", "--scope", atom_to_list(Scope) | Args]) end,
    {Port, _} = receiver([400]),
    {1, Refused} = To(["--otlp", "http://127.0.0.1:" ++ integer_to_list(Port)]),
    has(Refused, "^[0-9]+ traces, 0 spans sent$"),
    has(Refused, "^[1-9][0-9]* spans dropped: the receiver answered 400"),
    {1, NoFile} = To(["--file", filename:join([Tmp, "none", "t.json"])]),
    has(NoFile, "No such file"),
    [{2, _} = To(Args) || Args <- [[], ["--file", "t.txt"], ["--otlp", "https://x"], ["--file", "t.json", "--protocol", "http/json"]]],
    ok.

%% The traces of all orders, when each has all its spans; [] before.
whole(A, D) ->
    #{traces := Listed} = scope_daemon:ask(A, D, {get_traces, #{limit => 1000}}),
    Traces = [scope_daemon:ask(A, D, {get_trace, Id}) || #{id := Id} <- Listed],
    %% front's handling and call, orders' handling and call, stock's handling, two casts.
    case [T || T = #{spans := S} <- Traces, length(S) =/= 7] of
        [] -> Traces;
        _ -> []
    end.

%% An HTTP receiver on loopback: answers with Statuses, one after the other; what it got comes by the fun.
receiver(Statuses) ->
    Owner = self(),
    Ref = make_ref(),
    {ok, L} = gen_tcp:listen(0, [binary, {ip, {127, 0, 0, 1}}, {active, false}, {packet, http}, {reuseaddr, true}]),
    {ok, Port} = inet:port(L),
    Pid = spawn_link(fun() -> receive go -> serve(L, Statuses, {Owner, Ref}) end end),
    ok = gen_tcp:controlling_process(L, Pid),
    Pid ! go,
    {Port, fun(N) -> [receive {Ref, Got} -> Got after 20000 -> error(nothing_received) end || _ <- lists:seq(1, N)] end}.

serve(_, [], _) -> ok;
serve(L, Statuses, To) ->
    {ok, S} = gen_tcp:accept(L, 60000),
    serve(L, connection(S, Statuses, To), To).

connection(_, [], _) -> [];
connection(S, [Status | More], To = {Owner, Ref}) ->
    case head(S, #{}) of
        closed -> [Status | More];
        Head = #{<<"content-length">> := Length} ->
            ok = inet:setopts(S, [{packet, raw}]),
            {ok, Body} = gen_tcp:recv(S, binary_to_integer(Length), 20000),
            Owner ! {Ref, {Status, Head, Body}},
            ok = gen_tcp:send(S, [io_lib:format("HTTP/1.1 ~b status\r\nContent-Length: 0\r\n", [Status]),
                                  [["Retry-After: 1\r\n"] || Status =:= 503, length(More) =:= 3], "\r\n"]),
            ok = inet:setopts(S, [{packet, http}]),
            connection(S, More, To)
    end.

head(S, Head) ->
    case gen_tcp:recv(S, 0, 60000) of
        {ok, {http_request, Method, {abs_path, Path}, _}} ->
            head(S, Head#{request => {Method, Path}, at => erlang:monotonic_time(millisecond)});
        {ok, {http_header, _, Name, _, Value}} ->
            head(S, Head#{list_to_binary(string:lowercase(if is_atom(Name) -> atom_to_list(Name); true -> Name end)) =>
                              list_to_binary(Value)});
        {ok, http_eoh} -> Head;
        {error, closed} -> closed
    end.

pairs([A, B | More]) -> [[A, B] | pairs(More)];
pairs([]) -> [].

process(Name, Node) -> atom_to_list(Name) ++ "@" ++ atom_to_list(node_of(Node)).

%% The daemon and the three nodes, when what ?ORDERS orders did has been recorded.
orders_are_made(Config) ->
    Nodes = [A, B, C] = [start_node(Config, N) || N <- [front, orders, stock]],
    D = scope_daemon:start(Config, Nodes),
    scope_daemon:await_live(A, D, Nodes),
    Log = server(B, log, #{}),
    Stock = server(C, stock, #{log => {log, node_of(B)}}),
    Orders = server(B, orders, #{stock => {stock, node_of(C)}, log => {log, node_of(B)}}),
    Front = server(A, front, #{orders => {orders, node_of(B)}, stock => {stock, node_of(C)}}),
    #{nodes := Started} = scope_daemon:ask(A, D, {start, [{pids, [Log, Stock, Orders, Front]}, {events, [messages, state]}]}),
    [assert_eq(ok, R) || R <- maps:values(Started)],
    [assert_eq({ok, N}, rpc(A, gen_server, call, [Front, {order, N}])) || N <- lists:seq(1, ?ORDERS)],
    %% An order is handled by front, orders and stock, and told to log twice.
    States = fun() -> element(1, scope_daemon:all_events(A, D, #{type => state_change}, oldest_first)) end,
    wait_until(fun() -> length(States()) >= 5 * ?ORDERS end, 30000),
    {D, Nodes}.

server(Node, Name, Next) ->
    {ok, Pid} = rpc(Node, gen_server, start, [{local, Name}, scope_order, Next, []]),
    Pid.
