%% Servers for tests that pass the number of a request on, from node to node.
%%
%%   {order, N}    front calls orders: {place, N}, which calls stock: {reserve, N}, then casts {placed, N} to log
%%   {reserve, N}  casts {reserved, N} to log
%%   {lookup, N}   front calls stock: {count, N}
%% A server's argument says who is next: #{orders => .., stock => .., log => ..}. Its state has the last number.
-module(scope_order).
-behaviour(gen_server).
-export([init/1, handle_call/3, handle_cast/2]).

init(Next) -> {ok, #{next => Next, last => none}}.

handle_call({order, N}, _From, S = #{next := #{orders := To}}) -> {reply, gen_server:call(To, {place, N}), S#{last := N}};
handle_call({lookup, N}, _From, S = #{next := #{stock := To}}) -> {reply, gen_server:call(To, {count, N}), S#{last := N}};
handle_call({place, N}, _From, S = #{next := #{stock := Stock, log := Log}}) ->
    Reply = gen_server:call(Stock, {reserve, N}),
    gen_server:cast(Log, {placed, N}),
    {reply, Reply, S#{last := N}};
handle_call({reserve, N}, _From, S = #{next := #{log := Log}}) ->
    gen_server:cast(Log, {reserved, N}),
    {reply, {ok, N}, S#{last := N}};
handle_call({count, N}, _From, S) -> {reply, {ok, N}, S#{last := N}}.

handle_cast({_, N}, S) -> {noreply, S#{last := N}}.
