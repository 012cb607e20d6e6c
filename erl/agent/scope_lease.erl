%% The agent's lease on its node, with either tracer: without a sign of life of the supervisor for 3 s everything goes.
%%
%% The agent's other processes watch each other, which ends nothing once all of them are killed or suspended at one time: a
%% traced process's flags then stay (its tracer is suspended), or the patterns and the code do (the tracer is killed). This
%% one asks nobody, and does nothing else. The native tracer has a lease of its own, in the library, which takes the flags.
%% What is silent is looked at once more a second later: where the whole VM stood still, all of it runs again by then.
%% So everything is being taken away 5 s after the last sign of life, at most.
-module(scope_lease).

-export([init/0]).

-define(LOOK, 1000).
-define(LEASE_MS, 3000).

-spec init() -> no_return().
init() ->
    process_flag(priority, high),
    Ctx = receive {peers, C} -> C after 5000 -> exit(no_peers) end,
    look(),
    loop(Ctx, [], false).

loop(Ctx = #{sup := Sup}, Patterns, Silent) ->
    receive
        {patterns, New} -> loop(Ctx, New, Silent);
        {peers, New} -> loop(New, Patterns, Silent);
        look ->
            case scope_beat:silent_ms(sup, Ctx) > ?LEASE_MS of
                true when Silent ->
                    #{guard := Guard, session := Session, tracer := Tracer} = Ctx,
                    ok = scope_trace:finish(Tracer, Patterns, [Sup, Guard, Session]),
                    exit(normal);
                Now ->
                    look(),
                    loop(Ctx, Patterns, Now)
            end;
        _ -> loop(Ctx, Patterns, Silent)
    end.

look() -> erlang:send_after(scope_beat:next(?LOOK), self(), look).
