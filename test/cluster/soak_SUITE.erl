%% A long run under faults, and what must hold after it. `scripts/soak` runs this by itself; ctest for two minutes.
%%
%%   three nodes and the daemon, each on a host of its own; the store on a disk of 512 MB
%%   load    on each node a counter gets {seq, 1}, {seq, 2}, ... at 200 a second, and now and then another is sent a cast by the next node's;
%%           while the disk is full 5,000 at once, again and again, until a commit has failed
%%   faults  one at a time, in turns, each begun so long after the one before: daemon, agent and node killed with -9 (the first and
%%           the last started again), a host cut off, the daemon stopped and continued, the disk full
%%   then    every number of every counter is in the record once, in order, or a gap of its node covers where it is missing
%%           (acknowledged = stored, nothing twice); what a node sent in the end is there; memory and descriptors of the daemon
%%           are flat
%%
%% $SCOPE_SOAK_SECONDS (120) and $SCOPE_SOAK_EVERY (15): how long, and a fault every so many seconds.
-module(soak_SUITE).
-export([all/0, timeout/1, soak/1]).
-export([load/2]).
-import(scope_test, [start_node/3, rpc/2, rpc/4, node_of/1, wait_until/2, kill/1, kill/2, log/2]).
-import(scope_daemon, [call/3, ask/3, await_live/3]).

-define(RATE, 200).
-define(SETTLE, 60000).     % ms that a fault may take to be got over

-record(c, {config, hosts, dir, db, nodes, d, lives = [] :: [{node(), pid()}], sizes = [], number = 0, asker_of}).

all() -> [soak].
timeout(_) -> 1000 * (3 * seconds() + 600).

seconds() -> number("SCOPE_SOAK_SECONDS", 120).
every() -> number("SCOPE_SOAK_EVERY", 15).
number(Variable, Default) ->
    case os:getenv(Variable) of false -> Default; Text -> list_to_integer(Text) end.

soak(Config) ->
    scope_net:with_hosts(Config, 4, fun(Hosts) ->
        scope_test:on_small_disk(Config, 512, fun(Dir) -> soak(Config, Hosts, Dir) end)
    end).

soak(Config, Hosts, Dir) ->
    Nodes = maps:from_list([{I, node_on(Config, Hosts, I, scope_net:name(n, lists:nth(I, Hosts)))} || I <- [1, 2, 3]]),
    C0 = #c{config = Config, hosts = Hosts, dir = Dir, db = filename:join(Dir, "db"), nodes = Nodes},
    C1 = daemon(C0),
    Names = #{names => [c, casts], events => [messages, state, lifecycle], for => 1000 * (2 * seconds() + 600)},
    #{} = ask(maps:get(1, Nodes), C1#c.d, {start, Names}),
    C2 = lists:foldl(fun begin_life/2, C1, [1, 2, 3]),
    Until = now_s() + seconds(),
    C3 = faults(measured(C2), [daemon_killed, disk_full, agent_killed, daemon_stopped, node_killed, host_cut_off], Until),
    judge(C3).

now_s() -> erlang:monotonic_time(second).

%% --- the cluster -------------------------------------------------------------------------------------------------------

node_on(Config, Hosts, I, Name) ->
    start_node(Config, Name, (scope_net:node_opts(lists:nth(I, Hosts)))
               #{args => ["-kernel", "net_ticktime", "8", "prevent_overlapping_partitions", "false"]}).

daemon(C = #c{config = Config, hosts = Hosts, db = Db, nodes = Nodes, d = Before}) ->
    Base = scope_net:daemon_opts(lists:last(Hosts)),
    Name = case Before of undefined -> maps:get(name, Base); #{scope := N} -> N end,
    D = scope_daemon:start(Config, maps:values(Nodes), Base#{name => Name, db => Db}),
    C1 = C#c{d = D},
    settled(C1),
    C1.

%% A counter and who feeds it, on node I, in its present life. It begins once it is traced.
begin_life(I, C = #c{nodes = Nodes, lives = Lives}) ->
    Node = maps:get(I, Nodes),
    Next = node_of(maps:get(I rem 3 + 1, Nodes)),
    {ok, _} = rpc(Node, scope_counter, start, [casts]),
    {ok, Pid} = rpc(Node, scope_counter, start, [c]),
    wait_until(fun() -> case rpc(Node, erlang, trace_info, [Pid, flags]) of {flags, [_ | _]} -> true; F -> F end end, ?SETTLE),
    scope_test:cast(Node, fun() -> register(soak_load, spawn(?MODULE, load, [Pid, Next])) end),
    C#c{lives = [{I, Pid} | Lives]}.

%% On the node: numbers to Pid until asked for the last one.
load(Pid, Next) -> load(Pid, Next, 1, erlang:monotonic_time(millisecond)).

load(Pid, Next, K, Begun) ->
    Due = (erlang:monotonic_time(millisecond) - Begun) * ?RATE div 1000,
    [Pid ! {seq, N} || N <- lists:seq(K, Due)],
    _ = K rem 20 =:= 0 andalso gen_server:cast({casts, Next}, {add, 1}),
    Sent = max(K - 1, Due),
    receive
        {last, From} -> From ! {last, Sent};
        {burst, N} ->
            [Pid ! {seq, M} || M <- lists:seq(Sent + 1, Sent + N)],
            load(Pid, Next, Sent + N + 1, Begun - N * 1000 div ?RATE)
    after 5 -> load(Pid, Next, Sent + 1, Begun)
    end.

%% Every node is recorded.
settled(#c{nodes = Nodes, d = D}) -> await_live(maps:get(1, Nodes), D, maps:values(Nodes)).

%% --- faults ------------------------------------------------------------------------------------------------------------

faults(C, [Fault | Rest], Until) ->
    Begun = erlang:monotonic_time(millisecond),
    case now_s() >= Until of
        true -> C;
        false ->
            N = C#c.number + 1,
            %% Each third fault hits another node.
            I = N rem 3 + 1,
            log("~3b  ~-16s node ~b", [N, Fault, I]),
            C1 = fault(Fault, I, C#c{number = N}),
            settled(C1),
            Took = erlang:monotonic_time(millisecond) - Begun,
            log("     got over after ~b ms", [Took]),
            receive after max(0, 1000 * every() - Took) -> ok end,
            faults(measured(C1), Rest ++ [Fault], Until)
    end.

fault(daemon_killed, _, C = #c{d = D}) ->
    kill(D),
    receive after 1000 -> ok end,
    daemon(C);
fault(agent_killed, I, C = #c{nodes = Nodes}) ->
    Old = rpc(maps:get(I, Nodes), fun() -> P = whereis(scope_agent), exit(P, kill), P end),
    wait_until(fun() -> case rpc(maps:get(I, Nodes), erlang, whereis, [scope_agent]) of
                            New when is_pid(New), New =/= Old -> true;
                            Other -> Other
                        end
               end, ?SETTLE),
    C;
fault(node_killed, I, C = #c{config = Config, hosts = Hosts, nodes = Nodes}) ->
    Old = maps:get(I, Nodes),
    kill(Old),
    C1 = C#c{nodes = Nodes#{I := node_on(Config, Hosts, I, node_of(Old))}},
    settled(C1),
    begin_life(I, C1);
fault(host_cut_off, I, C = #c{hosts = Hosts, nodes = Nodes}) ->
    Host = lists:nth(I, Hosts),
    scope_net:unplug(Host),
    Asker = maps:get(I rem 3 + 1, Nodes),
    scope_daemon:await_nodes(Asker, C#c.d, {[silent], [node_of(maps:get(I, Nodes))]}),
    receive after 9000 -> ok end,
    scope_net:plug(Host),
    C;
fault(daemon_stopped, _, C = #c{d = D}) ->
    kill(D, "STOP"),
    receive after 5000 -> ok end,
    kill(D, "CONT"),
    C;
fault(disk_full, _, C = #c{dir = Dir, d = D, nodes = Nodes}) ->
    Fill = filename:join(Dir, "fill"),
    Failures = fun() -> maps:get(commit_failures, maps:get(store, ask(maps:get(1, Nodes), D, status))) end,
    Before = Failures(),
    _ = os:cmd("dd if=/dev/zero of=" ++ Fill ++ " bs=64k 2>&1"),
    Burst = fun() -> soak_load ! {burst, 5000} end,
    wait_until(fun() -> rpc(maps:get(2, Nodes), Burst), receive after 200 -> Failures() > Before end end, ?SETTLE),
    ok = file:delete(Fill),
    C.

%% --- what must hold ------------------------------------------------------------------------------------------------------

%% The daemon's own memory (KB) and descriptors, after each fault. A new daemon is another one.
measured(C = #c{d = D, sizes = Sizes}) ->
    Os = scope_test:os_pid(D),
    Proc = "/proc/" ++ integer_to_list(Os),
    {ok, Status} = file:read_file(Proc ++ "/status"),
    {match, [Kb]} = re:run(Status, "RssAnon:\\s+(\\d+)", [{capture, all_but_first, list}]),
    {ok, Fds} = file:list_dir(Proc ++ "/fd"),
    log("     daemon: ~s KB, ~b descriptors", [Kb, length(Fds)]),
    C#c{sizes = [{Os, list_to_integer(Kb), length(Fds)} | Sizes]}.

judge(C = #c{nodes = Nodes, d = D, lives = Lives, sizes = Sizes}) ->
    Asker = maps:get(1, Nodes),
    Lasts = [{I, rpc(maps:get(I, Nodes), fun() -> soak_load ! {last, self()}, receive {last, K} -> K end end)} || I <- [1, 2, 3]],
    Newest = [{I, hd([P || {J, P} <- Lives, J =:= I])} || I <- [1, 2, 3]],
    %% What was sent in the end arrives.
    [wait_until(fun() -> newest_number(Asker, D, Pid) =:= Last orelse {newest_number(Asker, D, Pid), Last} end, ?SETTLE)
     || {{I, Last}, {I, Pid}} <- lists:zip(Lasts, Newest)],
    Found = [numbers_of(Asker, D, Life) || Life <- lists:reverse(Lives)],
    [log("node ~b, life ~w: ~b numbers of ~b to ~b, ~b missing in ~b places, each within one of ~b gaps", Line) || Line <- Found],
    #{data_loss := Loss} = ask(Asker, D, status),
    log("~b faults; data_loss ~0p; most memory of the daemon ~b KB, descriptors ~b",
        [C#c.number, Loss, lists:max([Kb || {_, Kb, _} <- Sizes]), lists:max([F || {_, _, F} <- Sizes])]),
    0 = maps:size(Loss),
    true = lists:max([Kb || {_, Kb, _} <- Sizes]) < 128 * 1024,
    %% Edges of messages are kept behind the writer, by itself.
    wait_until(fun() ->
                       #{store := #{edges := Edges = #{slices := Slices}}} = ask(Asker, D, status),
                       Slices > 0 andalso not is_map_key(trouble, Edges) orelse Edges
               end, ?SETTLE),
    %% Flat: no measurement of the daemon that ran longest is above its first by more than this, of which deriving takes 20 MB.
    Longest = lists:last(lists:sort([{length(L), L} || Os <- lists:usort([O || {O, _, _} <- Sizes]),
                                                        L <- [[S || S = {O, _, _} <- lists:reverse(Sizes), O =:= Os]]])),
    {_, [{_, FirstKb, FirstFds} | More]} = Longest,
    [begin true = Kb =< FirstKb + 44 * 1024, true = Fds =< FirstFds + 8 end || {_, Kb, Fds} <- More],
    %% The nodes come out of it as they were.
    0 = scope_daemon:stop(D),
    [wait_until(fun() -> case scope_daemon:residue(N) of [] -> true; R -> R end end, ?SETTLE) || N <- maps:values(Nodes)].

newest_number(Asker, D, Pid) ->
    case call(Asker, D, {get_events, #{pid => Pid, type => message_fetch, match => {seq, '_'}, limit => 1}}) of
        {ok, #{events := [#{message := {seq, K}}]}} -> K;
        Other -> Other
    end.

%% All numbers of one life: once each, in order, and where some are missing a gap says so.
numbers_of(Asker, D, {I, Pid}) ->
    Filter = #{pid => Pid, type => message_fetch, order => oldest_first, limit => 2000},
    {Numbers, Missing} = pages(Asker, D, Filter, [], []),
    Gaps = [{F, U} || #{from := F, until := U} <- Missing],
    [{First, _} | _] = Numbers,
    Holes = holes(Numbers),
    [lists:any(fun({F, U}) -> F =< To andalso U >= From end, Gaps) orelse error({unexplained, I, Pid, Hole, Missing})
     || Hole = {From, To, _} <- Holes],
    {Last, _} = lists:last(Numbers),
    [I, Pid, length(Numbers), First, Last, lists:sum([N || {_, _, N} <- Holes]), length(Holes), length(Gaps)].

holes([{K, _} | [{K1, _} | _] = Rest]) when K1 =:= K + 1 -> holes(Rest);
holes([{K, At} | [{K1, At1} | _] = Rest]) when K1 > K -> [{At, At1, K1 - K - 1} | holes(Rest)];
holes([{K, At}, {K1, At1} | _]) -> error({twice_or_out_of_order, K, At, K1, At1});
holes([_]) -> [].

%% [{Number, time}] and what completeness says of all pages. All of it is of one node and told by one clock, as its gaps are: how far that
%% may be off is no matter.
pages(Asker, D, Filter, Acc, Missing) ->
    #{events := Events, next := Next, completeness := Completeness} = ask(Asker, D, {get_events, Filter}),
    Here = [{K, T} || #{message := {seq, K}, time := T} <- Events],
    Acc1 = lists:reverse(Here, Acc),
    Missing1 = lists:usort(maps:get(missing, Completeness, []) ++ Missing),
    case Next of
        none -> {lists:reverse(Acc1), Missing1};
        Cursor -> pages(Asker, D, Filter#{cursor => Cursor}, Acc1, Missing1)
    end.
