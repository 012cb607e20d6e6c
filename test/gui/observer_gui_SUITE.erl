%% The real Observer on a screen of its own (Xvfb), driven by mouse and keys (xdotool): the daemon is chosen in its menu, each tab is
%% opened, and a screenshot of each is left in build/dev/observer/. The values behind them are checked by observer_SUITE; here it is
%% that Observer's own windows stay up and stay with the daemon, and that nothing in them crashed.
-module(observer_gui_SUITE).
-export([all/0, timeout/1, each_tab/1, etop/1, otp27/1, etop27/1]).
-import(scope_test, [start_node/3, start_program/3, await_line/3, rpc/2, rpc/4, node_of/1, wait_until/2]).
-import(scope_daemon, [ask/3, await_live/3]).

all() -> [each_tab, etop].
timeout(_) -> 240000.

tabs() -> [system, load_charts, memory_allocators, applications, processes, ports, sockets, tables].

each_tab(Config) -> each_tab(Config, #{}, "observer").

%% OTP 27's Observer, which is told the node as it starts (test/support/otp 27 --gui with ...).
otp27(Config) -> each_tab(Config, #{otp => 27}, "observer27").

each_tab(Config, Opts, Folder) ->
    [throw({skip, Tool ++ " is not installed: scripts/setup gui"})
     || Tool <- ["Xvfb", "xdotool", "import"], os:find_executable(Tool) =:= false],
    Shots = filename:join(os:getenv("SCOPE_BUILD"), Folder),
    _ = file:del_dir_r(Shots),
    ok = filelib:ensure_path(Shots),
    Xvfb = start_program(Config, os:find_executable("Xvfb"), ["-displayfd", "1", "-screen", "0", "1280x900x24", "-nolisten", "tcp"]),
    [Number] = await_line(Xvfb, "^([0-9]+)$", 30000),
    Display = ":" ++ binary_to_list(Number),
    A = start_node(Config, a, Opts#{env => [{"DISPLAY", Display}]}),
    [throw({skip, "erlang-observer and erlang-wx are not installed: scripts/setup gui"})
     || lists:member(non_existing, [rpc(A, code, which, [M]) || M <- [observer, wx]])],
    D = #{scope := Scope} = scope_daemon:start(Config, [A]),
    await_live(A, D, [A]),
    {ok, Pid} = rpc(A, scope_counter, start, [c1]),
    #{id := _} = ask(A, D, {start, #{mfas => [{scope_counter, handle_call, 3}], pids => [Pid], events => [calls]}}),
    [rpc(A, gen_server, call, [c1, {add, K}]) || K <- lists:seq(1, 20)],
    X = fun(Args) -> string:trim(os:cmd("DISPLAY=" ++ Display ++ " xdotool " ++ Args)) end,
    Shot = fun(Name) ->
               File = filename:join(Shots, atom_to_list(Name) ++ ".png"),
               "" = os:cmd("DISPLAY=" ++ Display ++ " import -window root " ++ File),
               true = filelib:file_size(File) > 5000
           end,
    %% "NODE" at first, "Observer - NODE" when one was chosen.
    Title = fun(Node) -> string:find(X("search --name '' getwindowname %@"), atom_to_list(Node)) =/= nomatch end,
    case Opts of
        #{otp := 27} ->
            ok = rpc(A, observer, start, [Scope]),
            wait_until(fun() -> Title(Scope) end, 60000);
        #{} ->
            ok = rpc(A, observer, start, []),
            wait_until(fun() -> Title(node_of(A)) end, 60000),
            wait_until(fun() -> rpc(A, erlang, whereis, [observer]) =/= undefined end, 10000),
            choose(X, Title, Scope)
    end,
    Observer = rpc(A, erlang, whereis, [observer]),
    Stays = fun() -> true = rpc(A, erlang, is_process_alive, [Observer]), true = Title(Scope) end,
    [begin
         [X("mousemove 837 43 click 1") || Name =/= system],    % the arrow: the next tab
         receive after 4000 -> ok end,     % for what is fetched, and some points of the charts
         Shot(Name),
         Stays()
     end || Name <- tabs()],
    %% A table that answers, opened: a window of its own.
    X("mousemove 100 130 click --repeat 2 1"),
    receive after 3000 -> ok end,
    Shot(table_window),
    Stays(),
    ok.

%% The Nodes menu; its second item: ours sorts behind a_N.
choose(X, Title, Scope) ->
    wait_until(fun() ->
                       X("mousemove 115 12 click 1"),
                       receive after 1000 -> ok end,
                       X("mousemove 185 62 click 1"),
                       receive after 3000 -> ok end,
                       Title(Scope) orelse begin X("key Escape"), false end
               end, 60000).

%% etop itself, its screens caught: our processes, by their work. It has dbg open a trace port on the node (OTP 27's with `tracing`
%% off, too), on which nothing will come: its runtimes are 0.
etop(Config) -> etop(Config, #{}).

%% OTP 27's (test/support/otp 27 --gui with ...).
etop27(Config) -> etop(Config, #{otp => 27}).

etop(Config, Opts) ->
    A = start_node(Config, a, Opts),
    [throw({skip, "erlang-observer is not installed: scripts/setup gui"}) || rpc(A, code, which, [etop]) =:= non_existing],
    D = #{scope := Scope} = scope_daemon:start(Config, [A]),
    await_live(A, D, [A]),
    [etop(A, Scope, Tracing) || Tracing <- [off, on]].

etop(A, Scope, Tracing) ->
    Port = scope_test:free_port(),
    Screens = rpc(A, fun() ->
        Me = self(),
        Screen = spawn(fun() -> screen(Me) end),
        {_, Ref} = spawn_monitor(fun() ->
            group_leader(Screen, self()),
            etop:start([{node, Scope}, {interval, 1}, {output, text}, {lines, 20}, {port, Port}, {tracing, Tracing}])
        end),
        Two = [receive {screen, Text} -> Text; {'DOWN', Ref, _, _, Why} -> error(Why) after 20000 -> error(no_screen) end || _ <- [1, 2]],
        etop:stop(),
        receive {'DOWN', Ref, _, _, _} -> ok end,
        lists:append(Two)
    end),
    [true = string:find(Screens, Wanted) =/= nomatch || Wanted <- [atom_to_list(Scope), "scope_store", "scope_agents", "Load:", "Memory:"]].

%% A group leader that hands on each screen, which begins with a line of =.
screen(To) -> screen(To, "").
screen(To, Acc) ->
    receive
        {io_request, From, As, Request} ->
            From ! {io_reply, As, ok},
            Text = Acc ++ case Request of
                              {put_chars, _, M, F, A} -> lists:flatten(apply(M, F, A));
                              {put_chars, _, Chars} -> unicode:characters_to_list(Chars);
                              _ -> ""
                          end,
            case string:find(Text, "scope_agents") of
                nomatch -> screen(To, Text);
                _ -> To ! {screen, Text}, screen(To, "")
            end
    end.
