%% The harness of all cluster tests: runs a suite module against real nodes and programs.
%%
%% A suite exports all() -> [Case] and Case(Config) for each; optionally init(Config) -> Config (starts what all cases
%% share) and timeout(Case) -> Milliseconds (60 s otherwise). A case passes if it returns; anything raised is a failure,
%% {skip, Why} thrown is a skip. Each case runs in a process of its own; what it starts is killed when it ends.
%%
%% Each suite has an epmd of its own on a free port of 127.0.0.1, a temporary folder that is removed if all passed, and a
%% cookie. Everything that is started is an OS child that the kernel kills when this VM ends (setpriv --pdeathsig), and
%% that the harness kills by pid before: nothing outlives a suite, whatever happens to it.
%%
%% Config: #{suite, tmp, epmd_port, cookie, env}, plus whatever init adds.
-module(scope_test).
-export([main/0]).
-export([on_small_disk/3, start_node/2, start_node/3, other_otp/0, rpc/2, rpc/4, rpc/5, cast/2, node_of/1, unique_name/1, unique_name/2]).
-export([start_program/3, start_program/4, await_line/3, await_exit/2, bin/1]).
-export([kill/1, kill/2, alive/1, os_pid/1]).
-export([start_epmd/1, kill_epmd/1, epmd_names/1, free_port/0, env/1]).
-export([wait_until/1, wait_until/2, log/2, assert_eq/2]).

-export_type([config/0, handle/0]).

-type config() :: #{suite := module(), tmp := file:filename(), epmd_port := inet:port_number(),
                    cookie := string(), atom() => term()}.
-type handle() :: #{kind := node | program, os_pid := pos_integer(), atom() => term()}.

-define(TABLE, scope_test_children).

%% --- running ---------------------------------------------------------------------------------------------------------

-spec main() -> no_return().
main() ->
    Status =
        try
            [SuiteText | CaseTexts] = init:get_plain_arguments(),
            run(list_to_atom(SuiteText), [list_to_atom(C) || C <- CaseTexts])
        catch
            Class:Reason:Stack ->
                io:format("harness failed: ~p:~p~n~p~n", [Class, Reason, Stack]),
                2
        end,
    halt(Status, [{flush, true}]).

run(Suite, Wanted) ->
    ets:new(?TABLE, [named_table, public, set]),
    Tmp = make_tmp(Suite),
    Config0 = start_epmd(#{suite => Suite, tmp => Tmp, cookie => cookie()}),
    {module, Suite} = code:ensure_loaded(Suite),
    Cases = case Wanted of [] -> Suite:all(); _ -> Wanted end,
    Results =
        try
            Config = case erlang:function_exported(Suite, init, 1) of
                         true -> Suite:init(Config0);
                         false -> Config0
                     end,
            [run_case(Suite, Case, Config) || Case <- Cases]
        after
            kill_all(fun(_) -> true end)
        end,
    Count = fun(R) -> length([x || X <- Results, X =:= R]) end,
    Failed = Count(failed),
    io:format("~s: ~b passed, ~b failed, ~b skipped~n",
              [Suite, Count(passed), Failed, Count(skipped)]),
    case Failed of
        0 -> _ = file:del_dir_r(Tmp), 0;
        _ -> io:format("logs: ~s~n", [Tmp]), 1
    end.

run_case(Suite, Case, Config) ->
    Start = erlang:monotonic_time(millisecond),
    Timeout = case erlang:function_exported(Suite, timeout, 1) of
                  true -> Suite:timeout(Case);
                  false -> 60000
              end,
    {Pid, Mon} = spawn_monitor(fun() ->
                                       put(scope_case, Case),
                                       exit(try Suite:Case(Config#{'case' => Case}) of
                                                _ -> passed
                                            catch
                                                throw:{skip, Why} -> {skipped, Why};
                                                C:R:S -> {failed, C, R, S}
                                            end)
                               end),
    Outcome = receive
                  {'DOWN', Mon, process, Pid, O} -> O
              after Timeout ->
                      Where = erlang:process_info(Pid, current_stacktrace),
                      exit(Pid, kill),
                      erlang:demonitor(Mon, [flush]),
                      {failed, timeout, Timeout, Where}
              end,
    kill_all(fun(Owner) -> Owner =:= Case end),
    Ms = erlang:monotonic_time(millisecond) - Start,
    case Outcome of
        passed -> io:format("  ok    ~-44s ~6b ms~n", [Case, Ms]), passed;
        {skipped, Why} -> io:format("  skip  ~-44s ~p~n", [Case, Why]), skipped;
        _ ->
            io:format("  FAIL  ~-44s ~6b ms~n~P~n", [Case, Ms, Outcome, 60]),
            show_logs(maps:get(tmp, Config), Case),
            failed
    end.

make_tmp(Suite) ->
    Base = os:getenv("TMPDIR", "/tmp"),
    Tmp = filename:join(Base, io_lib:format("scope-~s-~s-~b", [Suite, os:getpid(), rand:uniform(1 bsl 30)])),
    ok = file:make_dir(Tmp),
    lists:flatten(Tmp).

cookie() -> "test" ++ integer_to_list(rand:uniform(1 bsl 60), 36).

show_logs(Tmp, Case) ->
    [begin
         {ok, Bin} = file:read_file(File),
         Tail = binary:part(Bin, byte_size(Bin), -min(byte_size(Bin), 3000)),
         io:format("--- ~s~n~ts~n", [filename:basename(File), Tail])
     end || File <- filelib:wildcard(filename:join(Tmp, atom_to_list(Case) ++ ".*.log"))],
    ok.

%% --- epmd ------------------------------------------------------------------------------------------------------------

%% Starts the suite's epmd (again, on the same port, if there was one).
-spec start_epmd(map()) -> config().
start_epmd(Config) -> start_epmd(Config, 5).

start_epmd(Config, Tries) ->
    Port = maps:get(epmd_port, Config, free_port()),
    Handle = child(Config, "epmd", find("epmd"),
                   ["-port", integer_to_list(Port), "-address", "127.0.0.1"], [], suite),
    Up = fun() ->
                 case gen_tcp:connect({127, 0, 0, 1}, Port, []) of
                     {ok, S} -> gen_tcp:close(S), alive(Handle);
                     _ -> not alive(Handle)
                 end
         end,
    wait_until(Up, 10000),
    case alive(Handle) of
        true -> Config#{epmd_port => Port, epmd => Handle};
        false when Tries > 0 -> timer:sleep(20), start_epmd(Config, Tries - 1)
    end.

-spec kill_epmd(config()) -> ok.
kill_epmd(#{epmd_port := Port}) ->
    [kill(H) || {_, _, H} <- ets:tab2list(?TABLE), maps:get(base, H) =:= "epmd"],
    wait_until(fun() -> element(1, gen_tcp:connect({127, 0, 0, 1}, Port, [])) =:= error end).

%% [{Name, Port}] as the suite's epmd tells.
-spec epmd_names(config()) -> [{string(), inet:port_number()}] | {error, term()}.
epmd_names(#{epmd_port := Port}) ->
    case gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {active, false}]) of
        {ok, S} ->
            ok = gen_tcp:send(S, <<1:16, 110>>),
            {ok, <<_:32, First/binary>>} = gen_tcp:recv(S, 0, 5000),
            Text = recv_all(S, First),
            [{binary_to_list(N), binary_to_integer(P)}
             || Line <- binary:split(Text, <<"\n">>, [global, trim_all]),
                [<<"name">>, N, <<"at">>, <<"port">>, P] <- [binary:split(Line, <<" ">>, [global])]];
        Error -> Error
    end.

recv_all(S, Acc) ->
    case gen_tcp:recv(S, 0, 5000) of
        {ok, More} -> recv_all(S, <<Acc/binary, More/binary>>);
        {error, closed} -> gen_tcp:close(S), Acc
    end.

-spec free_port() -> inet:port_number().
free_port() ->
    {ok, L} = gen_tcp:listen(0, [{ip, {127, 0, 0, 1}}]),
    {ok, Port} = inet:port(L),
    gen_tcp:close(L),
    Port.

%% What every child gets: the suite's epmd, and a home of its own, so that no cookie file of the user is read or made.
-spec env(config()) -> [{string(), string()}].
env(#{tmp := Tmp, epmd_port := Port}) ->
    [{"ERL_EPMD_PORT", integer_to_list(Port)}, {"ERL_EPMD_ADDRESS", "127.0.0.1"}, {"HOME", Tmp},
     {"ERL_CRASH_DUMP_SECONDS", "0"}];
env(_) -> [].

%% --- BEAM nodes ------------------------------------------------------------------------------------------------------

%% A name that no other node of the suite has, on localhost.
-spec unique_name(atom() | string()) -> node().
unique_name(Base) -> unique_name(Base, "localhost").
-spec unique_name(atom() | string(), string()) -> node().
unique_name(Base, Host) ->
    list_to_atom(lists:concat([Base, "_", erlang:unique_integer([positive]), "@", Host])).

-spec start_node(config(), atom()) -> handle().
start_node(Config, Name) -> start_node(Config, Name, #{}).

%% A BEAM node `Name_<unique>@localhost` (a Name with an @ is taken as it is). Controlled over its stdin and stdout, not
%% over distribution. The suite's code is on its path. Opts: args (["+S", "4"]), env ([{K, V}]), cookie, longnames,
%% hidden, nodist (no name at all), under (a command that runs what follows it, and its arguments), otp (its release: this
%% machine's, or the one that test/support/otp runs; else the case is skipped).
-spec start_node(config(), atom(), map()) -> handle().
start_node(Config, Name0, Opts) ->
    Name = case lists:member($@, atom_to_list(Name0)) of
               true -> Name0;
               false -> unique_name(Name0)
           end,
    NameArg = case Opts of
                  #{nodist := true} -> [];
                  #{longnames := true} -> ["-name", atom_to_list(Name)];
                  _ -> ["-sname", atom_to_list(Name)]
              end,
    Args = ["--pdeathsig", "KILL", "--"] ++ maps:get(under, Opts, []) ++ erl(maps:get(otp, Opts, this)) ++ NameArg
        ++ ["-setcookie", maps:get(cookie, Opts, maps:get(cookie, Config)),
            "-start_epmd", "false", "-kernel", "logger_level", "critical"]
        ++ [A || maps:get(hidden, Opts, false), A <- ["-hidden"]]
        ++ ["-pa", filename:dirname(code:which(?MODULE))]
        ++ maps:get(args, Opts, []),
    {ok, Peer, Node} = start_peer(#{connection => standard_io, exec => {find("setpriv"), Args},
                                    env => env(Config) ++ maps:get(env, Opts, []), wait_boot => 30000}, Name, Opts),
    OsPid = list_to_integer(peer:call(Peer, os, getpid, [])),
    register_child(#{kind => node, base => atom_to_list(Name), peer => Peer, node => Node, os_pid => OsPid}).

erl(this) -> [find("erl")];
erl(Release) ->
    case other_otp() of
        Release -> [os:getenv("SCOPE_OTHER_OTP_RUN"), integer_to_list(Release), "erl"];
        _ -> throw({skip, lists:concat(["no OTP ", Release, " here: run it by test/support/otp ", Release, " with"])})
    end.

%% The release of OTP that is there beside this machine's (test/support/otp ... with).
-spec other_otp() -> pos_integer().
other_otp() ->
    case os:getenv("SCOPE_OTHER_OTP") of
        false -> throw({skip, "no other OTP: run it by test/support/otp 27 with"});
        Release -> list_to_integer(Release)
    end.

%% peer puts its own arguments (-user peer) behind ours. It is not linked to us: a case may kill its node.
start_peer(PeerOpts, Name, _Opts) ->
    case peer:start(PeerOpts) of
        {ok, Peer} -> {ok, Peer, Name};
        {ok, Peer, Node} -> {ok, Peer, Node};
        {error, Reason} -> error({node_did_not_start, Name, Reason})
    end.

-spec node_of(handle()) -> node().
node_of(#{node := Node}) -> Node.

%% Runs a fun (of a module on the node's path) or M:F(A) there; what it raises is raised here.
-spec rpc(handle(), fun(() -> term())) -> term().
rpc(Handle, Fun) -> rpc(Handle, erlang, apply, [Fun, []], 60000).
-spec rpc(handle(), module(), atom(), [term()]) -> term().
rpc(Handle, M, F, A) -> rpc(Handle, M, F, A, 60000).
-spec rpc(handle(), module(), atom(), [term()], timeout()) -> term().
rpc(#{peer := Peer}, M, F, A, Timeout) -> peer:call(Peer, M, F, A, Timeout).
-spec cast(handle(), fun(() -> term())) -> ok.
cast(#{peer := Peer}, Fun) -> peer:cast(Peer, erlang, apply, [Fun, []]).

%% --- programs --------------------------------------------------------------------------------------------------------

-spec start_program(config(), file:filename(), [string()]) -> handle().
start_program(Config, Exe, Args) -> start_program(Config, Exe, Args, []).

%% Its lines (stdout and stderr) come to the caller as {line, OsPid, Binary}, its end as {exited, OsPid, Status}, and
%% both go to a log in the temporary folder.
-spec start_program(config(), file:filename(), [string()], [{string(), string()}]) -> handle().
start_program(Config, Exe, Args, Env) ->
    child(Config, filename:basename(Exe), Exe, Args, Env, get_case()).

%% Fun with a folder on a file system of so many megabytes. Skips the case where there may be none.
-spec on_small_disk(config(), pos_integer(), fun((file:filename()) -> T)) -> T.
on_small_disk(#{tmp := Tmp}, Megabytes, Fun) ->
    Dir = filename:join(Tmp, "small"),
    ok = file:make_dir(Dir),
    case os:cmd(lists:concat(["mount -t tmpfs -o size=", Megabytes, "m tmpfs ", Dir, " 2>&1"])) of
        "" -> ok;
        Why -> throw({skip, Why})
    end,
    try Fun(Dir)
    after os:cmd("umount " ++ Dir)
    end.

%% The executable of that name in one of the folders of $SCOPE_BIN.
-spec bin(string()) -> file:filename().
bin(Name) ->
    Path = os:getenv("SCOPE_BIN", ""),
    case os:find_executable(Name, Path) of
        false -> error({not_built, Name, Path});
        Exe -> Exe
    end.

%% The next line that matches; lines before it are passed over. Returns the captured groups.
-spec await_line(handle(), iodata(), timeout()) -> [binary()].
await_line(#{os_pid := OsPid} = Handle, Regex, Timeout) ->
    Deadline = erlang:monotonic_time(millisecond) + Timeout,
    receive
        {line, OsPid, Line} ->
            case re:run(Line, Regex, [{capture, all_but_first, binary}]) of
                {match, Groups} -> Groups;
                match -> [];
                nomatch ->
                    await_line(Handle, Regex, max(0, Deadline - erlang:monotonic_time(millisecond)))
            end;
        {exited, OsPid, Status} -> error({exited, Status, while_waiting_for, Regex})
    after Timeout -> error({no_line, Regex})
    end.

-spec await_exit(handle(), timeout()) -> non_neg_integer().
await_exit(#{os_pid := OsPid}, Timeout) ->
    receive {exited, OsPid, Status} -> Status after Timeout -> error(still_running) end.

child(Config, Base, Exe, Args, Env, Owner) ->
    Starter = self(),
    N = erlang:unique_integer([positive]),
    Log = filename:join(maps:get(tmp, Config), io_lib:format("~s.~s-~b.log", [Owner, Base, N])),
    Holder = spawn(fun() ->
                           {ok, File} = file:open(Log, [append, raw, delayed_write]),
                           Port = open_port({spawn_executable, find("setpriv")},
                                            [{args, ["--pdeathsig", "KILL", "--", Exe | Args]},
                                             {env, env(Config) ++ Env}, {line, 65536}, binary,
                                             exit_status, stderr_to_stdout, hide]),
                           {os_pid, OsPid} = erlang:port_info(Port, os_pid),
                           Starter ! {started, self(), OsPid},
                           holder(Port, OsPid, Starter, File)
                   end),
    Mon = monitor(process, Holder),
    receive
        {started, Holder, OsPid} ->
            demonitor(Mon, [flush]),
            register_child(#{kind => program, base => Base, os_pid => OsPid, holder => Holder, log => Log}, Owner);
        {'DOWN', Mon, _, _, Reason} -> error({cannot_start, Exe, Reason})
    end.

holder(Port, OsPid, Starter, File) ->
    receive
        {Port, {data, {_, Line}}} ->
            ok = file:write(File, [Line, $\n]),
            Starter ! {line, OsPid, Line},
            holder(Port, OsPid, Starter, File);
        {Port, {exit_status, Status}} ->
            _ = file:close(File),
            Starter ! {exited, OsPid, Status},
            exit(normal)
    end.

%% --- children ----------------------------------------------------------------------------------------------------------

-spec os_pid(handle()) -> pos_integer().
os_pid(#{os_pid := OsPid}) -> OsPid.

%% Kills with -9 and waits until the process is gone.
-spec kill(handle()) -> ok.
kill(Handle) ->
    ok = kill(Handle, "KILL"),
    wait_until(fun() -> not alive(Handle) end),
    ets:delete(?TABLE, os_pid(Handle)),
    ok.

%% Sends a signal by name: "STOP", "CONT", "TERM", ...
-spec kill(handle(), string()) -> ok.
kill(#{os_pid := OsPid}, Signal) ->
    _ = os:cmd(io_lib:format("kill -~s ~b", [Signal, OsPid])),
    ok.

-spec alive(handle()) -> boolean().
alive(#{kind := program, holder := Holder}) -> is_process_alive(Holder);
alive(#{kind := node, peer := Peer}) -> is_process_alive(Peer).

register_child(Handle) -> register_child(Handle, get_case()).
register_child(Handle, Owner) ->
    true = ets:insert(?TABLE, {os_pid(Handle), Owner, Handle}),
    Handle.

get_case() ->
    case get(scope_case) of undefined -> suite; Case -> Case end.

%% A stopped process dies of KILL too. Nodes are killed, not halted: quicker, and tests what a crash would do.
kill_all(Which) ->
    Handles = [H || {_, Owner, H} <- ets:tab2list(?TABLE), Which(Owner)],
    [kill(H, "KILL") || H <- Handles, alive(H)],
    [catch kill(H) || H <- Handles],
    ok.

find(Name) ->
    case os:find_executable(Name) of
        false -> error({not_installed, Name});
        Path -> Path
    end.

%% --- waiting and saying ------------------------------------------------------------------------------------------------

-spec wait_until(fun(() -> boolean())) -> ok.
wait_until(Fun) -> wait_until(Fun, 20000).

%% Polls every 5 ms: for what gives no event to wait for.
-spec wait_until(fun(() -> boolean()), timeout()) -> ok.
wait_until(Fun, Timeout) ->
    wait_until_(Fun, erlang:monotonic_time(millisecond) + Timeout, Timeout).

wait_until_(Fun, Deadline, Timeout) ->
    case Fun() of
        true -> ok;
        Other ->
            case erlang:monotonic_time(millisecond) > Deadline of
                true -> error({not_within, Timeout, last, Other});
                false -> receive after 5 -> ok end, wait_until_(Fun, Deadline, Timeout)
            end
    end.

-spec assert_eq(term(), term()) -> ok.
assert_eq(Same, Same) -> ok;
assert_eq(Expected, Got) -> error({expected, Expected, got, Got}).

-spec log(io:format(), [term()]) -> ok.
log(Format, Args) -> io:format("        " ++ Format ++ "~n", Args).
