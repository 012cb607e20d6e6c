%% Nodes on which the native tracer's library cannot be loaded: the Erlang tracer does it, and `status` says why.
-module(fallback_SUITE).
-export([all/0, timeout/1]).
-export([noexec_everywhere/1, noexec_but_one/1, read_only_everywhere/1, full_everywhere/1, configured/1]).
-import(scope_test, [start_node/3, rpc/4, node_of/1, wait_until/2, assert_eq/2]).
-import(scope_daemon, [ask/3, await_live/3, all_events/4]).

-spec all() -> [atom()].
all() -> [noexec_everywhere, noexec_but_one, read_only_everywhere, full_everywhere, configured].
-spec timeout(atom()) -> pos_integer().
timeout(_) -> 90000.

-define(FOLDERS, ["/tmp", "/var/tmp", "/dev/shm"]).

-spec noexec_everywhere(scope_test:config()) -> ok.
noexec_everywhere(Config) ->
    falls_back(Config, again("noexec", ?FOLDERS), [], "/dev/shm.*load_failed").

%% $TMPDIR comes first; the library goes where it may.
-spec noexec_but_one(scope_test:config()) -> ok.
noexec_but_one(Config = #{tmp := Tmp}) ->
    Own = filename:join(Tmp, "own"),
    ok = file:make_dir(Own),
    [begin
         A = start_node(Config, a, #{under => namespace(again("noexec", NoExec)), env => [{"TMPDIR", Own}]}),
         D = scope_daemon:start(Config, [A], #{args => ["--capture", "native"]}),
         await_live(A, D, [A]),
         assert_eq(#{capture => native}, captured(A, D)),
         0 = scope_daemon:stop(D)
     end || NoExec <- [[Own], ["/tmp", "/var/tmp", Own]]],
    ok.

-spec read_only_everywhere(scope_test:config()) -> ok.
read_only_everywhere(Config) ->
    falls_back(Config, again("ro", ?FOLDERS), [], "/dev/shm.*erofs").

%% Room for nothing: a small tmpfs, and it is used up. (Not over /tmp, where the test's own files may be.)
-spec full_everywhere(scope_test:config()) -> ok.
full_everywhere(Config = #{tmp := Tmp}) ->
    Own = filename:join(Tmp, "full"),
    ok = file:make_dir(Own),
    Full = [["mount -t tmpfs -o size=64k tmpfs ", F, " && ", "{ head -c 100000 /dev/zero > ", F, "/filled 2>/dev/null; true; } && "]
            || F <- [Own, "/dev/shm"]],
    falls_back(Config, [again("ro", ["/tmp", "/var/tmp"]), Full], [{"TMPDIR", Own}], "/dev/shm.*enospc").

-spec configured(scope_test:config()) -> ok.
configured(Config) ->
    A = start_node(Config, a, #{}),
    works(Config, A, ["--capture", "erlang"], "^configured$").

falls_back(Config, Mounts, Env, Why) ->
    A = start_node(Config, a, #{under => namespace(Mounts), env => Env}),
    works(Config, A, ["--capture", "native"], Why).

works(Config, A, Args, Why) ->
    D = scope_daemon:start(Config, [A], #{args => Args}),
    await_live(A, D, [A]),
    #{capture := erlang, capture_reason := Said} = captured(A, D),
    scope_test:log("~ts", [Said]),
    match = re:run(Said, Why, [{capture, none}]),
    {ok, Pid} = rpc(A, scope_counter, start, [c1]),
    _ = ask(A, D, {start, #{names => [c1], events => [state]}}),
    5 = rpc(A, gen_server, call, [c1, {add, 5}]),
    wait_until(fun() -> element(1, all_events(A, D, #{pid => Pid, type => state_change}, oldest_first)) =/= [] end, 10000),
    #{state := #{n := 5}} = ask(A, D, {get_state_at, Pid, now}),
    assert_eq(0, scope_daemon:stop(D)),
    wait_until(fun() -> case scope_daemon:residue(A) of [] -> true; R -> R end end, 5000).

captured(A, D) ->
    #{nodes := Nodes} = ask(A, D, status),
    maps:with([capture, capture_reason], map_get(node_of(A), Nodes)).

%% The folders as they are, mounted once more with this option.
again(Option, Folders) ->
    [["mount --bind ", F, " ", F, " && mount -o remount,bind,", Option, " ", F, " && "] || F <- Folders].

%% Runs what follows in a mount namespace of its own, in which these were mounted.
namespace(Mounts) ->
    User = case os:cmd("id -u") of "0\n" -> []; _ -> ["--map-root-user"] end,
    Under = ["unshare", "--mount", "--propagation", "private"] ++ User,
    os:cmd(lists:flatten(lists:join(" ", Under)) ++ " mount -t tmpfs tmpfs /dev/shm && echo may") =:= "may\n"
        orelse throw({skip, "no mount namespace: neither root nor a kernel that lets users have one"}),
    Under ++ ["/bin/sh", "-c", lists:flatten([Mounts, "exec \"$@\""]), "sh"].
