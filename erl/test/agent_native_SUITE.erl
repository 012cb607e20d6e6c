%% The native tracer on real nodes: nothing is lost uncounted, what it tells is what the Erlang tracer tells, and it goes
%% without a trace. (The other agent suites judge it too, with SCOPE_CAPTURE=native.)
-module(agent_native_SUITE).

-compile([export_all, nowarn_export_all]).

-import(scope_test, [rpc/2, rpc/4, wait_until/2, assert_eq/2, log/2]).
-import(agent_test, [setup/2, d/3, nothing_left/1]).

all() ->
    [calibrated, same_as_erlang, golden_hashes, every_call_counted, dry_bucket_ends_it, schedules_count, schedules_cost, sampled_whole, big_terms,
     times_are_the_vms, wakes_are_few, idle_costs_little, cycles_under_load, all_killed, all_suspended, lease_is_asked, other_limits, broken_library,
     foreign_library, no_library].

timeout(_) -> 60000.

library() ->
    {ok, Bin} = file:read_file(filename:join(os:getenv("SCOPE_AGENT_EBIN"), "scope_tracer.so")),
    Bin.

native(Config) -> native(Config, #{}).
native(Config, Opts) ->
    Agent = maps:merge(#{library => library()}, maps:get(agent, Opts, #{})),
    {T, D, Pid} = setup(Config, Opts#{agent => Agent}),
    {hello, Hello} = d(D, wait, [Pid, fun({hello, _}) -> true end]),
    assert_eq({native, none}, {maps:get(capture, Hello), maps:get(capture_reason, Hello)}),
    {T, D, Pid}.

%% Every word of the VM's that the library would read itself was found; and the file is gone.
calibrated(Config) ->
    {T, _, _} = native(Config),
    assert_eq([aliases, bigs, cells, funs, refs], lists:sort(rpc(T, scope_nif, calibrated, []))),
    Os = rpc(T, os, getpid, []),
    assert_eq([], [F || Dir <- ["/tmp", "/var/tmp", "/dev/shm"], F <- rpc(T, filelib, wildcard, [Dir ++ "/scope-" ++ Os ++ "-*"])]).

%% --- the same events -------------------------------------------------------------------------------------------------

%% One process does everything that is traced, on a node with each tracer.
same_as_erlang(Config) ->
    Specs = [{a, #{mfas => [{scope_victim, work, 1}, {scope_victim, twice, 1}], events => [calls, returns], args => true}},
             {b, #{events => [messages, procs, takes, state]}}],
    [Native, Erlang] =
        [begin
             {T, D, Pid} = setup(Config, #{agent => Agent}),
             P = rpc(T, fun() -> spawn(fun() -> receive {go, To} -> script(), To ! done end end) end),
             Srv = rpc(T, scope_victim, start, [srv, #{n => 0}]),
             [{ok, _} = d(D, control, [Pid, {start, Id, Spec#{pids => [P, Srv]}}]) || {Id, Spec} <- Specs],
             ok = rpc(T, fun() -> P ! {go, self()}, receive done -> ok end end),
             M = rpc(T, fun() -> M = monitor(process, P), receive {'DOWN', M, _, _, _} -> ok end end),
             ok = M,
             ok = d(D, control, [Pid, flush]),
             wait_until(fun() -> lists:any(fun({trace_ts, X, exit, _, _}) -> X =:= P; (_) -> false end,
                                           d(D, events, [Pid])) end, 5000),
             Events = [E || E <- d(D, events, [Pid]), element(1, E) =:= trace_ts],
             {[plain(E) || E <- Events, element(2, E) =:= P], [plain(E) || E <- Events, element(2, E) =:= Srv]}
         end || Agent <- [#{library => library()}, #{}]],
    {Own, Server} = Native,
    log("~b and ~b events", [length(Own), length(Server)]),
    true = length(Own) > 40 andalso length(Server) > 10,
    assert_eq([], [Two || {X, Y} = Two <- lists:zip(element(1, Erlang), Own), X =/= Y]),
    assert_eq([], [Two || {X, Y} = Two <- lists:zip(element(2, Erlang), Server), X =/= Y]).

script() ->
    Self = self(),
    Terms = [0, -1, 255, 256, -70000, 1 bsl 31, -(1 bsl 40), 1 bsl 59, 1 bsl 63, 1 bsl 64, -(1 bsl 70), 1 bsl 200, 1.5, -0.0,
             '', 'odd atom', 'öä', [], [1, 2, 3], "text", [a | b], {}, {1}, <<>>, <<"binary">>, #{}, #{a => 1, "b" => [2]},
             fun lists:map/2, Self, whereis(init), make_ref(), hd(erlang:ports()), {nested, [{deep, #{k => {v}}}]}],
    [begin Self ! T, receive T -> ok end end || T <- Terms],
    receive never -> ok after 1 -> ok end,
    _ = [scope_victim:work(I) || I <- [1, 2, 3.5]],
    _ = (catch scope_victim:work(not_a_number)),
    Child = spawn(fun() -> receive stop -> ok end end),
    link(Child),
    unlink(Child),
    register(scripted, Self),
    scripted ! by_name,
    {scripted, node()} ! by_full_name,
    receive by_name -> ok end,
    receive by_full_name -> ok end,
    unregister(scripted),
    Child ! stop,
    {ok, _} = gen_server:call(srv, {set, #{n => 1}}) =:= ok andalso {ok, x},
    #{n := 1} = gen_server:call(srv, get),
    gen_server:cast(srv, {set, [1, 2]}),
    [1, 2] = gen_server:call(srv, get),
    list_to_pid("<0.32000.0>") ! nobody,
    Dead = spawn(fun() -> ok end),
    M = monitor(process, Dead),
    receive {'DOWN', M, _, _, _} -> ok end,
    Dead ! nobody.

%% Without what differs between two nodes.
plain(E) -> plain_term(setelement(tuple_size(E), E, time)).

plain_term({'EXIT', _} = T) -> T;
plain_term(T) when is_pid(T) -> pid;
plain_term(T) when is_reference(T) -> ref;
plain_term(T) when is_port(T) -> port;
plain_term(T) when is_function(T) -> {'fun', element(2, erlang:fun_info(T, module)), element(2, erlang:fun_info(T, arity))};
%% A local fun is cut by one tracer and whole by the other.
plain_term({'$scope_cut', _, T, _}) -> plain_term(T);
plain_term(T) when is_tuple(T) -> list_to_tuple([plain_term(X) || X <- tuple_to_list(T)]);
plain_term(T) when is_map(T) -> maps:from_list(plain_term(maps:to_list(T)));
plain_term([H | T]) -> [plain_term(H) | plain_term(T)];
plain_term(T) when is_atom(T) ->
    case lists:member($@, atom_to_list(T)) of true -> node; false -> T end;
plain_term(T) -> T.

%% --- hashes ----------------------------------------------------------------------------------------------------------

%% What is hashed here is hashed as everywhere; what cannot be, is not. Driven without the agent.
golden_hashes(Config) ->
    {ok, Text} = file:read_file(filename:join([os:getenv("SCOPE_ROOT"), "test", "golden", "match_hash.txt"])),
    Golden = [list_to_tuple(string:split(L, " ", all)) || L <- string:split(binary_to_list(Text), "\n", all), L =/= ""],
    T = agent_test:target(Config, #{}),
    [{module, M} = rpc(T, code, load_binary, [M, "", element(2, file:read_file(filename:join(
                          os:getenv("SCOPE_AGENT_EBIN"), atom_to_list(M) ++ ".beam")))]) || M <- [scope_nif, scope_cut]],
    native = rpc(T, scope_nif, load, [library(), #{}]),
    Got = rpc(T, fun() ->
                         scope_nif:set_key(list_to_binary(lists:seq(0, 15))),
                         scope_nif:lease(60000),
                         scope_nif:set_caps(#{message => 5}),      % only what is cut is hashed by the tracee
                         P = spawn(fun() -> receive {go, Ts} -> [self() ! X || X <- Ts] end, receive stop -> ok end end),
                         1 = erlang:trace(P, true, [send, {tracer, scope_nif, scope}]),
                         P ! {go, [binary_to_term(<<131, (binary:decode_hex(list_to_binary(H)))/binary>>)
                                   || {H, _, _} <- Golden]},
                         R = erlang:trace_delivered(P),
                         receive {trace_delivered, P, R} -> ok end,
                         receive after 50 -> ok end,
                         1 = erlang:trace(P, false, [all, {tracer, scope_nif, scope}]),
                         scope_nif:drain()
                 end),
    Hashes = scope_compact:hashes(element(7, Got)),
    assert_eq(length(Golden), length(Hashes)),
    %% What has five bytes is never cut; a bitstring's bits are not to be had without copying.
    Wrong = [{H, Expected, Hash} || {{H, Hex, B}, Hash} <- lists:zip(Golden, Hashes),
                                    Expected <- [{list_to_integer(Hex, 16), B =:= "1"}], Hash =/= Expected,
                                    not (Hash =:= none andalso (lists:member(lists:sublist(H, 2), ["77", "61", "62", "6a", "4d"]) orelse length(H) =< 10))],
    assert_eq([], Wrong),
    log("~b hashed, ~b not", [length([x || {_, _} <- Hashes]), length([x || none <- Hashes])]).

%% --- accounting ------------------------------------------------------------------------------------------------------

%% Producers flat out, rings that overflow, a daemon that takes little: what was made is what came, or a counted gap.
every_call_counted(Config) ->
    {T, D, Pid} = native(Config, #{keep => false, agent => #{hold_bytes => 1 bsl 20, hold_full_ms => 60000}}),
    {ok, #{baseline := Told}} = d(D, control, [Pid, {start, a, #{mfas => [{?MODULE, counted, 1}], events => [calls]}}]),
    Before = rpc(T, scope_nif, counters, []),
    Made = produce(T, 2, 3000),
    wait_until(fun() -> maps:get(held, rpc(T, scope_nif, counters, [])) =:= 0 end, 5000),
    ok = d(D, control, [Pid, flush]),
    After = rpc(T, scope_nif, counters, []),
    [Pushed, Dropped] = [maps:get(K, After) - maps:get(K, Before) || K <- [pushed, dropped]],
    assert_eq(Made, Pushed + Dropped),
    %% The last gap comes with the next batch that there is room for.
    wait_until(fun() ->
                       #{events := Got} = d(D, call, [Pid, summary]),
                       Gaps = [{R, N} || G <- d(D, gaps, [Pid]), {R, N} <- [{element(1, G), element(2, G)}], is_integer(N)],
                       case Got + lists:sum([N || {_, N} <- Gaps]) - Made - Told of
                           0 ->
                               log("~b made: ~b pushed, ~b dropped; ~b came, gaps ~p",
                                   [Made, Pushed, Dropped, Got, lists:usort([R || {R, _} <- Gaps])]),
                               true;
                           Off -> {off_by, Off}
                       end
               end, 10000).

counted(X) -> X.

%% N processes call counted/1 for so many ms; how often they did.
produce(T, N, Ms) ->
    rpc(T, fun() ->
                   Count = counters:new(N, []),
                   Ps = [spawn(fun() -> producer(Count, I) end) || I <- lists:seq(1, N)],
                   receive after Ms -> ok end,
                   [begin P ! {stop, self()}, receive {stopped, P} -> ok end end || P <- Ps],
                   lists:sum([counters:get(Count, I) || I <- lists:seq(1, N)])
           end).

producer(Count, I) ->
    _ = [?MODULE:counted(X) || X <- lists:seq(1, 100)],
    counters:add(Count, I, 100),
    receive {stop, From} -> From ! {stopped, self()} after 0 -> producer(Count, I) end.

%% The bucket is the tracees' own: who finds it dry is traced no more, whatever else the node does. What comes after is
%% within 20 ms, by the events' own times; what is in the rings comes, and no more than the budget allows is in them.
dry_bucket_ends_it(Config) ->
    Budget = #{cpu => 100, events => 10000, up_ms => 60000},
    {T, D, Pid} = native(Config, #{agent => #{budget => Budget}}),
    {ok, #{baseline := Told}} =
        d(D, control, [Pid, {start, a, #{mfas => [{?MODULE, counted, 1}], events => [calls], force => true}}]),
    Before = rpc(T, scope_nif, counters, []),
    T0 = erlang:monotonic_time(millisecond),
    Made = produce(T, 2, 1000),
    Seconds = (erlang:monotonic_time(millisecond) - T0) / 1000,
    ok = d(D, control, [Pid, flush]),
    After = rpc(T, scope_nif, counters, []),
    [Pushed, Dropped, Rejected] = [maps:get(K, After) - maps:get(K, Before) || K <- [pushed, dropped, rejected]],
    wait_until(fun() -> map_get(events, d(D, call, [Pid, summary])) =:= Pushed + Told end, 5000),
    Gaps = d(D, gaps, [Pid]),
    Steps = lists:sort([{From, Until, F} || {stepped_down, _, From, Until, F} <- Gaps]),
    Times = [At || {trace_ts, _, call, {?MODULE, counted, 1}, At} <- d(D, events, [Pid])],
    log("~b made in ~.1f s, ~b pushed, ~b rejected; ~p", [Made, Seconds, Pushed, Rejected, [maps:with([to, cause, took_us], F) || {_, _, F} <- Steps]]),
    true = Made > 10 * Pushed andalso Dropped =:= 0,
    %% A tenth of a second, of which two rings may have 10 ms each left.
    true = Pushed >= 800 andalso Pushed =< 10000 * (0.1 + Seconds) + 500 * length(Steps) + 1000,
    [{Dry, Until, #{cause := events, to := fewer}} | _] = Steps,
    %% Those that follow the first step have flags again; until it was done nobody had.
    assert_eq([], [At - Dry || At <- Times, At > Dry + 20000000, At < Until - 1000000]),
    assert_eq(Rejected, lists:sum([N || {over_budget, N, _, _} <- Gaps])).

%% The VM asks the library each time a tracee begins to run, and before each call event: the former alone count.
schedules_count(Config) ->
    {T, D, Pid} = native(Config),
    P = rpc(T, fun() -> spawn(fun Loop() -> receive {yields, N, Calls, From} -> yields(N, Calls), From ! {yielded, self()}, Loop() end end) end),
    {ok, _} = d(D, control, [Pid, {start, a, #{mfas => [{?MODULE, counted, 1}], events => [calls], pids => [P]}}]),
    Of = fun(N, Calls) ->
                 Scheduled = fun() -> map_get(scheduled, scope_nif:counters()) end,
                 rpc(T, fun() ->
                                Before = Scheduled(),
                                P ! {yields, N, Calls, self()},
                                receive {yielded, P} -> ok end,
                                Scheduled() - Before
                        end)
         end,
    Counts = [Of(1000, 0), Of(1000, 1000), Of(0, 1000)],
    log("~p", [Counts]),
    [true = N >= 1000 andalso N < 1100 || N <- lists:sublist(Counts, 2)],
    true = lists:last(Counts) < 100.

yields(0, 0) -> ok;
yields(N, 0) -> erlang:yield(), yields(N - 1, 0);
yields(N, Calls) -> ?MODULE:counted(Calls), yields(N, Calls - 1).

%% A crowd that runs all the time and makes no event costs what a flag costs each time one of them begins to run.
schedules_cost(Config) ->
    {T, D, Pid} = native(Config, #{agent => #{budget => #{cpu => 1, up_ms => 60000}}}),
    Ps = rpc(T, fun() -> [spawn(fun Loop() -> erlang:yield(), Loop() end) || _ <- lists:seq(1, 20)] end),
    {ok, _} = d(D, control, [Pid, {start, a, #{mfas => [{?MODULE, counted, 1}], events => [calls], pids => Ps}}]),
    {gap, {stepped_down, _, _, _, Figures}} = d(D, wait, [Pid, fun({gap, {stepped_down, _, _, _, #{from := full}}}) -> true end]),
    log("~p", [Figures]),
    #{to := fewer} = Figures,
    %% Some keep their flags if the budget pays for them.
    wait_until(fun() -> {ok, #{spent := #{cpu := Cpu}}} = d(D, control, [Pid, status]), Cpu < 1.2 end, 20000),
    Flagged = [P || P <- Ps, agent_test:info(T, P, flags) =/= {flags, []}],
    log("~b of 20", [length(Flagged)]),
    true = length(Flagged) < 10.

%% A process is traced whole or not at all, and it is the same ones that scope_budget means.
sampled_whole(Config) ->
    {T, D, Pid} = native(Config),
    {ok, _} = d(D, control, [Pid, {start, a, #{mfas => [{?MODULE, counted, 1}], events => [calls], new_processes => true, all => true}}]),
    ok = rpc(T, scope_nif, set_sample, [16384]),
    {In, All} = rpc(T, fun() ->
                              Ps = [spawn(fun() -> [?MODULE:counted(X) || X <- lists:seq(1, 3)], receive stop -> ok end end)
                                    || _ <- lists:seq(1, 200)],
                              {[P || P <- Ps, scope_budget:in_sample(P, 0.25)], Ps}
                      end),
    ok = d(D, control, [Pid, flush]),
    wait_until(fun() -> length(d(D, events, [Pid])) >= 3 * length(In) end, 5000),
    Seen = [P || {trace_ts, P, call, _, _} <- d(D, events, [Pid]), lists:member(P, All)],
    log("~b of ~b", [length(In), length(All)]),
    assert_eq(lists:sort(In ++ In ++ In), lists:sort(Seen)).

%% A term's size does not matter much: at most the caps are walked.
big_terms(Config) ->
    {T, D, Pid} = native(Config),
    {ok, _} = d(D, control, [Pid, {start, a, #{mfas => [{?MODULE, counted, 1}], events => [calls], args => true}}]),
    Us = rpc(T, fun() ->
                        Big = {maps:from_list([{I, lists:duplicate(10, I)} || I <- lists:seq(1, 50000)]), binary:copy(<<1>>, 1 bsl 20)},
                        {Time, _} = timer:tc(fun() -> [?MODULE:counted(Big) || _ <- lists:seq(1, 1000)] end),
                        Time / 1000
                end),
    ok = d(D, control, [Pid, flush]),
    [{'$scope_cut', Bytes, Bounded, none} | _] = [A || {trace_ts, _, call, _, {args, A}, _} <- d(D, events, [Pid])],
    log("~.2f us a call", [Us]),
    true = Us < 50 andalso Bytes > 1 bsl 20 andalso erlang:external_size(Bounded) < 600.

%% Tracees are timed by another clock than the VM's: what comes lies between what the tracee reads of the VM's before and after,
%% after a long sleep of the drainer and in the midst of many.
times_are_the_vms(Config) ->
    {T, D, Pid} = native(Config),
    {ok, _} = d(D, control, [Pid, {start, a, #{mfas => [{?MODULE, counted, 1}], events => [calls], args => true}}]),
    Mono = fun() -> erlang:monotonic_time(nanosecond) end,
    Read = rpc(T, fun() ->
                          [begin
                               receive after case I rem 10 of 0 -> 300; _ -> 0 end -> ok end,
                               Before = Mono(),
                               _ = ?MODULE:counted({read, I}),
                               _ = [?MODULE:counted(none) || _ <- lists:seq(1, 200)],
                               {I, Before, Mono()}
                           end || I <- lists:seq(1, 50)]
                  end),
    ok = d(D, control, [Pid, flush]),
    Times = fun() -> [{I, At} || {trace_ts, _, call, _, {args, [{read, I}]}, At} <- d(D, events, [Pid])] end,
    wait_until(fun() -> length(Times()) =:= 50 end, 10000),
    %% The two clocks are never read at exactly one time; a busy machine may stop us in between.
    Outside = [max(Before - At, At - After) || {{I, Before, After}, {I, At}} <- lists:zip(Read, Times())],
    log("~b us outside at most", [lists:max(Outside) div 1000]),
    assert_eq([], [O || O <- Outside, O > 50000000]).

%% A tracee wakes the drainer when a quarter of its ring is full, not at each event after it once was.
wakes_are_few(Config) ->
    {T, D, Pid} = native(Config),
    {ok, _} = d(D, control, [Pid, {start, a, #{mfas => [{?MODULE, counted, 1}], events => [calls]}}]),
    Wakes = rpc(T, fun() ->
                           #{ring_bytes := Ring} = scope_nif:counters(),
                           _ = [?MODULE:counted(X) || X <- lists:seq(1, Ring div 100)],       % of at least 32 bytes
                           receive after 50 -> ok end,
                           Counter = spawn(fun() -> wakes(0) end),
                           1 = erlang:trace(whereis(scope_tracer), true, ['receive', {tracer, Counter}]),
                           _ = [begin ?MODULE:counted(X), receive after 1 -> ok end end || X <- lists:seq(1, 300)],
                           1 = erlang:trace(whereis(scope_tracer), false, [all, {tracer, Counter}]),
                           Counter ! {told, self()},
                           receive {wakes, N} -> N end
                   end),
    log("~b wakes by 300 calls", [Wakes]),
    true = Wakes < 150.                 % a machine that stops us for long lets the drainer fall asleep

wakes(N) ->
    receive
        {trace, _, 'receive', scope_wake} -> wakes(N + 1);
        {told, To} -> To ! {wakes, N};
        _ -> wakes(N)
    end.

idle_costs_little(Config) ->
    {T, D, Pid} = native(Config),
    {ok, _} = d(D, control, [Pid, {start, a, #{mfas => [{?MODULE, counted, 1}], events => [calls]}}]),
    receive after 500 -> ok end,
    Reductions = rpc(T, fun() ->
                                R = fun() -> element(2, process_info(whereis(scope_tracer), reductions)) end,
                                Before = R(),
                                receive after 2000 -> ok end,
                                (R() - Before) / 2
                        end),
    log("~p reductions a second", [Reductions]),
    true = Reductions < 20000.

%% --- coming and going ------------------------------------------------------------------------------------------------

%% The library under three tracees that never rest: loaded, tracing, and gone again, flags and code at once.
cycles_under_load(Config) ->
    N = list_to_integer(os:getenv("SCOPE_CYCLES", "20")),
    T = agent_test:target(Config, #{}),
    Code = [{M, element(2, file:read_file(filename:join(os:getenv("SCOPE_AGENT_EBIN"), atom_to_list(M) ++ ".beam")))}
            || M <- [scope_cut, scope_nif]],
    Library = library(),
    Seen = rpc(T, fun() ->
                          Ps = [spawn(fun Loop() -> ?MODULE:counted(self()), Loop() end) || _ <- [1, 2, 3]],
                          [cycle(Ps, Code, Library) || _ <- lists:seq(1, N)]
                  end),
    log("~p events", [lists:usort(Seen)]),
    true = lists:all(fun(Pushed) -> Pushed > 0 end, Seen),
    %% Every library was unmapped again.
    wait_until(fun() -> {ok, B} = rpc(T, file, read_file, ["/proc/self/maps"]), binary:match(B, <<"tracer.so">>) =:= nomatch end, 5000).

cycle(Ps, Code, Library) ->
    [{module, M} = code:load_binary(M, "", B) || {M, B} <- Code],
    native = scope_nif:load(Library, #{}),
    erlang:trace_pattern({?MODULE, counted, 1}, [], [local]),
    [1 = erlang:trace(P, true, [call, send, procs, {tracer, scope_nif, scope}]) || P <- Ps],
    receive after 10 -> ok end,
    _ = scope_nif:drain(),
    #{pushed := Pushed} = scope_nif:counters(),
    %% As if everything of ours had been killed: the flags are still on when the code goes.
    [code:delete(M) || {M, _} <- Code],
    [code:purge(M) || {M, _} <- Code],
    erlang:trace_pattern({?MODULE, counted, 1}, false, [local]),
    [erlang:trace(P, false, [all]) || P <- Ps],
    Pushed.

%% With nobody left of ours, the library itself lets go.
all_killed(Config) ->
    {T, D, Pid} = native(Config),
    rpc(T, fun() -> [spawn(fun Loop() -> ?MODULE:counted(self()), receive after 1 -> Loop() end end) || _ <- [1, 2, 3]], ok end),
    {ok, _} = d(D, control, [Pid, {start, a, #{mfas => [{?MODULE, counted, 1}], events => [calls]}}]),
    Ms = rpc(T, fun() ->
                        Ps = [whereis(N) || N <- [scope_sup, scope_guard, scope_tracer, scope_agent]],
                        Begun = erlang:monotonic_time(millisecond),
                        process_flag(priority, max),
                        [exit(P, kill) || P <- Ps],
                        process_flag(priority, normal),
                        Flags = fun() -> [P || P <- processes(), {flags, F} <- [agent_test:info(P, flags)], F =/= []] end,
                        Wait = fun Wait() -> case Flags() of [] -> ok; _ -> receive after 10 -> Wait() end end end,
                        Wait(),
                        erlang:monotonic_time(millisecond) - Begun
                end),
    log("flags gone after ~b ms", [Ms]),
    true = Ms < 3500.

%% All of ours stand still, so nobody hears of anybody's death: the lease alone ends it. When they run again they see how
%% long they were silent, and go.
all_suspended(Config) ->
    {T, D, Pid} = native(Config),
    Ps = rpc(T, fun() -> [spawn(fun Loop() -> ?MODULE:counted(self()), receive after 1 -> Loop() end end) || _ <- [1, 2, 3]] end),
    {ok, _} = d(D, control, [Pid, {start, a, #{mfas => [{?MODULE, counted, 1}], events => [calls]}}]),
    wait_until(fun() -> {ok, #{captured := N}} = d(D, control, [Pid, status]), N > 10 end, 5000),
    {Ms, Holder} =
        rpc(T, fun() ->
                       Me = self(),
                       Names = [scope_sup, scope_guard, scope_tracer, scope_agent],
                       Holder = spawn(fun() ->
                                              process_flag(priority, max),
                                              [true = erlang:suspend_process(whereis(N)) || N <- Names],
                                              process_flag(priority, normal),
                                              Me ! suspended,
                                              receive go_on -> ok end       % its end is their resuming
                                      end),
                       receive suspended -> ok end,
                       Begun = erlang:monotonic_time(millisecond),
                       Flags = fun() -> [P || P <- Ps, {flags, F} <- [agent_test:info(P, flags)], lists:member(call, F)] end,
                       Ps = Flags(),
                       (fun Wait() -> Flags() =:= [] orelse receive after 20 -> Wait() end end)(),
                       {erlang:monotonic_time(millisecond) - Begun, Holder}
               end),
    log("flags gone after ~b ms", [Ms]),
    true = Ms > 500 andalso Ms < 6000,
    rpc(T, fun() -> Holder ! go_on end),
    nothing_left(T).

%% Past the lease the library answers `remove`, whoever asks, and goes on once the lease is renewed: with the flags that
%% went, and the time without them is told.
lease_is_asked(Config) ->
    {T, D, Pid} = native(Config),
    P = rpc(T, fun() -> spawn(fun Loop() -> receive {From, X} -> From ! {self(), ?MODULE:counted(X)}, Loop() end end) end),
    {ok, _} = d(D, control, [Pid, {start, a, #{mfas => [{?MODULE, counted, 1}], events => [calls]}}]),
    Asked = fun() -> [scope_nif:enabled(trace_status, scope, P), scope_nif:enabled(call, scope, P)] end,
    Seen = rpc(T, fun() ->
                          Before = Asked(),
                          Sup = whereis(scope_sup),              % who renews it, for a moment that the guard does not mind
                          true = erlang:suspend_process(Sup),
                          ok = scope_nif:lease(1),
                          receive after 20 -> ok end,
                          Past = Asked(),
                          P ! {self(), 1},
                          receive {P, _} -> ok end,
                          Flags = agent_test:info(P, flags),
                          true = erlang:resume_process(Sup),
                          {Before, Past, Flags}
                  end),
    assert_eq({[trace, trace], [remove, discard], {flags, []}}, Seen),
    {gap, {tracing_paused, unknown, From, Until}} = d(D, wait, [Pid, fun({gap, {tracing_paused, _, _, _}}) -> true end]),
    true = Until - From > 19000000,
    assert_eq({[trace, trace], {flags, [call]}}, {rpc(T, Asked), agent_test:info(T, P, flags)}).

%% Where the VM's tables have other sizes, its words for pids and ports are others.
other_limits(Config) ->
    [begin
         {T, _, _} = native(Config, #{target => #{args => Args}}),
         assert_eq([aliases, bigs, cells, funs, refs], lists:sort(rpc(T, scope_nif, calibrated, [])))
     end || Args <- [["+P", "2000", "+Q", "2000"], ["+P", "8000000", "+Q", "1000000"]]].

%% What cannot be loaded is said, and the Erlang tracer does the work.
broken_library(Config) -> falls_back(Config, #{library => <<"no library">>}, fun is_binary/1).
%% The library of another machine: the word in its head that says which.
foreign_library(Config) ->
    <<Head:18/binary, _:16/little, Rest/binary>> = library(),
    falls_back(Config, #{library => <<Head/binary, 183:16/little, Rest/binary>>},
               fun(R) -> re:run(R, "other_architecture", [{capture, none}]) =:= match end).
no_library(Config) -> falls_back(Config, #{}, fun(R) -> R =:= configured end).

falls_back(Config, Agent, Reason) ->
    {T, D, Pid} = setup(Config, #{agent => maps:merge(#{library => none}, Agent)}),
    {hello, #{capture := erlang, capture_reason := Why}} = d(D, wait, [Pid, fun({hello, _}) -> true end]),
    log("~p", [Why]),
    true = Reason(Why),
    {ok, _} = d(D, control, [Pid, {start, a, #{mfas => [{?MODULE, counted, 1}], events => [calls], args => true}}]),
    rpc(T, ?MODULE, counted, [7]),
    d(D, wait, [Pid, fun({event, {trace_ts, _, call, {?MODULE, counted, 1}, {args, [7]}, _}}) -> true end]),
    ok = d(D, control, [Pid, unload]),
    nothing_left(T).
