%% The demo shop (erl/examples/shop) as a load whose causes are known: each message of a request carries its number.
%%
%%   buy -> place -> reserve, charge, then ship or release       each is the cause of the next handling, over calls, a process
%%                                                               of the order's own and a task of its own
%%   done    reports the order's end to front: its cause is `place`, or a timer of the order's process, which begins a trace of its own
%%
%% record/3 runs the shop for so many seconds with everything traced; compare/4 says of each request whether its tree is that,
%% and whether it is the one that seq_trace's labels tell (scope_tokens), which the customers give their requests: numbers then only
%% say which handling is which. `done` has no label: the order's end is told by a monitor, which passes none on.
-module(scope_shop).
-export([record/3, compare/4]).
-export([customers/2]).
-import(scope_test, [start_node/3, rpc/4, wait_until/2, assert_eq/2]).
-import(scope_daemon, [ask/3, await_live/3, all_events/4]).

record(Config = #{tmp := Tmp}, Rate, Seconds) ->
    Ebin = filename:join(Tmp, "shop"),
    [] = os:cmd(filename:join(os:getenv("SCOPE_ROOT"), "erl/examples/shop/shop") ++ " build --ebin " ++ Ebin),
    Elixir = filename:join(os:cmd("elixir -e 'IO.write(:code.lib_dir(:elixir))'"), "ebin"),
    Start = fun(Name) -> start_node(Config, Name, #{args => ["-pa", Elixir, "-pa", Ebin], env => [{"SHOP_RATE", "0"}]}) end,
    Nodes = [Front, _, _] = [Start(N) || N <- ['front@localhost', 'orders@localhost', 'stock@localhost']],
    %% The front waits for the others.
    [begin {ok, _} = rpc(N, application, ensure_all_started, [elixir]), rpc(N, 'Elixir.Shop', main, []) end || N <- tl(Nodes) ++ [Front]],
    Tracers = [{N, rpc(N, scope_tokens, observe, [])} || N <- Nodes],
    Made = Rate * Seconds,
    Customers = rpc(Front, erlang, spawn, [?MODULE, customers, [Made, 1000 div Rate]]),
    D = scope_daemon:start(Config, Nodes),
    await_live(Front, D, Nodes),
    #{nodes := Started} = ask(Front, D, {start, [{all, true}, {events, [messages, state, lifecycle]}, {for, 300000}]}),
    [ok = R || R <- maps:values(Started)],
    rpc(Front, erlang, send, [Customers, go]),
    wait_until(fun() -> not rpc(Front, erlang, is_process_alive, [Customers]) end, Seconds * 1000 + 30000),
    Done = fun() -> length([M || M <- takes(Front, D), {done, _} <- [element(2, M)]]) end,
    wait_until(fun() -> Done() >= Made orelse {done, Done(), of_, Made} end, 30000),
    assert_eq([], element(1, all_events(Front, D, #{type => [seq_send, seq_receive]}, oldest_first))),
    Labels = scope_tokens:trees(lists:append([rpc(N, scope_tokens, seen, [T]) || {N, T} <- Tracers]), fun numbered/1),
    {Front, D, lists:seq(1, Made), Labels}.

%% Each visit is a process of its own, as the shop's are. What begins them is not recorded: one tree would hold them all.
customers(Made, Every) ->
    process_flag(sensitive, true),
    receive go -> ok end,
    Visits = [begin
                  receive after Every -> ok end,
                  spawn_monitor(fun() -> scope_tokens:label(label(N)), 'Elixir.Shop.Customers':visit(N) end)
              end || N <- lists:seq(1, Made)],
    [receive {'DOWN', Ref, process, _, _} -> ok end || {_, Ref} <- Visits].

label(N) -> 1000000 + N.

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

%% [{Number, ByNumbers, ByLabels}], each same | {Why, What}.
compare(A, D, Numbers, Labels) ->
    All = takes(A, D),
    Takes = maps:from_list(All),
    Ids = maps:from_list([{What, Id} || {Id, What} <- All]),
    Of = maps:from_list([{What, Label} || {Label, Edges} <- maps:to_list(Labels), {What, _} <- Edges]),
    [case Ids of
         #{{buy, N} := Buy} ->
             #{spans := Spans} = ask(A, D, {get_trace, Buy}),
             ById = maps:from_list([{Id, S} || S = #{id := Id} <- Spans]),
             In = [What || #{id := Id} <- Spans, #{Id := What} <- [Takes]],
             Cause = fun(What) -> cause(A, D, maps:get(What, Ids), ById, Takes) end,
             {N, by_number([W || {_, W = {_, K}} <- All, K =:= N], [W || W = {_, K} <- In, K =/= N], Cause),
              by_label(maps:get(label(N), Labels, []), [W || W <- In, maps:get(W, Of, label(N)) =/= label(N)], Cause)};
         _ -> {N, {not_recorded, N}, {not_recorded, N}}
     end || N <- Numbers].

by_number(Own, [], Cause) ->
    case [{W, Got} || {What, _} = W <- Own, Got <- [Cause(W)], not right(What, kind(Got))] of
        [] -> same;
        Wrong -> {other_cause, Wrong}
    end;
by_number(_, Foreign, _) -> {others_in_it, Foreign}.

%% All that has the label is in the tree, because of the same, and nothing that has another. What is sold out is bought, placed and
%% asked for.
by_label(Edges, [], Cause) when length(Edges) >= 3 ->
    case [{W, Got, Because} || {W, Because} <- Edges, Got <- [Cause(W)], Got =/= Because] of
        [] -> same;
        Wrong -> {other_cause, Wrong}
    end;
by_label(Edges, Foreign, _) -> {others_in_it, Foreign, Edges}.

kind({What, _}) -> What;
kind(What) -> What.

right(buy, client) -> true;
right(place, buy) -> true;
right(done, What) -> What =:= place orelse What =:= timer;
right(_, What) -> What =:= place.

%% What a handling is under; `done` may stand in a trace that a timer of the order began.
cause(A, D, Id, ById, _) when not is_map_key(Id, ById) ->
    #{id := Root, spans := Spans} = ask(A, D, {get_trace, Id}),
    Other = maps:from_list([{I, S} || S = #{id := I} <- Spans]),
    case Other of
        #{Id := #{parent := Parent}, Root := #{kind := timer}} when Parent =/= none -> timer;
        _ -> {elsewhere, maps:get(kind, maps:get(Root, Other))}
    end;
cause(_, _, Id, ById, Takes) -> scope_order:above(maps:get(parent, maps:get(Id, ById)), ById, Takes).
