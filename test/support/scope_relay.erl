%% A server for tests that sends what it is told to: {pass, To, Message}, {storm, To, Messages}; {done, _} is only taken.
-module(scope_relay).
-behaviour(gen_server).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

init(none) -> {ok, none}.
handle_call(ping, _, S) -> {reply, ok, S}.
handle_cast({pass, To, Message}, S) ->
    To ! Message,
    {noreply, S};
handle_cast({storm, To, N}, S) ->
    _ = [To ! I || I <- lists:seq(1, N)],
    {noreply, S};
handle_cast({done, _}, S) -> {noreply, S}.
handle_info(_, S) -> {noreply, S}.
