%% What tracing costs the tracee, and all threads: the native tracer with its real drainer, against a tracer that does
%% nothing, a local process that discards, and dbg's file port. On this node, sides interleaved, medians of the rounds; who
%% takes the events has the other scheduler, but for one figure, the big state beside the drainer. What a state costs is the
%% CPU of the tracee's scheduler, which others' load does not change; the rest is time that passes.
-module(capture_bench).
-export([main/0, work/1, sink/1]).
-export([init/1, handle_call/3, handle_cast/2]).

-define(STAMPED, [arity, monotonic_timestamp]).      % what a tracer that is a library does not ask for
-define(GEN, [{{gen_server, loop, 7}, {state, [3]}}]).

main() ->
    [Agent, Floor, Quick] = init:get_plain_arguments(),
    ok = capture_floor:load(Floor),
    Bin = capture_agent_bench:load(Agent),
    native = scope_nif:load(Bin, #{}),
    Drainer = drainer(2),
    {Rounds, Calls, Gen} = case Quick of "quick" -> {7, 200000, 30000}; _ -> {15, 500000, 100000} end,
    Modes = [none, floor, nif, process, file],
    Call = rounds(Rounds, fun(M) -> calls(M, Calls, small) end, Modes),
    GenCall = rounds(Rounds, fun(M) -> gen(M, Gen, small) end, [none, nif, process]),
    Small = #{n => 1},
    Big = maps:from_list([{I, lists:duplicate(5, I)} || I <- lists:seq(1, 20000)]),
    States = rounds(Rounds, fun({M, S}) -> state(M, Gen div 3, case S of small -> Small; big -> Big end) end,
                    [{none, small}, {nif, small}, {none, big}, {nif, big}]),
    Error = accounting(Calls),
    exit(Drainer, kill),
    receive after 100 -> ok end,
    Drainer1 = drainer(1),
    Shared = rounds(Rounds, fun({M, big}) -> state(M, Gen div 3, Big) end, [{none, big}, {nif, big}]),
    exit(Drainer1, kill),
    Ns = fun(Key, From, M) -> added(Key, From, M) end,
    Figures =
        #{drop_floor_ns => Ns(tracee, Call, floor), nif_ns => Ns(tracee, Call, nif),
          process_discard_ns => Ns(tracee, Call, process), file_port_ns => Ns(tracee, Call, file),
          nif_cpu_ns => Ns(cpu, Call, nif), file_port_cpu_ns => Ns(cpu, Call, file),
          nif_tracee_over_process_discard => Ns(tracee, Call, nif) / Ns(tracee, Call, process),
          nif_tracee_over_file_port => Ns(tracee, Call, nif) / Ns(tracee, Call, file),
          nif_cpu_over_file_port => Ns(cpu, Call, nif) / Ns(cpu, Call, file),
          nif_tracee_over_drop_floor => Ns(tracee, Call, nif) / Ns(tracee, Call, floor),
          genserver_nif_ns => Ns(tracee, GenCall, nif), genserver_process_discard_ns => Ns(tracee, GenCall, process),
          genserver_nif_over_process_discard => Ns(tracee, GenCall, nif) / Ns(tracee, GenCall, process),
          small_state_ns => added(thread, States, small), big_state_ns => added(thread, States, big),
          big_state_over_small_state => added(thread, States, big) / added(thread, States, small),
          big_state_beside_drainer_ns => added(thread, Shared, big),
          accounting_error => Error},
    [io:format("~s ~s~n", [K, number(V)]) || {K, V} <- maps:to_list(Figures)],
    halt(0).

number(V) when is_integer(V) -> integer_to_list(V);
number(V) -> io_lib:format("~.4f", [V]).

%% The agent's own process, with a session that takes everything in and throws it away.
drainer(Scheduler) ->
    Beats = scope_beat:new(),
    Sink = spawn_opt(?MODULE, sink, [#{beats => Beats}], [{priority, high}]),
    Alive = spawn(fun() -> lease() end),
    Drainer = spawn_opt(scope_drain, init, [], [{priority, high}, {scheduler, Scheduler}]),
    Trace = scope_session:weak(scope_session:open({scope_nif, scope})),
    Drainer ! {peers, #{beats => Beats, guard => Alive, sup => Alive, session => Sink, opts => #{}, trace => Trace}},
    Drainer ! {procs, true},
    Drainer ! {configure, #{hash_key => <<0:128>>}},
    register(scope_tracer, Drainer),
    receive after 50 -> ok end,
    Drainer.

lease() -> scope_nif:lease(3000), receive _ -> lease() after 250 -> lease() end.

sink(Ctx) ->
    receive
        {batch, Bytes, _} -> scope_beat:received(Bytes, Ctx), sink(Ctx);
        _ -> sink(Ctx)
    end.

%% --- rounds ----------------------------------------------------------------------------------------------------------

%% #{Mode => [{TraceeNsPerOp, CpuNsPerOp, CpuNsPerOp of the tracee's scheduler}]}
rounds(N, Fun, Modes) ->
    _ = [Fun(M) || M <- Modes],
    Of = [{M, Fun(M)} || _ <- lists:seq(1, N), M <- Modes],
    maps:from_list([{M, [R || {X, R} <- Of, X =:= M]} || M <- Modes]).

added(tracee, Of, Mode) -> added(1, Of, Mode, none);
added(cpu, Of, Mode) -> added(2, Of, Mode, none);
added(thread, Of, Size) -> added(3, Of, {nif, Size}, {none, Size}).

added(I, Of, Mode, Plain) ->
    Median = fun(M) -> median([element(I, R) || R <- map_get(M, Of)]) end,
    Median(Mode) - Median(Plain).

median(L) -> lists:nth((length(L) + 1) div 2, lists:sort(L)).

%% Runs Fun in a process of its own, pinned and traced by Mode with these flags and patterns; ns per operation.
measured(Mode, Ops, Flags, Patterns, Prepare, Fun) ->
    Me = self(),
    P = spawn_opt(fun() ->
                          X = Prepare(),
                          Me ! {ready, self(), X},
                          receive go -> ok end,
                          Begun = erlang:monotonic_time(nanosecond),
                          Fun(X),
                          Me ! {done, self(), erlang:monotonic_time(nanosecond) - Begun},
                          receive stop -> ok end
                  end, [{scheduler, 1}]),
    X = receive {ready, P, X0} -> X0 end,
    Traced = case X of S when is_pid(S) -> S; _ -> P end,
    Off = trace(Mode, Traced, Flags, Patterns),
    C0 = cpu(),
    T0 = cpu("1_scheduler"),
    P ! go,
    Ns = receive {done, P, N} -> N end,
    Off(),                                      % waits until all is written
    T1 = cpu("1_scheduler"),
    C1 = cpu(),
    P ! stop,
    {Ns / Ops, (C1 - C0) / Ops, (T1 - T0) / Ops}.

%% CPU of all threads, in ns; the node is started without busy waiting.
cpu() ->
    {ok, Stat} = file:read_file("/proc/self/stat"),
    [_, After] = string:split(Stat, ")", trailing),
    Fields = string:lexemes(After, " "),
    10000000 * (binary_to_integer(lists:nth(12, Fields)) + binary_to_integer(lists:nth(13, Fields))).

%% Of the thread of that name.
cpu(Name) ->
    [Ns] = [binary_to_integer(hd(binary:split(Stat, <<" ">>)))
            || F <- filelib:wildcard("/proc/self/task/*/comm"), file:read_file(F) =:= {ok, list_to_binary([Name, $\n])},
               {ok, Stat} <- [file:read_file(filename:join(filename:dirname(F), "schedstat"))]],
    Ns.

trace(none, _, _, _) -> fun() -> ok end;
trace(file, P, Flags, Patterns) ->
    File = filename:join(os:getenv("TMPDIR", "/tmp"), "capture_bench." ++ os:getpid()),
    Port = (dbg:trace_port(file, File))(),
    Off = on(P, [{tracer, Port} | Flags], Patterns),
    fun() ->
            Off(),
            Ref = erlang:trace_delivered(all),
            receive {trace_delivered, all, Ref} -> ok end,
            true = port_close(Port),
            ok = file:delete(File)
    end;
trace(process, P, Flags, Patterns) ->
    T = spawn_opt(fun discard/0, [{priority, high}, {scheduler, 2}, {message_queue_data, off_heap}]),
    Off = on(P, [{tracer, T} | Flags], Patterns),
    fun() ->
            Off(),
            T ! {stop, self()},
            receive {stopped, T} -> ok end
    end;
trace(floor, P, Flags, Patterns) -> on(P, [{tracer, capture_floor, none} | Flags -- ?STAMPED], Patterns);
trace(nif, P, Flags, Patterns) ->
    ok = scope_nif:set_roles([{M, F, A, R, Path} || {{M, F, A}, {R, Path}} <- Patterns]),
    Off = on(P, [{tracer, scope_nif, scope} | Flags -- ?STAMPED], Patterns),
    fun() ->
            Off(),
            scope_tracer ! {flush, self(), flushed},
            receive {flushed, flushed} -> ok end
    end.

on(P, Flags, Patterns) ->
    Native = case lists:keyfind(tracer, 1, Flags) of {tracer, _, _} -> true; _ -> false end,
    [erlang:trace_pattern(MFA, case {Native, Role} of
                                   {false, {state, [I]}} ->
                                       [{['_' || _ <- lists:seq(1, I - 1)] ++ ['$1' | ['_' || _ <- lists:seq(I + 1, A)]], [],
                                         [{message, {{state, '$1'}}}]}];
                                   _ -> []
                               end, [local]) || {MFA = {_, _, A}, Role} <- Patterns],
    1 = erlang:trace(P, true, Flags),
    fun() ->
            _ = (catch erlang:trace(P, false, [all | [F || F <- Flags, is_tuple(F)]])),
            [erlang:trace_pattern(MFA, false, [local]) || {MFA, _} <- Patterns]
    end.

discard() ->
    receive
        {stop, From} -> From ! {stopped, self()};
        _ -> discard()
    end.

%% --- what is traced --------------------------------------------------------------------------------------------------

work(X) -> X.

calls(Mode, N, _) ->
    measured(Mode, N, [call, arity, monotonic_timestamp], [{{?MODULE, work, 1}, {plain, []}}], fun() -> none end,
             fun(_) -> loop(N) end).

loop(0) -> ok;
loop(N) -> _ = ?MODULE:work(N), loop(N - 1).

init(S) -> {ok, S}.
handle_call(get, _, S) -> {reply, ok, S}.
handle_cast(_, S) -> {noreply, S}.

%% A GenServer that is called: messages both ways, and its state.
gen(Mode, N, _) -> server(Mode, N, [call, send, 'receive', arity, monotonic_timestamp], #{n => 1}).
%% Its state alone.
state(Mode, N, State) -> server(Mode, N, [call, arity, monotonic_timestamp], State).

server(Mode, N, Flags, State) ->
    measured(Mode, N, Flags, ?GEN,
             fun() -> {ok, S} = gen_server:start(?MODULE, State, [{spawn_opt, [{scheduler, 1}]}]), S end,
             fun(S) -> [ok = gen_server:call(S, get) || _ <- lists:seq(1, N)], exit(S, kill) end).

%% --- counted ---------------------------------------------------------------------------------------------------------

accounting(N) ->
    #{pushed := P0, dropped := D0} = scope_nif:counters(),
    _ = calls(nif, N * 5, small),
    #{pushed := P1, dropped := D1} = scope_nif:counters(),
    abs((P1 - P0) + (D1 - D0) - N * 5).

