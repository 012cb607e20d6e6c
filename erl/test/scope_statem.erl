%% A gen_statem for the behaviour tests: chained internal events, postponing, a state timeout.
-module(scope_statem).
-behaviour(gen_statem).
-export([init/1, callback_mode/0, handle_event/4]).

callback_mode() -> handle_event_function.
init(_) -> {ok, a, 0}.

handle_event(cast, chain, a, N) -> {next_state, a, N + 1, {next_event, internal, b}};
handle_event(internal, b, a, N) -> {next_state, b, N + 1, {next_event, internal, c}};
handle_event(internal, c, b, N) -> {next_state, c, N + 1};
handle_event(cast, later, c, _) -> {keep_state_and_data, postpone};
handle_event(cast, later, d, N) -> {keep_state, N + 1};
handle_event(cast, go, c, N) -> {next_state, d, N};
handle_event(info, hello, d, N) -> {keep_state, N + 1};
handle_event(cast, timer, d, N) -> {next_state, t, N, {state_timeout, 10, x}};
handle_event(state_timeout, x, t, N) -> {next_state, timed, N};
handle_event({call, From}, get, S, N) -> {keep_state_and_data, {reply, From, {S, N}}}.
