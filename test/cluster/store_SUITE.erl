%% scope store through a running daemon, and by itself where none runs: the same verbs, the same answers.
-module(store_SUITE).
-export([all/0, timeout/1]).
-export([through_the_daemon/1, rebuilt/1, wrong_requests/1]).
-import(scope_test, [start_node/2, rpc/2, rpc/4, node_of/1, wait_until/2, assert_eq/2]).
-import(scope_daemon, [call/3, ask/3, await_live/3]).

all() -> [through_the_daemon, rebuilt, wrong_requests].
timeout(_) -> 120000.

%% Small partitions fill; then all verbs, from a node and from the command line, while the daemon records on.
through_the_daemon(Config = #{tmp := Tmp}) ->
    Nodes = [A, B] = [start_node(Config, N) || N <- [a, b]],
    D = #{db := Db} = scope_daemon:start(Config, Nodes, #{args => ["--partition-bytes", "4194304"]}),
    await_live(A, D, Nodes),
    {ok, Pid} = rpc(B, scope_counter, start, [c1]),
    #{nodes := Started} = ask(A, D, {start, [{pids, [Pid]}, {mfas, [{scope_counter, handle_call, 3}]},
                                             {events, [calls, messages, state]}]}),
    [assert_eq(ok, R) || R <- maps:values(Started)],
    Feed = fun() ->
                   To = {c1, node_of(B)},
                   rpc(A, fun() ->
                                  [gen_server:call(To, {add, binary:decode_unsigned(rand:bytes(1000))})
                                   || _ <- lists:seq(1, 400)],
                                  ok
                          end)
           end,
    wait_until(fun() ->
                       Feed(),
                       #{partitions := Ps} = ask(A, D, {store, info}),
                       length(Ps) >= 3 orelse {partitions, length(Ps)}
               end, 60000),
    #{store_id := Id, partitions := Before, agents := [_ | _]} = ask(A, D, {store, info}),
    assert_eq([1, 2, 3], lists:sublist([N || #{number := N} <- Before], 3)),
    #{damaged := 0, done := true, events := Checked, found := []} = ask(A, D, {store, verify}),
    true = Checked >= lists:sum([E || #{events := E} <- Before]),
    {0, Info} = cli(Config, D, ["store", "info", "--db", Db]),
    has(Info, io_lib:format("store ~16.16.0b: ", [Id])),
    has(Info, "active"),
    {0, Json} = cli(Config, D, ["store", "verify", "--db", Db, "--json"]),
    has(Json, "\"damaged\": ?0"),
    %% Protected through the daemon, seen by everybody.
    Early = calendar:system_time_to_rfc3339(until(hd(Before)) div 1000 - 1000, [{unit, microsecond}, {offset, "Z"}]),
    {0, Kept} = cli(Config, D, ["store", "protect", "--db", Db, "--until", Early]),
    has(Kept, "protected: 1 partition: 1"),
    [#{number := 1, protected := true} | _] = maps:get(partitions, ask(A, D, {store, info})),
    #{partitions := [1]} = ask(A, D, {store, {unprotect, 0, now}}),
    {error, {too_large, #{field := budget}}} = call(A, D, {store, {protect, 0, now, 1000}}),

    %% What is archived is in no answer, until it is attached again; the daemon goes on recording.
    Oldest = fun() ->
                     #{events := Es} = ask(A, D, {get_events, #{pid => Pid, order => oldest_first, limit => 1000}}),
                     [E || #{id := E} <- Es]
             end,
    Old = Oldest(),
    1000 = length(Old),
    Archive = filename:join(Tmp, "archive"),
    {0, Moved} = cli(Config, D, ["store", "archive", "--db", Db, Archive]),
    has(Moved, "moved: "),
    Feed(),
    #{partitions := [#{number := First} | _] = Now} = ask(A, D, {store, info}),
    true = First > 2,
    Files = fun() -> [F || #{number := N} <- Before, N < First,
                           F <- filelib:wildcard(filename:join(Db, io_lib:format("p-~8..0b.mdb", [N])))]
            end,
    wait_until(fun() -> Files() =:= [] orelse Files() end, 10000),
    [] = [E || E <- Oldest(), lists:member(E, Old)],
    #{partitions := Attached} = ask(A, D, {store, {attach, Archive}}),
    assert_eq(lists:seq(1, First - 1), Attached),
    #{partitions := []} = ask(A, D, {store, {attach, Archive}}),
    assert_eq(Old, Oldest()),
    #{damaged := 0, partitions := Checked2} = ask(A, D, {store, verify}),
    true = Checked2 >= length(Now) + length(Attached),
    {0, Detached} = cli(Config, D, ["store", "detach", "--db", Db, Archive]),
    has(Detached, "detached: "),
    [] = [E || E <- Oldest(), lists:member(E, Old)],

    %% Without the daemon the command line does it itself.
    0 = scope_daemon:stop(D),
    {0, Alone} = cli(Config, D, ["store", "attach", "--db", Db, Archive]),
    has(Alone, "attached: "),
    {0, Whole} = cli(Config, D, ["store", "verify", "--db", Db]),
    has(Whole, "all is well"),
    {0, Info2} = cli(Config, D, ["store", "info", "--db", Db]),
    has(Info2, io_lib:format("store ~16.16.0b: ", [Id])).

until(#{until := Until}) -> Until.

%% Where messages arrived: as matched when asked, from edges that the command line derived, and when these are damaged.
rebuilt(Config) ->
    Nodes = [A, B] = [start_node(Config, N) || N <- [a, b]],
    D = #{db := Db} = scope_daemon:start(Config, Nodes),
    await_live(A, D, Nodes),
    {ok, From} = rpc(A, scope_counter, start, [ca]),
    {ok, To} = rpc(B, scope_counter, start, [cb]),
    #{nodes := Started} = ask(A, D, {start, [{pids, [From, To]}, {events, [messages, message_take]}]}),
    [assert_eq(ok, R) || R <- maps:values(Started)],
    %% All different, and one and the same again and again.
    [rpc(A, gen_server, cast, [ca, {relay, {cb, node_of(B)}, {add, N}}]) || K <- lists:seq(1, 60), N <- [K, 0]],
    Flow = fun(Daemon) ->
                   #{messages := Ms} = ask(B, Daemon, {get_message_flow, From, To, #{limit => 1000}}),
                   [maps:with([events, matched, candidates, latency_ns], M)
                    || M = #{message := {'$gen_cast', {add, _}}, taken := T} <- Ms, is_integer(T)]
           end,
    wait_until(fun() -> length(Flow(D)) =:= 120 orelse {flow, length(Flow(D))} end, 20000),
    Ids = fun(Messages) -> [{Es, M, C} || #{events := Es, matched := M, candidates := C} <- Messages] end,
    %% Nothing is settled yet: what was derived is nothing, and stays so when it is asked to be done again.
    #{done := true, edges := 0} = ask(A, D, {store, rebuild}),
    #{store := #{edges := #{slices := 0}}} = ask(A, D, status),
    0 = scope_daemon:stop(D),

    {0, Said} = cli(Config, D, ["store", "rebuild", "--db", Db]),
    has(Said, "derived again: [1-9][0-9,]* edges of messages"),
    {0, Json} = cli(Config, D, ["store", "rebuild", "--db", Db, "--json"]),
    has(Json, "\"edges\": ?[1-9]"),
    {0, Info} = cli(Config, D, ["store", "info", "--db", Db]),
    has(Info, "edges of messages: .*, [1-9][0-9,]* edges, up to "),
    {0, Verified} = cli(Config, D, ["store", "verify", "--db", Db]),
    has(Verified, "[1-9][0-9,]* edges of messages$"),

    D2 = scope_daemon:start(Config, Nodes, #{db => Db}),
    await_live(A, D2, Nodes),
    wait_until(fun() ->
                       #{store := #{edges := E}} = ask(A, D2, status),
                       maps:get(slices, E) > 0 orelse {edges, E}
               end, 10000),
    Kept = Flow(D2),
    0 = scope_daemon:stop(D2),
    ok = file:delete(filename:join(Db, "edges.mdb")),
    D3 = scope_daemon:start(Config, Nodes, #{db => Db}),
    await_live(A, D3, Nodes),
    assert_eq(Ids(Flow(D3)), Ids(Kept)),
    assert_eq(120, length(Kept)).

wrong_requests(Config = #{tmp := Tmp}) ->
    A = start_node(Config, a),
    D = #{db := Db} = scope_daemon:start(Config, [A]),
    await_live(A, D, [A]),
    [{error, {bad_value, #{field := Field, hint := _}}} = call(A, D, {store, Verb}) ||
        {Verb, Field} <- [{inof, store}, {{archive, "there"}, store}, {{attach, "relative/path"}, folder},
                          {{attach, 17}, folder}, {{archive, "/x", yesterday}, until}, {[], store},
                          {{attach, Tmp ++ "/nothing"}, archive}, {{detach, Tmp}, archive},
                          {{archive, Db, now}, to}, {{protect, 0, now, -1}, budget}]],
    %% Another store's folder is not this daemon's.
    Other = scope_daemon:start(Config, [], #{name => scope_test:unique_name(other)}),
    0 = scope_daemon:stop(Other),
    {error, {bad_value, #{field := archive}}} = call(A, D, {store, {attach, maps:get(db, Other)}}),
    {1, Said} = cli(Config, D, ["store", "info", "--db", Db ++ ".not"]),
    has(Said, "holds no store").

%% The command line as a user has it: exit status and all that it wrote.
cli(Config = #{cookie := Cookie}, #{scope := Scope}, Args) ->
    Program = scope_test:start_program(Config, scope_test:bin("scope"), Args ++ ["--cookie", Cookie],
                                       [{"TZ", "UTC"}, {"SCOPE_NODE", atom_to_list(Scope)}]),
    collect(scope_test:os_pid(Program), []).

collect(OsPid, Lines) ->
    receive
        {line, OsPid, Line} -> collect(OsPid, [Line, $\n | Lines]);
        {exited, OsPid, Status} -> {Status, iolist_to_binary(lists:reverse(Lines))}
    after 60000 -> error({still_running, lists:reverse(Lines)})
    end.

has(Text, Wanted) ->
    case re:run(Text, Wanted, [{capture, none}]) of
        match -> ok;
        nomatch -> error({not_in, lists:flatten(Wanted), Text})
    end.
