%% The agent: what the daemon puts into a node, and the session between the two.
%%
%% MODULES   Every scope_*.erl beside this file (modules/0), loaded with code:load_binary and nothing else. They are
%%           compiled with OTP 25, use kernel, stdlib and erts only, and delete themselves when the agent goes.
%%
%% START     The daemon spawns scope_agent:start(DaemonPid, Opts), unlinked. That process starts scope_sup, which
%%           starts scope_guard (patterns, flags, watching), scope_tracer (receives trace messages) and the session
%%           (registered scope_agent, this module), and ends. What comes to DaemonPid then is one of
%%             {hello, #{...}}                  from the session, whose pid is in it
%%             {error, disabled}                kernel's environment elixir_scope is `disabled` on this node
%%             {error, {owned_by, Node}}        another daemon holds a living lease
%%             {error, {start, Reason}}         it could not be started; nothing is left
%%           If an agent runs already, start does what an attach does.
%%           Opts, a map, all optional: daemon_id => term, lease_ms => 5000, grace_ms => 60000, hold_bytes => 16 MB,
%%             library => the native tracer's bytes (else the Erlang tracer), window => 4 MB (unacknowledged bytes while connected), deadman_ms => 2000, cut_ms => 10000, hold_full_ms => 5000,
%%             caps => #{message => 4096, args => 4096, result => 4096, reason => 4096, state => 65536}
%%
%% DAEMON -> AGENT (to the pid in hello, or {scope_agent, Node})
%%   {attach, DaemonPid, #{daemon_id => term}}   a restarted daemon, or another. Answered with hello or {error, ..}.
%%   {resume, #{store_id, last_committed_seq, ...}}    shipping begins: everything after last_committed_seq. Optional:
%%             credit => Bytes as in {credit, Bytes}, lease_ms, hash_key => <<16 bytes>>, daemon_id, api.
%%             last_committed_seq is 0 if the store knows nothing of this agent_id.
%%   {ack, Seq}             cumulative: what is held up to Seq is forgotten
%%   {credit, Bytes}        absolute: bytes of this session (counted from the resume) that may be sent
%%   {credit, Seq, Bytes}   the same, counted from the end of batch Seq: needs no common count of bytes. Preferred.
%%             A batch's bytes are the size of its binary, plus 64. Without any credit message the window alone is the bound.
%%   {ping, N, T}           answered with {pong, N, T, ClockPair, SentUntil}; at least one each deadman_ms, or shipping stops
%%   {control, Ref, Request}  answered with {control_reply, Ref, Result}
%% AGENT -> DAEMON (to DaemonPid, with nosuspend and noconnect. What a busy link refuses is sent again, batches from the hold
%% and all else from the outbox, 100 messages; what is more is counted in `refused`. Not sent again: pongs, {error, ..} and what is said on leaving)
%%   {hello, #{proto => 1, vsn, agent => pid(), agent_id, node, creation, first_seq, next_seq, otp, erts, arch,
%%             capture => native | erlang, capture_reason => none | configured | Text, threads, schedulers, time_unit => nanosecond, clock => ClockPair, net_ticktime,
%%             version => what Opts said when this agent was started: tells builds apart,
%%             elixir => Vsn | none, nodes => #{visible => [Node], hidden => [Node]}, tracing => [Id],
%%             others => #{system_monitor => Pid | none, seq_tracer => Pid | none}}}
%%             first_seq is the oldest batch still held, next_seq the number of the next one to be made.
%%   {batch, AgentId, Seq, ClockPair, Gaps, Cut, {etf, 2, term_to_binary([Event])} | {compact, 1, Strings, Records}}
%%             see ei_codec/capture_record.h
%%   {pong, N, T, ClockPair, SentUntil}      SentUntil: raw time up to which everything was sent before this; or none
%%   {control_reply, Ref, Result}
%%   {nodes, #{visible => [Node], hidden => [Node]}}     every node this one knows now, after one came or went
%%   {stopped, Id | all, Reason}  a start ended by itself: {limit, ms | count} | lost | overload | hold_full | over_budget
%%   {bye, Reason}          the agent is about to leave the node
%%
%% CONTROL REQUESTS and their results
%%   {start, Id, Spec}  -> {ok, #{patterns => [{{M,F,A}, Matched}], processes => N, left_out => [{Pid | Name | send | 'receive' | new_processes, Why}],
%%                          behaviours => [{Module, Shape | unknown | absent}], baseline => N}} | {error, Reason}
%%             Reason: {bad_spec, Key, Why} | {owned_by, Owner} | {pattern_owned, MFA, Owner} | exists | draining
%%                   | {owned_by, {seq_trace, Owner} | trace_control_word} | {refused, follow_runs, Id} (follow)
%%                   | {over_budget, Prediction} | {refused, own_modules | server_loop | calls_itself_last |
%%                     everything_without_limit | module_needed, What} | stopped (while it was counted)
%%             The answer to a start also has prediction => Prediction and limit => what ends it. Prediction =
%%             #{events_per_s, by_kind, cpu => per cent of the schedulers | unknown, bound => about | at_least | at_most,
%%               unknown => [messages], estimated => [procs], sample, counted_ms, budget}
%%             A start with the Id of a living one with the same Spec is ok; with another Spec, `exists`.
%%   {probe, Spec}      -> {ok, Prediction with spent => ..}: starts nothing
%%   {stop, Id | all}   -> ok | {error, not_found}; the others go on exactly as they were
%%   status             -> also budget, spent => #{cpu, own_cpu, events, bytes, memory, kinds, total_ns, at => raw time}, costs (ns that an
%%                          event of a kind takes of {its tracee, us}, measured here; with `assumed` where that could not be done yet), ladder => #{rung, cause, rung_ms,
%%                          failed_tries, left_out}, counters => #{MFA => calls per second} on the rung `counters`, and
%%                          traces => #{Id => #{budget, spent, events, shared}};
%%                      -> {ok, #{tracing => #{Id => Spec}, patterns, processes, captured, dropped, held_bytes,
%%                          held_batches, hold_bytes, hold_seconds, sent, refused, queue, memory, mode}}
%%   verify             -> {ok, #{patterns => [MFA], traced => N, processes => [Name]}}: what of ours is set now
%%   {configure, Opts}  -> ok; caps, grace_ms, hold_bytes, window, hash_key, redact
%%   flush              -> ok, once all that was captured before is shipped or held
%%   stop | unload      -> ok, after traces off, everything drained and (if a daemon acknowledges within 5 s)
%%             acknowledged; then {bye, unload} and nothing of ours is left on the node
%%
%% SPEC, a map, all optional, unknown keys refused:
%%   events => [calls | returns | messages | sends | fetches | procs | state | takes]   default [calls] if there are
%%             modules or mfas, else [messages, procs, state, takes]
%%   modules => [M]   mfas => [{M, F, A | '_'}]     what `calls` and `returns` mean
%%   pids => [Pid]   names => [Atom]     names are followed when they are registered anew, looked up every 100 ms
%%   all => true         every process (not those of `left_out`) and new ones
%%   new_processes => true    processes spawned from now on
%%   children => true    what the traced processes spawn, too
%%             Without pids, names, all and new_processes: all, if there are modules or mfas.
%%   args => true        arguments of calls (else arity only)
%%   behaviours => [Module]   where takes and state are looked for; default all of scope_behaviours that are loaded
%%   limit => #{ms => N, count => N}     the start ends by itself; looked at every 100 ms
%%   caps => #{...}      as in Opts; they hold for all starts
%%   budget => #{cpu => per cent of the schedulers, events => per s, bytes => per s} | none     for this start: the node's
%%                       is the largest that any living start asks for
%%   sample => 0 < Share =< 1     of the processes, by a hash of the pid: each is traced whole or not at all
%%   fan_out => 0.001 =< Share =< 1     of messages sent and fetched only those to so large a share of their receivers
%%   force => true       whatever it is predicted to cost     continuous => true   no end is set for it
%%             Without a limit a deep start (arguments, results, everybody's messages) ends after 60 s.
%%   follow => #{shots => 1..1000, pids => [Pid], names => [Atom], mfas => [MFA]}     all but shots optional: seq_trace's system
%%                       tracer while the start runs; so many messages that these take, or calls of these, get a token
%%                       (scope_follow). Pids and names, traced with `takes`, are added to the spec's, and mfas, with `calls`;
%%                       who calls those has to be asked for. One such start at a time. {stopped, Id, over_budget | overload}
%%                       if there are too many events.
%%   meta => term        kept and given back by `status`: a restarted daemon learns what it had started
%%
%% IF SOMETHING DIES   The session's death (panic button: exit(whereis(scope_agent), kill)) ends everything within 2 s.
%% So do the guard's, the supervisor's, and a suspended one of them after 3 s. A killed tracer is started anew, with a
%% gap. If all of them are killed or suspended at once, scope_lease ends everything, 5 s later at most; if it is killed, the
%% supervisor does. The daemon's loss stops shipping only; after grace_ms without a word everything is removed.
%% A daemon that stands still: after cut_ms without a word its node is disconnected. Once the link's buffers are full the VM
%% suspends whoever sends to it, and does not end the link of a hidden node by itself: so they wait cut_ms at most, and a tick.
-module(scope_agent).

-export([modules/0, start/2, init/1, session/2]).

-define(VSN, 1).
-define(TICK, 100).
-define(IDLE_TICK, 500).     % while nothing is held
-define(LATE_MS, 1000).      % of what passes between two ticks so much is the daemon's silence; more is ours
-define(OUTBOX, 100).
-define(DEFAULTS, #{lease_ms => 5000, grace_ms => 60000, hold_bytes => 16 bsl 20, window => 4 bsl 20,
                    deadman_ms => 2000, cut_ms => 10000, hold_full_ms => 5000, caps => #{}, budget => none}).

-record(s, {opts :: map(),
            ctx :: map(),
            id :: non_neg_integer(),
            daemon :: pid() | undefined,
            mon :: reference() | undefined,
            store_id = none :: term(),
            shipping = false :: boolean(),          % a resume was received on this attachment
            heard :: integer(),                     % ms: when the daemon was last heard of
            looked :: integer(),                    % ms: the last tick
            outbox = [] :: [tuple()],               % what the link was too busy for, the oldest first
            hold :: scope_hold:hold(),
            full_since = none :: integer() | none,
            mode = idle :: idle | removed,          % removed: tracing was taken away from us
            refused = 0 :: non_neg_integer(),
            redact = none :: none | map(),          % for status, which is asked for every other second: what is hidden
            tracing = [] :: [term()],               % Ids of the starts
            waiting = #{} :: map(),                 % Ref of the guard's reply => Ref of the daemon's control
            leaving = no :: no | {draining, term()} | {acking, term(), integer()}}).

-spec modules() -> [module()].
modules() ->
    [scope_agent, scope_sup, scope_guard, scope_lease, scope_trace, scope_tracer, scope_behaviours, scope_hold, scope_cut,
     scope_hash, scope_beat, scope_nif, scope_session, scope_drain, scope_patterns, scope_baseline, scope_budget, scope_probe,
     scope_spent, scope_ask, scope_flags, scope_ladder, scope_watch, scope_redact, scope_text, scope_follow].

-spec init({pid(), map()} | [term()]) -> ok.
init({Daemon, Opts}) -> start(Daemon, Opts);
init([Daemon, Opts]) -> start(Daemon, Opts).

-spec start(pid(), map()) -> ok.
start(Daemon, Opts) ->
    group_leader(whereis(init), self()),
    case {application:get_env(kernel, elixir_scope), whereis(scope_agent)} of
        {{ok, disabled}, _} ->
            _ = send(Daemon, {error, disabled}),
            scope_trace:unload(modules());
        {_, undefined} ->
            _ = spawn(scope_sup, init, [Daemon, maps:merge(?DEFAULTS, Opts)]),
            ok;
        {_, Pid} ->
            Pid ! {attach, Daemon, Opts},
            ok
    end.

%% --- the session -----------------------------------------------------------------------------------------------------

-spec session(pid(), map()) -> no_return().
session(Daemon, Opts) ->
    _ = (catch apply(erlang, process_flag, [async_dist, false])),       % not known before 25.3
    process_flag(priority, high),
    Ctx = receive {peers, C} -> C after 5000 -> exit(no_peers) end,
    _ = net_kernel:monitor_nodes(true, [{node_type, all}]),
    <<Id:64>> = random_id(),
    S = #s{opts = Opts, ctx = Ctx, id = Id, heard = now_ms(), looked = now_ms(), hold = scope_hold:new(maps:get(hold_bytes, Opts))},
    _ = erlang:send_after(?TICK, self(), tick),
    try loop(attach(Daemon, Opts, S))
    catch
        exit:{leave, Why} -> exit({shutdown, Why});
        Class:Reason:Stack ->
            _ = send(Daemon, {bye, {crashed, {Class, Reason, Stack}}}),
            exit(shutdown)
    end.

loop(S) ->
    receive
        Msg ->
            Begun = scope_beat:begun(),
            scope_beat:beat(session, S#s.ctx),
            New = ship(handle(Msg, S)),
            scope_beat:worked(session, Begun, S#s.ctx),
            loop(New)
    end.

handle({batch, Bytes, Made}, S) -> captured(Bytes, Made, S);
handle({ack, Seq}, S) when is_integer(Seq) -> heard(S#s{hold = scope_hold:ack(Seq, S#s.hold)});
handle({credit, N}, S) when is_integer(N) -> heard(S#s{hold = scope_hold:credit(N, S#s.hold)});
handle({credit, Seq, N}, S) when is_integer(Seq), is_integer(N) ->
    heard(S#s{hold = scope_hold:credit(Seq, N, S#s.hold)});
handle({ping, N, T}, S) ->
    _ = send(S#s.daemon, {pong, N, T, clock_pair(), sent_until(S)}),
    heard(S);
handle({control, Ref, Request}, S) -> heard(control(Request, Ref, S));
handle({attach, Daemon, Opts}, S) when is_pid(Daemon), is_map(Opts) -> attach(Daemon, Opts, S);
handle({resume, Map}, S) when is_map(Map) -> heard(resume(Map, S));
handle({'DOWN', Mon, process, _, _}, S = #s{mon = Mon}) ->
    S#s{daemon = undefined, mon = undefined, shipping = false, outbox = []};
handle({guard_reply, Ref, Result}, S) -> guard_reply(Ref, Result, S);
handle({stopped, Id, Reason}, S) ->
    tell({stopped, Id, Reason}, S#s{tracing = case Id of all -> []; _ -> lists:delete(Id, S#s.tracing) end});
handle({gap, Gap}, S) -> S#s{hold = scope_hold:gap(Gap, S#s.hold)};
handle({peers, Ctx}, S) -> S#s{ctx = Ctx};
handle({drained, _}, S = #s{leaving = {draining, Ref}}) ->
    S#s{leaving = {acking, Ref, now_ms() + 5000}};
handle({NodeUpDown, Node, _Info}, S) when NodeUpDown =:= nodeup; NodeUpDown =:= nodedown ->
    _ = erlang:seq_trace(sequential_trace_token, []),       % net_kernel's, if somebody who is followed made the link
    Type = case NodeUpDown of nodeup -> node_up; nodedown -> node_down end,
    maps:get(tracer, S#s.ctx) ! {events, [{scope, Type, Node, erlang:monotonic_time(nanosecond)}]},
    tell({nodes, known_nodes()}, S);
handle(tick, S) ->
    Idle = scope_hold:is_empty(S#s.hold) andalso S#s.outbox =:= [] andalso S#s.leaving =:= no,
    _ = erlang:send_after(scope_beat:next(case Idle of true -> ?IDLE_TICK; false -> ?TICK end), self(), tick),
    tick(S);
handle(_, S) -> S.

%% --- attaching -------------------------------------------------------------------------------------------------------

attach(Daemon, Opts, S) ->
    Lease = maps:get(lease_ms, S#s.opts),
    case S#s.daemon of
        Old when is_pid(Old), node(Old) =/= node(Daemon) ->
            case now_ms() - S#s.heard < Lease of
                true ->
                    _ = send(Daemon, {error, {owned_by, node(Old)}}),
                    S;
                false -> attached(Daemon, Opts, S)
            end;
        _ -> attached(Daemon, Opts, S)
    end.

attached(Daemon, Opts, S) ->
    _ = is_reference(S#s.mon) andalso erlang:demonitor(S#s.mon, [flush]),
    S1 = configure(Opts, S#s{daemon = Daemon, mon = erlang:monitor(process, Daemon), shipping = false,
                             outbox = [], heard = now_ms()}),
    tell({hello, hello(S1)}, S1).

resume(Map, S) ->
    Last = maps:get(last_committed_seq, Map, 0),
    Store = maps:get(store_id, Map, none),
    Hold0 = scope_hold:resume(Last, S#s.hold),
    Hold = case S#s.store_id of
               Known when Known =:= none; Known =:= Store -> Hold0;
               _ -> scope_hold:gap({other_store, unknown, scope_hold:oldest(S#s.hold), mono()}, Hold0)
           end,
    S1 = configure(Map, S#s{store_id = Store, shipping = true, hold = Hold}),
    case Map of
        #{credit := N} when is_integer(N) -> S1#s{hold = scope_hold:credit(N, S1#s.hold)};
        _ -> S1
    end.

hello(S = #s{ctx = #{capture := Capture}}) ->
    #{proto => 1, vsn => ?VSN, version => maps:get(version, S#s.opts, none), agent => self(), agent_id => S#s.id, node => node(),
      creation => erlang:system_info(creation),
      first_seq => scope_hold:first_seq(S#s.hold), next_seq => scope_hold:next_seq(S#s.hold),
      otp => list_to_atom(erlang:system_info(otp_release)),
      erts => list_to_binary(erlang:system_info(version)),
      arch => list_to_binary(erlang:system_info(system_architecture)),
      capture => case Capture of native -> native; _ -> erlang end,
      capture_reason => case Capture of native -> none; {erlang, Why} -> reason(Why) end,
      threads => erlang:system_info(schedulers),
      schedulers => erlang:system_info(schedulers_online),
      time_unit => nanosecond, clock => clock_pair(), net_ticktime => ticktime(),
      elixir => elixir(), nodes => known_nodes(),
      tracing => S#s.tracing,
      others => #{system_monitor => case erlang:system_monitor() of {P, _} -> P; _ -> none end,
                  seq_tracer => case seq_trace:get_system_tracer() of false -> none; T -> T end}}.

%% As text: it is for people.
reason(Why) when is_atom(Why) -> Why;
reason(Why) -> unicode:characters_to_binary(io_lib:format("~0tp", [Why])).

known_nodes() -> #{visible => nodes(visible), hidden => nodes(hidden)}.

ticktime() ->
    case net_kernel:get_net_ticktime() of
        {ongoing_change_to, T} -> T;
        T -> T
    end.

elixir() ->
    case application:get_key(elixir, vsn) of
        {ok, Vsn} -> list_to_binary(Vsn);
        undefined -> none
    end.

configure(Opts, S) ->
    Known = maps:with([grace_ms, hold_bytes, window, lease_ms, caps, hash_key, redact, deadman_ms, cut_ms, hold_full_ms], Opts),
    _ = case maps:with([caps, hash_key, redact], Known) of
        Empty when map_size(Empty) =:= 0 -> ok;
        ForTracer -> maps:get(guard, S#s.ctx) ! {configure, ForTracer}
    end,
    New = maps:merge(S#s.opts, Known),
    Redact = case {S#s.opts, New, S#s.redact} of
                 {#{redact := Same}, #{redact := Same}, About} when About =/= none -> About;
                 _ -> scope_redact:about(maps:get(redact, New, #{}))
             end,
    S#s{opts = New, redact = Redact, hold = scope_hold:limit(maps:get(hold_bytes, New), S#s.hold)}.

%% --- shipping --------------------------------------------------------------------------------------------------------

captured(Bytes, Made, S = #s{hold = Hold}) ->
    scope_beat:received(Bytes, S#s.ctx),
    S#s{hold = scope_hold:add(Made, Hold)}.

tell(Msg, S = #s{outbox = Box}) when length(Box) < ?OUTBOX -> post(S#s{outbox = Box ++ [Msg]});
tell(_, S) -> S#s{refused = S#s.refused + 1}.

post(S = #s{outbox = []}) -> S;
post(S = #s{outbox = [Msg | Rest], daemon = Daemon}) ->
    case send(Daemon, Msg) of
        nosuspend -> S;                             % busy: the next message that we get tries again, the tick at the latest
        _ -> post(S#s{outbox = Rest})
    end.

ship(S) -> ship_batches(post(S)).

ship_batches(S = #s{outbox = [], shipping = true, daemon = Daemon, hold = Hold, opts = #{window := Window, deadman_ms := Deadman}}) ->
    case now_ms() - S#s.heard =< Deadman of
        true -> ship_next(Daemon, Window, scope_hold:next(Window, Hold), S);
        false -> S
    end;
ship_batches(S) -> S.

ship_next(_, _, none, S) -> S;
ship_next(Daemon, Window, {Seq, Clock, Gaps, Cut, Bin, Hold}, S) ->
    case send(Daemon, {batch, S#s.id, Seq, Clock, Gaps, Cut, payload(Bin)}) of
        ok -> ship_next(Daemon, Window, scope_hold:next(Window, Hold), S#s{hold = Hold});
        _ -> S#s{refused = S#s.refused + 1}          % busy: the next tick tries again
    end.

payload(Compact) when is_tuple(Compact) -> Compact;
payload(Bin) -> {etf, 2, Bin}.

heard(S) -> S#s{heard = now_ms()}.

%% All that was captured before this raw time has been sent before what is sent now. What the tracer flushed is in our
%% hands once no bytes are under way; the order of the two readings matters.
sent_until(#s{ctx = Ctx, shipping = Shipping, hold = Hold}) ->
    Flushed = scope_beat:last_flush(Ctx),
    case Shipping andalso scope_beat:under_way(Ctx) =:= 0 andalso scope_hold:is_all_sent(Hold) of
        true -> Flushed;
        false -> none
    end.

%% A node that stood still, or that gets too little of the machine to tick, says nothing of its daemon.
tick(S0 = #s{heard = Heard, looked = Looked}) ->
    Now = now_ms(),
    S = S0#s{looked = Now, heard = Heard + max(0, Now - Looked - ?LATE_MS), hold = scope_hold:flush_gaps(clock_pair(), S0#s.hold)},
    Silent = Now - S#s.heard,
    Full = scope_hold:is_full(S#s.hold),
    scope_beat:held(scope_hold:bytes(S#s.hold), Full, S#s.ctx),
    case S of
        #s{opts = #{grace_ms := Grace}} when Silent > Grace -> exit({leave, grace});
        #s{leaving = {acking, Ref, Until}} ->
            case (scope_hold:is_empty(S#s.hold) andalso S#s.outbox =:= []) orelse Now > Until orelse not S#s.shipping of
                true ->
                    _ = send(S#s.daemon, {control_reply, Ref, ok}),
                    _ = send(S#s.daemon, {bye, unload}),
                    exit({leave, unload});
                false -> S
            end;
        #s{daemon = Daemon, opts = #{cut_ms := Cut}} when is_pid(Daemon), Silent > Cut ->
            _ = spawn(erlang, disconnect_node, [node(Daemon)]),
            full(Now, Full, S);
        _ -> full(Now, Full, S)
    end.

%% Nobody takes what we capture: after a while there is no point in disturbing the tracees.
full(Now, true, S = #s{full_since = Since, mode = Mode, heard = Heard, opts = #{deadman_ms := Deadman, hold_full_ms := Ms}})
  when Now - Heard > Deadman ->
    if
        Since =:= none -> S#s{full_since = Now};
        Now - Since > Ms, Mode =:= idle ->
            maps:get(guard, S#s.ctx) ! {remove_all, hold_full},
            S#s{mode = removed};
        true -> S
    end;
full(_, _, S) -> S#s{full_since = none}.

%% --- control ---------------------------------------------------------------------------------------------------------

control(status, Ref, S) -> ask_guard(status, Ref, S);
control({configure, Opts}, Ref, S) when is_map(Opts) -> configure(Opts, reply(Ref, ok, S));
control(Leave, Ref, S = #s{leaving = no}) when Leave =:= stop; Leave =:= unload ->
    ask_guard(leave, Ref, S#s{leaving = {draining, Ref}});
control(Request, Ref, S = #s{leaving = no}) ->
    ask_guard(Request, Ref, case Request of {start, _, _} -> S#s{mode = idle}; _ -> S end);
control(_, Ref, S) -> reply(Ref, {error, draining}, S).

reply(Ref, Result, S) -> tell({control_reply, Ref, Result}, S).

ask_guard(Request, Ref, S) ->
    Mine = make_ref(),
    maps:get(guard, S#s.ctx) ! {request, self(), Mine, Request},
    S#s{waiting = (S#s.waiting)#{Mine => {Ref, Request}}}.

guard_reply(Mine, Result, S) ->
    case maps:take(Mine, S#s.waiting) of
        {{_Ref, leave}, Rest} -> S#s{waiting = Rest};           % answered when all is acknowledged
        {{Ref, status}, Rest} ->
            {ok, Status} = Result,
            reply(Ref, {ok, maps:merge(Status, own_status(S))}, S#s{waiting = Rest});
        {{Ref, Request}, Rest} ->
            reply(Ref, Result, S#s{waiting = Rest, tracing = tracing(Request, Result, S#s.tracing)});
        error -> S
    end.

tracing({start, Id, _}, {ok, _}, Ids) -> lists:usort([Id | Ids]);
tracing({stop, all}, ok, _) -> [];
tracing({stop, Id}, ok, Ids) -> lists:delete(Id, Ids);
tracing(_, _, Ids) -> Ids.

own_status(S) ->
    (scope_hold:status(S#s.hold))#{mode => S#s.mode, refused => S#s.refused, redact => S#s.redact}.

%% --- small things ----------------------------------------------------------------------------------------------------

send(undefined, _) -> noconnect;
send(Pid, Msg) ->
    try erlang:send(Pid, Msg, [nosuspend, noconnect])
    catch _:_ -> noconnect
    end.

clock_pair() -> {mono(), erlang:system_time(nanosecond)}.
mono() -> erlang:monotonic_time(nanosecond).
now_ms() -> erlang:monotonic_time(millisecond).

%% crypto need not be there.
random_id() ->
    Seed = {node(), self(), make_ref(), erlang:system_time(), erlang:monotonic_time(), os:getpid()},
    binary:part(erlang:md5(term_to_binary(Seed)), 0, 8).
