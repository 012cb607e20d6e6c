%% Clusters whose distribution is over TLS: who is let in and who is not, with the reason; nodes of OTP 25, and of others by `other_otp`.
-module(tls_SUITE).
-export([all/0, timeout/1, init/1]).
-export([both_directions/1, refusals/1, optfile/1, new_certificates/1, ipv6/1, command_line/1, much/1,
         other_otp/1]).
-import(scope_test, [start_node/3, rpc/4, node_of/1, wait_until/2, assert_eq/2]).
-import(scope_daemon, [ask/3, await_live/3, all_events/4]).

all() -> [both_directions, refusals, optfile, new_certificates, ipv6, command_line, much].
timeout(_) -> 120000.

%% The same with nodes of another release (test/support/otp ... with ...).
other_otp(Config) -> [Case(Config, #{otp => scope_test:other_otp()}) || Case <- [fun both_directions/2, fun refusals/2, fun optfile/2, fun ipv6/2]].

%% --- certificates --------------------------------------------------------------------------------------------------------

%% Two CAs; of the first certificates for this host and for another one, of the second one for this host.
init(Config = #{tmp := Tmp}) ->
    os:find_executable("openssl") =/= false orelse error(openssl_is_not_installed),
    [openssl(Tmp, "req -x509 ~s -keyout ~s.key -out ~s.pem -subj /CN=~s", [key(), Ca, Ca, Ca]) || Ca <- ["ca", "otherca"]],
    certificate(Tmp, "node", "localhost", "ca"),
    certificate(Tmp, "elsewhere", "elsewhere", "ca"),
    certificate(Tmp, "stranger", "localhost", "otherca"),
    Config.

key() -> "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2".

certificate(Tmp, Name, Host, Ca) ->
    ok = file:write_file(filename:join(Tmp, Name ++ ".ext"), "subjectAltName=DNS:" ++ Host ++ ",DNS:six\n"),
    openssl(Tmp, "req ~s -keyout ~s.key -out ~s.csr -subj /CN=~s", [key(), Name, Name, Host]),
    openssl(Tmp, "x509 -req -in ~s.csr -CA ~s.pem -CAkey ~s.key -CAcreateserial -days 2 -extfile ~s.ext -out ~s.pem",
            [Name, Ca, Ca, Name, Name]).

openssl(Dir, Format, Args) ->
    Command = lists:flatten(io_lib:format("cd ~s && openssl " ++ Format ++ " 2>&1 || echo failed", [Dir | Args])),
    Out = os:cmd(Command),
    nomatch =:= string:find(Out, "failed") orelse error({Command, Out}),
    Out.

in(#{tmp := Tmp}, File) -> filename:join(Tmp, File).

%% A node's options: its certificate, whose are believed; both sides look at the other's.
optfile_of(Config, Cert, Ca) ->
    Side = [{certfile, in(Config, Cert ++ ".pem")}, {keyfile, in(Config, Cert ++ ".key")}, {cacertfile, in(Config, Ca ++ ".pem")},
            {verify, verify_peer}, {secure_renegotiate, true}],
    File = in(Config, Cert ++ "_" ++ Ca ++ ".optfile"),
    ok = file:write_file(File, io_lib:format("%% as OTP's documents have it~n~p.~n",
                                             [[{server, [{fail_if_no_peer_cert, true} | Side]}, {client, Side}]])),
    File.

tls_node(Config, Name, Opts, Cert, Ca) ->
    start_node(Config, Name, Opts#{args => ["-proto_dist", "inet_tls", "-ssl_dist_optfile", optfile_of(Config, Cert, Ca)]}).

flags(Config, Cert, Ca) ->
    ["--tls-cert", in(Config, Cert ++ ".pem"), "--tls-key", in(Config, Cert ++ ".key"), "--tls-ca", in(Config, Ca ++ ".pem")].

%% --- cases ---------------------------------------------------------------------------------------------------------------

both_directions(Config) -> both_directions(Config, #{}).
both_directions(Config, Opts) ->
    A = tls_node(Config, a, Opts, "node", "ca"),
    B = tls_node(Config, b, Opts, "node", "ca"),
    D = #{scope := Scope} = scope_daemon:start(Config, [A], #{args => flags(Config, "node", "ca")}),
    await_live(A, D, [A]),
    %% B is nobody's neighbour yet: it comes by itself.
    pong = rpc(B, net_adm, ping, [Scope]),
    await_live(B, D, [A, B]),
    {ok, Pid} = rpc(A, scope_counter, start, [c]),
    _ = ask(B, D, {start, #{pids => [Pid], events => [message_fetch], for => 60000}}),
    1000 = rpc(A, scope_counter, pump, [Pid, 1, 1000, 2000]),
    wait_until(fun() -> [K || #{message := {seq, K}} <- element(1, all_events(B, D, #{pid => Pid}, oldest_first))]
                            =:= lists:seq(1, 1000) end, 20000),
    0 = scope_daemon:stop(D),
    wait_until(fun() -> case scope_daemon:residue(A) of [] -> true; R -> R end end, 10000).

%% Each is told why, and nobody else is troubled.
refusals(Config) -> refusals(Config, #{}).
refusals(Config, Opts) ->
    Good = tls_node(Config, good, Opts, "node", "ca"),
    Stranger = tls_node(Config, stranger, Opts, "stranger", "otherca"),
    Elsewhere = tls_node(Config, elsewhere, Opts, "elsewhere", "ca"),
    Plain = start_node(Config, plain, Opts),
    D = #{scope := Scope} = scope_daemon:start(Config, [Good, Stranger, Elsewhere, Plain], #{args => flags(Config, "node", "ca")}),
    await_live(Good, D, [Good]),
    [told(Good, D, N, Said) || {N, Said} <- [{Stranger, "not believed: self.signed certificate in"},
                                           {Elsewhere, "not believed: hostname mismatch"},
                                           {Plain, "does it speak TLS"}]],
    %% The other way round.
    [pang = rpc(N, net_adm, ping, [Scope]) || N <- [Stranger, Plain]],
    #{counters := #{handshake_auth := Refused}} = ask(Good, D, status),
    true = Refused >= 2,
    await_live(Good, D, [Good]),
    %% A daemon without TLS at a node that has it.
    D2 = scope_daemon:start(Config, [Plain, Good]),
    await_live(Plain, D2, [Plain]),
    told(Plain, D2, Good, "it speaks TLS").

%% Until status says why Node was not joined.
told(Asker, D, Node, Said) ->
    wait_until(fun() ->
                       #{nodes := Nodes} = ask(Asker, D, status),
                       Why = maps:get(detail, maps:get(node_of(Node), Nodes), none),
                       (Why =/= none andalso re:run(Why, Said, [{capture, none}]) =:= match) orelse Why
               end, 20000).

%% The very file that the node has.
optfile(Config) -> optfile(Config, #{}).
optfile(Config, Opts) ->
    A = tls_node(Config, a, Opts, "node", "ca"),
    D = scope_daemon:start(Config, [A], #{args => ["--ssl-dist-optfile", optfile_of(Config, "node", "ca")]}),
    await_live(A, D, [A]),
    %% One that says whom to believe in a way that we do not know is not guessed at.
    Odd = in(Config, "odd.optfile"),
    ok = file:write_file(Odd, "[{server, [{certfile, \"x.pem\"}, {crl_check, true}]}]."),
    P = scope_test:start_program(Config, scope_test:bin("scope"),
                                 ["start", "--name", "odd@localhost", "--cookie", "c", "--db", in(Config, "odd.db"), "--ssl-dist-optfile", Odd]),
    _ = scope_test:await_line(P, "crl_check", 10000),
    1 = scope_test:await_exit(P, 10000).

%% Read again at SIGHUP; what cannot be read changes nothing.
new_certificates(Config = #{tmp := Tmp}) ->
    A = tls_node(Config, a, #{}, "node", "ca"),
    [{ok, _} = file:copy(in(Config, "node" ++ E), in(Config, "ours" ++ E)) || E <- [".pem", ".key"]],
    D = #{scope := Scope} = scope_daemon:start(Config, [A], #{args => flags(Config, "ours", "ca")}),
    await_live(A, D, [A]),
    {_, Port} = lists:keyfind(hd(string:split(atom_to_list(Scope), "@")), 1, scope_test:epmd_names(Config)),
    Serial = fun() -> openssl(Tmp, "s_client -connect 127.0.0.1:~b -cert node.pem -key node.key </dev/null 2>/dev/null | openssl x509 -noout -serial", [Port]) end,
    Before = Serial(),
    certificate(Tmp, "ours", "localhost", "ca"),
    assert_eq(Before, Serial()),
    scope_test:kill(D, "HUP"),
    _ = scope_test:await_line(D, "certificates were read again", 10000),
    After = Serial(),
    true = Before =/= After,
    await_live(A, D, [A]),
    ok = file:write_file(in(Config, "ours.pem"), "none"),
    scope_test:kill(D, "HUP"),
    _ = scope_test:await_line(D, "certificates stay as they were", 10000),
    assert_eq(After, Serial()),
    true = rpc(A, erlang, disconnect_node, [Scope]),
    await_live(A, D, [A]).

%% We call a node, and a node calls us.
ipv6(Config) -> ipv6(Config, #{}).
ipv6(Config, Opts) ->
    Tls = Opts#{args => ["-proto_dist", "inet6_tls", "-ssl_dist_optfile", optfile_of(Config, "node", "ca")],
                daemon_args => flags(Config, "node", "ca")},
    join_SUITE:ipv6(Config, Tls),
    join_SUITE:ipv6_by_epmd(Config, Tls).

%% The command line joins likewise; without the flags it says what is missing.
command_line(Config = #{cookie := Cookie}) ->
    A = tls_node(Config, a, #{}, "node", "ca"),
    D = #{scope := Scope} = scope_daemon:start(Config, [A], #{args => flags(Config, "node", "ca")}),
    await_live(A, D, [A]),
    Run = fun(Args) ->
                  scope_test:start_program(Config, scope_test:bin("scope"),
                                           ["status", "--scope", atom_to_list(Scope), "--cookie", Cookie | Args])
          end,
    With = Run(flags(Config, "node", "ca")),
    _ = scope_test:await_line(With, atom_to_list(node_of(A)), 10000),
    0 = scope_test:await_exit(With, 10000),
    Without = Run([]),
    _ = scope_test:await_line(Without, "speaks TLS", 10000),
    3 = scope_test:await_exit(Without, 10000).

%% Under load, and with replies larger than what TLS takes at once.
much(Config) ->
    A = tls_node(Config, a, #{}, "node", "ca"),
    D = scope_daemon:start(Config, [A], #{args => flags(Config, "node", "ca")}),
    await_live(A, D, [A]),
    {ok, Pid} = rpc(A, scope_counter, start, [c]),
    _ = ask(A, D, {start, #{pids => [Pid], events => [message_fetch], for => 60000}}),
    20000 = rpc(A, scope_counter, pump, [Pid, 1, 20000, 20000]),
    wait_until(fun() -> {Es, _} = all_events(A, D, #{pid => Pid, type => message_fetch}, oldest_first), length(Es) =:= 20000 orelse length(Es) end, 30000),
    {Events, _} = all_events(A, D, #{pid => Pid, type => message_fetch}, oldest_first),
    assert_eq(lists:seq(1, 20000), [K || #{message := {seq, K}} <- Events]).
