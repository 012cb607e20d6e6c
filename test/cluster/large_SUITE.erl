%% Large and many: answers of 64 MB while others ask, 1,000 callers at once, callers that never read, many nodes.
-module(large_SUITE).
-export([all/0, timeout/1]).
-export([others_overtake_a_large_reply/1, fragments_both_ways/1, other_otp/1, broken_fragments/1, a_large_answer_stalls_nobody/1,
         a_thousand_callers/1, a_caller_that_never_reads/1, a_stopped_caller/1, many_nodes/1]).
-export([asker/3, caller/3, large_caller/2, sender/2]).
-import(scope_test, [start_node/2, start_node/3, rpc/2, rpc/4, node_of/1, wait_until/2, assert_eq/2, log/2]).
-import(scope_peer, [peer/2, control/2, raw_link/4, raw_ref/2, recv_no_tick/1]).
-import(scope_daemon, [call/3, ask/3, await_live/3, all_events/4]).

all() ->
    [others_overtake_a_large_reply, fragments_both_ways, broken_fragments, a_large_answer_stalls_nobody,
     a_thousand_callers, a_caller_that_never_reads, a_stopped_caller, many_nodes].
timeout(many_nodes) -> 900000;
timeout(_) -> 240000.

%% --- a node made of bytes that takes fragments -----------------------------------------------------------------------

pid(Node, N) -> binary_to_term(<<131, 88, 119, (length(Node)), (list_to_binary(Node))/binary, N:32, 0:32, 7:32>>).

encoded(Term) -> <<131, Bytes/binary>> = term_to_binary(Term), Bytes.

frame(Bytes) -> <<(byte_size(Bytes)):32, Bytes/binary>>.

%% A call of `Name` by process N of the node, as one signal.
signal(Me, N, Name, Request) ->
    {encoded({6, pid(Me, N), '', Name}), encoded({'$gen_call', {pid(Me, N), N}, Request})}.

whole({Control, Message}) -> frame(<<131, 68, 0, Control/binary, Message/binary>>).

fragments({Control, Message}, Sequence, Size) ->
    Parts = split(Message, Size),
    [First | Rest] = lists:zip(lists:seq(length(Parts), 1, -1), Parts),
    {Left, Some} = First,
    [frame(<<131, 69, Sequence:64, Left:64, 0, Control/binary, Some/binary>>)
     | [frame(<<131, 70, Sequence:64, K:64, P/binary>>) || {K, P} <- Rest]].

split(Bytes, Size) when byte_size(Bytes) =< Size -> [Bytes];
split(Bytes, Size) ->
    <<Part:Size/binary, Rest/binary>> = Bytes,
    [Part | split(Rest, Size)].

%% The next packet as {whole, To, Size} | {first, Left} | {next, Left}.
next_packet(S) ->
    {ok, <<Length:32>>} = recv_no_tick(S),
    {ok, Packet} = gen_tcp:recv(S, Length, 30000),
    case Packet of
        <<131, 68, 0, Rest/bits>> ->
            {Control, _} = binary_to_term(<<131, Rest/bits>>, [used]),
            {whole, Control, byte_size(Rest)};
        <<131, 69, _:64, Left:64, 0, Rest/bits>> ->
            {Control, _} = binary_to_term(<<131, Rest/bits>>, [used]),
            {first, Control, Left};
        <<131, 70, _:64, Left:64, _/bits>> -> {next, Left}
    end.

to({whole, {22, _, Pid}, _}) -> Pid.

%% --- one link --------------------------------------------------------------------------------------------------------

%% One process asks for 30 MB. When that is on its way, it and another ask for a word: the other has it long before the 30 MB
%% are through, it has it right after them.
others_overtake_a_large_reply(Config) ->
    {_, Scope} = peer(Config, []),
    Me = "large@localhost",
    {S, _} = raw_link(Config, Scope, Me, [fragments]),
    [One, Two] = [pid(Me, N) || N <- [1, 2]],
    ok = gen_tcp:send(S, whole(signal(Me, 1, echo, {big, 30000000}))),
    {first, {22, _, One}, Left} = next_packet(S),
    true = Left > 400,
    ok = gen_tcp:send(S, [whole(signal(Me, 1, echo, word)), whole(signal(Me, 2, echo, word))]),
    {Overtaken, Two} = until_whole(S),
    log("~b of ~b fragments were still to come when another was answered", [Overtaken, Left]),
    true = Overtaken > Left div 2,
    {1, One} = until_whole(S),
    ok.

%% How many fragments were left when a whole packet came, and to whom.
until_whole(S) -> until_whole(S, none).
until_whole(S, Left) ->
    case next_packet(S) of
        {next, L} -> until_whole(S, L);
        Whole -> {Left, to(Whole)}
    end.

%% BEAM nodes: several processes send and are sent large terms at once, each whole and in order.
fragments_both_ways(Config) -> fragments_both_ways(Config, this).
other_otp(Config) -> fragments_both_ways(Config, scope_test:other_otp()).

fragments_both_ways(Config, Otp) ->
    {_, Scope} = peer(Config, []),
    Nodes = [start_node(Config, N, #{otp => Otp}) || N <- [a, b]],
    Senders = [{N, rpc(N, erlang, spawn, [?MODULE, sender, [Scope, K]])} || N <- Nodes, K <- lists:seq(1, 6)],
    [assert_eq(whole, told(N, P)) || {N, P} <- Senders],
    #{protocol_errors := 0, packet_too_large := 0} = rpc(hd(Nodes), fun() -> control(Scope, counters) end),
    ok.

%% The signals of one process arrive in their order, large or small; so do those that it is sent.
sender(Scope, K) ->
    Actor = scope_peer:actor(Scope),
    [begin
         Large = {K, N, binary:copy(<<K, N>>, 50000 * K)},
         Actor ! Large,
         Actor ! {K, N, small},
         receive {message, Actor, First} -> assert_eq(Large, First) after 60000 -> error({K, N, large}) end,
         receive {message, Actor, Second} -> assert_eq({K, N, small}, Second) after 60000 -> error({K, N, small}) end
     end || N <- lists:seq(1, 10)],
    nothing = receive Odd when element(1, Odd) =/= tell -> Odd after 0 -> nothing end,
    receive {tell, To} -> To ! {told, self(), whole} end.

%% What a peer may send in fragments, and what costs its link.
broken_fragments(Config) ->
    {P, Scope} = peer(Config, ["max_packet=1000000"]),
    A = start_node(Config, a),
    Me = "broken@localhost",
    Link = fun() -> element(1, raw_link(Config, Scope, Me, [fragments])) end,
    Call = fun(N, Size) -> signal(Me, N, echo, binary:copy(<<"x">>, Size)) end,
    %% In two sequences at once, with a call and a tick between.
    S0 = Link(),
    [One, Two] = [fragments(Call(N, 1000), N, 300) || N <- [1, 2]],
    Mixed = lists:append([[X, <<0:32>>, Y] || {X, Y} <- lists:zip(One, Two)]),
    ok = gen_tcp:send(S0, [Mixed, whole(Call(3, 10))]),
    Answered = [to(next_packet(S0)) || _ <- [1, 2, 3]],
    assert_eq([pid(Me, N) || N <- [1, 2, 3]], Answered),
    gen_tcp:close(S0),
    Lost = fun(Bytes) ->
                   S = Link(),
                   ok = gen_tcp:send(S, Bytes),
                   {error, _} = recv_no_tick(S),
                   gen_tcp:close(S)
           end,
    [F1, F2, F3 | _] = One,
    Malformed = [F2, [F1, F3], [F1, F1], [F1, F2, F2], frame(<<131, 69, 1:64, 1:64, 1, 0>>), frame(<<131, 69, 1:64>>),
                 frame(<<131, 68, 1>>), frame(<<131, 71, 1:64, 1:64>>), frame(<<112, 131, 104, 0>>),
                 frame(<<131, 69, 1:64, 0:64, 0>>)],
    [Lost(M) || M <- Malformed],
    %% Unfinished ones together.
    Half = fun(N) -> lists:droplast(fragments(Call(N, 600000), N, 60000)) end,
    Lost([Half(1), Half(2)]),
    Counters = rpc(A, fun() -> control(Scope, counters) end),
    assert_eq({length(Malformed), 1}, {maps:get(protocol_errors, Counters), maps:get(packet_too_large, Counters)}),
    true = scope_test:alive(P),
    ok.

%% --- the daemon ------------------------------------------------------------------------------------------------------

cluster(Config, Names) -> cluster(Config, Names, []).
cluster(Config, Names, Args) ->
    Nodes = [start_node(Config, N) || N <- Names],
    D = scope_daemon:start(Config, Nodes, #{args => ["--query-deadline-ms", "60000" | Args]}),
    await_live(hd(Nodes), D, Nodes),
    {Nodes, D}.

%% Messages of a process, each of a megabyte (the native tracer cuts them to a few KB).
record_large(A, D = #{scope := Scope}, Count) ->
    {ok, Pid} = rpc(A, scope_counter, start, [c1]),
    #{nodes := #{}} = ask(A, D, {start, [{pids, [Pid]}, {events, [messages]}, {caps, #{message => 2 bsl 20}}]}),
    Filter = #{pid => Pid, type => message_fetch, order => oldest, limit => 1000},
    ok = scope_test:rpc(A, erlang, apply, [fun() -> [send_large(Scope, Pid, N, Filter) || N <- lists:seq(1, Count)], ok end, []], 200000),
    Filter.

%% No faster than they are recorded: the agent keeps no more than 16 MB.
send_large(Scope, Pid, N, Filter) ->
    ok = gen_server:call(Pid, {bulk, binary:copy(<<N:32>>, 1 bsl 18)}, 30000),
    wait_until(fun() ->
                       case gen_server:call({elixir_scope, Scope}, {get_events, Filter#{order => newest, limit => 1}}, 30000) of
                           {ok, #{events := Last}} -> numbers(Last) =:= [N];
                           {error, {no_such_process, _}} -> false
                       end
               end, 60000).

events(A, D, Filter) -> element(1, all_events(A, D, maps:without([order, limit], Filter), oldest)).

numbers(Events) -> [N || #{message := {'$gen_call', _, {bulk, <<N:32, _/bits>>}}} <- Events].

%% A caller asks for all that its question may answer, about 63 MB; others on its node and on another ask for the status.
a_large_answer_stalls_nobody(Config) ->
    {[A, B], D = #{scope := Scope}} = cluster(Config, [a, b], ["--capture", "erlang"]),
    Filter = record_large(A, D, 63),
    %% An answer of the usual size says that it is cut.
    ok = rpc(A, fun() ->
                        {ok, #{next := Next, events := Some}} = gen_server:call({elixir_scope, Scope}, {get_events, Filter}, 30000),
                        true = Next =/= none andalso length(Some) < 10,
                        ok
                end),
    {error, {bad_value, #{field := bytes}}} = call(A, D, {get_events, Filter#{bytes => 65 bsl 20}}),
    Idle = [latencies(N, Scope, 2000) || N <- [A, B]],
    Askers = [rpc(N, erlang, spawn, [?MODULE, asker, [Scope, infinity, []]]) || N <- [A, B]],
    {Begun, Us, Numbers} =
        rpc(A, erlang, apply,
            [fun() ->
                     Begun = erlang:monotonic_time(microsecond),
                     {ok, #{events := Events, next := none}} =
                         gen_server:call({elixir_scope, Scope}, {get_events, Filter#{bytes => 64 bsl 20}}, 120000),
                     {Begun, erlang:monotonic_time(microsecond) - Begun,
                      numbers(Events)}
             end, []]),
    assert_eq(lists:seq(1, 63), Numbers),
    [Meanwhile, There] = [told(N, P) || {N, P} <- lists:zip([A, B], Askers)],
    During = [T || {At, T} <- Meanwhile, At > Begun, At < Begun + Us],
    log("63 MB in ~b ms; answers on the same node meanwhile: ~b, p50/p99/most ~w us (idle ~w), on another ~w (idle ~w); daemon ~w",
        [Us div 1000, length(During), percentiles(During), percentiles(hd(Idle)),
         percentiles([T || {_, T} <- There]), percentiles(lists:last(Idle)), memory(D)]),
    true = length(During) >= 5,
    ok.

%% Asks for the status again and again until it is told to say when answers came, and how long each took.
asker(_, 0, Acc) -> Acc;
asker(Scope, Left, Acc) ->
    receive
        {tell, To} -> To ! {told, self(), Acc}
    after 0 ->
            Begun = erlang:monotonic_time(microsecond),
            {ok, #{node := _}} = gen_server:call({elixir_scope, Scope}, status, 120000),
            Now = erlang:monotonic_time(microsecond),
            asker(Scope, case Left of infinity -> infinity; N -> N - 1 end, [{Now, Now - Begun} | Acc])
    end.

told(Node, Pid) ->
    rpc(Node, fun() ->
                      M = monitor(process, Pid),
                      Pid ! {tell, self()},
                      receive
                          {told, Pid, All} -> All;
                          {'DOWN', M, _, _, Why} -> {died, Why}
                      after 50000 -> error(silent)
                      end
              end).

latencies(Node, Scope, Count) -> [T || {_, T} <- rpc(Node, ?MODULE, asker, [Scope, Count, []])].

percentiles([]) -> none;
percentiles(All) ->
    Sorted = lists:sort(All),
    At = fun(P) -> lists:nth(max(1, ceil(length(Sorted) * P / 100)), Sorted) end,
    {At(50), At(99), At(100)}.

%% Of a program, in MB: now and at most.
memory(#{os_pid := OsPid}) ->
    {ok, Status} = file:read_file(io_lib:format("/proc/~b/status", [OsPid])),
    [begin
         {match, [Kb]} = re:run(Status, Key ++ ":\\s+(\\d+) kB", [{capture, all_but_first, list}]),
         {What, list_to_integer(Kb) div 1024}
     end || {What, Key} <- [{mb, "VmRSS"}, {most, "VmHWM"}]].

%% Each of 1,000 processes on two nodes gets its own answers, and nothing else.
a_thousand_callers(Config) ->
    {Nodes = [A | _], D = #{scope := Scope}} = cluster(Config, [a, b]),
    {ok, Pid} = rpc(A, scope_counter, start, [c1]),
    #{nodes := #{}} = ask(A, D, {start, [{pids, [Pid]}, {events, [messages]}]}),
    ok = rpc(A, fun() -> [Pid ! {seq, K} || K <- lists:seq(1, 200)], ok end),
    Filter = #{pid => Pid, type => message_fetch, order => oldest},
    wait_until(fun() -> length(events(A, D, Filter)) >= 200 end, 60000),
    Self = self(),
    [spawn_link(fun() -> Self ! {K, rpc(N, ?MODULE, caller, [Scope, Filter, K * 500])} end)
     || {K, N} <- lists:zip([0, 1], Nodes)],
    [receive {K, Odd} -> assert_eq([], lists:sublist(Odd, 3)) after 200000 -> error({node, K}) end || K <- [0, 1]],
    [{_, Now}, {_, Most}] = memory(D),
    log("the daemon has ~b MB, had ~b at most", [Now, Most]),
    true = Most < 256,
    ok.

%% 500 callers on this node at once; what was not as it should be.
caller(Scope, Filter, First) ->
    Callers = [spawn_monitor(fun() ->
                                     receive go -> ok end,
                                     Own = {caller, N},
                                     {error, {bad_value, #{got := Given}}} =
                                         gen_server:call({elixir_scope, Scope}, {get_events, [{limit, Own}]}, 120000),
                                     Given = iolist_to_binary(io_lib:format("{caller,~b}", [N])),
                                     Limit = 1 + N rem 150,
                                     {ok, #{events := Events}} =
                                         gen_server:call({elixir_scope, Scope}, {get_events, Filter#{limit => Limit}}, 120000),
                                     {Limit, Limit} = {Limit, length(Events)},
                                     nothing = receive Odd -> Odd after 0 -> nothing end
                             end) || N <- lists:seq(First + 1, First + 500)],
    [P ! go || {P, _} <- Callers],
    [Why || {P, M} <- Callers, Why <- [receive {'DOWN', M, _, P, W} -> W end], Why =/= normal].

%% --- those that do not read ------------------------------------------------------------------------------------------

%% It asks for 20 MB a time and reads nothing, though it ticks. What is kept for it is bounded, others go on, and in the end
%% its link goes.
a_caller_that_never_reads(Config) ->
    {P, Scope} = peer(Config, ["ticktime_ms=6000", "tick_ms=1000"]),
    A = start_node(Config, a),
    Me = "deaf@localhost",
    {S, _} = raw_link(Config, Scope, Me, [fragments]),
    _ = scope_test:await_line(P, "^up deaf@localhost", 10000),
    Ticker = spawn_link(fun() -> tick(S) end),
    [ok = gen_tcp:send(S, whole(signal(Me, N, echo, {big, 20000000}))) || N <- lists:seq(1, 40)],
    [ok = gen_tcp:send(S, whole(signal(Me, N, echo, binary:copy(<<"y">>, 60000)))) || N <- lists:seq(1, 400)],
    Counters = fun() -> rpc(A, fun() -> control(Scope, counters) end) end,
    %% Room for one that is large, and for 8 MB of what is small.
    wait_until(fun() -> #{send_busy := Busy} = Counters(), Busy >= 39 + 100 orelse {busy, Busy} end, 30000),
    [_, {_, Most}] = memory(P),
    log("at most ~b MB for 800 MB that were asked for", [Most]),
    true = Most < 150,
    ok = rpc(A, fun() -> {echo, x} = gen_server:call({echo, Scope}, x, 30000), ok end),
    _ = scope_test:await_line(P, "^down deaf@localhost the peer does not read", 30000),
    unlink(Ticker),
    exit(Ticker, kill),
    #{queue_overflow := 1} = Counters(),
    ok.

tick(S) ->
    _ = gen_tcp:send(S, <<0:32>>),
    timer:sleep(500),
    tick(S).

%% A node that asked much and was stopped holds up nobody else, and has its answers when it goes on.
a_stopped_caller(Config) ->
    {[A, B], D = #{scope := Scope}} = cluster(Config, [a, b], ["--capture", "erlang"]),
    Filter = record_large(A, D, 24),
    Callers = [rpc(B, erlang, spawn, [?MODULE, large_caller, [Scope, Filter]]) || _ <- lists:seq(1, 6)],
    ok = scope_test:kill(B, "STOP"),
    [{ok, _} = call(A, D, status) || _ <- lists:seq(1, 100)],
    AtA = rpc(A, erlang, spawn, [?MODULE, large_caller, [Scope, Filter]]),
    assert_eq(lists:seq(1, 24), told(A, AtA)),
    ok = scope_test:kill(B, "CONT"),
    Answers = [told(B, P) || P <- Callers],
    Whole = [all || Numbers <- Answers, Numbers =:= lists:seq(1, 24)],
    log("~b whole answers, ~b refused", [length(Whole), length([busy || busy <- Answers])]),
    assert_eq([], [Odd || Odd <- Answers, Odd =/= busy, Odd =/= lists:seq(1, 24)]),
    true = length(Whole) >= 1,
    ok.

%% Which of the large messages its answer has.
large_caller(Scope, Filter) ->
    Got = case gen_server:call({elixir_scope, Scope}, {get_events, Filter#{bytes => 56 bsl 20}}, infinity) of
              {ok, #{events := Events}} -> numbers(Events);
              {error, {busy, _}} -> busy
          end,
    receive {tell, To} -> To ! {told, self(), Got} end.

%% --- many nodes ------------------------------------------------------------------------------------------------------

%% $SCOPE_LARGE_NODES (12) small nodes, all joined, each traced a little; then all go.
many_nodes(Config) ->
    Count = list_to_integer(os:getenv("SCOPE_LARGE_NODES", "12")),
    Small = #{args => ["+S", "1:1", "+A", "1", "+SDcpu", "1", "+SDio", "1"]},
    Nodes = [A | _] = [start_node(Config, n, Small) || _ <- lists:seq(1, Count)],
    Names = lists:sort([node_of(N) || N <- Nodes]),
    {JoinUs, D} = timer:tc(fun() ->
                                   D = scope_daemon:start(Config, Nodes),
                                   wait_until(fun() -> in_state(A, D, [connected, tracing]) =:= Names end, 300000),
                                   D
                           end),
    Each = [begin {ok, P} = rpc(N, scope_counter, start, [c1]), {N, P} end || N <- Nodes],
    #{nodes := Begun} =
        slowly(A, D, {start, [{pids, [P || {_, P} <- Each]}, {events, [messages]}, {for, {1, hour}}]}),
    assert_eq(Names, lists:sort(maps:keys(Begun))),
    [ok = rpc(N, fun() -> [P ! {seq, K} || K <- lists:seq(1, 20)], ok end) || {N, P} <- Each],
    [wait_until(fun() ->
                        Got = [K || #{message := {seq, K}} <- events(A, D, #{pid => P, type => message_fetch})],
                        Got =:= lists:seq(1, 20) orelse {P, Got}
                end, 120000) || {_, P} <- Each],
    assert_eq(Names, in_state(A, D, [tracing])),
    Cpu = cpu_ms(D),
    timer:sleep(5000),
    log("~b nodes joined in ~b ms (the daemon's start included); idle, the daemon takes ~b ms of CPU in 5 s, memory ~p",
        [Count, JoinUs div 1000, cpu_ms(D) - Cpu, memory(D)]),
    %% All but the one that asks.
    [ok = scope_test:kill(N) || N <- tl(Nodes)],
    wait_until(fun() -> in_state(A, D, [connected, tracing]) =:= [node_of(A)] end, 120000),
    [{_, _}, {_, Most}] = memory(D),
    true = Most < 512,
    %% What they said is still there.
    [20 = length(events(A, D, #{pid => P, type => message_fetch})) || {_, P} <- Each],
    0 = scope_daemon:stop(D),
    [] = scope_daemon:residue(A),
    ok.

%% What takes longer than 5 s here and there on a small machine.
slowly(Node, #{scope := Scope}, Request) ->
    {ok, Value} = rpc(Node, gen_server, call, [{elixir_scope, Scope}, Request, 50000]),
    Value.

in_state(A, D, States) ->
    #{nodes := Seen} = slowly(A, D, status),
    lists:sort([N || {N, #{state := S}} <- maps:to_list(Seen), lists:member(S, States)]).

%% CPU time that a program took so far.
cpu_ms(#{os_pid := OsPid}) ->
    {ok, Stat} = file:read_file(io_lib:format("/proc/~b/stat", [OsPid])),
    [_, Fields] = string:split(Stat, ") ", trailing),
    [User, System] = [binary_to_integer(F) || F <- lists:sublist(binary:split(Fields, <<" ">>, [global]), 12, 2)],
    (User + System) * 10.
