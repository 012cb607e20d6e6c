%% The loads of scope_loads over three nodes and a daemon, one node restarted between, and the matcher's pairs beside
%% seq_trace's: for match_SUITE and `scripts/bench match`.
-module(scope_match).
-export([measure/2]).
-import(scope_test, [start_node/2, rpc/4, rpc/5, node_of/1, wait_until/2]).
-import(scope_daemon, [ask/3, await_live/3, all_events/4]).

-define(WORKERS, 2).      % a node

measure(Config, Times) ->
    Nodes = [A, B, C] = [start_node(Config, N) || N <- [front, orders, stock]],
    Db = filename:join(maps:get(tmp, Config), "match.db"),
    D = scope_daemon:start(Config, Nodes, #{db => Db}),
    await_live(A, D, Nodes),
    First = begin_trace(A, D, Nodes, 1),
    [load(A, L, Times, First) || L <- scope_loads:loads()],
    SeenBefore = await_recorded(A, D, First, []),
    %% One node anew under its old name, and it alone has other processes.
    scope_test:kill(C),
    C2 = start_node(Config, node_of(C)),
    await_live(A, D, [A, B, C2]),
    Second = begin_trace(A, D, [A, B, C2], 100),
    [load(A, L, Times, Second) || L <- [names, storm, calls, aliases]],
    Seen = await_recorded(A, D, Second, SeenBefore),
    Recorded = {recorded(A, D, message_send), recorded(A, D, message_fetch)},
    {_, Complete} = all_events(A, D, #{type => [message_send, message_fetch]}, oldest_first),
    Truth = scope_loads:truth(Seen),
    0 = scope_daemon:stop(D),
    {Pairs, Counters} = pairs(Db),
    {Loads, Odd} = scope_loads:judge(Truth, Recorded, Pairs),
    Sum = fun(K, Of) -> lists:sum([maps:get(K, F) || F <- Of]) end,
    All = maps:values(Loads),
    Others = maps:values(maps:without([same, alike], Loads)),
    Sure = Sum(right, All) + Sum(wrong, All) - Sum(ambiguous, All),
    Blurred = [F || L <- [same, alike], {ok, F} <- [maps:find(L, Loads)]],
    Counters#{loads => Loads, odd => Odd, truth => length(Truth), lost => scope_daemon:lost(Complete),
              recorded => Sum(pairs, All) / max(1, length(Truth)), precision => 1 - Sum(sure_wrong, All) / max(1, Sure),
              recall => Sum(right, Others) / max(1, Sum(pairs, Others)),
              ambiguous_hashed_whole => Sum(ambiguous, maps:values(maps:without([same, alike, long], Loads))) / max(1, Sum(pairs, Others)),
              ambiguous_rate => Sum(ambiguous, Others) / max(1, Sum(pairs, Others)),
              identical_pairs => Sum(pairs, Blurred), identical_sure_wrong => Sum(sure_wrong, Blurred),
              identical_right_rate => Sum(right, Blurred) / max(1, Sum(pairs, Blurred))}.

%% Workers and servers of these nodes, all traced, each node with a tracer of tokens.
begin_trace(A, D, Nodes, From) ->
    Tracers = [{N, rpc(N, scope_loads, observe, [])} || N <- Nodes],
    Indexed = lists:zip(lists:seq(0, length(Nodes) * ?WORKERS - 1), lists:append(lists:duplicate(?WORKERS, Nodes))),
    Workers = maps:from_list([{I + 1, rpc(N, scope_loads, worker, [I + From])} || {I, N} <- Indexed]),
    Servers = [rpc(N, scope_loads, server, [none]) || N <- Nodes],
    Dead = [rpc(N, erlang, spawn, [erlang, date, []]) || N <- Nodes],
    #{nodes := Started} = ask(A, D, {start, [{pids, Servers ++ [P || #{pid := P} <- maps:values(Workers)]}, {events, [messages, state, lifecycle, names]}]}),
    [scope_test:assert_eq(ok, R) || R <- maps:values(Started)],
    #{tracers => Tracers, workers => Workers, servers => #{servers => Servers, dead => Dead}}.

load(A, Load, Times, #{workers := Workers, servers := Servers}) ->
    ok = rpc(A, scope_loads, run, [Load, Times, Workers, Servers], 120000).

%% What the tracers saw, once the daemon has as many sends; it may be that some were never recorded.
await_recorded(A, D, #{tracers := Tracers}, Before) ->
    Seen = fun() -> Before ++ lists:append([rpc(N, scope_loads, seen, [T]) || {N, T} <- Tracers]) end,
    All = settled(Seen, Seen()),
    Of = fun(Kind) -> length([x || E <- All, element(1, E) =:= Kind]) end,
    Wanted = {Of(send), Of('receive')},
    Have = fun() -> {length(recorded(A, D, message_send)), length(recorded(A, D, message_fetch))} end,
    catch wait_until(fun() -> {S, F} = Have(), S >= element(1, Wanted) andalso F >= element(2, Wanted) end, 20000),
    All.

settled(Seen, Last) ->
    receive after 300 -> ok end,
    case Seen() of
        Last -> Last;
        More -> settled(Seen, More)
    end.

recorded(A, D, Type) ->
    {Events, _} = all_events(A, D, #{type => Type}, oldest_first),
    [{Pid, M, Id} || #{pid := Pid, message := M, id := Id} <- Events, scope_loads:key(M) =/= other].

%% [{Send, Arrival, How}], and what else match_pairs counts: #{Name => Number}.
pairs(Db) ->
    Out = os:cmd(scope_test:bin("match_pairs") ++ " " ++ Db),
    Lines = [string:lexemes(L, " ") || L <- string:lexemes(Out, "\n")],
    {[{binary:decode_hex(list_to_binary(S)), binary:decode_hex(list_to_binary(F)), list_to_atom(How)} || [S, F, How, _] <- Lines],
     maps:from_list([{list_to_atom(Name), number(Value)} || [Name, Value] <- Lines])}.

number(Text) ->
    case string:to_float(Text) of {error, no_float} -> list_to_integer(Text); {F, _} -> F end.
