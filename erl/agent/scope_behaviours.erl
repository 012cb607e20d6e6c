%% What to trace in a behaviour's module to see messages taken, states and ends: the table of the design's model.
%%
%% The shape is told by the module's functions, never by the OTP release. A shape that is not in the table is reported
%% as unknown and not traced: nothing is guessed. Each pattern is {{M, F, A}, MatchSpec}; the match spec's `message`
%% action makes the role of the event: {take, Message}, {state, State} or {final, State}.
%%
%%   gen_server  25      decode_msg/9 takes (1), loop/7 state (3), terminate/10 ends (9). OTP 24.1 to 27.
%%   gen_server  29      handle_msg/3,4 take (3) and sys:handle_system_msg/7 system messages, loop/4 and
%%                       system_continue/3 state, terminate/9 ends (2)
%%   gen_statem  25      loop_receive_result/4 takes (4, made into the message again), sys:handle_system_msg/7 takes
%%                       system messages; loop_done/5 state: once for each transition, also those that internal events
%%                       make; terminate/7 ends
%%   gen_statem  29      the same, but loop_msg_event/5 takes (4), and a #state has one field more
%%   gen_event   25      decode_msg/7 takes (1), loop/6 state (3: the handlers), terminate_server/4 ends (3)
%%   supervisor          is a gen_server
%%   gen_server2 3       RabbitMQ's: process_msg/2 takes (1), loop/1 state, terminate/3 ends
-module(scope_behaviours).

-export([modules/0, shape/1, patterns/1]).

-type pattern() :: {mfa(), [{[term()] | '_', [term()], [term()]}]}.

-spec modules() -> [module()].
modules() -> [gen_server, gen_statem, gen_event, gen_server2].

%% `absent`: not loaded on this node, so no process can run it.
-spec shape(module()) -> atom().
shape(Module) ->
    case erlang:module_loaded(Module) of
        false -> absent;
        true ->
            Functions = Module:module_info(functions),
            Fits = [Shape || {Shape, Needed, Without} <- shapes(Module),
                             Needed -- Functions =:= [], Without -- Functions =:= Without],
            case Fits of
                [Shape] -> Shape;
                _ -> unknown
            end
    end.

%% {Shape, functions that must be there, functions that must not be}
shapes(gen_server) ->
    [{otp25, [{decode_msg, 9}, {loop, 7}, {terminate, 10}], [{loop, 4}]},
     {otp29, [{decode_msg, 6}, {handle_msg, 3}, {handle_msg, 4}, {loop, 4}, {loop, 5}, {loop_wakeup, 4},
              {terminate, 9}], [{loop, 7}, {decode_msg, 9}]}];
shapes(gen_statem) ->
    [{otp25, [{loop_receive_result, 4}, {loop_done, 5}, {terminate, 7}, {loop_state_callback, 11}], [{loop_t0q, 5}]},
     {otp29, [{loop_msg_event, 5}, {loop_t0q, 5}, {loop_done, 5}, {terminate, 7}], [{loop_receive_result, 4}]}];
shapes(gen_event) -> [{otp25, [{decode_msg, 7}, {loop, 6}, {terminate_server, 4}], []}];
shapes(gen_server2) -> [{rabbit3, [{process_msg, 2}, {loop, 1}, {terminate, 3}], []}];
shapes(_) -> [].

-spec patterns(module()) -> {ok, atom(), [{take | state, pattern()}]} | unknown | absent.
patterns(Module) ->
    case shape(Module) of
        Unknown when Unknown =:= unknown; Unknown =:= absent -> Unknown;
        Shape -> {ok, Shape, table(Module, Shape)}
    end.

table(gen_server, otp25) ->
    [{take, {{gen_server, decode_msg, 9}, role(take, 1, 9)}},
     {state, {{gen_server, loop, 7}, role(state, 3, 7)}},
     {state, {{gen_server, terminate, 10}, role(final, 9, 10)}}];
table(gen_server, otp29) ->
    [{take, {{gen_server, handle_msg, 3}, role(take, 3, 3)}},
     {take, {{gen_server, handle_msg, 4}, role(take, 3, 4)}},
     system(gen_server),
     %% loop/5 follows loop/4, or system_continue/3, or a stale timer: it would show the same state again.
     {state, {{gen_server, loop, 4}, role(state, 2, 4)}},
     {state, {{gen_server, system_continue, 3}, [{['_', '_', ['_', '$1', '_', '_']], [], [{message, {{state, '$1'}}}]}]}},
     {state, {{gen_server, terminate, 9}, role(final, 2, 9)}}];
table(gen_statem, otp25) -> %% #state{state_data, postponed, timers, hibernate}
    gen_statem({loop_receive_result, 4}, {state, '$1', '_', '_', '_'});
table(gen_statem, otp29) -> %% #state{state_data, postponed, timers, t0q, hibernate}
    gen_statem({loop_msg_event, 5}, {state, '$1', '_', '_', '_', '_'});
table(gen_event, otp25) ->
    [{take, {{gen_event, decode_msg, 7}, role(take, 1, 7)}},
     {state, {{gen_event, loop, 6}, role(state, 3, 6)}},
     {state, {{gen_event, terminate_server, 4}, role(final, 3, 4)}}];
table(gen_server2, rabbit3) ->
    %% #gs2_state{parent, name, state, ...}
    State = fun(Arg) -> {element, 4, Arg} end,
    [{take, {{gen_server2, process_msg, 2}, role(take, 1, 2)}},
     {state, {{gen_server2, loop, 1}, [{['$1'], [], [{message, {{state, State('$1')}}}]}]}},
     {state, {{gen_server2, terminate, 3}, [{['_', '_', '$1'], [], [{message, {{final, State('$1')}}}]}]}}].

%% Take gets each event as its fourth argument; State matches a #state with its state and data.
gen_statem({Take, Arity}, State) ->
    After = lists:duplicate(Arity - 4, '_'),
    Event = fun(Head, Message) -> {['_', '_', '_', Head | After], [], [{message, {{take, Message}}}]} end,
    [{take, {{gen_statem, Take, Arity},
             [Event({{call, '$1'}, '$2'}, {{'$gen_call', '$1', '$2'}}),
              Event({cast, '$1'}, {{'$gen_cast', '$1'}}),
              Event({info, '$1'}, '$1'),
              Event({'$1', '$2'}, {{timeout, '$1', '$2'}})]}},
     system(gen_statem),
     {state, {{gen_statem, loop_done, 5},
              [{['_', '_', State, '_', '_'], [], [{message, {{state, '$1'}}}]}]}},
     {state, {{gen_statem, system_continue, 3},
              [{['_', '_', {'_', State}], [], [{message, {{state, '$1'}}}]}]}},
     {state, {{gen_statem, terminate, 7},
              [{['_', '_', '_', '_', '_', State, '_'], [], [{message, {{final, '$1'}}}]}]}}].

%% Where a behaviour hands system messages over before its own take function sees them.
system(Module) ->
    {take, {{sys, handle_system_msg, 7},
            [{['$1', '$2', '_', Module, '_', '_', '_'], [], [{message, {{take, {{system, '$2', '$1'}}}}}]}]}}.

role(Role, I, Arity) ->
    Head = ['_' || _ <- lists:seq(1, I - 1)] ++ ['$1'] ++ ['_' || _ <- lists:seq(I + 1, Arity)],
    [{Head, [], [{message, {{Role, '$1'}}}]}].
