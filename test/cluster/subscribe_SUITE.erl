%% Events sent as they are recorded: each once, in the order of its process, never more than were asked for.
-module(subscribe_SUITE).
-export([all/0, timeout/1]).
-export([each_once/1, a_laggard_loses_nothing/1, retention_is_faster/1, it_ends_with_its_subscriber/1, wrong_requests/1, tail/1]).
-export([subscriber/3]).
-import(scope_test, [start_node/2, rpc/2, rpc/4, node_of/1, wait_until/2, assert_eq/2]).
-import(scope_daemon, [call/3, ask/3, await_live/3, all_events/4]).

all() -> [each_once, a_laggard_loses_nothing, retention_is_faster, it_ends_with_its_subscriber, wrong_requests, tail].
timeout(_) -> 180000.

%% More than a block holds: rows are given out of the tail, and out of a block that holds some of them.
-define(MANY, 40000).

cluster(Config) -> cluster(Config, []).
cluster(Config, Args) ->
    Nodes = [A, B] = [start_node(Config, N) || N <- [a, b]],
    D = scope_daemon:start(Config, Nodes, #{args => Args}),
    await_live(A, D, Nodes),
    {ok, Pid} = rpc(B, scope_counter, start, [c1]),
    #{nodes := #{}} = ask(A, D, {start, [{pids, [Pid]}, {events, [messages]}, {for, {10, minute}}]}),
    {A, B, D, Pid}.

%% A process on a node of the cluster that subscribes, asks for more as it is told to, and knows what it was sent.
subscriber(Scope, Filter, Opts) ->
    {ok, Ref} = gen_server:call({elixir_scope, Scope}, {subscribe, Filter, Opts}, 30000),
    collect(Scope, Ref, [], []).

collect(Scope, Ref, Acc, Missing) ->
    receive
        {scope_events, Ref, Events} -> collect(Scope, Ref, [Events | Acc], Missing);
        {scope_missing, Ref, C} -> collect(Scope, Ref, Acc, [C | Missing]);
        {demand, N} ->
            {ok, _} = gen_server:call({elixir_scope, Scope}, {demand, Ref, N}, 30000),
            collect(Scope, Ref, Acc, Missing);
        {tell, To} ->
            To ! {told, Ref, lists:append(lists:reverse(Acc)), Missing},
            collect(Scope, Ref, Acc, Missing)
    end.

subscribe(Node, #{scope := Scope}, Filter, Opts) ->
    rpc(Node, erlang, spawn, [?MODULE, subscriber, [Scope, Filter, Opts]]).

told(Node, Pid) -> told(Node, Pid, fun(Event) -> Event end).
%% Each event as Of gives it.
told(Node, Pid, Of) ->
    rpc(Node, fun() ->
                      Pid ! {tell, self()},
                      receive {told, Ref, Events, Missing} -> {Ref, lists:map(Of, Events), Missing} after 30000 -> error(silent) end
              end).

await(Node, Pid, Count) ->
    wait_until(fun() ->
                       N = length(element(2, told(Node, Pid))),
                       N >= Count orelse {received, N}
               end, 120000),
    element(2, told(Node, Pid)).

numbers(Events) -> [K || #{message := {seq, K}} <- Events].

each_once(Config) ->
    {A, B, D, Pid} = cluster(Config),
    Filter = #{pid => Pid, type => message_fetch},
    One = subscribe(A, D, Filter, #{demand => 1000000}),
    Other = subscribe(B, D, Filter#{match => {seq, '$1'}, text => <<"seq">>}, [{demand, 1000000}]),
    Idle = subscribe(B, D, #{}, #{}),
    {_, [], _} = told(A, One),
    {_, [], _} = told(B, Other),
    ?MANY = rpc(B, scope_counter, pump, [Pid, 1, ?MANY, 10000]),
    Got = await(A, One, ?MANY),
    assert_eq(lists:seq(1, ?MANY), numbers(Got)),
    assert_eq(lists:seq(1, ?MANY), numbers(await(B, Other, ?MANY))),
    {Stored, _} = all_events(A, D, Filter, oldest_first),
    assert_eq([I || #{id := I} <- Stored], [I || #{id := I} <- Got]),
    {_, [], _} = told(B, Idle).

%% Without demand nothing comes; with some, no more than that. What was recorded meanwhile is all there.
a_laggard_loses_nothing(Config) ->
    {A, B, D, Pid} = cluster(Config),
    Slow = subscribe(A, D, #{pid => Pid, type => message_fetch}, #{demand => 3}),
    {_, [], _} = told(A, Slow),
    100 = rpc(B, scope_counter, pump, [Pid, 1, 100, 10000]),
    assert_eq([1, 2, 3], numbers(await(A, Slow, 3))),
    ?MANY = rpc(B, scope_counter, pump, [Pid, 101, ?MANY, 10000]),
    wait_until(fun() ->
                       {ok, #{events := Es}} = call(A, D, {get_events, #{pid => Pid, type => message_fetch, limit => 1}}),
                       numbers(Es) =:= [?MANY]
               end, 120000),
    assert_eq([1, 2, 3], numbers(element(2, told(A, Slow)))),
    rpc(A, fun() -> Slow ! {demand, 7} end),
    assert_eq(lists:seq(1, 10), numbers(await(A, Slow, 10))),
    rpc(A, fun() -> Slow ! {demand, 1000000} end),
    assert_eq(lists:seq(1, ?MANY), numbers(await(A, Slow, ?MANY))).

%% What was dropped before it was asked for is said, all that is still there comes, and nothing before what came first.
retention_is_faster(Config) ->
    {A, B, D, Pid} = cluster(Config, ["--partition-bytes", "4194304", "--retain-bytes", "10000000"]),
    Slow = subscribe(A, D, #{pid => Pid, type => message_fetch}, #{demand => 3}),
    {_, [], _} = told(A, Slow),
    Number = fun(#{message := {seq, K, _}}) -> K end,
    End = fun(Order) ->
              {ok, #{events := [E]}} = call(A, D, {get_events, #{pid => Pid, type => message_fetch, limit => 1, order => Order}}),
              Number(E)
          end,
    %% On until the store has dropped what was not given yet.
    Pump = fun Pump(From) ->
               To = From + 4999,
               rpc(B, fun() -> [begin
                                    Pid ! {seq, K, rand:bytes(2000)},
                                    K rem 20 =:= 0 andalso receive after 6 -> ok end
                                end || K <- lists:seq(From, To)], ok end),
               wait_until(fun() -> End(newest_first) =:= To end, 60000),
               case End(oldest_first) > 4 of
                   true -> To;
                   false when To < 100000 -> Pump(To + 1)
               end
           end,
    Last = Pump(1),
    assert_eq([1, 2, 3], [Number(E) || E <- await(A, Slow, 3)]),
    First = End(oldest_first),
    rpc(A, fun() -> Slow ! {demand, 1000000} end),
    wait_until(fun() -> {_, Ks, _} = told(A, Slow, Number), lists:last(Ks) =:= Last orelse lists:last(Ks) end, 60000),
    {_, Got, Missing} = told(A, Slow, Number),
    assert_eq([1, 2, 3 | lists:seq(First, Last)], Got),
    [_ | _] = [I || #{missing := Is} <- Missing, #{kind := retention} = I <- Is].

it_ends_with_its_subscriber(Config) ->
    {A, B, D, _} = cluster(Config),
    Gone = fun(Ref) ->
                   wait_until(fun() -> element(1, call(A, D, {demand, Ref, 1})) =:= error end, 20000),
                   {error, {bad_value, #{field := ref}}} = call(A, D, {unsubscribe, Ref})
           end,
    Killed = subscribe(A, D, #{}, #{}),
    {Ref, [], _} = told(A, Killed),
    {ok, 5} = call(B, D, {demand, Ref, 5}),
    true = rpc(A, erlang, exit, [Killed, kill]),
    Gone(Ref),
    Cut = subscribe(B, D, #{}, #{}),
    {Ref2, [], _} = told(B, Cut),
    true = rpc(B, erlang, disconnect_node, [maps:get(scope, D)]),
    Gone(Ref2),
    {ok, Ref3} = call(A, D, {subscribe, #{}, #{to => rpc(A, erlang, spawn, [timer, sleep, [infinity]])}}),
    {ok, ok} = call(A, D, {unsubscribe, Ref3}),
    Gone(Ref3),
    %% There is an end to how many there are, and those that are gone do not count.
    Many = [subscribe(A, D, #{}, #{}) || _ <- lists:seq(1, 64)],
    [told(A, P) || P <- Many],
    {error, {busy, _}} = call(A, D, {subscribe, #{}, #{}}),
    [rpc(A, erlang, exit, [P, kill]) || P <- Many],
    wait_until(fun() -> element(1, call(A, D, {subscribe, #{}, #{}})) =:= ok end, 20000).

wrong_requests(Config) ->
    A = start_node(Config, a),
    D = scope_daemon:start(Config, [A]),
    [{error, {Code, #{field := Field}}} = call(A, D, Request)
     || {Code, Field, Request} <-
            [{bad_value, since, {subscribe, #{since => now}, #{}}}, {bad_value, until, {subscribe, #{until => now}, #{}}},
             {bad_value, limit, {subscribe, #{limit => 3}, #{}}}, {bad_value, order, {subscribe, #{order => oldest}, #{}}},
             {bad_value, explain, {subscribe, #{explain => true}, #{}}}, {unknown_key, colour, {subscribe, #{colour => 1}, #{}}},
             {unknown_key, demant, {subscribe, #{}, #{demant => 1}}}, {bad_value, demand, {subscribe, #{}, #{demand => -1}}},
             {bad_value, to, {subscribe, #{}, #{to => me}}}, {bad_value, ref, {demand, 1, 1}},
             {bad_value, ref, {demand, make_ref(), 1}}, {bad_value, ref, {unsubscribe, make_ref()}}]].

%% scope tail shows each event a line, and ends when it has shown as many as it was asked to.
tail(Config) ->
    {A, B, D, Pid} = cluster(Config),
    T = scope_test:start_program(Config, scope_test:bin("scope"),
                                 ["tail", "--scope", atom_to_list(maps:get(scope, D)), "--cookie", maps:get(cookie, Config),
                                  "--type", "message_fetch", "--count", "300", "--json"]),
    %% It is there when a subscription more than none is.
    wait_until(fun() -> subscriptions(A, D) =:= 1 end, 20000),
    500 = rpc(B, scope_counter, pump, [Pid, 1, 500, 1000]),
    Lines = [scope_test:await_line(T, "\"message\": ?.*?(\\d+)\\D*?[]}]", 20000) || _ <- lists:seq(1, 300)],
    0 = scope_test:await_exit(T, 20000),
    assert_eq(lists:seq(1, 300), [binary_to_integer(K) || [K] <- Lines]),
    wait_until(fun() -> subscriptions(A, D) =:= 0 end, 20000).

subscriptions(A, D) -> maps:get(subscriptions, ask(A, D, status)).
