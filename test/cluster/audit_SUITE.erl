%% Who started, stopped and changed what: noted with its outcome, kept over a kill -9, told to nodes and on the command line.
-module(audit_SUITE).
-export([all/0, timeout/1]).
-export([everything_is_noted/1, it_survives_a_kill/1, unnoted_is_refused/1]).
-import(scope_test, [start_node/2, rpc/4, node_of/1, wait_until/2, assert_eq/2]).
-import(scope_daemon, [call/3, ask/3, await_live/3]).

all() -> [everything_is_noted, it_survives_a_kill, unnoted_is_refused].
timeout(_) -> 120000.

entries(Node, D, Filter) -> maps:get(entries, ask(Node, D, {audit, Filter})).

%% Outcomes are written without waiting for them: until none is pending.
settled(Node, D) ->
    wait_until(fun() -> [] =:= [E || #{outcome := pending} = E <- entries(Node, D, #{})] end, 20000),
    entries(Node, D, #{}).

everything_is_noted(Config) ->
    Nodes = [A, B] = [start_node(Config, N) || N <- [a, b]],
    D = scope_daemon:start(Config, Nodes),
    await_live(A, D, Nodes),
    Before = rpc(A, erlang, system_time, [nanosecond]),
    #{id := Id} = ask(A, D, {start, [{modules, [scope_counter]}, {for, {5, minute}}]}),
    {error, {unknown_node, _}} = call(B, D, {start, [{nodes, ['nobody@localhost']}]}),
    {error, {no_such_trace, _}} = call(B, D, {stop, 42}),
    {ok, _} = call(B, D, {update_config, ping_ms, 300}),
    {error, {unknown_key, _}} = call(B, D, {update_config, colour, blue}),
    #{stopped := [Id]} = ask(B, D, {stop, Id}),
    #{id := Short} = ask(A, D, {start, [{modules, [scope_counter]}, {for, 300}]}),
    wait_until(fun() -> lists:any(fun(#{action := W, traces := T, nodes := N}) -> {W, T, N} =:= {ended, [Short], #{}} end,
                                  entries(A, D, #{})) end, 20000),
    _ = os:cmd(lists:concat(["SCOPE_NODE=", maps:get(scope, D), " ERL_EPMD_PORT=", maps:get(epmd_port, Config), " ",
                             scope_test:bin("scope"), " untrace all --cookie ", maps:get(cookie, Config)])),
    All = settled(A, D),
    assert_eq(lists:seq(length(All), 1, -1), [N || #{number := N} <- All]),
    Told = [{W, O, T} || #{action := W, outcome := O0, traces := T} <- lists:reverse(All),
                         O <- [case O0 of {error, {Code, #{}}} -> Code; _ -> O0 end], W =/= ended],
    assert_eq([{daemon_start, ok, []}, {start, ok, [Id]}, {start, unknown_node, []}, {stop, no_such_trace, []},
               {update_config, ok, []}, {update_config, unknown_key, []}, {stop, ok, [Id]}, {start, ok, [Short]},
               {stop, ok, []}], Told),
    [#{by := By, via := node, options := Options, nodes := Per, time := Time}] =
        [E || E = #{action := start, traces := T} <- All, T =:= [Id]],
    assert_eq(#{node_of(A) => ok, node_of(B) => ok}, Per),
    {match, _} = re:run(By, "^<[0-9.]+> on " ++ atom_to_list(node_of(A)) ++ "$"),
    assert_eq([scope_counter], maps:get(modules, Options)),
    true = Time > Before - 60000000000,
    [#{by := Shell, options := all}] = [E || E = #{via := command_line} <- All],
    {match, _} = re:run(Shell, "on scope_cli_"),
    assert_eq([{<<"ping_ms">>, 300}], [O || #{action := update_config, outcome := ok, options := O} <- All]),
    %% Pages, ranges and wrong ones.
    #{entries := [#{number := Last}], next := Next} = ask(A, D, {audit, #{limit => 1}}),
    #{entries := Rest, next := none} = ask(A, D, {audit, #{cursor => Next}}),
    assert_eq(lists:seq(Last - 1, 1, -1), [N || #{number := N} <- Rest]),
    assert_eq([], entries(A, D, #{until => Time})  -- [E || E = #{time := T} <- All, T < Time]),
    assert_eq([], entries(A, D, #{since => now})),
    {error, {unknown_key, #{field := limitt}}} = call(A, D, {audit, #{limitt => 1}}),
    {error, {bad_value, #{field := cursor}}} = call(A, D, {audit, #{cursor => <<1>>}}),
    {error, {bad_value, #{field := limit}}} = call(A, D, {audit, #{limit => 0}}),
    Table = os:cmd(lists:concat(["SCOPE_NODE=", maps:get(scope, D), " ERL_EPMD_PORT=", maps:get(epmd_port, Config), " ",
                                 scope_test:bin("scope"), " audit --cookie ", maps:get(cookie, Config)])),
    [match = re:run(Table, What, [{capture, none}])
     || What <- ["daemon_start", "command line, <", "no trace with that id", "its time was over", "ping_ms"]].

%% What was acknowledged to a caller is in the log after a kill; the new daemon goes on counting.
it_survives_a_kill(Config) ->
    Nodes = [A] = [start_node(Config, a)],
    D = scope_daemon:start(Config, Nodes),
    await_live(A, D, Nodes),
    #{id := Id} = ask(A, D, {start, [{modules, [scope_counter]}]}),
    Kept = [N || #{number := N} <- settled(A, D)],
    ok = scope_test:kill(D),
    D2 = scope_daemon:start(Config, Nodes, #{name => maps:get(scope, D), db => maps:get(db, D)}),
    await_live(A, D2, Nodes),
    All = settled(A, D2),
    [Id] = [T || #{action := start, traces := [T]} <- All],
    assert_eq([], Kept -- [N || #{number := N} <- All]),
    assert_eq(lists:seq(length(All), 1, -1), [N || #{number := N} <- All]).

%% A log that cannot be written: no trace begins, one that runs can be stopped, and what the log lacks is counted.
unnoted_is_refused(Config) ->
    scope_test:on_small_disk(Config, 6, fun(Dir) ->
        Nodes = [A] = [start_node(Config, a)],
        D = scope_daemon:start(Config, Nodes, #{db => filename:join(Dir, "db")}),
        await_live(A, D, Nodes),
        #{id := Id} = ask(A, D, {start, [{modules, [scope_counter]}]}),
        _ = os:cmd("dd if=/dev/zero of=" ++ filename:join(Dir, "fill") ++ " bs=4k 2>&1"),
        %% Pages that were free already hold some more.
        Lost = fun() -> maps:get(audit_lost, maps:get(data_loss, ask(A, D, status)), 0) end,
        wait_until(fun() -> {ok, _} = call(A, D, {update_config, ping_ms, 300}), Lost() > 0 end, 30000),
        {error, {refused, #{hint := Hint}}} = call(A, D, {start, [{modules, [lists]}, {for, 1000}]}),
        {match, _} = re:run(Hint, "cannot be noted"),
        #{stopped := [Id]} = ask(A, D, {stop, Id}),
        scope_test:kill(D)
    end).
