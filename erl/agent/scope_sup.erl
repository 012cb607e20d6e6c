%% Starts the agent's processes, restarts a killed tracer, and takes everything down if the guard cannot.
%%
%% A plain process, linked to nothing. The guard and it watch each other; either, alone, can put the node back as it
%% was, since the guard tells it of every pattern before it is set. The session is not restarted: its death is the
%% panic button.
-module(scope_sup).

-export([init/2]).

-define(TICK, 500).
-define(SILENT_MS, 3000).
-define(LEASE_MS, 6000).       % without a word of ours, tracees of the native tracer lose their flags; after scope_lease's
-define(RESTARTS, 20).          % of the tracer; the guard gives up tracing after 5 ..
-define(WITHIN_MS, 60000).      % .. in this time; then everything goes

-record(s, {ctx :: map(), mons :: #{reference() => atom()}, patterns = [] :: list(), restarts = [] :: [integer()],
            watch = scope_beat:watch([guard]) :: scope_beat:watch(),
            session :: scope_session:session(),    % held here: it goes when we go
            ending = infinity :: integer() | infinity}).

-spec init(pid(), map()) -> ok.
init(Daemon, Opts) ->
    group_leader(whereis(init), self()),
    process_flag(priority, max),
    try register(scope_sup, self()) of
        true -> start(Daemon, Opts)
    catch
        error:badarg ->             % another start was quicker
            catch scope_agent ! {attach, Daemon, Opts},
            ok
    end.

start(Daemon, Given) ->
    Opts = maps:remove(library, Given),
    Capture = scope_nif:load(maps:get(library, Given, none), Opts),
    Ctx0 = #{beats => scope_beat:new(), sup => self(), opts => Opts, capture => Capture},
    {Guard, GuardMon} = spawn_monitor(scope_guard, init, []),
    {Session, SessionMon} = spawn_monitor(scope_agent, session, [Daemon, Opts]),
    {Lease, LeaseMon} = spawn_monitor(scope_lease, init, []),
    {Tracer, TracerMon, Trace} = start_tracer(Capture, none),
    true = register(scope_guard, Guard),
    true = register(scope_agent, Session),
    true = register(scope_lease, Lease),
    true = register(scope_tracer, Tracer),
    Ctx = Ctx0#{guard => Guard, session => Session, lease => Lease, tracer => Tracer, trace => scope_session:weak(Trace)},
    tell(Ctx, [Guard, Tracer, Session, Lease]),
    _ = erlang:send_after(?TICK, self(), tick),
    loop(#s{ctx = Ctx, session = Trace, mons = #{GuardMon => guard, LeaseMon => lease, SessionMon => session, TracerMon => tracer}}).

%% A trace session is one tracer's: that of the Erlang tracer goes with it, the native one's stays.
start_tracer(native, Old) ->
    {Tracer, Mon} = scope_drain:start(),
    {Tracer, Mon, case Old of none -> scope_session:open({scope_nif, scope}); _ -> Old end};
start_tracer(_, Old) ->
    {Tracer, Mon} = scope_tracer:start(),
    _ = spawn_opt(scope_session, close, [Old], [{priority, high}]),     % waits for every scheduler: we must not
    {Tracer, Mon, scope_session:open(Tracer)}.

tell(Ctx, Pids) -> lists:foreach(fun(P) -> P ! {peers, Ctx} end, Pids).

loop(S) ->
    receive
        {patterns, Patterns} -> loop(S#s{patterns = Patterns});
        {'DOWN', Mon, process, _, Reason} when is_map_key(Mon, S#s.mons) ->
            {Who, Mons} = maps:take(Mon, S#s.mons),
            down(Who, Reason, S#s{mons = Mons});
        tick ->
            _ = erlang:send_after(scope_beat:next(?TICK), self(), tick),
            scope_beat:beat(sup, S#s.ctx),
            _ = case scope_nif:lease(?LEASE_MS) of
                    ok -> ok;
                    {expired, Ns} -> map_get(guard, S#s.ctx) ! {lease_over, erlang:monotonic_time(nanosecond) - Ns}
                end,
            tick(S#s{watch = scope_beat:look(?TICK, S#s.ctx, S#s.watch)});
        _ -> loop(S)
    end.

down(Who, _, S) when Who =:= guard; Who =:= lease -> finish(S);
down(session, _, S) ->              % the guard sees to it; if it does not, we do
    loop(S#s{ending = now_ms() + 1000});
down(tracer, _, S = #s{ending = infinity, restarts = Before}) ->
    Now = now_ms(),
    Recent = [T || T <- Before, Now - T < ?WITHIN_MS],
    case length(Recent) >= ?RESTARTS of
        true -> finish(S);
        false -> loop(restart(S#s{restarts = [Now | Recent]}))
    end;
down(tracer, _, S) -> loop(S).

restart(S = #s{ctx = Ctx0, mons = Mons, session = Old}) ->
    {Tracer, Mon, Trace} = start_tracer(map_get(capture, Ctx0), Old),
    _ = (catch register(scope_tracer, Tracer)),
    Ctx = Ctx0#{tracer => Tracer, trace => scope_session:weak(Trace)},
    scope_beat:beat(tracer, Ctx),
    #{session := Session, guard := Guard, lease := Lease} = Ctx,
    From = scope_beat:last_flush(Ctx),
    tell(Ctx, [Tracer, Session, Guard, Lease]),
    Guard ! {tracer_lost, From},
    S#s{ctx = Ctx, session = Trace, mons = Mons#{Mon => tracer}}.

tick(S = #s{ctx = Ctx, ending = Ending}) ->
    %% Somebody loaded the agent's modules over it: the library is not theirs.
    Lost = map_get(capture, Ctx) =:= native andalso not scope_nif:active(),
    _ = Lost andalso scope_trace:native_off(),
    Stuck = Lost orelse scope_beat:silent_ms(guard, S#s.watch) > ?SILENT_MS,
    case Stuck orelse (Ending =/= infinity andalso now_ms() > Ending) of
        true -> finish(S);
        false -> loop(S)
    end.

finish(#s{ctx = Ctx = #{guard := Guard, session := Session}, patterns = Patterns}) ->
    scope_trace:finish(maps:get(tracer, Ctx), Patterns, [Guard, Session]).

now_ms() -> erlang:monotonic_time(millisecond).
