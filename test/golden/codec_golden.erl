%% Makes the codec's golden files on a real node; test/golden/README.md says how. Not run by the tests.
-module(codec_golden).
-behaviour(gen_server).

-export([main/1, init/1, handle_call/3, handle_cast/2, handle_info/2, child/1]).

-spec main([atom()]) -> no_return().
main([Folder]) ->
    {ok, _} = net_kernel:start('shop@golden.example', #{name_domain => longnames, dist_listen => false}),
    File = fun(Name) -> filename:join(Folder, Name) end,
    ok = file:write_file(File("match_hash.txt"), [hash_line(T) || T <- hash_terms()]),
    ok = file:write_file(File("batch_etf_v2.etf"), encode(batch(trace(fun every_kind/1), odd_events() ++ seq_events()))),
    ok = file:write_file(File("genserver_mix.etf"), encode(batch(trace(fun mix/1), []))),
    halt(0).

encode(Term) -> term_to_binary(Term, [{minor_version, 2}]).

%% Hex of the encoded term without the version byte, the hash, bounded.
hash_line(Term) ->
    <<131, Encoded/binary>> = encode(Term),
    {Hash, Bounded} = scope_match_hash:hash(Term, list_to_binary(lists:seq(0, 15))),
    Bit = case Bounded of true -> 1; false -> 0 end,
    io_lib:format("~s ~16.16.0b ~b~n", [string:lowercase(binary:encode_hex(Encoded)), Hash, Bit]).

hash_terms() ->
    X = 1,
    [ok, '', '\x{436}', [], 0, 255, 256, -1, 1 bsl 31, -(1 bsl 63), (1 bsl 63) - 1, 1 bsl 63, -(1 bsl 63) - 1, 1 bsl 200,
     0.0, -1.5, <<>>, <<"hello">>, binary:copy(<<7>>, 128), binary:copy(<<7>>, 129), <<1, 2:3>>, {}, {a, {b, [c]}},
     "abc", [1, 2 | x], [300, 400], self(), make_ref(), hd(erlang:ports()), fun lists:map/2, fun() -> X end,
     #{}, #{a => 1, <<"b">> => [2]}, maps:from_list([{I, I} || I <- lists:seq(1, 32)]),
     maps:from_list([{I, I} || I <- lists:seq(1, 31)]), maps:from_list([{I, I} || I <- lists:seq(1, 33)]),
     lists:seq(1, 31), lists:seq(1, 32), lists:seq(1000, 1030), lists:seq(1000, 1031),
     {call, #{items => [#{sku => <<"a-1">>, n => 2}, #{sku => <<"b-2">>, n => 1}], list => lists:seq(1, 60)}, tail},
     {'$gen_call', {self(), [alias | make_ref()]}, {reserve, <<"order-17">>, 3}}].

%% What the agent adds to the VM's own messages.
odd_events() ->
    P = self(),
    Ts = erlang:monotonic_time(),
    [{trace_ts, P, send, {'$scope_cut', 100000, {order, [1, 2]}, 16#1122334455667788}, {orders, 'b@golden.example'}, Ts},
     {trace_ts, P, 'receive', {'$scope_cut', 100000, {order, [1, 2]}, none}, Ts + 1},
     {trace_ts, P, send, {'$scope_cut', 0, {'$scope_cut', 1, 2, 3}, none}, nobody, Ts + 2},
     {scope, alive, P, #{name => shop, parent => P, initial_call => {shop, init, 1}, links => []}, Ts + 3},
     {scope, checkpoint, P, {gen_server, loop, 7}, #{n => 1}, Ts + 4},
     {scope, code_load, shop, 12345, Ts + 5},
     {scope, node_up, 'b@golden.example', Ts + 6},
     {scope, node_down, 'b@golden.example', Ts + 7},
     {trace_ts, P, future_event, x, Ts + 8},
     not_an_event].

%% What scope_follow adds, in version 2: whole, cut, and redacted; the last two do not fit.
seq_events() ->
    P = self(),
    Ts = erlang:monotonic_time(),
    Message = {'$gen_cast', {paid, <<"order-17">>, 3}},
    [{scope, seq_send, P, {orders, 'b@golden.example'}, {17, {0, 1}, Message}, Ts},
     {scope, seq_receive, P, P, {17, {0, 1}, Message}, Ts + 1},
     {scope, seq_send, P, P, {'$scope_cut', 100000, {17, {1, 2}, {order, '...'}}, 16#1122334455667788}, Ts + 2},
     {scope, seq_receive, P, P, {'$scope_cut', 0, {my_label, {1, 2}, {secret, {'$scope_redacted', 5}}}, 6, {redacted, false}}, Ts + 3},
     {scope, seq_send, P, P, {17, 1, Message}, Ts + 4},
     {scope, seq_send, P, P, Message, Ts + 5}].

batch(Events, More) ->
    {batch, 16#FEDCBA9876543210, 42, {erlang:monotonic_time(), erlang:system_time()},
     [{ring_full, 17, 1000, 2000}, {blackout, unknown, 3000, 4000}], erlang:monotonic_time(), {etf, 2, encode(Events ++ More)}}.

%% Runs Work(Server) with the server and this process traced as the agent does it; the events in order.
trace(Work) ->
    Self = self(),
    Tracer = spawn_link(fun() -> collect(Self, []) end),
    {ok, Server} = gen_server:start(?MODULE, [], []),
    Role = fun(Role, Var) -> [{message, {{{const, Role}, Var}}}] end,
    Local = fun(MFA, Head, Body) -> _ = erlang:trace_pattern(MFA, [{Head, [], Body}], [local]) end,
    Any = fun(N) -> lists:duplicate(N, '_') end,
    Local({gen_server, loop, 7}, ['_', '_', '$1' | Any(4)], Role(state, '$1')),
    Local({gen_server, decode_msg, 9}, ['$1' | Any(8)], Role(take, '$1')),
    Local({gen_server, terminate, 10}, Any(8) ++ ['$1', '_'], Role(final, '$1')),
    Local({?MODULE, handle_call, 3}, '_', [{exception_trace} | Role(args, '$_')]),
    Local({?MODULE, handle_cast, 2}, '_', []),
    Flags = [set_on_spawn, call, send, 'receive', procs, arity, monotonic_timestamp, {tracer, Tracer}],
    [1 = erlang:trace(P, true, Flags) || P <- [Server, Self]],
    Work(Server),
    [catch erlang:trace(P, false, [all]) || P <- [Server, Self]],
    Ref = erlang:trace_delivered(all),
    receive {trace_delivered, all, Ref} -> Tracer ! done end,
    receive {events, Events} -> Events end.

collect(To, Acc) ->
    receive
        done -> To ! {events, lists:reverse(Acc)};
        Event -> collect(To, [Event | Acc])
    end.

every_kind(Server) ->
    Child = spawn_link(?MODULE, child, [self()]),
    receive ready -> ok end,
    unlink(Child),
    Monitor = erlang:monitor(process, Child),
    exit(Child, kill),
    receive {'DOWN', Monitor, _, _, _} -> ok end,
    true = register(golden, self()),
    golden ! by_name,
    {golden, node()} ! by_name_and_node,
    Child ! too_late,
    _ = [receive M -> ok end || M <- [by_name, by_name_and_node]],
    unregister(golden),
    receive never -> ok after 1 -> ok end,
    mix_step(Server, 1),
    {'EXIT', _} = (catch gen_server:call(Server, crash)).

child(Parent) ->
    Parent ! ready,
    receive after infinity -> ok end.

mix(Server) -> [mix_step(Server, I) || I <- lists:seq(1, 40)].

%% One call and one cast, as a shop's front would make them.
mix_step(Server, I) ->
    Id = iolist_to_binary(io_lib:format("order-~6..0b", [I])),
    {ok, _} = gen_server:call(Server, {place, #{id => Id, customer => I * 7919, items => [{<<"sku-17">>, 2}, {<<"sku-4">>, 1}]}}),
    gen_server:cast(Server, {paid, Id, I * 100.5}).

init([]) -> {ok, #{orders => #{}, count => 0, name => <<"shop">>}}.

handle_call({place, #{id := Id} = Order}, _, #{orders := Orders, count := N} = State) ->
    Kept = case map_size(Orders) > 3 of true -> #{}; false -> Orders end,
    {reply, {ok, N + 1}, State#{orders := Kept#{Id => Order}, count := N + 1}};
handle_call(crash, _, State) ->
    error({crash, maps:size(State)}).

handle_cast({paid, Id, _Amount}, #{orders := Orders} = State) ->
    {noreply, State#{orders := maps:remove(Id, Orders)}}.

handle_info(_, State) -> {noreply, State}.
