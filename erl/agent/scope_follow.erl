%% Following single requests by seq_trace's tokens: exactly, over processes and nodes.
%%
%% MARKING   A match spec on the take function of the behaviour (or on a function) gives the process a token when it takes
%%           its next message, if it has none: clauses/3. From then on the VM itself carries it: with what the process
%%           sends, to whoever takes that, on other nodes, too. A message without a token takes the token off its taker.
%%           Label = (23 bsl 22) + (12 bits of a hash of node and start bsl 10) + number of the shot: below 1 bsl 27, because the
%%           VM drops tokens of larger ones from what it sends while a link is being made. Which message it is is told by
%%           label, sender and serial, so nothing rests on the label alone.
%%           Shots are counted in the node's trace control word (get_tcw, set_tcw), 0 before and after: that is exact
%%           for one process; a function that several processes call at one moment may be marked a few times too often,
%%           and two of these requests may get one label.
%% EVENTS    The VM's one system tracer is this process, `scope_follow`, on each node with an agent while a follow runs,
%%           never if somebody else is it. It tells the tracer {scope, seq_send | seq_receive, ..}
%%           (ei_codec/capture_record.h), also of tokens that others set. `print` is not told.
%% BOUNDS    ?MOST events a second, ?MAX_QUEUE waiting, ?MAX_HEAP_WORDS of heap; beyond, it gives the system tracer
%%           back at once, counts what waits, and the start that follows ends (over_budget). The ladder's steps down end
%%           it, too. When it dies, however, the VM has no system tracer any more and makes no events.
%% AFTERWARDS  A token that is on its way goes with the next message without one that its process takes; timers bring none
%%           and take none away. Without a system tracer it costs a few words with each message. seq_trace:reset_trace/0
%%           would stop the schedulers, walk all processes and queues, and take others' tokens: it is not called.
%%           {sequential_trace_token, T} = process_info(P, sequential_trace_token) shows who has one.
-module(scope_follow).

-export([open/2, close/1, clauses/2, over/2, down/2, also/1, clear/0, init/1]).

-include("scope_guard.hrl").

-define(MAGIC, 23).
-define(MOST, 5000).
-define(MAX_QUEUE, 5000).
-define(MAX_HEAP_WORDS, 2000000).
-define(COLLECT_MS, 5).
-define(COLLECT, 100).

%% --- the guard's -----------------------------------------------------------------------------------------------------

%% Takes the system tracer for the start, if its spec follows something. The spec gets its labels' base.
-spec open({term(), map()}, #s{}) -> {ok, map(), #s{}} | {error, term()}.
open({Id, Spec = #{follow := Follow}}, S = #s{follow = none}) ->
    Marks = marks(Follow),
    case {erlang:system_info(sequential_tracer), erlang:system_info(trace_control_word)} of
        {{sequential_tracer, false}, Word} when Word =/= 0, Marks -> {error, {owned_by, trace_control_word}};
        {{sequential_tracer, false}, _} ->
            Base = (?MAGIC bsl 22) + (erlang:phash2({node(), Id}, 1 bsl 12) bsl 10),
            {Pid, Mon} = spawn_opt(?MODULE, init, [self()],
                                   [monitor, {priority, high}, {message_queue_data, on_heap},
                                    {max_heap_size, #{size => ?MAX_HEAP_WORDS, kill => true, error_logger => false}}]),
            true = register(?MODULE, Pid),
            case erlang:system_flag(sequential_tracer, Pid) of
                Free when Free =:= false; Free =:= {sequential_tracer, false} ->
                    {ok, Spec#{follow := Follow#{base => Base}}, S#s{follow = #follow{id = Id, pid = Pid, mon = Mon, marks = Marks}}};
                Owner ->            % somebody was quicker
                    _ = erlang:system_flag(sequential_tracer, case Owner of {sequential_tracer, O} -> O; O -> O end),
                    Pid ! stop,
                    ended(Pid, Mon),
                    {error, {owned_by, {seq_trace, named(Owner)}}}
            end;
        {{sequential_tracer, Owner}, _} -> {error, {owned_by, {seq_trace, named(Owner)}}}
    end;
open({_, #{follow := _}}, #s{follow = #follow{id = Other}}) -> {error, {refused, follow_runs, Other}};
open({_, Spec}, S) -> {ok, Spec, S}.

marks(Follow) -> lists:any(fun(K) -> maps:get(K, Follow, []) =/= [] end, [pids, names, mfas]).

named({sequential_tracer, Owner}) -> named(Owner);
named(Owner) when is_pid(Owner), node(Owner) =:= node() ->
    case process_info(Owner, registered_name) of
        {registered_name, Name} -> {Name, Owner};
        _ -> Owner
    end;
named(Owner) -> Owner.

%% The last thing of the end of a start: what it waits for is told, and nobody is the system tracer.
-spec close(#s{}) -> #s{}.
close(S = #s{follow = none}) -> S;
close(S = #s{follow = #follow{pid = Pid, mon = Mon, marks = Marks}}) ->
    give_back(Pid),
    Pid ! stop,
    ended(Pid, Mon),
    _ = [clear() || Marks],
    S#s{follow = none}.

%% Its name is free then.
ended(Pid, Mon) ->
    receive {'DOWN', Mon, process, _, _} -> ok
    after 1000 ->
            exit(Pid, kill),
            receive {'DOWN', Mon, process, _, _} -> ok after 1000 -> erlang:demonitor(Mon, [flush]), ok end
    end.

give_back(Pid) ->
    case erlang:system_info(sequential_tracer) of
        {sequential_tracer, Pid} -> _ = erlang:system_flag(sequential_tracer, false), ok;
        _ -> ok
    end.

-spec clear() -> ok.
clear() ->
    _ = erlang:system_flag(trace_control_word, 0),
    ok.

%% What the supervisor has to clear if we cannot.
-spec also(#s{}) -> [trace_control_word].
also(#s{follow = #follow{marks = true}}) -> [trace_control_word];
also(_) -> [].

%% It ends: too many events, or the ladder needs what it takes.
-spec over(atom(), #s{}) -> #s{}.
over(_, S = #s{follow = none}) -> S;
over(Why, S = #s{follow = #follow{id = Id}, ctx = #{session := Session}}) ->
    S1 = scope_guard:stop(Id, S),
    Session ! {stopped, Id, Why},
    S1.

%% It has died: with its queue, which nobody counts any more.
-spec down(reference(), #s{}) -> #s{}.
down(Mon, S = #s{follow = #follow{mon = Mon}}) ->
    Now = erlang:monotonic_time(nanosecond),
    scope_flags:gap({seq_tracer_killed, unknown, S#s.checked_raw, Now}, S),
    over(overload, S).

%% The patterns with what gives a token to who is followed: before each clause of a taking, or of a function that is
%% followed, the same with the marking.
-spec clauses(map(), #{mfa() | tuple() => list()}) -> #{mfa() | tuple() => list()}.
clauses(Follow = #{base := _}, Patterns) ->
    Pids = lists:usort(maps:get(pids, Follow, []) ++ [P || N <- maps:get(names, Follow, []), P <- [whereis(N)], is_pid(P)]),
    Mfas = maps:get(mfas, Follow, []),
    maps:map(fun(MFA, Clauses) ->
                     Whos = case lists:member(MFA, Mfas) of true -> [any]; false -> Pids end,
                     [{Head, guards(Who, Follow), actions(Follow) ++ Body}
                      || Who <- Whos, {Head, [], Body} <- Clauses, Who =:= any orelse takes(Body)] ++ Clauses
             end, Patterns);
clauses(_, Patterns) -> Patterns.

takes([{message, {{take, _}}}]) -> true;
takes(_) -> false.

guards(Who, #{shots := Shots}) ->
    [{'=:=', {self}, Who} || is_pid(Who)] ++ [{'not', {is_seq_trace}}, {'<', {get_tcw}, Shots}].

actions(#{base := Base}) ->
    [{set_seq_token, label, {'+', Base, {get_tcw}}}, {set_seq_token, send, true}, {set_seq_token, 'receive', true},
     {set_seq_token, monotonic_timestamp, true}, {set_tcw, {'+', {get_tcw}, 1}}].

%% --- the system tracer -----------------------------------------------------------------------------------------------

-record(f, {guard :: pid(), events = [] :: [tuple()], n = 0 :: non_neg_integer(),
            second :: integer(), seen = 0 :: non_neg_integer()}).

-spec init(pid()) -> no_return().
init(Guard) ->
    _ = erlang:monitor(process, Guard),
    loop(#f{guard = Guard, second = mono()}).

loop(F = #f{n = N}) ->
    receive
        {seq_trace, Label, Info, At} -> seq(Label, Info, at(At), F);
        {seq_trace, Label, Info} -> seq(Label, Info, mono(), F);
        stop ->
            _ = tell(F),
            ok;
        {'DOWN', _, process, _, _} -> ok;
        _ -> loop(F)
    after case N of 0 -> infinity; _ -> ?COLLECT_MS end -> loop(tell(F))
    end.

%% Other tokens may have other timestamps, which are no raw times.
at(At) when is_integer(At) -> At;
at({At, Unique}) when is_integer(At), is_integer(Unique) -> At;
at(_) -> mono().

seq(Label, Info, At, F) ->
    case event(Label, Info, At) of
        none -> loop(F);
        Event -> counted(At, F#f{events = [Event | F#f.events], n = F#f.n + 1})
    end.

event(Label, {send, Serial, From, To, Message}, At) when is_pid(From), node(From) =:= node() ->
    of_tracee(From, To, {scope, seq_send, From, To, {Label, Serial, Message}, At});
event(Label, {'receive', Serial, From, To, Message}, At) when is_pid(To), node(To) =:= node() ->
    of_tracee(To, From, {scope, seq_receive, To, From, {Label, Serial, Message}, At});
event(_, _, _) -> none.

%% Messages of ours are nobody's business.
of_tracee(A, B, Event) ->
    Own = [P || N <- [scope_agent, scope_sup, scope_guard, scope_tracer, scope_lease, ?MODULE], P <- [whereis(N)], is_pid(P)],
    case lists:member(A, Own) orelse lists:member(B, Own) of
        true -> none;
        false -> Event
    end.

counted(At, F = #f{second = Second}) when At - Second > 1000000000 -> counted(At, F#f{second = At, seen = 0});
counted(_, F = #f{seen = Seen, n = N}) ->
    F1 = F#f{seen = Seen + 1},
    if
        Seen + 1 >= ?MOST -> too_many(tell(F1));
        N >= ?COLLECT ->
            case process_info(self(), message_queue_len) of
                {_, Len} when Len > ?MAX_QUEUE -> too_many(tell(F1));
                _ -> loop(tell(F1))
            end;
        true -> loop(F1)
    end.

%% No events from here on; what waits is counted.
too_many(#f{guard = Guard}) ->
    From = mono(),
    give_back(self()),
    Lost = discard(0),
    Guard ! {follow_over, self(), Lost, From, mono()},
    gone().

discard(N) ->
    receive M when element(1, M) =:= seq_trace -> discard(N + 1)
    after 10 -> N               % who was making one when it was given back has done so
    end.

gone() ->
    receive
        stop -> ok;
        {'DOWN', _, process, _, _} -> ok;
        _ -> gone()
    end.

tell(F = #f{n = 0}) -> F;
tell(F = #f{events = Events}) ->
    case whereis(scope_tracer) of
        undefined -> ok;            % it is being restarted: the guard tells of the gap
        Tracer -> Tracer ! {events, lists:reverse(Events)}, ok
    end,
    F#f{events = [], n = 0}.

mono() -> erlang:monotonic_time(nanosecond).
