%% The ways by which people come: scripts/run with a cluster of their own, the command line, and the two comfort modules,
%% all with the real daemon.
-module(user_SUITE).
-export([all/0, timeout/1, init/1]).
-export([own_cluster/1, own_cluster_of_long_names/1, comfort_in_erlang/1, comfort_in_elixir/1, command_line/1]).
-import(scope_test, [start_node/2, start_node/3, rpc/2, rpc/4, node_of/1, wait_until/2, assert_eq/2]).
-import(scope_daemon, [ask/3, await_live/3]).

-spec all() -> [atom()].
all() -> [own_cluster, own_cluster_of_long_names, command_line, comfort_in_erlang, comfort_in_elixir].

-spec timeout(atom()) -> pos_integer().
timeout(_) -> 120000.

%% The comfort modules, compiled as a user's build tool would.
-spec init(scope_test:config()) -> scope_test:config().
init(Config = #{tmp := Tmp, cookie := Cookie}) ->
    Ebin = filename:join(Tmp, "comfort"),
    ok = file:make_dir(Ebin),
    Erl = filename:join([os:getenv("SCOPE_ROOT"), "erl"]),
    {ok, elixir_scope} = compile:file(filename:join([Erl, "src", "elixir_scope.erl"]), [{outdir, Ebin}]),
    Elixirc = os:find_executable("elixirc"),
    _ = [begin
             Made = scope_test:start_program(Config, Elixirc, ["-o", Ebin, filename:join([Erl, "lib", "elixir_scope.ex"])]),
             assert_eq(0, scope_test:await_exit(Made, 60000))
         end || Elixirc =/= false],
    File = filename:join(Tmp, "cookie"),
    ok = file:write_file(File, Cookie),
    ok = file:change_mode(File, 8#400),
    Config#{ebin => Ebin, elixir => Elixirc, cookie_file => File}.

%% README, "In a cluster of your own": the script finds the other node by itself, tells what it learns, and Ctrl-C leaves
%% nothing behind.
-spec own_cluster(scope_test:config()) -> ok.
own_cluster(Config) -> own_cluster(Config, "localhost", #{}, []).

-spec own_cluster_of_long_names(scope_test:config()) -> ok.
own_cluster_of_long_names(Config) -> own_cluster(Config, "127.0.0.1", #{longnames => true}, ["--longnames"]).

own_cluster(Config = #{tmp := Tmp, cookie_file := File}, Host, NodeOpts, RunArgs) ->
    Named = fun(N) -> scope_test:unique_name(N, Host) end,
    A = start_node(Config, Named(a), NodeOpts),
    B = start_node(Config, Named(b), NodeOpts),
    true = rpc(A, net_kernel, connect_node, [node_of(B)]),
    {ok, _} = rpc(A, scope_counter, start, [c1]),
    Name = atom_to_list(Named(scope)),
    Db = filename:join(Tmp, Name ++ ".db"),
    Script = filename:join([os:getenv("SCOPE_ROOT"), "scripts", "run"]),
    Run = scope_test:start_program(Config, Script,
                                   ["--no-build", "--name", Name, "--cookie-file", File, "--db", Db, "--profile", "deep_dive_dev",
                                    "--node", atom_to_list(node_of(A)) | RunArgs],
                                   [{"SCOPE_BUILD", filename:absname(os:getenv("SCOPE_BUILD"))}]),
    _ = scope_test:await_line(Run, "iex> (GenServer.call.*" ++ Name ++ ".*)", 30000),
    Nodes = lists:sort([hd(scope_test:await_line(Run, "node +(\\S+), OTP \\d+: (?:tracing|connected)", 30000)) || _ <- [1, 2]]),
    assert_eq(lists:sort([atom_to_binary(node_of(N)) || N <- [A, B]]), Nodes),
    _ = [rpc(A, gen_server, call, [c1, {add, K}]) || K <- lists:seq(1, 50)],
    _ = scope_test:await_line(Run, "events/s +[1-9].* kept in .* 0 dropped", 30000),
    Daemon = #{scope => list_to_atom(Name)},
    wait_until(fun() ->
                       case scope_daemon:call(B, Daemon, {get_state_at, {c1, node_of(A)}, now}) of
                           {ok, #{state := #{n := 1275}}} -> true;
                           Other -> Other
                       end
               end, 10000),
    ok = scope_test:kill(Run, "INT"),
    assert_eq(130, scope_test:await_exit(Run, 20000)),
    [assert_eq([], scope_daemon:residue(N)) || N <- [A, B]],
    ok.

%% Every question of the README's table, by the command line.
-spec command_line(scope_test:config()) -> ok.
command_line(Config) ->
    {A, D} = recorded(Config),
    Scope = fun(Args) -> scope(Config, D, Args) end,
    Node = atom_to_list(node_of(A)),
    Driver = rpc(A, fun() -> spawn(fun drive/0) end),
    {0, Trace} = Scope(["trace", "--name", "c1", "--name", "driver", "--profile", "deep_dive_dev", "--for", "10m"]),
    {match, [Id]} = re:run(Trace, "tracing with id (\\d+)", [{capture, all_but_first, list}]),
    _ = rpc(A, fun() -> Driver ! {add, lists:seq(1, 10)} end),
    wait_until(fun() -> has(Scope(["state", "c1@" ++ Node]), "n => 55") end, 10000),
    [true = has(Scope(Args), Regex)
     || {Args, Regex} <- [{["status"], "tracing +25"}, {["clocks"], "±|error|offset"},
                          {["events", "--pid", "c1@" ++ Node, "--type", "state_change", "--limit", "3"], "state_change"},
                          {["state", "c1@" ++ Node, "--history", "--limit", "2"], "add,10"},
                          {["flow", "driver@" ++ Node, "c1@" ++ Node], "gen_call"}]],
    {1, Wrong} = Scope(["state", "c2@" ++ Node]),
    true = has({0, Wrong}, "c2"),
    {0, _} = Scope(["untrace", Id]),
    0 = scope_daemon:stop(D),
    {0, _} = scope(Config, D, ["verify-clean", Node]),
    ok.

-spec comfort_in_erlang(scope_test:config()) -> ok.
comfort_in_erlang(Config) ->
    {A, D = #{scope := Scope}} = recorded(Config),
    In = fun(F, Args) -> rpc(A, elixir_scope, F, Args) end,
    ok = rpc(A, application, set_env, [elixir_scope, scope_node, Scope]),
    {ok, #{node := Scope}} = In(status, []),
    {ok, #{id := Id}} = In(start, [[{names, [c1]}, {for, {10, minute}}]]),
    6 = rpc(A, gen_server, call, [c1, {add, 6}]),
    wait_until(fun() ->
                       case In(get_state_at, [{c1, node_of(A)}, now]) of
                           {ok, #{state := #{n := 6}}} -> true;
                           Other -> Other
                       end
               end, 10000),
    {ok, #{events := [_ | _]}} = In(get_events, [[{pid, {c1, node_of(A)}}]]),
    {error, {unknown_key, #{field := limitt}}} = In(get_events, [[{limitt, 1}]]),
    {ok, #{stopped := [Id]}} = In(stop, [Id]),
    0 = scope_daemon:stop(D),
    {error, {Gone, _}} = In(status, []),
    true = lists:member(Gone, [not_running, no_scope_node]),
    ok.

-spec comfort_in_elixir(scope_test:config()) -> ok.
comfort_in_elixir(#{elixir := false}) -> throw({skip, "Elixir is not installed"});
comfort_in_elixir(Config) ->
    {A, #{scope := Scope}} = recorded(Config),
    Elixir = 'Elixir.ElixirScope',
    In = fun(F, Args) -> rpc(A, Elixir, F, Args) end,
    {ok, _} = rpc(A, application, ensure_all_started, [elixir]),
    At = {scope, Scope},
    true = In('running?', [[At]]),
    {ok, #{id := Id}} = In(start, [[At, {names, [c1]}, {for, {10, minute}}]]),
    Before = rpc(A, 'Elixir.DateTime', utc_now, []),
    7 = rpc(A, gen_server, call, [c1, {add, 7}]),
    wait_until(fun() ->
                       case In(get_state_at, [{c1, node_of(A)}, now, [At]]) of
                           {ok, #{state := #{n := 7}}} -> true;
                           Other -> Other
                       end
               end, 10000),
    #{events := [Event | _]} = In('get_events!', [[At, {pid, {c1, node_of(A)}}, {since, Before}]]),
    assert_eq('Elixir.ElixirScope.Event', maps:get('__struct__', Event)),
    true = is_binary(rpc(A, 'Elixir.Kernel', inspect, [Event])),
    {error, {unknown_key, #{field := limitt}}} = In(get_events, [[At, {limitt, 1}]]),
    {'EXIT', {#{'__struct__' := 'Elixir.ElixirScope.Error'}, _}} =
        rpc(A, fun() -> catch Elixir:'get_events!'([At, {limitt, 1}]) end),
    {ok, #{stopped := [Id]}} = In(stop, [Id, [At]]),
    ok.

%% A client of c1, by name.
drive() ->
    true = register(driver, self()),
    receive {add, Ks} -> [gen_server:call(c1, {add, K}) || K <- Ks] end,
    receive never -> ok end.

%% --- small things ----------------------------------------------------------------------------------------------------

recorded(Config = #{ebin := Ebin}) ->
    Lib = case os:find_executable("elixir") of
              false -> [];
              _ -> ["-pa", string:trim(os:cmd("elixir -e 'IO.write(Application.app_dir(:elixir, \"ebin\"))'"))]
          end,
    A = start_node(Config, a, #{args => ["-pa", Ebin | Lib]}),
    {ok, _} = rpc(A, scope_counter, start, [c1]),
    D = scope_daemon:start(Config, [A]),
    await_live(A, D, [A]),
    {A, D}.

scope(Config, #{scope := Scope}, Args) ->
    Run = scope_test:start_program(Config, scope_test:bin("scope"),
                                   Args ++ ["--scope", atom_to_list(Scope), "--cookie-file", maps:get(cookie_file, Config)]),
    Status = scope_test:await_exit(Run, 20000),
    {Status, iolist_to_binary(lines(scope_test:os_pid(Run)))}.

lines(OsPid) ->
    receive {line, OsPid, Line} -> [Line, $\n | lines(OsPid)] after 0 -> [] end.

has({_, Out}, Regex) ->
    case re:run(Out, Regex, [unicode, {capture, none}]) of
        match -> true;
        nomatch -> {no, Regex, in, Out}
    end.
