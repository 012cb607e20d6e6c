%% A gen_statem with state functions and enter calls.
-module(scope_statem_f).
-behaviour(gen_statem).
-export([init/1, callback_mode/0, on/3, off/3]).

callback_mode() -> [state_functions, state_enter].
init(_) -> {ok, off, 0}.

off(enter, _, _) -> keep_state_and_data;
off(cast, flip, N) -> {next_state, on, N}.
on(enter, off, N) -> {keep_state, N + 1};
on(cast, crash, _) -> error(crash);
on({call, From}, count, N) -> {keep_state_and_data, {reply, From, N}}.
