%% Clusters that are not as most are: other cookies, no epmd, a range of ports, IPv6; nodes of OTP 25, and of others by `other_otp`.
-module(join_SUITE).
-export([all/0, timeout/1]).
-export([several_cookies/1, without_epmd/1, a_range_of_ports/1, ipv6/1, ipv6_by_epmd/1, one_name_twice/1,
         other_otp/1]).
-export([ipv6/2, ipv6_by_epmd/2]).
-import(scope_test, [start_node/2, start_node/3, rpc/2, rpc/4, node_of/1, wait_until/2, assert_eq/2]).
-import(scope_daemon, [call/3, ask/3, await_live/3]).

all() -> [several_cookies, without_epmd, a_range_of_ports, ipv6, ipv6_by_epmd, one_name_twice].
timeout(_) -> 120000.

%% The same with nodes of another release (test/support/otp ... with ...).
other_otp(Config) -> [Case(Config, #{otp => scope_test:other_otp()}) || Case <- [fun several_cookies/2, fun without_epmd/2, fun ipv6/2, fun ipv6_by_epmd/2]].

%% Nodes that do not know each other's cookie, and one daemon that knows both; each may connect to it, and is connected to.
several_cookies(Config) -> several_cookies(Config, #{}).
several_cookies(Config = #{tmp := Tmp}, Opts) ->
    A = start_node(Config, a),
    B = start_node(Config, b, Opts#{cookie => "theothers"}),
    C = start_node(Config, c, Opts#{cookie => "theothers"}),
    File = filename:join(Tmp, "other.cookie"),
    ok = file:write_file(File, "theothers\n"),
    ok = file:change_mode(File, 8#400),
    Known = [lists:concat([node_of(N), "=", File]) || N <- [B, C]],
    D = #{scope := Scope} = scope_daemon:start(Config, [A, B], #{args => ["--cookie-for", hd(Known), "--cookie-for", lists:last(Known)]}),
    await_live(A, D, [A, B]),
    pong = rpc(C, net_adm, ping, [Scope]),
    pang = rpc(A, net_adm, ping, [node_of(B)]),
    #{nodes := Seen} = ask(C, D, status),
    true = lists:member(node_of(B), maps:keys(Seen)),
    %% One that has a cookie of its own is not let in with ours.
    Wrong = start_node(Config, w, Opts#{cookie => "neither"}),
    pang = rpc(Wrong, net_adm, ping, [Scope]).

%% No epmd at all: a node on a fixed port, a daemon that is told which.
without_epmd(Config) -> without_epmd(Config, #{}).
without_epmd(Config, Opts) -> fixed_port(Config, "localhost", "127.0.0.1", [], Opts).

%% The same where the host's name has an IPv6 address only (a hosts file of their own, in a mount namespace). Opts may have
%% another carrier in args, and what the daemon needs for it in daemon_args.
ipv6(Config) -> ipv6(Config, #{}).
ipv6(Config, Opts) ->
    fixed_port(Config, "six", "::1", under_six(Config), maps:merge(#{args => ["-proto_dist", "inet6_tcp"]}, Opts)).

%% What runs under this has a host `six`, ::1 and nothing else.
under_six(#{tmp := Tmp}) ->
    case gen_tcp:listen(0, [inet6, {ip, {0, 0, 0, 0, 0, 0, 0, 1}}]) of
        {ok, L} -> gen_tcp:close(L);
        {error, Why} -> throw({skip, {no_ipv6, Why}})
    end,
    Hosts = filename:join(Tmp, "hosts"),
    ok = file:write_file(Hosts, "127.0.0.1 localhost\n::1 six\n"),
    case os:cmd("unshare -m sh -c 'mount --bind " ++ Hosts ++ " /etc/hosts && getent ahosts six'") of
        "::1" ++ _ -> [os:find_executable("unshare"), "-m", "sh", "-c", "mount --bind " ++ Hosts ++ " /etc/hosts && exec \"$0\" \"$@\""];
        No -> throw({skip, No})
    end.

%% By an epmd of IPv6: we find one node, and another one finds us.
ipv6_by_epmd(Config) -> ipv6_by_epmd(Config, #{}).
ipv6_by_epmd(Config, Opts) ->
    Under = under_six(Config),
    Port = scope_test:free_port(),
    Env = [{"ERL_EPMD_PORT", integer_to_list(Port)}, {"ERL_EPMD_ADDRESS", "::1"}],
    _ = scope_test:start_program(Config, os:find_executable("epmd"), ["-port", integer_to_list(Port), "-address", "::1"]),
    Six = Config#{epmd_port => Port},
    wait_until(fun() -> case gen_tcp:connect({0, 0, 0, 0, 0, 0, 0, 1}, Port, [inet6]) of {ok, S} -> gen_tcp:close(S), true; E -> E end end, 10000),
    Node = maps:merge(#{args => ["-proto_dist", "inet6_tcp"]}, Opts#{under => Under, env => Env}),
    [B, C] = [start_node(Six, scope_test:unique_name(N, "six"), Node) || N <- [b, c]],
    D = #{scope := Scope} = scope_daemon:start(Six, [B], #{name => scope_test:unique_name(scope, "six"), under => Under, listen => "::1",
                                                          names => fun(_) -> rpc(B, fun() -> {ok, L} = net_adm:names(six), L end) end,
                                                          env => Env, args => maps:get(daemon_args, Opts, [])}),
    await_live(B, D, [B]),
    pong = rpc(C, net_adm, ping, [Scope]),
    await_live(C, D, [B, C]).

fixed_port(Config, Host, Listen, Under, Opts) ->
    Port = integer_to_list(scope_test:free_port()),
    Dead = integer_to_list(scope_test:free_port()),
    Name = scope_test:unique_name(b, Host),
    B = start_node(Config#{epmd_port => list_to_integer(Dead)}, Name,
                   Opts#{args => ["-erl_epmd_port", Port | maps:get(args, Opts, [])], under => Under}),
    Scope = scope_test:unique_name(scope, Host),
    [Exe | Args] = Under ++
        [scope_test:bin("scope"), "start", "--name", atom_to_list(Scope), "--cookie", maps:get(cookie, Config), "--db",
         filename:join(maps:get(tmp, Config), atom_to_list(Scope)), "--listen", Listen, "--no-epmd", "--node",
         atom_to_list(Name) ++ ":" ++ Port] ++ maps:get(daemon_args, Opts, []),
    D = scope_test:start_program(Config, Exe, Args, [{"ERL_EPMD_PORT", Dead}]),
    _ = scope_test:await_line(D, "recording \\(OTP", 30000),
    #{nodes := #{Name := #{state := connected}}} = ask(B, D#{scope => Scope}, status),
    0 = scope_daemon:stop(D).

%% The first free port of the range; none free is said.
a_range_of_ports(Config) ->
    {ok, L} = gen_tcp:listen(0, [{ip, {127, 0, 0, 1}}]),
    {ok, Taken} = inet:port(L),
    A = start_node(Config, a),
    D = #{scope := Scope} = scope_daemon:start(Config, [A], #{args => ["--port", integer_to_list(Taken), "--port-max",
                                                                      integer_to_list(Taken + 40)]}),
    await_live(A, D, [A]),
    [Short, _] = string:split(atom_to_list(Scope), "@"),
    {_, Port} = lists:keyfind(Short, 1, scope_test:epmd_names(Config)),
    true = Port > Taken andalso Port =< Taken + 40,
    None = scope_test:start_program(Config, scope_test:bin("scope"),
                                    ["start", "--name", "none@localhost", "--cookie", "c", "--db",
                                     filename:join(maps:get(tmp, Config), "none"), "--listen", "127.0.0.1", "--port",
                                     integer_to_list(Taken)]),
    _ = scope_test:await_line(None, "can be listened on", 20000),
    1 = scope_test:await_exit(None, 20000).


%% Two nodes of one name, each registered with an epmd of its own: as between BEAM nodes the newcomer takes the link over, and gives
%% it back when the other one asks again. Both are answered, their pids are told apart, and nobody else is troubled.
one_name_twice(Config) ->
    A = start_node(Config, a),
    D = #{scope := Scope} = scope_daemon:start(Config, [A]),
    await_live(A, D, [A]),
    Name = scope_test:unique_name(twin),
    [Short, _] = string:split(atom_to_list(Scope), "@"),
    {_, Port} = lists:keyfind(Short, 1, scope_test:epmd_names(Config)),
    [One, Other] = [begin
                        Mine = scope_test:start_epmd(maps:remove(epmd_port, Config)),
                        _ = scope_peer:register_raw(Mine, Short, Port),
                        start_node(Mine, Name)
                    end || _ <- [1, 2]],
    Numbers = [begin
                   pong = rpc(N, net_adm, ping, [Scope]),
                   %% Which agent does the node of that name have?
                   wait_until(fun() ->
                                      {ok, #{nodes := #{Name := Seen}}} = call(N, D, status),
                                      lists:member(maps:get(state, Seen), [connected, tracing]) orelse Seen
                              end, 20000),
                   {ok, #{nodes := #{Name := #{agent := Agent}}}} = call(N, D, status),
                   Agent
               end || N <- [One, Other, One]],
    [First, Second, First] = Numbers,
    true = First =/= Second,
    await_live(A, D, [A]).
