%% The daemon's side of session.md, as a process on a hidden node: loads the agent, speaks the session, and keeps all
%% batches it acknowledges, so that tests can judge them. Driven by call/2; can be told not to ack, ping or resume.
-module(scope_fake_daemon).

-export([start/1, start/2, stop/1, call/2, load/2, spawn_agent/3]).
-export([control/2, events/1, gaps/1, batches/1, wait/2, wait/3]).

%% Opts: ack => true | false, ping => Ms | none, resume => true | false, store_id, last (last_committed_seq, default what
%% it has), keep => true (events kept; else only counted), credit => {credit, ..} message made after each ack | none.
-spec start(map()) -> pid().
start(Opts) -> start(none, Opts).

start(Node, Opts) ->
    Pid = spawn(fun() ->
                        _ = Node =/= none andalso begin load(Node, Opts), spawn_agent(Node, self(), Opts) end,
                        Defaults = #{ack => true, ping => 200, resume => true, store_id => store1, keep => true,
                                     window => 4 bsl 20},
                        self() ! ping,
                        ensure_store(),
                        loop(#{opts => maps:merge(Defaults, Opts), seq => 0, inbox => [], agent => undefined, n => 0,
                               waiters => [], dup => 0, holes => []})
                end),
    Pid.

%% As the daemon does it: all modules at once, over rpc, then a spawn; but not into a living agent.
load(Node, Opts) ->
    _ = erpc:call(Node, erlang, whereis, [scope_agent]) =:= undefined andalso load_all(Node, Opts),
    ok.

load_all(Node, _) ->
    Dir = agent_ebin(),
    Code = [{list_to_atom(filename:basename(F, ".beam")), F, element(2, file:read_file(F))}
            || F <- filelib:wildcard(filename:join(Dir, "scope_*.beam"))],
    case erpc:call(Node, code, atomic_load, [Code]) of
        ok -> ok;
        {error, [{_, not_purged} | _]} -> [{module, M} = erpc:call(Node, code, load_binary, [M, F, B]) || {M, F, B} <- Code], ok
    end.

agent_ebin() ->
    case os:getenv("SCOPE_AGENT_EBIN") of
        false -> filename:join(filename:dirname(code:which(?MODULE)), "agent");
        Dir -> Dir
    end.

%% Without a budget unless a test says one: most are about something else.
spawn_agent(Node, Daemon, Opts) ->
    spawn(Node, scope_agent, start, [Daemon, maps:merge(maps:merge(#{budget => none}, library()), maps:get(agent, Opts, #{}))]).

%% With $SCOPE_CAPTURE=native agents get the library, as the daemon's do.
library() ->
    case os:getenv("SCOPE_CAPTURE") of
        "native" ->
            {ok, Bin} = file:read_file(filename:join(agent_ebin(), "scope_tracer.so")),
            #{library => Bin};
        _ -> #{}
    end.

stop(Pid) -> exit(Pid, kill).

%% What is committed outlives the daemon: {{StoreId, AgentId, Seq}, Batch}, in a process of its own.
ensure_store() ->
    case ets:whereis(?MODULE) of
        undefined ->
            Me = self(),
            spawn(fun() ->
                          ets:new(?MODULE, [named_table, public, ordered_set]),
                          Me ! stored,
                          receive never -> ok end
                  end),
            receive stored -> ok end;
        _ -> ok
    end.

committed(Store, Agent) ->
    case ets:prev(?MODULE, {Store, Agent, infinity}) of
        {Store, Agent, Seq} -> Seq;
        _ -> 0
    end.

stored(#{opts := #{store_id := Store}}) ->
    [B || {{St, _, _}, B} <- ets:tab2list(?MODULE), St =:= Store].

call(Pid, Request) ->
    Mon = monitor(process, Pid),
    Pid ! {call, self(), Mon, Request},
    receive
        {Mon, Reply} -> demonitor(Mon, [flush]), Reply;
        {'DOWN', Mon, _, _, Why} -> error({daemon_down, Why})
    after 30000 ->
        Pid ! {call, self(), Mon, summary},
        error({no_reply, Request, receive {Mon, Heard} -> Heard after 1000 -> nothing end})
    end.

control(Pid, Request) -> call(Pid, {control, Request}).
events(Pid) -> call(Pid, events).
%% Of what was lost; that a start begins and ends what is traced is a gap, too, which every test would have.
gaps(Pid) -> [G || G <- call(Pid, gaps), not lists:member(element(1, G), [not_traced, trace_stopped])].
batches(Pid) -> call(Pid, batches).

%% Waits until Pred(Term) holds of something received: {hello, _}, {bye, _}, {stopped, ..}, {error, ..}, {event, E}, {gap, G}.
wait(Pid, Pred) -> wait(Pid, Pred, 10000).
wait(Pid, Pred, Ms) ->
    Ref = make_ref(),
    Pid ! {wait, self(), Ref, Pred},
    receive {Ref, Found} -> Found after Ms -> error({not_seen, call(Pid, summary)}) end.

loop(S) ->
    receive
        {call, From, Ref, {control, Request}} ->
            CRef = make_ref(),
            tell(S, {control, CRef, Request}),
            loop(S#{CRef => {From, Ref}});
        {call, From, Ref, Request} ->
            {Reply, S1} = request(Request, S),
            From ! {Ref, Reply},
            loop(S1);
        {wait, From, Ref, Pred} -> loop(waiter({From, Ref, Pred}, S));
        {control_reply, CRef, Result} ->
            case S of
                #{CRef := {From, Ref}} -> From ! {Ref, Result}, loop(maps:remove(CRef, S));
                _ -> loop(seen({control_reply, CRef, Result}, S))
            end;
        ping ->
            case S of
                #{opts := #{ping := none}} -> erlang:send_after(50, self(), ping);
                #{opts := #{ping := Ms}} -> tell(S, {ping, 1, 0}), erlang:send_after(Ms, self(), ping)
            end,
            loop(S);
        {pong, _, _, {_, _}, _} -> loop(S);
        {batch, Id, Seq, Clock, Gaps, Cut, {etf, 2, Bin}} -> loop(batch({Id, Seq, Clock, Gaps, Cut, binary_to_term(Bin)}, S));
        {batch, Id, Seq, Clock, Gaps, Cut, {compact, 1, Strings, Records}} ->
            #{hello := #{node := Node, creation := Creation}} = S,
            loop(batch({Id, Seq, Clock, Gaps, Cut, scope_compact:decode(Strings, Records, Node, Creation)}, S));
        {hello, Hello} ->
            S1 = seen({hello, Hello}, S#{agent => maps:get(agent, Hello), hello => Hello,
                                         seq => committed(maps:get(store_id, map_get(opts, S)), maps:get(agent_id, Hello))}),
            _ = maps:get(resume, map_get(opts, S)) andalso resume(S1),
            loop(S1);
        Other -> loop(seen(Other, S))
    end.

resume(S = #{opts := Opts, seq := Seq}) ->
    tell(S, {resume, maps:merge(#{daemon_id => self(), store_id => map_get(store_id, Opts), last_committed_seq => Seq,
                                  lease_ms => maps:get(lease_ms, Opts, 5000), api => 1},
                                maps:with([hash_key, credit], Opts))}).

tell(#{agent := undefined}, _) -> ok;
tell(#{agent := Agent}, Msg) -> Agent ! Msg, ok.

batch({Id, Seq, Clock, Gaps, Cut, Events}, S = #{seq := Last, opts := Opts, n := N}) ->
    S1 = if
             Seq =< Last -> S#{dup := map_get(dup, S) + 1};
             true ->
                 Holes = case Seq =:= Last + 1 orelse Last =:= 0 of
                             true -> map_get(holes, S);
                             false -> [{Last, Seq} | map_get(holes, S)]
                         end,
                 Store = maps:get(store_id, Opts),
                 _ = case Opts of
                         #{keep := true} ->
                             ets:insert(?MODULE, {{Store, Id, Seq}, {Id, Seq, Clock, Gaps, Cut, Events}});
                         _ -> ets:insert(?MODULE, {{Store, Id, Seq}, {Id, Seq, Clock, Gaps, Cut, []}})
                     end,
                 S0 = S#{seq := Seq, n := N + length(Events), holes := Holes},
                 lists:foldl(fun seen_event/2, S0, [{gap, G} || G <- Gaps] ++ [{event, E} || E <- Events])
         end,
    _ = case Opts of
            #{ack := true} ->
                tell(S1, {ack, Seq}),
                case Opts of
                    #{credit_window := W} -> tell(S1, {credit, Seq, W});
                    _ -> ok
                end;
            _ -> ok
        end,
    S1.

seen_event(_, S = #{waiters := []}) -> S;
seen_event(What, S) -> notify(What, S).

seen(What, S) -> notify(What, S#{inbox := [What | map_get(inbox, S)]}).

notify(What, S = #{waiters := Ws}) ->
    {Hit, Rest} = lists:partition(fun({_, _, Pred}) -> holds(Pred, What) end, Ws),
    [From ! {Ref, What} || {From, Ref, _} <- Hit],
    S#{waiters := Rest}.

holds(Pred, What) -> try Pred(What) catch error:function_clause -> false end.

waiter(W = {From, Ref, Pred}, S) ->
    All = lists:reverse(map_get(inbox, S))
        ++ lists:append([[{gap, G} || G <- Gaps] ++ [{event, E} || E <- Es]
                         || {_, _, _, Gaps, _, Es} <- stored(S)]),
    case lists:search(fun(X) -> holds(Pred, X) end, All) of
        {value, X} -> From ! {Ref, X}, S;
        false -> S#{waiters := [W | map_get(waiters, S)]}
    end.

request(events, S) -> {lists:append([Es || {_, _, _, _, _, Es} <- stored(S)]), S};
request(gaps, S) -> {lists:append([G || {_, _, _, G, _, _} <- stored(S)]), S};
request(batches, S) -> {stored(S), S};
request(summary, S = #{n := N, seq := Seq, dup := Dup, holes := Holes, inbox := Inbox}) ->
    {#{events => N, seq => Seq, dup => Dup, holes => Holes, inbox => Inbox, agent => map_get(agent, S)}, S};
request({set, Map}, S = #{opts := Opts}) -> {ok, S#{opts := maps:merge(Opts, Map)}};
request(resume, S) -> {resume(S), S};
request(forget, S) -> {ets:delete_all_objects(?MODULE), S#{inbox := []}};
request({tell, Msg}, S) -> {tell(S, Msg), S};
request({attach, Node}, S) ->
    {scope_agent, Node} ! {attach, self(), #{daemon_id => test}},
    {ok, S};
request(agent, S = #{agent := A}) -> {A, S}.
