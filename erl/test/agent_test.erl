%% What the agent's suites share: a target node, a daemon's double on a hidden node, and the look for traces.
-module(agent_test).

-export([setup/1, setup/2, target/2, d/3, daemon/3, left/1, nothing_left/1, nothing_left/2, args/1, calls/1, native/0, flags/1, info/2, info/3,
         has_sessions/1]).

-import(scope_test, [start_node/3, rpc/2, rpc/4, wait_until/2]).

%% {Target, DaemonNode, DaemonPid}: handles of scope_test, and the double, to be driven with d/3.
setup(Config) -> setup(Config, #{}).
setup(Config, Opts) ->
    T = target(Config, maps:get(target, Opts, #{})),
    D = start_node(Config, daemon, #{hidden => true}),
    {T, D, daemon(T, D, Opts)}.

%% $SCOPE_TARGET_OTP says of which release the targets are; the suite is of this machine's.
target(Config, Opts) ->
    start_node(Config, target, case os:getenv("SCOPE_TARGET_OTP") of
                                   false -> Opts;
                                   Otp -> maps:merge(#{otp => list_to_integer(Otp)}, Opts)
                               end).

daemon(T, D, Opts) ->
    Pid = rpc(D, scope_fake_daemon, start, [scope_test:node_of(T), Opts]),
    _ = maps:get(resume, Opts, true) andalso d(D, wait, [Pid, fun({hello, _}) -> true end]),
    Pid.

%% A function of the double, run on its node.
d(D, F, A) -> rpc(D, scope_fake_daemon, F, A).

%% With $SCOPE_CAPTURE=native the suites judge the native tracer; what it does otherwise by design asks here.
native() -> os:getenv("SCOPE_CAPTURE") =:= "native".

%% The flags that a process has when these are wanted.
flags(Flags) -> lists:sort(Flags ++ case native() of true -> []; false -> [arity, monotonic_timestamp] end).

%% First arguments of the calls of scope_victim:work/1, in order.
args(Events) -> [X || {trace_ts, _, call, {scope_victim, work, 1}, {args, [X]}, _} <- Events].
calls(MFAs) -> #{mfas => MFAs, args => true, events => [calls]}.

%% What of ours is set: from OTP 27 on in the session of our own.
info(T, What, Item) -> rpc(T, ?MODULE, info, [What, Item]).
info(What, Item) ->
    case sessions() of
        none -> erlang:trace_info(What, Item);
        [] when Item =:= flags -> {flags, []};
        [] -> {Item, false};
        [Session | _] -> try apply(trace, info, [Session, What, Item]) catch error:badarg -> info(What, Item) end
    end.

sessions() ->
    case list_to_integer(erlang:system_info(otp_release)) >= 27 of
        true -> [S || S = {elixir_scope, _} <- apply(trace, session_info, [all])];
        false -> none
    end.

has_sessions(T) -> rpc(T, fun() -> sessions() =/= none end).

nothing_left(T) -> nothing_left(T, 5000).
nothing_left(T, Ms) -> wait_until(fun() -> case left(T) of [] -> true; L -> L end end, Ms).

left(T) ->
    rpc(T, fun() ->
                   Test = [scope_test, scope_victim, scope_fake_daemon, scope_statem, scope_statem_f, scope_handler, scope_compact],
                   [{module, M} || {M, _} <- code:all_loaded(), lists:prefix("scope_", atom_to_list(M)),
                                   not lists:member(M, Test)]
                       ++ [{old, M} || M <- erlang:loaded(), lists:prefix("scope_", atom_to_list(M)),
                                       not lists:member(M, Test)]
                       ++ [{name, N} || N <- registered(), lists:prefix("scope_", atom_to_list(N))]
                       ++ [{flags, P, F} || P <- processes(), {flags, F} <- [erlang:trace_info(P, flags)], F =/= []]
                       ++ [{new, F} || {flags, F} <- [erlang:trace_info(new_processes, flags)], F =/= []]
                       ++ [{session, S} || sessions() =/= none, S <- sessions()]
                       ++ [{pattern, {M, F, A}}
                           || {M, _} <- code:all_loaded(), {F, A} <- try M:module_info(functions) catch _:_ -> [] end,
                              erlang:trace_info({M, F, A}, traced) =/= {traced, false}]
           end).
