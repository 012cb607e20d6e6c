%% The agent's lease on its node, with either tracer: without a sign of life of the supervisor for 3 s everything goes.
%%
%% The agent's other processes watch each other, which ends nothing once all of them are killed or suspended at one time: a
%% traced process's flags then stay (its tracer is suspended), or the patterns and the code do (the tracer is killed). This
%% one asks nobody, and does nothing else. The native tracer has a lease of its own, in the library, which takes the flags.
%% The silence is counted by its own looks (scope_beat:look/3), one a second: a VM that stood still is none.
%% So everything is being taken away 5 s after the last sign of life, at most.
-module(scope_lease).

-export([init/0]).

-define(LOOK, 1000).
-define(LEASE_MS, 3000).       % and the library's own, a little longer, comes last (scope_sup)

-spec init() -> no_return().
init() ->
    process_flag(priority, high),
    Ctx = receive {peers, C} -> C after 5000 -> exit(no_peers) end,
    look(),
    loop(Ctx, [], scope_beat:watch([sup])).

loop(Ctx = #{sup := Sup}, Patterns, Watch) ->
    receive
        {patterns, New} -> loop(Ctx, New, Watch);
        {peers, New} -> loop(New, Patterns, Watch);
        look ->
            Now = scope_beat:look(?LOOK, Ctx, Watch),
            case scope_beat:silent_ms(sup, Now) > ?LEASE_MS of
                true ->
                    #{guard := Guard, session := Session, tracer := Tracer} = Ctx,
                    ok = scope_trace:finish(Tracer, Patterns, [Sup, Guard, Session]),
                    exit(normal);
                false ->
                    look(),
                    loop(Ctx, Patterns, Now)
            end;
        _ -> loop(Ctx, Patterns, Watch)
    end.

look() -> erlang:send_after(scope_beat:next(?LOOK), self(), look).
