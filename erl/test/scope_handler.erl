%% An event handler, and an empty supervisor.
-module(scope_handler).
-export([init/1, handle_event/2, handle_call/2, handle_info/2]).

init([]) -> {ok, {#{strategy => one_for_one}, []}};
init(N) -> {ok, N}.
handle_event(_, N) -> {ok, N + 1}.
handle_call(get, N) -> {ok, N, N}.
handle_info(_, N) -> {ok, N + 1}.
