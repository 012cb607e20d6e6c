%% The demo shop (erl/examples/shop) as a load whose causes are known: each message of a request carries its number.
%%
%%   buy -> place -> reserve, charge, then ship or release       each is the cause of the next handling, over calls, a process
%%                                                               of the order's own and a task of its own
%%   done    reports the order's end to front: its cause is `place`, or a timer of the order's process, which begins a trace of its own
%%
%% record/3 runs the shop for so many seconds with everything traced; compare/3 says of each request whether its tree is that.
-module(scope_shop).
-export([record/3, compare/3]).
-import(scope_test, [start_node/3, rpc/4, wait_until/2]).
-import(scope_daemon, [ask/3, await_live/3, all_events/4]).

record(Config = #{tmp := Tmp}, Rate, Seconds) ->
    Ebin = filename:join(Tmp, "shop"),
    [] = os:cmd(filename:join(os:getenv("SCOPE_ROOT"), "erl/examples/shop/shop") ++ " build --ebin " ++ Ebin),
    Elixir = filename:join(os:cmd("elixir -e 'IO.write(:code.lib_dir(:elixir))'"), "ebin"),
    Start = fun(Name) -> start_node(Config, Name, #{args => ["-pa", Elixir, "-pa", Ebin], env => [{"SHOP_RATE", "0"}]}) end,
    Nodes = [Front, _, _] = [Start(N) || N <- ['front@localhost', 'orders@localhost', 'stock@localhost']],
    %% The front waits for the others.
    [begin {ok, _} = rpc(N, application, ensure_all_started, [elixir]), rpc(N, 'Elixir.Shop', main, []) end || N <- tl(Nodes) ++ [Front]],
    D = scope_daemon:start(Config, Nodes),
    await_live(Front, D, Nodes),
    #{nodes := Started} = ask(Front, D, {start, [{all, true}, {events, [messages, state, lifecycle]}, {for, 300000}]}),
    [ok = R || R <- maps:values(Started)],
    rpc(Front, 'Elixir.Shop.Customers', rate, [Rate]),
    receive after Seconds * 1000 -> ok end,
    rpc(Front, 'Elixir.Shop.Customers', rate, [0]),
    wait_until(fun() -> map_size(maps:get(open, rpc(Front, sys, get_state, ['Elixir.Shop.Front']))) =:= 0 end, 20000),
    #{next := Made} = rpc(Front, sys, get_state, ['Elixir.Shop.Customers']),
    Done = fun() -> length([M || M <- takes(Front, D), {done, _} <- [element(2, M)]]) end,
    wait_until(fun() -> Done() >= Made orelse {done, Done(), of_, Made} end, 30000),
    {Front, D, lists:seq(1, Made)}.

takes(A, D) ->
    [{Id, What} || #{id := Id, message := M} <- element(1, all_events(A, D, #{type => message_take}, oldest_first)), What <- numbered(M)].

numbered({'$gen_call', _, M}) -> numbered_(M);
numbered({'$gen_cast', M}) -> numbered_(M);
numbered(_) -> [].

numbered_(M) when is_tuple(M), tuple_size(M) >= 2, is_integer(element(2, M)) ->
    case lists:member(element(1, M), [buy, place, reserve, charge, ship, release, done]) of
        true -> [{element(1, M), element(2, M)}];
        false -> []
    end;
numbered_(_) -> [].

%% [{Number, same | {Why, What}}]
compare(A, D, Numbers) ->
    All = takes(A, D),
    Takes = maps:from_list(All),
    By = maps:groups_from_list(fun({_, {_, N}}) -> N end, All),
    [{N, one(A, D, Takes, maps:get(N, By, []))} || N <- Numbers].

one(A, D, Takes, Own) ->
    case [Id || {Id, {buy, _}} <- Own] of
        [Buy] ->
            #{spans := Spans} = ask(A, D, {get_trace, Buy}),
            ById = maps:from_list([{Id, S} || S = #{id := Id} <- Spans]),
            Foreign = [What || #{id := Id} <- Spans, #{Id := What} <- [Takes], not lists:member({Id, What}, Own)],
            Wrong = [{W, Got} || {Id, {What, _} = W} <- Own, Got <- [cause(A, D, Id, ById, Takes)], not right(What, Got)],
            case {Foreign, Wrong} of
                {[], []} -> same;
                {[], _} -> {other_cause, Wrong};
                _ -> {others_in_it, Foreign}
            end;
        _ -> {not_recorded, Own}
    end.

right(buy, client) -> true;
right(place, buy) -> true;
right(done, What) -> What =:= place orelse What =:= timer;
right(_, What) -> What =:= place.

%% The handling of a number that it is under; `done` may stand in a trace that a timer of the order began.
cause(A, D, Id, ById, Takes) when not is_map_key(Id, ById) ->
    #{id := Root, spans := Spans} = ask(A, D, {get_trace, Id}),
    Other = maps:from_list([{I, S} || S = #{id := I} <- Spans]),
    case Other of
        #{Id := #{parent := Parent}, Root := #{kind := timer}} when Parent =/= none ->
            case scope_order:above(Parent, Other, Takes) of client -> timer; What -> element(1, What) end;
        _ -> {elsewhere, maps:get(kind, maps:get(Root, Other))}
    end;
cause(_, _, Id, ById, Takes) ->
    case scope_order:above(maps:get(parent, maps:get(Id, ById)), ById, Takes) of
        client -> client;
        What -> element(1, What)
    end.
