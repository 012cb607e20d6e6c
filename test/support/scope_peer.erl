%% A hidden node of ours (the program dist_peer), and a node made by hand out of bytes, for the suites of the distribution
%% layer.
-module(scope_peer).
-export([peer/2, peer/3, port_of/2, on_a/2, control/2, actor/1, next/0, next/1, nothing/0, register_raw/3,
         raw_link/3, raw_link/4, raw_handshake/3, raw_pid/1, raw_ref/2, reg_send/2, packet/1, packet/2, send_ctl/2,
         send_term/3, send_packet/2, recv_no_tick/1, flush_ticks/1]).
-export([init/1]).

%% One peer and one BEAM node for all cases that do no harm.
-spec init(scope_test:config()) -> scope_test:config().
init(Config) ->
    A = scope_test:start_node(Config, a),
    {P, Scope} = peer(Config, []),
    Config#{a => A, peer => P, scope => Scope}.

-spec peer(scope_test:config(), [string()]) -> {scope_test:handle(), node()}.
peer(Config, Args) -> peer(Config, scope_test:unique_name(scope), Args).

-spec peer(scope_test:config(), node(), [string()]) -> {scope_test:handle(), node()}.
peer(Config, Name, Args) ->
    P = scope_test:start_program(Config, scope_test:bin("dist_peer"), [atom_to_list(Name) | Args],
                                 [{"SCOPE_TEST_COOKIE", maps:get(cookie, Config)}]),
    [NameText, _Port] = scope_test:await_line(P, "^ready (\\S+) (\\d+)", 10000),
    {P, binary_to_atom(NameText)}.

-spec port_of(scope_test:config(), node()) -> inet:port_number().
port_of(Config, Node) ->
    [Short, _] = string:split(atom_to_list(Node), "@"),
    {_, Port} = lists:keyfind(Short, 1, scope_test:epmd_names(Config)),
    Port.

%% Runs a fun on the BEAM node of the suite.
-spec on_a(map(), fun(() -> term())) -> term().
on_a(#{a := Node}, Fun) -> scope_test:rpc(Node, Fun).

-spec control(node(), term()) -> term().
control(Scope, Request) -> gen_server:call({control, Scope}, Request, 20000).

-spec actor(node()) -> term().
actor(Scope) -> control(Scope, {actor, self()}).

-spec next() -> term().
next() -> next(5000).
-spec next(timeout()) -> term().
next(Timeout) -> receive M -> M after Timeout -> error(no_message) end.
-spec nothing() -> ok.
nothing() -> receive M -> error({unexpected, M}) after 100 -> ok end.

%% A name in epmd with any port: the registration lives as long as the socket.
-spec register_raw(map(), string(), inet:port_number()) -> gen_tcp:socket().
register_raw(#{epmd_port := EpmdPort}, Name, Port) ->
    {ok, S} = gen_tcp:connect({127, 0, 0, 1}, EpmdPort, [binary, {active, false}]),
    Body = <<120, Port:16, 77, 0, 6:16, 5:16, (length(Name)):16, (list_to_binary(Name))/binary, 0:16>>,
    ok = gen_tcp:send(S, [<<(byte_size(Body)):16>>, Body]),
    {ok, <<118, 0, _:32>>} = gen_tcp:recv(S, 6, 5000),
    S.

%% --- a node by hand --------------------------------------------------------------------------------------------------

%% The handshake of a proper node; {Socket, Status}.
-spec raw_link(map(), node(), string()) -> {gen_tcp:socket(), atom()}.
raw_link(Config, Scope, Name) -> raw_link(Config, Scope, Name, []).

%% [fragments]: it takes them.
-spec raw_link(map(), node(), string(), [fragments]) -> {gen_tcp:socket(), atom()}.
raw_link(Config, Scope, Name, Opts) ->
    {ok, S} = gen_tcp:connect({127, 0, 0, 1}, port_of(Config, Scope), [binary, {active, false}, {packet, 2}]),
    raw_handshake(S, Name, maps:get(cookie, Config), Opts).

-spec raw_handshake(gen_tcp:socket(), string(), string()) -> {gen_tcp:socket(), atom()}.
raw_handshake(S, Name, Cookie) -> raw_handshake(S, Name, Cookie, []).
raw_handshake(S, Name, Cookie, Opts) ->
    NameBin = list_to_binary(Name),
    Flags = 16#D075F4FBC bor case Opts of [fragments] -> 16#800000; [] -> 0 end,
    ok = gen_tcp:send(S, <<$N, Flags:64, 7:32, (byte_size(NameBin)):16, NameBin/binary>>),
    {ok, <<$s, StatusBin/bits>>} = gen_tcp:recv(S, 0, 5000),
    Status = binary_to_atom(StatusBin),
    [ok = gen_tcp:send(S, <<"strue">>) || Status =:= alive],
    {ok, <<$N, _:64, Challenge:32, _/bits>>} = gen_tcp:recv(S, 0, 5000),
    Digest = fun(C) -> erlang:md5([Cookie, integer_to_list(C)]) end,
    ok = gen_tcp:send(S, [<<$r, 99:32>>, Digest(Challenge)]),
    {ok, <<$a, Ack/bits>>} = gen_tcp:recv(S, 0, 5000),
    Ack = Digest(99),
    ok = inet:setopts(S, [{packet, raw}]),
    {S, Status}.

-spec raw_pid(string()) -> pid().
raw_pid(Node) -> binary_to_term(<<131, 88, 119, (length(Node)), (list_to_binary(Node))/binary, 5:32, 0:32, 7:32>>).
-spec raw_ref(string(), non_neg_integer()) -> reference().
raw_ref(Node, N) ->
    binary_to_term(<<131, 90, 3:16, 119, (length(Node)), (list_to_binary(Node))/binary, 7:32, N:32, 0:32, 0:32>>).

-spec reg_send(string(), string()) -> tuple().
reg_send(Node, Name) -> {6, raw_pid(Node), '', binary_to_atom(Name)}.
-spec packet(tuple()) -> binary().
packet(Ctl) -> <<112, (term_to_binary(Ctl))/binary>>.
-spec packet(tuple(), term()) -> binary().
packet(Ctl, Msg) -> <<112, (term_to_binary(Ctl))/binary, (term_to_binary(Msg))/binary>>.
-spec send_ctl(gen_tcp:socket(), tuple()) -> ok | {error, term()}.
send_ctl(S, Ctl) -> send_packet(S, packet(Ctl)).
-spec send_term(gen_tcp:socket(), tuple(), term()) -> ok | {error, term()}.
send_term(S, Ctl, Msg) -> send_packet(S, packet(Ctl, Msg)).
-spec send_packet(gen_tcp:socket(), binary()) -> ok | {error, term()}.
send_packet(S, P) -> gen_tcp:send(S, [<<(byte_size(P)):32>>, P]).

-spec recv_no_tick(gen_tcp:socket()) -> {ok, binary()} | {error, term()}.
recv_no_tick(S) ->
    case gen_tcp:recv(S, 4, 5000) of
        {ok, <<0:32>>} -> recv_no_tick(S);
        Other -> Other
    end.

-spec flush_ticks(gen_tcp:socket()) -> ok.
flush_ticks(S) ->
    case gen_tcp:recv(S, 4, 0) of
        {ok, <<0:32>>} -> flush_ticks(S);
        {error, timeout} -> ok
    end.
