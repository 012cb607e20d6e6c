%% What the whole agent does to its node, beside what a traced call costs (capture_bench): on one node of its own, with a
%% daemon that is a process here and takes everything in, or nothing.
-module(capture_agent_bench).
-export([main/0, load/1, hammered/1, work/1]).

-define(MB, 1048576).

main() ->
    [Agent, Capture, Quick0] = init:get_plain_arguments(),
    put(agent, Agent),
    Quick = Quick0 =:= "quick",
    Figures = case Capture of
                  "native" -> native(Quick);
                  "erlang" -> erlang(Quick)
              end,
    [io:format("~s ~s~n", [K, if is_float(V) -> io_lib:format("~.4f", [V]); true -> integer_to_list(V) end])
     || {K, V} <- maps:to_list(Figures)],
    halt(0).

%% The agent's modules, as the daemon loads them (nothing of them is on the code path); the library's bytes.
load(Dir) ->
    ok = code:atomic_load([{list_to_atom(filename:basename(F, ".beam")), F, element(2, file:read_file(F))}
                           || F <- filelib:wildcard(filename:join(Dir, "scope_*.beam"))]),
    {ok, Library} = file:read_file(filename:join(Dir, "scope_tracer.so")),
    Library.

native(Quick) ->
    Bare = busy(case Quick of true -> 3000; false -> 15000 end),
    {Daemon, Agent} = attach(native, #{budget => #{}}),
    receive after 1000 -> ok end,
    Attached = busy(case Quick of true -> 3000; false -> 15000 end),
    {ok, _} = ask(Daemon, {start, quiet, spec(#{})}),
    receive after 1000 -> ok end,
    Idle = busy(case Quick of true -> 3000; false -> 15000 end),
    ok = ask(Daemon, {stop, quiet}),
    Budget = budget(Daemon, case Quick of true -> 5; false -> 15 end),
    Stall = stall(Daemon),
    ok = leave(Daemon, Agent),
    maps:merge(Budget, Stall#{agent_idle_cpu_percent => max(0.0, Idle - Bare), agent_untraced_cpu_percent => max(0.0, Attached - Bare), node_idle_cpu_percent => Bare,
                              stalled_daemon_rss_over_bound => stalled(case Quick of true -> 2000; false -> 5000 end)}).

spec(More) -> maps:merge(#{mfas => [{?MODULE, hammered, 1}], events => [calls], args => true, force => true}, More).

hammered(X) -> X.
hammers(N) -> [spawn(fun Loop() -> ?MODULE:hammered(x), Loop() end) || _ <- lists:seq(1, N)].

%% Per cent of a core that this node takes for so long.
busy(Ms) ->
    T0 = erlang:monotonic_time(nanosecond),
    C0 = cpu(),
    receive after Ms -> ok end,
    100 * (cpu() - C0) / (erlang:monotonic_time(nanosecond) - T0).

%% CPU of all threads, in ns.
cpu() ->
    lists:sum([binary_to_integer(hd(binary:split(B, <<" ">>)))
               || F <- filelib:wildcard("/proc/self/task/*/schedstat"), {ok, B} <- [file:read_file(F)]]).

rss() ->
    {ok, Statm} = file:read_file("/proc/self/statm"),
    4096 * binary_to_integer(lists:nth(2, binary:split(Statm, <<" ">>, [global]))).

%% --- the daemon ------------------------------------------------------------------------------------------------------

attach(Capture, Opts0) ->
    Library = load(get(agent)),
    Opts = case Capture of native -> Opts0#{library => Library}; erlang -> Opts0 end,
    Me = self(),
    Daemon = spawn(fun() ->
                           receive {hello, #{agent := Agent}} ->
                                       Me ! {attached, Agent},
                                       Agent ! {resume, #{store_id => bench, last_committed_seq => 0}},
                                       daemon(Agent, [])
                           end
                   end),
    spawn(scope_agent, start, [Daemon, Opts]),
    receive {attached, Agent} -> {Daemon, Agent} after 10000 -> error(no_agent) end.

%% Steps: what the steps down that it was told of took, from the bucket's dryness to all flags being off, in us.
daemon(Agent, Steps) ->
    receive
        {batch, _, Seq, _, Gaps, _, _} ->
            Agent ! {ack, Seq},
            daemon(Agent, [Us || {stepped_down, _, _, _, #{took_us := Us}} <- Gaps] ++ Steps);
        {steps, From} -> From ! {steps, Steps}, daemon(Agent, []);
        {ask, From, Request} ->
            Ref = make_ref(),
            Agent ! {control, Ref, Request},
            receive {control_reply, Ref, Result} -> From ! {answer, Result} end,
            daemon(Agent, Steps);
        stand_still -> receive go_on -> daemon(Agent, Steps) end;
        _ -> daemon(Agent, Steps)
    after 500 ->
            Agent ! {ping, 1, 0},
            daemon(Agent, Steps)
    end.

ask(Daemon, Request) ->
    Daemon ! {ask, self(), Request},
    receive {answer, Result} -> Result after 30000 -> error({no_answer, Request}) end.

leave(Daemon, Agent) ->
    Mon = monitor(process, Agent),
    ok = ask(Daemon, unload),
    receive {'DOWN', Mon, _, _, _} -> ok end,
    gone().

gone() ->
    case [M || {M, _} <- code:all_loaded(), M =:= scope_nif] ++ [M || M <- [scope_nif, scope_agent], erlang:check_old_code(M)] of
        [] -> ok;
        _ -> receive after 20 -> gone() end
    end.

%% --- figures ---------------------------------------------------------------------------------------------------------

%% Two producers flat out under the default budget, and a crowd that makes about what it pays for: what was
%% spent, second by second, by what the node was charged.
budget(Daemon, Seconds) ->
    Allowed = 0.01 * 1.0e9 * erlang:system_info(schedulers_online),
    Crowd = [spawn(fun Loop() -> [?MODULE:hammered(X) || X <- [1, 2, 3, 4, 5]], receive after 4 -> Loop() end end)
             || _ <- lists:seq(1, 60)],
    {ok, _} = ask(Daemon, {start, hostile, spec(#{})}),
    Hammers = hammers(2),
    %% It is added up every second and at each step: `at`.
    Spent = fun() -> {ok, #{spent := #{total_ns := Ns, at := At}}} = ask(Daemon, status), {At, Ns} end,
    First = Spent(),
    Looks = lists:usort([First | [begin receive after 500 -> ok end, Spent() end || _ <- lists:seq(1, Seconds * 2)]]),
    [exit(P, kill) || P <- Hammers ++ Crowd],
    _ = ask(Daemon, {stop, hostile}),           % the ladder may have ended it
    ok = ask(Daemon, flush),
    Each = [(N - N0) * 1.0e9 / (T - T0) / Allowed
            || {T0, N0} <- Looks, {T, N} <- lists:sublist([L || L = {T, _} <- Looks, T - T0 >= 900000000], 1)],
    {T1, N1} = lists:last(Looks),
    {T0, N0} = First,
    Daemon ! {steps, self()},
    Slowest = receive {steps, []} -> #{}; {steps, Steps} -> #{step_down_ms => lists:max(Steps) / 1000} end,
    Slowest#{budget_overshoot_ratio => lists:max(Each), budget_used => (N1 - N0) * 1.0e9 / (T1 - T0) / Allowed}.

%% The worst pause of a process that wakes every ms, while tracing starts on 100,000 others; against the same time without.
stall(Daemon) ->
    Ps = [spawn(fun() -> receive stop -> ok end end) || _ <- lists:seq(1, 100000)],
    Before = ticks(fun() -> receive after 1000 -> ok end end),
    After = ticks(fun() ->
                          {ok, #{processes := N}} =
                              ask(Daemon, {start, many, #{all => true, events => [messages], limit => #{ms => 60000}, force => true}}),
                          true = N > 100000
                  end),
    ok = ask(Daemon, {stop, many}),
    [P ! stop || P <- Ps],
    #{start_stall_ms => After, ticker_pause_ms => Before}.

ticks(Fun) ->
    Me = self(),
    Ticker = spawn_opt(fun() -> tick(erlang:monotonic_time(microsecond), 0) end, [{priority, high}]),
    Fun(),
    Ticker ! {stop, Me},
    receive {most, Us} -> Us / 1000 end.

tick(Last, Most) ->
    receive {stop, From} -> From ! {most, Most}
    after 1 ->
            Now = erlang:monotonic_time(microsecond),
            tick(Now, max(Most, Now - Last - 1000))
    end.

%% Growth of the node while the daemon stands still and two producers do their worst, of what is allowed.
stalled(Ms) ->
    {Daemon, Agent} = attach(native, #{budget => none, hold_full_ms => 60000, deadman_ms => 60000}),
    {ok, _} = ask(Daemon, {start, a, spec(#{})}),
    receive after 200 -> ok end,
    Before = rss(),
    Daemon ! stand_still,
    Ps = hammers(2),
    Grown = most(erlang:monotonic_time(millisecond) + Ms, 0) - Before,
    [exit(P, kill) || P <- Ps],
    #{ring_bytes := Ring} = scope_nif:counters(),
    Rings = erlang:system_info(schedulers) + erlang:system_info(dirty_cpu_schedulers),
    Daemon ! go_on,
    ok = leave(Daemon, Agent),
    Grown / (Ring * Rings + 32 * ?MB).

most(Until, Most) ->
    receive after 50 -> ok end,
    case erlang:monotonic_time(millisecond) > Until of
        true -> max(Most, rss());
        false -> most(Until, max(Most, rss()))
    end.

%% The Erlang tracer, against a process that takes the same events and throws them away: CPU of all threads.
erlang(Quick) ->
    {Rounds, Chunks} = case Quick of true -> {5, 40}; false -> {9, 150} end,
    {Daemon, _} = attach(erlang, #{budget => none}),
    Of = [{M, calls(M, Chunks, Daemon)} || _ <- lists:seq(1, Rounds + 1), M <- [none, process, agent]],
    Median = fun(M) -> L = lists:sort([C || {X, C} <- lists:nthtail(3, Of), X =:= M]), lists:nth((length(L) + 1) div 2, L) end,
    #{erlang_cpu_over_process_discard => (Median(agent) - Median(none)) / (Median(process) - Median(none)),
      erlang_cpu_ns => Median(agent) - Median(none), process_discard_cpu_ns => Median(process) - Median(none)}.

work(X) -> X.

%% ns of CPU a call, in bursts that a tracer's queue has room for.
calls(Mode, Chunks, Daemon) ->
    Me = self(),
    P = spawn(fun() ->
                      receive go -> ok end,
                      [begin burst(2000), receive after 4 -> ok end end || _ <- lists:seq(1, Chunks)],
                      Me ! {done, self()},
                      receive stop -> ok end
              end),
    Off = trace(Mode, P, Daemon),
    C0 = cpu(),
    P ! go,
    receive {done, P} -> ok end,
    Off(),
    C1 = cpu(),
    P ! stop,
    (C1 - C0) / (Chunks * 2000).

burst(0) -> ok;
burst(N) -> _ = ?MODULE:work(N), burst(N - 1).

trace(none, _, _) -> fun() -> ok end;
trace(process, P, _) ->
    T = spawn_opt(fun Loop() -> receive {stop, From} -> From ! {stopped, self()}; _ -> Loop() end end, [{priority, high}]),
    _ = erlang:trace_pattern({?MODULE, work, 1}, [], [local]),
    1 = erlang:trace(P, true, [call, arity, monotonic_timestamp, {tracer, T}]),
    fun() ->
            1 = erlang:trace(P, false, [all, {tracer, T}]),
            _ = erlang:trace_pattern({?MODULE, work, 1}, false, [local]),
            T ! {stop, self()},
            receive {stopped, T} -> ok end
    end;
trace(agent, P, Daemon) ->
    {ok, _} = ask(Daemon, {start, bench, #{mfas => [{?MODULE, work, 1}], events => [calls], pids => [P], force => true}}),
    fun() -> ok = ask(Daemon, flush), ok = ask(Daemon, {stop, bench}) end.
