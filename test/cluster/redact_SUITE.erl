%% Redaction at the source, through the real daemon and both tracers. Secrets of every kind that a rule hides are planted
%% in messages, arguments, results, states, spawns and crashes of two nodes; then the store's files, every event that is
%% in them, every kind of answer, the command line's output and the daemon's log are searched for them. That the search
%% can find is shown by the same with redaction off. This module is also the server that is told the secrets.
-module(redact_SUITE).
-behaviour(gen_server).
-export([all/0, init/1, timeout/1]).
-export([canaries_native/1, canaries_erlang/1, tracers_agree/1, off_hides_nothing/1, rules_change/1, sensitive_is_honoured/1]).
-export([handle_call/3, handle_cast/2, handle_info/2, terminate/2, login/2, session/1, child/1, crash/1, hold/1]).
-import(scope_test, [start_node/2, rpc/2, rpc/4, node_of/1, wait_until/2, assert_eq/2]).
-import(scope_daemon, [call/3, ask/3, await_live/3, all_events/4]).

all() -> [canaries_native, canaries_erlang, tracers_agree, off_hides_nothing, rules_change, sensitive_is_honoured].
timeout(_) -> 90000.

%% The suite's own, and the server's.
init(Config = #{tmp := Tmp, cookie := Cookie}) ->
    File = filename:join(Tmp, ".erlang.cookie"),
    ok = file:write_file(File, Cookie),
    ok = file:change_mode(File, 8#400),
    Config#{cookie_file => File};
init([State]) -> {ok, State}.

%% --- the server ------------------------------------------------------------------------------------------------------

handle_call(_, _, S) -> {reply, ok, S}.
handle_cast(stop, S) -> {stop, {lost, #{api_key => maps:get(api_key, S, none)}}, S};
handle_cast(_, S) -> {noreply, S}.
handle_info(_, S) -> {noreply, S}.
terminate(_, _) -> ok.

login(_User, Word) -> {ok, #{session => [{<<"Set-Cookie">>, Word}], open => erlang:phash2(Word)}}.
session(Of) -> {granted, Of}.
child(_) -> ok.
crash(Args) -> erlang:error({badarg, 1}, [Args]).
hold(Ms) -> receive after Ms -> ok end.

%% --- canaries --------------------------------------------------------------------------------------------------------

%% Each of its own: what it is called here, and its text.
secret(What) -> iolist_to_binary(["Canary7", lists:reverse(atom_to_list(What)), "Zq3"]).

secrets() ->
    [secret(W) || W <- [map, mapstring, keyword, header, charkey, tagged, struct, deep, state, large, crashed, stack, spawned, result,
                        argument, position, answer, record, own, mapkey, nested, atomvalue]]
        ++ [S || {S, _} <- texts()].

%% {What must not be seen, the text that it stands in}
texts() ->
    S = fun secret/1,
    Mid = fun(Before, W, After) -> {S(W), iolist_to_binary([Before, S(W), After])} end,
    [{<<"4111 1111-1111 1111">>, <<"paid with 4111 1111-1111 1111.">>}, {<<"5500005555555559">>, <<"5500005555555559">>},
     Mid("GET / Authorization: Bearer ", bearer, ""), Mid("x=Basic ", basic, "=="),
     Mid("is eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx.", jwt, ""), Mid("/login?user=plain&password=", query, "&x=1"),
     Mid("{\"api_key\": \"", json, "\"}"), Mid("amqp://guest:", url, "@localhost/vhost"),
     Mid("-----BEGIN RSA PRIVATE KEY-----\nMII", pem, ""), Mid("customer=CUST-", custom, "-471100"),
     Mid("Set-Cookie: ", setcookie, "; path=/"),
     Mid([binary:copy(<<"z ">>, 100), " eyJhbGciOiJIUzI1NiJ9.eyJ"], capped, [binary:copy(<<"A">>, 300), ".c2ln"])].

%% What looks like one and is none.
harmless() ->
    [<<"550e8400-e29b-41d4-a716-446655440000">>, <<"2026-11-28T16:20:59.123456Z">>, <<"1764347000000000">>, <<"+49 30 901820 4711">>,
     <<"order 4111111111111112">>, <<"http://localhost:8080/a@b">>, <<"the password was changed">>, <<"Bearer of news">>,
     <<"a4111111111111111">>].

%% What no cap leaves something out of.
harmless_lists() -> [binary_to_list(H) || H <- harmless(), byte_size(H) =< 24].

large() -> [{N, binary:copy(<<"x">>, 300)} || N <- lists:seq(1, 40)].

plant(Config, Opts) ->
    Nodes = [A, B] = [start_node(Config, N) || N <- [a, b]],
    D = scope_daemon:start(Config, Nodes, Opts),
    await_live(A, D, Nodes),
    S = fun secret/1,
    State = #{open => <<"plainly visible">>, sessions => #{1 => #{'authToken' => S(state)}}, api_key => S(crashed),
              account => {account, 7, S(record), open}},
    {ok, Pid} = rpc(B, gen_server, start, [?MODULE, [State], []]),
    Client = rpc(A, fun() -> spawn(fun Loop() -> receive F -> F(), Loop() end end) end),
    #{nodes := Started} = ask(A, D, {start, [{pids, [Pid, Client]}, {args, true},
                                             {mfas, [{?MODULE, F, '_'} || F <- [login, session, child, crash, handle_cast]]},
                                             {events, [calls, messages, state, lifecycle]}]}),
    [assert_eq(ok, R) || R <- maps:values(Started)],
    Messages =
        [#{user => <<"plain user">>, password => S(map)}, #{<<"db_password">> => binary_to_list(S(mapstring))},
         [{user, x}, {access_token, S(keyword)}], [{<<"X-Api-Token">>, S(header)}], [{"userPassword", [S(charkey)]}],
         {set_password, S(tagged)}, #{'__struct__' => 'Elixir.Shop.User', secret => S(struct)},
         {ok, [[#{a => [{b, {credentials, {<<"u">>, S(deep)}}}]}]]},
         {large, large(), #{password => S(large)}}, [{password, S(large)} | large()],
         {'$scope_redacted', S(own)}, #{{token, S(mapkey)} => 1}, {secret, [{x, #{y => {S(nested)}}}]},
         #{'PASSWORD' => binary_to_atom(S(atomvalue))}, {account, 1, S(record), open}],
    Texts = [T || {_, T} <- texts()],
    Lists = [binary_to_list(T) || T <- Texts, byte_size(T) =< 32],
    InTexts = [{text, T} || T <- Texts ++ Lists] ++ [#{plain => [T]} || T <- Texts]
        ++ [{ok, [[binary:part(T, 0, 7), [binary:part(T, 7, byte_size(T) - 7)]]]} || T <- Texts -- [lists:last(Texts)], hd(binary_to_list(T)) =/= $p,
                                                                                   hd(binary_to_list(T)) =/= $5],
    rpc(A, fun() ->
                   Client ! fun() ->
                                    [gen_server:cast(Pid, M) || M <- InTexts],
                                    [Pid ! M || M <- InTexts ++ [{harmless, T} || T <- harmless() ++ harmless_lists()]],
                                    [?MODULE:session({T, x}) || T <- Texts],
                                    [?MODULE:child(T) || T <- Texts ++ Lists],
                                    [spawn(?MODULE, child, [T]) || T <- Texts],
                                    [catch ?MODULE:crash({failed, T}) || T <- Texts],
                                    [spawn(fun() -> exit({shutdown, {T, 1}}) end) || T <- Texts],
                                    [gen_server:cast(Pid, M) || M <- Messages],
                                    [Pid ! M || M <- Messages],
                                    ok = gen_server:call(Pid, #{token => S(map), again => #{token => S(map)}}),
                                    _ = ?MODULE:login(<<"plain user">>, S(position)),
                                    _ = ?MODULE:session(#{pin => S(argument), jwt => S(answer)}),
                                    _ = ?MODULE:session(S(result)),
                                    _ = spawn(?MODULE, child, [[{passwd, S(spawned)}]]),
                                    _ = spawn(?MODULE, login, [1, S(position)]),
                                    _ = (catch ?MODULE:crash(#{cookie => S(stack)})),
                                    gen_server:cast(Pid, stop),
                                    Client ! fun() -> ?MODULE:crash(#{cookie => S(stack)}) end
                            end
           end),
    wait_until(fun() ->
                       {L, _} = all_events(A, D, #{type => process_exit}, oldest_first),
                       length([1 || #{pid := P} <- L, P =:= Pid orelse P =:= Client]) =:= 2
               end, 20000),
    {A, D, Pid, Client}.

%% Whatever the daemon says of all this, and what it has written.
everything(Config, A, D = #{scope := Scope, db := Db, log := Log}, Pid, Client) ->
    {Events, Completeness} = all_events(A, D, #{}, oldest_first),
    Since = lists:min([T || #{time := T} <- Events]),
    Asked = [{get_events, #{text => "plain user"}}, {get_events, #{match => {'$gen_cast', #{password => '$1'}}}},
             {get_state_at, Pid, {ago, 1, millisecond}}, {get_state_at, Pid, Since + 1000000000}, {get_state_history, Pid, #{limit => 50}},
             {get_message_flow, Client, Pid, #{}}, {aggregate, #{}, [mfa, type], [count, {duration, [p50]}]},
             {aggregate, #{}, [pid], [count]}, {aggregate, #{}, [edge], [count]}, status, clocks, hello,
             {get_events, #{typ => x}}],
    Answers = [call(A, D, R) || R <- Asked],
    Cli = [cli(Config, Scope, Args) || Args <- [["events", "--json"], ["events"], ["status"], ["status", "--json"],
                                                ["state", pid_text(Pid), "--json"], ["stats"]]],
    Files = filelib:wildcard(filename:join(Db, "**")) ++ [Db],
    {Events, Completeness,
     [{events, term_to_binary(Events)}, {answers, term_to_binary(Answers)}, {cli, iolist_to_binary(Cli)},
      {log, read(Log)} | [{F, read(F)} || F <- Files, filelib:is_regular(F)]]}.

pid_text(Pid) ->
    [_ | Rest] = string:split(pid_to_list(Pid), "."),
    lists:flatten(["<0.", Rest, "@", atom_to_list(node(Pid))]).

read(File) ->
    {ok, Bytes} = file:read_file(File),
    Bytes.

cli(Config, Scope, Args) ->
    Run = scope_test:start_program(Config, scope_test:bin("scope"),
                                   Args ++ ["--scope", atom_to_list(Scope), "--cookie-file", maps:get(cookie_file, Config)]),
    _ = scope_test:await_exit(Run, 20000),
    lines(scope_test:os_pid(Run)).

lines(OsPid) ->
    receive {line, OsPid, Line} -> [Line, $\n | lines(OsPid)] after 0 -> [] end.

%% {Secret, Where} for each that is in there; the names of planted records and positions are rules of the daemon's settings.
seen(Places) ->
    [{S, Where} || S <- secrets(), {Where, Bytes} <- Places, binary:match(Bytes, S) =/= nomatch].

rules() ->
    ["--redact-record", "account/4:3", "--redact-call", atom_to_list(?MODULE) ++ ":login/2:2",
     "--redact-call", atom_to_list(?MODULE) ++ ":session/1:1,result", "--redact-pattern", "cust-[a-z0-9]+-[0-9]{4}"].

canaries_native(Config) -> canaries(Config, "native").
canaries_erlang(Config) -> canaries(Config, "erlang").

canaries(Config, Capture) ->
    as(Capture, fun() -> canaries_with(Config, Capture) end).

as(Capture, Fun) ->
    Before = os:getenv("SCOPE_CAPTURE"),
    true = os:putenv("SCOPE_CAPTURE", Capture),
    try Fun()
    after
        case Before of false -> os:unsetenv("SCOPE_CAPTURE"); _ -> os:putenv("SCOPE_CAPTURE", Before) end
    end.

canaries_with(Config, Capture) ->
    {A, D, Pid, Client} = plant(Config, #{args => rules()}),
    #{nodes := Nodes} = ask(A, D, status),
    [assert_eq({list_to_atom(Capture), on}, {C, R}) || #{capture := C, redact := R} <- maps:values(Nodes)],
    {Events, #{missing := Missing}, Places} = everything(Config, A, D, Pid, Client),
    assert_eq([], seen(Places)),
    %% It is all there but for that, and says so.
    [#{count := Count}] = [M || M = #{kind := redacted} <- Missing],
    true = Count >= 50,
    Marked = [E || E <- Events, marks(maps:remove(redacted, E)) =/= []],
    assert_eq([], [E || E <- Marked, not is_map_key(redacted, E)]),
    assert_eq([], [E || E = #{redacted := true} <- Events, marks(E) =:= []]),
    Harmless = [T || #{type := message_send, message := {harmless, T}} <- Events],
    assert_eq(harmless(), [T || T <- Harmless, is_binary(T)]),
    assert_eq(harmless_lists(), [T || T <- Harmless, is_list(T)]),
    [#{message := {'$gen_cast', #{user := <<"plain user">>, password := Map}}}] =
        [E || E = #{type := message_send, message := {'$gen_cast', #{password := _}}} <- Events],
    [#{state := #{open := <<"plainly visible">>, sessions := #{1 := #{'authToken' := {_, State}}}}} | _] =
        [E || E = #{type := state_change} <- Events],
    %% One secret, one mark, in whatever event, on whatever node and under whatever key; another, another.
    [#{message := {_, _, #{token := Map, again := #{token := Map}}}} | _] =
        [E || E = #{type := message_take, message := {'$gen_call', _, _}} <- Events],
    true = is_integer(State) andalso {'$scope_redacted', State} =/= Map,
    All = lists:usort([M || E <- Events, M = {_, H} <- marks(E), H =/= none]),
    true = length(All) >= length(secrets()) - 4,
    %% What was sent is what was taken: matched by the hash of the whole.
    #{messages := Flow} = ask(A, D, {get_message_flow, Client, Pid, #{limit => 100}}),
    Hidden = [M || M = #{redacted := true} <- Flow],
    true = length(Hidden) >= 20,
    assert_eq([], [M || M <- Hidden, map_get(fetched, M) =:= unknown]),
    %% What is hidden cannot be looked for, and that is said.
    #{events := [], completeness := #{missing := NotKnown}} =
        ask(A, D, {get_events, #{pid => Pid, type => message_take, match => {'$gen_cast', {set_password, secret(tagged)}}}}),
    [#{count := Few}] = [M || M = #{kind := undecided} <- NotKnown],
    true = Few >= 1,
    #{completeness := #{missing := TextNotKnown}} = ask(A, D, {get_events, #{pid => Pid, text => "Canary7"}}),
    [#{count := N}] = [M || M = #{kind := undecided} <- TextNotKnown],
    true = N >= 20.

%% Of a text that was cut the hash is not known.
marks({'$scope_redacted', H} = M) when is_integer(H); H =:= none -> [M];
marks(T) when is_tuple(T) -> marks(tuple_to_list(T));
marks([H | T]) -> marks(H) ++ marks(T);
marks(M) when is_map(M) -> marks(maps:to_list(M));
marks(_) -> [].

%% Of texts made of parts of secrets both tracers hide the same, with the defaults and with two automata.
tracers_agree(Config) ->
    [Native, Erlang] = [as(C, fun() -> hidden_texts(Config#{tmp := filename:join(maps:get(tmp, Config), C)}) end)
                        || C <- ["native", "erlang"]],
    assert_eq([], [{T, N, E} || {T, N, E} <- lists:zip3(corpus(), Native, Erlang), N =/= E]),
    Counts = [{Is, length([H || H <- Native, H =:= Is])} || Is <- [hidden, seen]],
    scope_test:log("~0p", [Counts]),
    [true = N > 60 || {_, N} <- Counts].

hidden_texts(Config = #{tmp := Tmp}) ->
    ok = filelib:ensure_dir(filename:join(Tmp, "x")),
    A = start_node(Config, scope_test:unique_name(a)),
    D = scope_daemon:start(Config, [A], #{args => ["--redact-pattern", "cust-[a-z0-9]+-[0-9]{4}"]}),
    await_live(A, D, [A]),
    Sink = rpc(A, fun() -> spawn(fun Loop() -> receive stop -> ok; _ -> Loop() end end) end),
    Client = rpc(A, fun() -> spawn(fun Loop() -> receive F -> F(), Loop() end end) end),
    _ = ask(A, D, {start, [{pids, [Client]}, {events, [messages]}, {for, {1, minute}}]}),
    Numbered = lists:zip(lists:seq(1, length(corpus())), corpus()),
    %% Slowly: what is too much for a ring is dropped.
    Send = fun() -> [begin Sink ! M, N rem 20 =:= 0 andalso timer:sleep(5) end || M = {N, _} <- Numbered] end,
    rpc(A, fun() -> Client ! Send end),
    Got = fun() ->
                  {L, _} = all_events(A, D, #{pid => Client, type => message_send}, oldest_first),
                  [M || #{message := M = {N, _}} <- L, is_integer(N)]
          end,
    wait_until(fun() -> length(Got()) >= length(Numbered) end, 20000),
    Shown = Got(),
    assert_eq([N || {N, _} <- Numbered], [N || {N, _} <- Shown]),
    %% The daemons' keys differ, and so do the hashes.
    [case T of
         {'$scope_redacted', _} -> hidden;
         Text -> seen;
         [_ | _] -> [case E of {'$scope_redacted', _} -> hidden; _ -> E end || E <- T]
     end || {{_, T}, {_, Text}} <- lists:zip(Shown, Numbered)].

%% The same each time; what no tracer cuts.
corpus() ->
    Parts = {<<"Bearer ">>, <<"abcdefgh">>, <<"password">>, <<"=">>, <<": ">>, <<" ">>, <<"x1">>, <<"4111">>, <<"1111 ">>, <<"11111111">>,
             <<"eyJhbGci">>, <<".">>, <<"eyJz">>, <<"://">>, <<"u:p">>, <<"@">>, <<"\n">>, <<"\"">>, <<"cust-">>, <<"-----BEGIN ">>,
             <<"PRIVATE KEY">>, <<"token">>, <<"5500005555555559">>, <<"-4711">>, <<255>>, <<>>},
    Pick = fun(S) -> {I, S1} = rand:uniform_s(tuple_size(Parts), S), {element(I, Parts), S1} end,
    Text = fun(_, S0) ->
                   {N, S1} = rand:uniform_s(9, S0),
                   {Of, S2} = lists:mapfoldl(fun(_, S) -> Pick(S) end, S1, lists:seq(1, N)),
                   Bin = iolist_to_binary(Of),
                   {Kind, S3} = rand:uniform_s(4, S2),
                   {case Kind of
                        1 when byte_size(Bin) > 0, byte_size(Bin) =< 24 -> binary_to_list(Bin);
                        2 when N =< 3 -> Of;
                        _ -> Bin
                    end, S3}
           end,
    {Texts, _} = lists:mapfoldl(Text, rand:seed_s(exsss, 7), lists:seq(1, 600)),
    Texts.

%% The search would have found them: all but those that the caps leave out.
off_hides_nothing(Config) ->
    {A, D, Pid, Client} = plant(Config, #{args => ["--redact", "off"]}),
    #{nodes := Nodes} = ask(A, D, status),
    [assert_eq(off, R) || #{redact := R} <- maps:values(Nodes)],
    {_, _, Places} = everything(Config, A, D, Pid, Client),
    Found = lists:usort([S || {S, _} <- seen(Places)]),
    assert_eq([secret(own)], secrets() -- Found),
    true = length(lists:usort([Where || {_, Where} <- seen(Places)])) >= 3.

%% A rule holds for what happens after update_config was answered and status says its version; then it is gone again.
rules_change(Config) ->
    A = start_node(Config, a),
    D = scope_daemon:start(Config, [A]),
    await_live(A, D, [A]),
    {ok, Pid} = rpc(A, gen_server, start, [?MODULE, [#{}], []]),
    _ = ask(A, D, {start, [{pids, [Pid]}, {events, [messages, state]}]}),
    Set = fun(Key, Value) ->
                  ok = element(1, {ok, _} = call(A, D, {update_config, Key, Value})),
                  Version = case get(version) of undefined -> 2; V -> V + 1 end,
                  put(version, Version),
                  wait_until(fun() ->
                                     #{nodes := Nodes} = ask(A, D, status),
                                     lists:all(fun(#{redact_version := V}) -> V =:= Version; (#{redact := off}) -> Value =:= <<"off">> end,
                                               maps:values(Nodes))
                             end, 10000)
          end,
    Take = fun(N) ->
                   rpc(A, gen_server, call, [Pid, {N, #{iban => <<"DE00">>, ssn => <<"12">>, flavour => <<"plum">>}}]),
                   Match = {'$gen_call', '_', {N, '_'}},
                   wait_until(fun() -> element(1, all_events(A, D, #{type => message_take, match => Match}, oldest_first)) =/= [] end,
                              10000),
                   {[#{message := {_, _, {N, M}}}], _} = all_events(A, D, #{type => message_take, match => Match}, oldest_first),
                   maps:map(fun(_, {'$scope_redacted', _}) -> hidden; (_, V) -> V end, M)
           end,
    assert_eq(#{iban => hidden, ssn => hidden, flavour => <<"plum">>}, Take(1)),
    Set(redact_key, [<<"flavour">>]),
    assert_eq(#{iban => hidden, ssn => hidden, flavour => hidden}, Take(2)),
    Set(redact_defaults, false),
    assert_eq(#{iban => <<"DE00">>, ssn => <<"12">>, flavour => hidden}, Take(3)),
    Set(redact_key, []),
    assert_eq(#{iban => <<"DE00">>, ssn => <<"12">>, flavour => <<"plum">>}, Take(4)),
    {error, {bad_value, #{field := redact_call}}} = call(A, D, {update_config, redact_call, <<"no/2:2">>}),
    {error, {bad_value, #{field := redact}}} = call(A, D, {update_config, redact, <<"maybe">>}).

%% The VM traces no process that says it is sensitive, and what is known of it from before is its name and its kin.
sensitive_is_honoured(Config) ->
    [as(Capture, fun() -> sensitive(Config#{tmp := filename:join(maps:get(tmp, Config), Capture)}) end)
     || Capture <- ["native", "erlang"]].

sensitive(Config = #{tmp := Tmp}) ->
    ok = filelib:ensure_dir(filename:join(Tmp, "x")),
    A = start_node(Config, scope_test:unique_name(a)),
    D = scope_daemon:start(Config, [A]),
    await_live(A, D, [A]),
    Pid = rpc(A, fun() ->
                         spawn(fun() ->
                                       process_flag(sensitive, true),
                                       put('$initial_call', {?MODULE, secret(map), 1}),
                                       (fun Loop() -> receive stop -> ok; M -> put(m, M), self() ! stop, Loop() end end)()
                               end)
                 end),
    Plain = rpc(A, fun() -> spawn(fun() -> receive M -> ?MODULE:child(M) end end) end),
    _ = ask(A, D, {start, [{all, true}, {args, true}, {mfas, [{?MODULE, '_', '_'}]}, {events, [calls, messages, lifecycle]}, {for, {1, minute}}]}),
    rpc(A, fun() -> Mon = monitor(process, Pid), Pid ! secret(deep), receive {'DOWN', Mon, _, _, _} -> ok end end),
    rpc(A, fun() -> Plain ! done end),
    wait_until(fun() -> element(1, all_events(A, D, #{pid => Plain, type => process_exit}, oldest_first)) =/= [] end, 20000),
    {Of, _} = all_events(A, D, #{pid => Pid}, oldest_first),
    assert_eq([], [E || E = #{type := Type} <- Of, Type =/= process_alive]),
    nomatch = binary:match(term_to_binary(Of), secret(map)).
