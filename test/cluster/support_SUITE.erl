%% The harness itself: nodes start, find each other, are killed and seen to be gone.
-module(support_SUITE).
-export([all/0, two_nodes_connect/1, killed_node_is_gone/1, program_lines_and_status/1,
         epmd_restarts_on_its_port/1]).

-spec all() -> [atom()].
all() -> [two_nodes_connect, killed_node_is_gone, program_lines_and_status, epmd_restarts_on_its_port].

-spec two_nodes_connect(scope_test:config()) -> ok.
two_nodes_connect(Config) ->
    A = scope_test:start_node(Config, a),
    B = scope_test:start_node(Config, b, #{args => ["+S", "1"]}),
    BNode = scope_test:node_of(B),
    pong = scope_test:rpc(A, net_adm, ping, [BNode]),
    true = scope_test:rpc(A, fun() -> lists:member(BNode, nodes()) end),
    1 = scope_test:rpc(B, erlang, system_info, [schedulers]),
    2 = length(scope_test:epmd_names(Config)),
    ok.

-spec killed_node_is_gone(scope_test:config()) -> ok.
killed_node_is_gone(Config) ->
    A = scope_test:start_node(Config, a),
    ok = scope_test:kill(A),
    false = scope_test:alive(A),
    scope_test:wait_until(fun() -> scope_test:epmd_names(Config) =:= [] end).

-spec program_lines_and_status(scope_test:config()) -> ok.
program_lines_and_status(Config) ->
    P = scope_test:start_program(Config, "/bin/sh", ["-c", "echo one; echo two 22 >&2; exit 3"]),
    [<<"22">>] = scope_test:await_line(P, "two ([0-9]+)", 5000),
    3 = scope_test:await_exit(P, 5000),
    ok.

-spec epmd_restarts_on_its_port(scope_test:config()) -> ok.
epmd_restarts_on_its_port(Config) ->
    ok = scope_test:kill_epmd(Config),
    {error, _} = scope_test:epmd_names(Config),
    _ = scope_test:start_epmd(Config),
    [] = scope_test:epmd_names(Config),
    ok.
