%% The daemon under test: starts the real executable, asks it as any node would, waits for what it reports.
-module(scope_daemon).
-export([start/2, start/3, call/3, ask/3, steady/3, await_nodes/3, await_live/3, all_events/4, lost/1, stop/1, residue/1]).

%% Starts `scope start` joined to the given nodes (handles of scope_test); ready when it answers epmd. $SCOPE_CAPTURE
%% says by which tracer, if it is set. Opts: name, db, cookie, budget, args, env; on another host (scope_net): under, listen, names.
start(Config, Nodes) -> start(Config, Nodes, #{}).

start(Config = #{tmp := Tmp, cookie := Cookie}, Nodes, Opts) ->
    Name = maps:get(name, Opts, scope_test:unique_name(scope)),
    Db = maps:get(db, Opts, filename:join(Tmp, atom_to_list(Name) ++ ".db")),
    Args = ["start", "--name", atom_to_list(Name), "--cookie", maps:get(cookie, Opts, Cookie), "--db", Db,
            "--listen", maps:get(listen, Opts, "127.0.0.1")]
        %% Most tests are about something else than what tracing may cost.
        ++ maps:get(budget, Opts, ["--budget-percent", "100", "--budget-events", "10000000", "--budget-bytes", "10G"])
        ++ lists:append([["--node", atom_to_list(scope_test:node_of(N))] || N <- Nodes])
        ++ case os:getenv("SCOPE_CAPTURE") of false -> []; Capture -> ["--capture", Capture] end
        ++ maps:get(args, Opts, []),
    [Exe | Before] = maps:get(under, Opts, []) ++ [scope_test:bin("scope")],
    Handle = scope_test:start_program(Config, Exe, Before ++ Args, maps:get(env, Opts, [])),
    Short = hd(string:split(atom_to_list(Name), "@")),
    Names = maps:get(names, Opts, fun scope_test:epmd_names/1),
    scope_test:wait_until(fun() -> not scope_test:alive(Handle) orelse lists:keymember(Short, 1, Names(Config)) end, 15000),
    true = scope_test:alive(Handle),
    Handle#{scope => Name, db => Db}.

%% The request as a node of the cluster asks it; the whole reply.
call(Node, #{scope := Scope}, Request) ->
    scope_test:rpc(Node, gen_server, call, [{elixir_scope, Scope}, Request, 5000]).

%% The value of an {ok, Value} reply.
ask(Node, Daemon, Request) ->
    case call(Node, Daemon, Request) of
        {ok, Value} -> Value;
        Other -> error({answer, Request, Other})
    end.

%% What Fun gives, or raises, while the clock model stays the same: events' times are those of a model, and two questions
%% may be answered with two. Asked again if it changed meanwhile, at most 50 times.
steady(Node, Daemon, Fun) -> steady(Node, Daemon, Fun, 50).

steady(Node, Daemon, Fun, Left) ->
    #{version := Version} = ask(Node, Daemon, clocks),
    Result = try {value, Fun()} catch Class:Reason:Stack -> {Class, Reason, Stack} end,
    case {ask(Node, Daemon, clocks), Result} of
        {#{version := Other}, _} when Other =/= Version, Left > 1 -> steady(Node, Daemon, Fun, Left - 1);
        {_, {value, Value}} -> Value;
        {_, {Raised, Why, Where}} -> erlang:raise(Raised, Why, Where)
    end.

%% Until status says State of every one of Nodes.
await_nodes(Asker, Daemon, {States, Nodes}) ->
    scope_test:wait_until(
      fun() ->
              case catch ask(Asker, Daemon, status) of
                  #{nodes := Seen} ->
                      lists:all(fun(N) ->
                                        case Seen of
                                            #{N := #{state := S}} -> lists:member(S, States);
                                            _ -> false
                                        end
                                end, Nodes) orelse {status, Seen};
                  Other -> {no_status, Other}
              end
      end, 20000).

await_live(Asker, Daemon, Nodes) ->
    await_nodes(Asker, Daemon, {[connected, tracing], [scope_test:node_of(N) || N <- Nodes]}).

%% Every event that matches, by cursor, in order; and the completeness of all pages together. Before anything of a process has
%% arrived, asking for it is an error; here that is no events, so that a test can wait for them.
all_events(Asker, Daemon, Filter, Order) ->
    try pages(Asker, Daemon, Filter#{order => Order, limit => 2000}, [])
    catch error:{answer, _, {error, {no_such_process, _}}} -> {[], none}
    end.

pages(Asker, Daemon, Filter, Acc) ->
    #{next := Next} = Page = ask(Asker, Daemon, {get_events, Filter}),
    case Next of
        none ->
            Pages = lists:reverse([Page | Acc]),
            Missing = lists:usort(lists:append([maps:get(missing, C, []) || #{completeness := C} <- Pages])),
            {lists:append([E || #{events := E} <- Pages]),
             case Missing of
                 [] -> #{complete => true};
                 _ -> #{complete => false, missing => Missing}
             end};
        _ -> pages(Asker, Daemon, Filter#{cursor => Next}, [Page | Acc])
    end.

%% What is missing of what was traced: not what lies before and after all traces.
lost(#{complete := true}) -> [];
lost(#{missing := Missing}) ->
    [M || M <- Missing, not lists:member(maps:get(reason, M, none), [not_traced, trace_stopped])].

%% Asks it to end (SIGTERM) and waits for that; the exit status.
stop(Handle) ->
    scope_test:kill(Handle, "TERM"),
    scope_test:await_exit(Handle, 20000).

%% What of ours is on a node: loaded modules, registered names, traced processes, trace patterns. [] is clean.
residue(Node) ->
    scope_test:rpc(Node, fun() ->
        Modules = [M || {M, _} <- code:all_loaded(), lists:prefix("scope_", atom_to_list(M)),
                        not lists:member(M, [scope_test, scope_counter, scope_daemon])],
        Names = [N || N <- registered(), lists:prefix("scope_", atom_to_list(N))],
        Traced = [P || P <- processes(), {flags, F} <- [erlang:trace_info(P, flags)], F =/= []],
        New = case erlang:trace_info(new, flags) of {flags, []} -> []; F -> [F] end,
        Patterns = [{M, Fn, A} || {M, _} <- code:all_loaded(), {Fn, A} <- functions(M),
                                  {traced, T} <- [erlang:trace_info({M, Fn, A}, traced)], T =/= false, T =/= undefined],
        [{K, L} || {K, L} <- [{modules, Modules}, {names, Names}, {traced, Traced}, {new, New}, {patterns, Patterns}],
                   L =/= []]
    end).

%% A module that goes while we look has no functions left to trace; that it was there is in the list of modules.
functions(M) ->
    try M:module_info(functions)
    catch error:undef -> []
    end.
