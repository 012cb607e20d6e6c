%% Loads of messages between processes of several nodes, and what seq_trace says of each message: the ground truth of
%% matching. Every message that a worker sends carries a token; each node's system tracer gathers what happens to it.
%%
%% A worker runs what it is told ({run, Fun, From}, itself without a token) and ends each load with a `fin` to every
%% worker, so that it knows when it has all that was sent to it. Messages are {Load, N} or {Load, N, Body}, N its own;
%% only `same` and `alike`, whose ends differ, are not told from another. A map of workers: #{Index => #{pid, name, node}}.
-module(scope_loads).
-export([observe/0, seen/1, worker/1, run/4, server/1, loads/0, init/1, handle_call/3, handle_cast/2, handle_info/2]).
-export([truth/1, judge/3, key/1]).
-behaviour(gen_server).

%% --- on the nodes ----------------------------------------------------------------------------------------------------

observe() ->
    Tracer = spawn(fun() -> gather([]) end),
    _ = seq_trace:set_system_tracer(Tracer),
    Tracer.

gather(Acc) ->
    receive
        {seq_trace, _, {Kind, {_, Serial}, From, To, Message}} when Kind =:= send; Kind =:= 'receive' ->
            gather([{Kind, Serial, From, To, key(Message)} | Acc]);
        {get, From, Ref} -> From ! {Ref, lists:reverse(Acc)}, gather(Acc);
        _ -> gather(Acc)
    end.

seen(Tracer) ->
    Ref = make_ref(),
    Tracer ! {get, self(), Ref},
    receive {Ref, All} -> All end.

worker(Index) ->
    Name = list_to_atom("load_" ++ integer_to_list(Index)),
    Pid = spawn(fun() -> put(index, Index), idle() end),
    register(Name, Pid),
    #{pid => Pid, name => Name, node => node()}.

idle() ->
    receive {run, Fun, From, Ref} -> Fun(), From ! {Ref, self()}, idle() end.

%% Every worker does the load at once; returns when all have. Called on any of the nodes.
run(Load, Times, Workers, Servers) ->
    Ref = make_ref(),
    [Pid ! {run, fun() -> load(Load, Times, Workers, Servers), finish(Workers) end, self(), Ref}
     || #{pid := Pid} <- maps:values(Workers)],
    [receive {Ref, Pid} -> ok after 120000 -> error({stuck, Load, Pid}) end || #{pid := Pid} <- maps:values(Workers)],
    ok.

send(To, Message) ->
    token(),
    To ! Message.

token() ->
    _ = seq_trace:set_token(send, true),
    _ = seq_trace:set_token('receive', true),
    ok.

next() ->
    N = case get(n) of undefined -> 1; K -> K + 1 end,
    put(n, N),
    get(index) * 100000000 + N.

any(Workers) -> maps:get(1 + rand:uniform(maps:size(Workers)) - 1, Workers).
pid(#{pid := Pid}) -> Pid.

finish(Workers) ->
    [send(Pid, {fin, next()}) || #{pid := Pid} <- maps:values(Workers)],
    drain(maps:size(Workers)),
    seq_trace:set_token([]).

drain(0) -> ok;
drain(Left) -> receive {fin, _} -> drain(Left - 1); M when element(1, M) =/= run -> drain(Left); same -> drain(Left) end.

loads() -> [storm, identical, alike, selective, maps, bodies, names, aliases, dead, calls].

times(Times, Fun) -> [Fun() || _ <- lists:seq(1, Times)].

load(storm, Times, Workers, _) ->
    times(Times, fun() -> send(pid(any(Workers)), {storm, next()}) end);
load(identical, Times, Workers, _) ->
    times(Times, fun() -> send(pid(any(Workers)), same) end);
load(alike, Times, Workers, _) ->
    times(Times div 10 + 1, fun() -> send(pid(any(Workers)), {alike, 0, lists:seq(1, 500) ++ [next()]}) end);
%% Waits for the last of its own messages first, with all others queued before it.
load(selective, Times, Workers, _) ->
    times(Times div 10 + 1,
          fun() ->
                  times(9, fun() -> send(pid(any(Workers)), {later, next()}) end),
                  N = next(),
                  send(self(), {sooner, N}),
                  receive {sooner, N} -> ok end
          end);
load(maps, Times, Workers, _) ->
    times(Times, fun() ->
                         N = next(),
                         Small = #{password => <<"hunter2-", (integer_to_binary(N))/binary>>, user => N},
                         Large = maps:from_list([{K, K + N} || K <- lists:seq(1, 60)]),
                         send(pid(any(Workers)), {map, N, case N rem 2 of 0 -> Small; 1 -> Large end})
                 end);
load(bodies, Times, Workers, _) ->
    times(Times, fun() ->
                         N = next(),
                         %% A list that long is hashed only in part.
                         send(pid(any(Workers)), case N rem 2 of
                                                     0 -> {body, N, binary:copy(<<N:32>>, 3000)};
                                                     1 -> {long, N, lists:seq(1, 500)}
                                                 end)
                 end);
load(names, Times, Workers, _) ->
    times(Times, fun() ->
                         #{name := Name, node := Node} = any(Workers),
                         send(case Node of N when N =:= node() -> Name; _ -> {Name, Node} end, {name, next()})
                 end);
%% Each gives an alias to each, uses what it got, and takes it back: what comes then never arrives.
load(aliases, Times, Workers, _) ->
    Alias = alias(),
    [send(Pid, {alias, next(), Alias}) || #{pid := Pid} <- maps:values(Workers)],
    Given = [receive {alias, _, A} -> A end || _ <- maps:keys(Workers)],
    times(Times div 2, fun() -> send(lists:nth(rand:uniform(length(Given)), Given), {aliased, next()}) end),
    _ = unalias(Alias),
    times(Times div 2, fun() -> send(lists:nth(rand:uniform(length(Given)), Given), {aliased, next()}) end);
load(dead, Times, Workers, #{dead := Dead}) ->
    times(Times div 2, fun() ->
                               send(lists:nth(rand:uniform(length(Dead)), Dead), {dead, next()}),
                               send(pid(any(Workers)), {alive, next()})
                       end);
load(calls, Times, _, #{servers := Servers}) ->
    times(Times div 3, fun() ->
                               Server = lists:nth(rand:uniform(length(Servers)), Servers),
                               N = next(),
                               token(),
                               {ok, N} = gen_server:call(Server, {call, N}, 60000),
                               token(),
                               gen_server:cast(Server, {cast, next()})
                       end).

%% A server that sends casts on, once, to its next.
server(Next) ->
    {ok, Pid} = gen_server:start(?MODULE, Next, []),
    Pid.

init(Next) -> {ok, Next}.
handle_call({call, N}, _, S) -> {reply, {ok, N}, S}.
handle_cast(_, S) -> {noreply, S}.
handle_info(_, S) -> {noreply, S}.

%% --- what was so, and what was found ---------------------------------------------------------------------------------

key({'$gen_call', _, M}) -> {call, key(M)};
key({'$gen_cast', M}) -> {cast, key(M)};
key({_, {ok, N}}) when is_integer(N) -> {reply, N};
key(T) when tuple_size(T) >= 2, is_atom(element(1, T)), is_integer(element(2, T)) -> {element(1, T), element(2, T)};
key(same) -> same;
key(_) -> other.

%% [{{From, SendKey, K}, {To, Key, J}}]: the K-th of its like that From sent is the J-th of its like that To received.
%% Which of the same key a process receives first was sent to it first, so takings count fetches, too.
truth(Seen) ->
    Sent = maps:from_list([{{From, Serial}, Place} || {{From, Serial}, Place} <- places([{From, Serial, Key} || {send, Serial, From, _, Key} <- Seen], own)]),
    Got = places([{To, {From, Serial}, Key} || {'receive', Serial, From, To, Key} <- Seen], other),
    [{S, Place} || {Sender, Place} <- Got, {ok, S} <- [maps:find(Sender, Sent)]].

places(Events, Which) ->
    {Out, _} = lists:mapfoldl(
                 fun({Process, Serial, Key}, Counts) ->
                         K = maps:get({Process, Key}, Counts, 0) + 1,
                         Id = case Which of own -> {Process, Serial}; other -> Serial end,
                         {{Id, {Process, Key, K}}, Counts#{{Process, Key} => K}}
                 end, #{}, Events),
    Out.

%% Truth, recorded sends and fetches ([{Pid, Message, Id}] in each process's order), and pairs of ids as found:
%% {figures of all pairs whose two ends were recorded, by load; pairs that were not so, at most 10}.
judge(Truth, {Sends, Fetches}, Pairs) ->
    Index = fun(Events) ->
                    {Ids, _} = lists:mapfoldl(fun({Pid, Message, Id}, Counts) ->
                                                      Key = key(Message),
                                                      K = maps:get({Pid, Key}, Counts, 0) + 1,
                                                      {{{Pid, Key, K}, Id}, Counts#{{Pid, Key} => K}}
                                              end, #{}, Events),
                    maps:from_list(Ids)
            end,
    SendIds = Index(Sends),
    FetchIds = Index(Fetches),
    %% Which of several equal ones were not recorded nobody knows.
    Whole = maps:from_list([{{SendId, load_of(S)}, FetchId} || {S, F} <- Truth, {ok, SendId} <- [maps:find(S, SendIds)],
                                                               {ok, FetchId} <- [maps:find(F, FetchIds)]]),
    Wanted = maps:from_list([{S, {F, L}} || {{S, L}, F} <- maps:to_list(Whole)]),
    Found = maps:from_list([{S, {F, How}} || {S, F, How} <- Pairs]),
    Zero = #{pairs => 0, right => 0, ambiguous => 0, wrong => 0, sure_wrong => 0, missed => 0},
    Count = fun(What, Load, Acc) ->
                    Of = maps:get(Load, Acc, Zero),
                    Acc#{Load => lists:foldl(fun(K, M) -> maps:update_with(K, fun(V) -> V + 1 end, M) end, Of, What)}
            end,
    {Figures, Odd} =
        maps:fold(fun(S, {F, L}, {Acc, O}) ->
                          case Found of
                              #{S := {F, ambiguous}} -> {Count([pairs, right, ambiguous], L, Acc), O};
                              #{S := {F, _}} -> {Count([pairs, right], L, Acc), O};
                              #{S := {_, ambiguous}} -> {Count([pairs, wrong, ambiguous], L, Acc), O};
                              #{S := {X, How}} -> {Count([pairs, wrong, sure_wrong], L, Acc), [{L, S, F, X, How} | O]};
                              _ -> {Count([pairs, missed], L, Acc), [{L, S, F, missed} | O]}
                          end
                  end, {#{}, []}, Wanted),
    %% A pair of a message that never arrived, or of an arrival that is another's.
    Keys = maps:from_list([{Id, K} || {{_, K, _}, Id} <- maps:to_list(SendIds)]),
    Taken = maps:from_list([{F, S} || {S, {F, _}} <- maps:to_list(Wanted)]),
    lists:foldl(fun({S, F, How}, {Acc, O}) ->
                        case Wanted of
                            #{S := _} -> {Acc, O};
                            _ when is_map_key(F, Taken) ->
                                L = load_of_key(maps:get(S, Keys, other)),
                                Sure = [sure_wrong || How =/= ambiguous],
                                {Count([wrong | Sure], L, Acc), [{L, S, never_arrived, F, How} || How =/= ambiguous] ++ O};
                            _ -> {Acc, O}
                        end
                end, {Figures, Odd}, Pairs).

load_of({_, Key, _}) -> load_of_key(Key).
load_of_key({Kind, {Load, _}}) when Kind =:= call; Kind =:= cast -> Load;
load_of_key({Load, _}) -> Load;
load_of_key(Key) -> Key.
