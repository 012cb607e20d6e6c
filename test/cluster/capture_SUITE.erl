%% What tracing may cost, through the real daemon: refusals, predictions, figures in `status`, samples in completeness.
-module(capture_SUITE).
-export([all/0, timeout/1]).
-export([over_budget_says_so/1, status_shows_what_is_spent/1, a_step_down_is_known/1, sample_shows/1, fan_out_shows/1, refusals/1,
         profiles_are_explained/1]).
-import(scope_test, [start_node/2, rpc/2, rpc/4, node_of/1, wait_until/2, assert_eq/2]).
-import(scope_daemon, [call/3, ask/3, await_live/3, all_events/4]).

all() -> [over_budget_says_so, status_shows_what_is_spent, a_step_down_is_known, sample_shows, fan_out_shows, refusals, profiles_are_explained].
timeout(_) -> 90000.

setup(Config, Budget) -> setup(Config, Budget, []).
setup(Config, Budget, Args) ->
    A = start_node(Config, a),
    D = scope_daemon:start(Config, [A], #{budget => Budget, args => Args}),
    await_live(A, D, [A]),
    {A, D}.

%% Calls of scope_counter's own function, Chunk of them each Ms.
busy(A, Chunk, Ms) ->
    {ok, Pid} = rpc(A, scope_counter, start, [c1]),
    rpc(A, fun() -> spawn(fun() -> calling(Pid, Chunk, Ms) end) end),
    Pid.

calling(Pid, Chunk, Ms) ->
    [gen_server:call(Pid, get) || _ <- lists:seq(1, Chunk)],
    receive after Ms -> calling(Pid, Chunk, Ms) end.

spec() -> #{mfas => [{scope_counter, handle_call, 3}], events => [calls]}.

over_budget_says_so(Config) ->
    {A, D} = setup(Config, ["--budget-percent", "0.01"]),
    _ = busy(A, 20, 5),
    {error, {over_budget, #{field := budget, got := Got, hint := Hint}}} = call(A, D, {start, spec()}),
    match = re:run(Got, "% at [0-9]+ events/s", [{capture, none}]),
    match = re:run(Hint, "sample", [{capture, none}]),
    #{tracing := []} = ask(A, D, status),
    Node = node_of(A),
    #{predictions := #{Node := #{cpu := Cpu, events_per_s := N}}} = ask(A, D, {start, (spec())#{force => true}}),
    true = Cpu > 0.01 andalso N > 100.

status_shows_what_is_spent(Config) ->
    {A, D} = setup(Config, ["--budget-percent", "50"]),
    Node = node_of(A),
    _ = busy(A, 20, 5),
    #{id := Id} = ask(A, D, {start, spec()}),
    wait_until(fun() ->
                       #{nodes := #{Node := N}, tracing := [#{id := Id, spent := Spent}]} = ask(A, D, status),
                       case N of
                           #{budget := 50.0, spent := S, rung := full, hold_seconds := H, events_per_s := #{args := E}}
                             when is_float(S), S > 0, is_number(H), E > 100 -> is_float(maps:get(Node, Spent, none));
                           _ -> {N, Spent}
                       end
               end, 15000).

a_step_down_is_known(Config) ->
    {A, D} = setup(Config, ["--budget-percent", "0.05"]),
    Node = node_of(A),
    _ = busy(A, 100, 1),
    _ = ask(A, D, {start, (spec())#{force => true}}),
    wait_until(fun() ->
                       {Gaps, C} = all_events(A, D, #{type => gap}, oldest_first),
                       #{nodes := #{Node := N}} = ask(A, D, status),
                       Steps = [F || #{reason := stepped_down, figures := F = #{cause := cpu, to := _}} <- Gaps],
                       case {Steps, C, N} of
                           {[_ | _], #{complete := false}, #{rung := Rung, rung_cause := _}} when Rung =/= full -> true;
                           Else -> Else
                       end
               end, 15000).

%% The rate is kept with the events: it is known after the trace has ended.
sample_shows(Config) ->
    {A, D} = setup(Config, ["--budget-percent", "100"]),
    Node = node_of(A),
    _ = busy(A, 1, 5),
    #{id := Id} = ask(A, D, {start, (spec())#{sample => 0.5}}),
    Sampled = fun() ->
                      #{completeness := C} = ask(A, D, {get_events, #{limit => 1}}),
                      [R || #{kind := sampled, node := N, rate := R} <- maps:get(missing, C, []), N =:= Node]
              end,
    assert_eq([0.5], Sampled()),
    _ = ask(A, D, {stop, Id}),
    wait_until(fun() -> Sampled() =:= [0.5] end, 5000).

%% One process sends to a thousand: a tenth of that is recorded, the answers say so, and what is counted is about what was sent.
fan_out_shows(Config) ->
    {A, D} = setup(Config, ["--budget-percent", "100"]),
    Node = node_of(A),
    P = rpc(A, fun() -> spawn(fun broadcaster/0) end),
    {error, {bad_value, #{field := fan_out}}} = call(A, D, {start, #{pids => [P], fan_out => 0}}),
    #{id := Id} = ask(A, D, {start, #{pids => [P], events => [messages], fan_out => 0.1}}),
    rpc(A, fun() -> P ! {self(), 1000, 20}, receive {P, done} -> ok end end),
    Told = fun(Filter) ->
                   #{completeness := C} = ask(A, D, {get_events, Filter#{limit => 1}}),
                   [R || #{kind := sampled, node := N, rate := R, by := receivers} <- maps:get(missing, C, []), N =:= Node]
           end,
    assert_eq([0.1], Told(#{})),
    _ = ask(A, D, {stop, Id}),
    %% 20 to each that is in the sample, by the answers' own count: about 20,000.
    Filter = #{type => message_send, pid => P},
    Rows = fun() -> length([1 || #{message := {n, _}} <- element(1, all_events(A, D, Filter, oldest_first))]) end,
    wait_until(fun() ->
                       case {Told(#{}), Rows()} of
                           {[0.1], N} when N > 0, N rem 20 =:= 0 -> true;
                           Else -> {Else, ask(A, D, {get_events, #{type => gap}})}
                       end
               end, 10000),
    #{groups := [#{measures := #{count := Count}}], scaled := true} = ask(A, D, {aggregate, Filter, [], [count]}),
    true = Count > 12000 andalso Count < 28000,
    true = abs(Count / 10 - Rows()) < 2,        % and what it said to us, perhaps
    ok.

broadcaster() ->
    receive
        {From, Receivers, Messages} ->
            Rs = [spawn(fun() -> receive {n, Messages} -> ok end end) || _ <- lists:seq(1, Receivers)],
            %% 50,000/s: the Erlang tracer turns away what comes faster than it can.
            [begin
                 [R ! {n, N} || R <- Rs],
                 N =:= Messages orelse receive after 20 -> ok end
             end || N <- lists:seq(1, Messages)],
            From ! {self(), done}
    end,
    broadcaster().

refusals(Config) ->
    {A, D} = setup(Config, ["--budget-percent", "100"]),
    {error, {refused, #{field := mfas}}} =
        call(A, D, {start, #{mfas => [{gen_server, loop, 7}], events => [function_entry, function_exit]}}),
    {error, {refused, #{field := modules}}} = call(A, D, {start, #{modules => [scope_tracer]}}),
    {error, {refused, #{field := for}}} = call(A, D, {start, #{all => true, events => [messages], for => infinity}}),
    {error, {bad_value, #{field := profile}}} = call(A, D, {start, #{profile => balanzed}}),
    #{expires := infinity} = ask(A, D, {start, #{profile => lightweight_production}}),
    #{expires := Until} = ask(A, D, {start, #{profile => deep_dive_dev, force => true}}),
    true = is_integer(Until).

profiles_are_explained(Config = #{tmp := Tmp}) ->
    File = filename:join(Tmp, "profiles.toml"),
    ok = file:write_file(File, "[profiles.mine]\nhelp = \"states\"\nevents = [\"state\", \"messages\"]\nsample = 0.5\nfan_out = 0.25\n"),
    {A, D} = setup(Config, ["--budget-percent", "100"], ["--profiles", File]),
    Node = node_of(A),
    Profiles = ask(A, D, profiles),
    assert_eq([balanced, deep_dive_dev, lightweight_production, messages, mine], lists:sort(maps:keys(Profiles))),
    #{mine := #{help := <<"states">>, sample := 0.5, fan_out := 0.25, nodes := #{Node := #{cpu := Cpu, bound := at_least}}}} = Profiles,
    true = is_number(Cpu),
    #{messages := #{nodes := #{Node := #{bound := at_least, unknown := [messages]}}}} = Profiles,
    #{tracing := []} = ask(A, D, status),
    _ = ask(A, D, {start, #{profile => mine}}),
    #{tracing := [#{opts := #{profile := mine, sample := 0.5, fan_out := 0.25}}]} = ask(A, D, status).
