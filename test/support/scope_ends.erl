%% A server that starts a worker and is linked to it; the worker ends as it is told.
-module(scope_ends).
-behaviour(gen_server).
-export([init/1, handle_call/3, handle_cast/2]).

init([]) -> {ok, none}.

handle_call(_, _, S) -> {reply, ok, S}.

handle_cast({worker, Reason}, _) ->
    {noreply, spawn_link(fun() -> exit(Reason) end)}.
