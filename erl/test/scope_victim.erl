%% Processes for the tests to trace.
-module(scope_victim).
-behaviour(gen_server).

-export([start/1, start/2, work/1, twice/1, loop/0, echo/0, cast_many/2, produce/2, producer/3, hammer/1, hammered/1]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, handle_continue/2, terminate/2]).

start(Name) -> start(Name, 0).
start(Name, State) -> {ok, Pid} = gen_server:start({local, Name}, ?MODULE, State, []), Pid.

init({continue, X}) -> {ok, X, {continue, more}};
init(X) -> {ok, X}.
handle_call(get, _, S) -> {reply, S, S};
handle_call(touch, _, S) -> {reply, ok, S};
handle_call({set, X}, _, _) -> {reply, ok, X};
handle_call({hibernate, X}, _, _) -> {reply, ok, X, hibernate};
handle_call({timeout, X}, _, _) -> {reply, ok, X, 10};
handle_call(stop, _, S) -> {stop, normal, ok, S}.
handle_cast({set, X}, _) -> {noreply, X};
handle_cast(crash, _) -> error(crash);
handle_cast(add, S) -> {noreply, S + 1}.
handle_info(timeout, S) -> {noreply, {timed_out, S}};
handle_info(_, S) -> {noreply, S}.
handle_continue(more, S) -> {noreply, {continued, S}}.
terminate(_, _) -> ok.

work(X) -> twice(X) + 1.
twice(X) -> X * 2.

loop() -> receive stop -> ok; {From, X} -> From ! {self(), work(X)}, loop(); _ -> loop() end.
echo() -> spawn(fun loop/0).

cast_many(Server, N) -> [gen_server:cast(Server, add) || _ <- lists:seq(1, N)], ok.

%% Calls work/1 N times; says so.
produce(N, To) -> spawn(fun() -> receive go -> ok end, [work(I) || I <- lists:seq(1, N)], To ! {produced, N} end).

%% Calls work/1 in rounds of Chunk, each Ms, until told to stop; answers how many.
producer(Chunk, Ms, Counter) ->
    spawn(fun() -> producer_loop(Chunk, Ms, Counter) end).
producer_loop(Chunk, Ms, Counter) ->
    [work(I) || I <- lists:seq(1, Chunk)],
    counters:add(Counter, 1, Chunk),
    receive stop -> ok after Ms -> producer_loop(Chunk, Ms, Counter) end.

hammer(Arg) -> spawn(fun() -> receive go -> hammer_loop(Arg) end end).
hammer_loop(Arg) -> hammered(Arg), hammer_loop(Arg).
hammered(A) -> A.
