%% What seq_trace says of requests, as a truth that numbers in messages have no part in: whoever makes a request gives it a label, each
%% node's system tracer gathers what happens under it, and trees/2 says what was taken because of what. Nothing of it reaches the
%% daemon, which records tokens only while it follows something itself.
%%
%% Because of  A process that has a token passes it on with all that it sends, until it takes something else. So what it sends is
%%             because of what it took last, answers to what it asked itself aside: with these it goes on with what it was at.
%%             Before it took anything, because of its spawning (which another process tells: it may come behind what it sent).
-module(scope_tokens).
-export([observe/0, seen/1, label/1, trees/2]).

observe() ->
    %% Not itself recorded where everything is.
    Tracer = spawn(fun() -> process_flag(sensitive, true), gather([]) end),
    _ = seq_trace:set_system_tracer(Tracer),
    Tracer.

gather(Acc) ->
    receive
        {seq_trace, Label, {Kind, Serial, From, To, Message}} -> gather([{Kind, Label, Serial, From, To, Message} | Acc]);
        {get, From, Ref} -> From ! {Ref, lists:reverse(Acc)}, gather(Acc);
        _ -> gather(Acc)
    end.

%% In each process's own order.
seen(Tracer) ->
    Ref = make_ref(),
    Tracer ! {get, self(), Ref},
    receive {Ref, All} -> All end.

%% What the caller sends from now on is under it. A small integer: others do not get to every node.
label(Label) ->
    _ = [seq_trace:set_token(Flag, Value) || {Flag, Value} <- [{label, Label}, {send, true}, {'receive', true}]],
    ok.

%% #{Label => [{What, Because}]} of all takings of which What(Message) is [What]; Because: such a What, or client. From the sends and
%% receives of all nodes.
trees(Events, What) ->
    Born = maps:from_list([{To, {Label, From, Serial}}
                           || {'receive', Label, Serial, From, To, Spawning} <- Events, element(1, Spawning) =:= spawn_request]),
    {_, Takes, Sends} = lists:foldl(fun step/2, {Born, #{}, #{}}, Events),
    maps:groups_from_list(fun({Label, _}) -> Label end, fun({_, Edge}) -> Edge end,
                          [{Label, {W, because(Id, Takes, Sends, What)}} || {{Label, _, _} = Id, M} <- maps:to_list(Takes), W <- What(M)]).

step({send, Label, Serial, From, _, _}, {Now, Takes, Sends}) ->
    {Now, Takes, Sends#{{Label, From, Serial} => case Now of #{From := {Label, _, _} = Id} -> Id; _ -> client end}};
step({'receive', Label, Serial, From, To, Message}, {Now, Takes, Sends}) ->
    Id = {Label, From, Serial},
    {case answer(Message) of true -> Now; false -> Now#{To => Id} end, Takes#{Id => Message}, Sends};
step(_, Acc) -> Acc.

answer({Ref, _}) when is_reference(Ref) -> true;
answer({[alias | Ref], _}) when is_reference(Ref) -> true;
answer({ack, Pid, _}) when is_pid(Pid) -> true;
answer(_) -> false.

because(Id, Takes, Sends, What) ->
    case Sends of
        #{Id := client} -> client;
        #{Id := Cause} ->
            case What(maps:get(Cause, Takes)) of
                [W] -> W;
                [] -> because(Cause, Takes, Sends, What)
            end;
        _ -> {no_send, Id}
    end.
