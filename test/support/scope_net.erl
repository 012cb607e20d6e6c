%% Several hosts on one machine: network namespaces on a bridge, each with its address and an epmd of its own.
%%
%%   host I of N    address 10.77.0.I, and only that (the bridge is in a namespace, too: nothing reaches the machine's own network)
%%   node_opts/1    for scope_test:start_node/3: such a node is called by its address, name@10.77.0.I, with long names
%%   daemon_opts/1  for scope_daemon:start/3, likewise
%%
%% Needs root, ip and iptables; where they are not the case is skipped. What a killed suite left is taken away by the next one.
-module(scope_net).
-export([with_hosts/3, address/1, name/2, node_opts/1, daemon_opts/1, nodes_and_daemon/3, unplug/1, plug/1, drop/2, undrop/2]).

-export_type([host/0]).
-type host() :: #{i := pos_integer(), space := string(), bridge := string()}.

%% Fun with N hosts that can all reach each other, taken away after it. Or a list that says of each how it is connected:
%% near, or {delay, Out, In}: milliseconds that what it sends and what it is sent takes more (test/support/delay_link).
-spec with_hosts(scope_test:config(), pos_integer() | [near | {delay, number(), number()}], fun(([host()]) -> T)) -> T.
with_hosts(Config, N, Fun) when is_integer(N) -> with_hosts(Config, lists:duplicate(N, near), Fun);
with_hosts(Config, Links, Fun) ->
    _ = [os:find_executable(Tool) =/= false orelse throw({skip, Tool ++ " is not installed"}) || Tool <- ["ip", "iptables"]],
    take_away_of_the_dead(),
    Prefix = "scope" ++ os:getpid() ++ "_" ++ integer_to_list(erlang:unique_integer([positive])) ++ "_",
    Bridge = Prefix ++ "0",
    Hosts = [#{i => I, space => Prefix ++ integer_to_list(I), bridge => Bridge} || I <- lists:seq(1, length(Links))],
    try
        case os:cmd("ip netns add " ++ Bridge ++ " 2>&1") of
            "" -> ok;
            Why -> throw({skip, Why})
        end,
        sh("ip -n ~s link add br0 type bridge; ip -n ~s link set br0 up", [Bridge, Bridge]),
        [up(Config, H, Link) || {H, Link} <- lists:zip(Hosts, Links)],
        Fun(Hosts)
    after
        %% What runs there ends with the case; a namespace lives as long as something is in it.
        [os:cmd("ip netns del " ++ S) || S <- [Bridge | [S || #{space := S} <- Hosts]]]
    end.

up(Config, Host = #{i := I, space := S, bridge := B}, Link) ->
    Port = port_of(I),
    sh("ip netns add ~s", [S]),
    case Link of
        near -> sh("ip link add eth0 netns ~s type veth peer name ~s netns ~s", [S, Port, B]);
        {delay, Out, In} ->
            Program = filename:join([os:getenv("SCOPE_ROOT"), "test", "support", "delay_link"]),
            P = scope_test:start_program(Config, Program, [S, "eth0", text(Out), B, Port, text(In)]),
            [] = scope_test:await_line(P, "^ready", 10000)
    end,
    sh("ip -n ~s addr add ~s/24 dev eth0 && ip -n ~s link set eth0 up && ip -n ~s link set lo up", [S, address(Host), S, S]),
    sh("ip -n ~s link set ~s master br0 up", [B, Port]),
    Args = ["netns", "exec", S, os:find_executable("epmd"), "-port", integer_to_list(maps:get(epmd_port, Config))],
    _ = scope_test:start_program(Config, os:find_executable("ip"), Args, [{"ERL_EPMD_ADDRESS", address(Host)}]),
    scope_test:wait_until(fun() -> names(Config, Host) =/= error end, 10000).

text(Ms) -> lists:flatten(io_lib:format("~p", [Ms])).

port_of(I) -> "p" ++ integer_to_list(I).

-spec address(host()) -> string().
address(#{i := I}) -> "10.77.0." ++ integer_to_list(I).

%% A name on that host that no other node has.
-spec name(atom(), host()) -> node().
name(Base, Host) -> scope_test:unique_name(Base, address(Host)).

-spec node_opts(host()) -> map().
node_opts(#{space := S}) -> #{longnames => true, under => [os:find_executable("ip"), "netns", "exec", S]}.

-spec daemon_opts(host()) -> map().
daemon_opts(Host = #{space := S}) ->
    #{name => name(scope, Host), under => [os:find_executable("ip"), "netns", "exec", S], listen => address(Host),
      names => fun(Config) -> names(Config, Host) end, args => ["--longnames"]}.

names(#{epmd_port := Port}, #{space := S}) ->
    Out = os:cmd(lists:concat(["ip netns exec ", S, " epmd -port ", Port, " -names 2>&1"])),
    case re:run(Out, "^name (\\S+) at port (\\d+)$", [global, multiline, {capture, all_but_first, list}]) of
        {match, Names} -> [{N, list_to_integer(P)} || [N, P] <- Names];
        nomatch -> case string:find(Out, "up and running") of nomatch -> error; _ -> [] end
    end.

%% A node on each of Hosts but the last, where the daemon is. The nodes need 8 s to notice that one is gone.
nodes_and_daemon(Config, Hosts, Opts) ->
    Nodes = [scope_test:start_node(Config, name(n, H), (node_opts(H))#{args => ["-kernel", "net_ticktime", "8",
                                                                                  "prevent_overlapping_partitions", "false"]})
             || H <- lists:droplast(Hosts)],
    Base = daemon_opts(lists:last(Hosts)),
    D = scope_daemon:start(Config, Nodes, Base#{args => maps:get(args, Base) ++ Opts}),
    Asker = lists:last(Nodes),
    scope_daemon:await_live(Asker, D, Nodes),
    {Nodes, D}.

%% The host loses its network, and gets it back. What is sent meanwhile gets lost; connections do not hear of it.
-spec unplug(host()) -> ok.
unplug(#{i := I, bridge := B}) -> sh("ip -n ~s link set ~s down", [B, port_of(I)]).
-spec plug(host()) -> ok.
plug(#{i := I, bridge := B}) -> sh("ip -n ~s link set ~s up", [B, port_of(I)]).

%% What From sends to Host gets lost on the way; the other way goes on.
-spec drop(host(), host()) -> ok.
drop(From, #{space := S}) -> sh("ip netns exec ~s iptables -w -A INPUT -s ~s -j DROP", [S, address(From)]).
-spec undrop(host(), host()) -> ok.
undrop(From, #{space := S}) -> sh("ip netns exec ~s iptables -w -D INPUT -s ~s -j DROP", [S, address(From)]).

sh(Format, Args) ->
    Command = lists:flatten(io_lib:format(Format, Args)),
    case string:trim(os:cmd("( " ++ Command ++ " ) 2>&1 && echo done")) of
        "done" -> ok;
        Said -> error({failed, Command, Said})
    end.

%% The namespaces are named after the VM that made them.
take_away_of_the_dead() ->
    Spaces = filelib:wildcard("/run/netns/scope*_*"),
    [os:cmd("ip netns del " ++ filename:basename(F))
     || F <- Spaces, {match, [Pid]} <- [re:run(filename:basename(F), "^scope(\\d+)_", [{capture, all_but_first, list}])],
        not filelib:is_dir("/proc/" ++ Pid)],
    ok.
