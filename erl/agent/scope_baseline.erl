%% What is known of processes before their first event: one `alive` event each, told to the tracer by a process of its
%% own, which may be kept waiting.
-module(scope_baseline).

-export([start/2]).

-define(MOST, 20000).
-define(CHUNK, 100).

%% {How many are told of, how many are not}
-spec start([pid()], pid()) -> {non_neg_integer(), non_neg_integer()}.
start(Pids, Tracer) ->
    Some = lists:sublist(Pids, ?MOST),
    _ = spawn(fun() -> tell(Some, Tracer, erlang:monotonic_time(nanosecond)) end),
    {length(Some), length(Pids) - length(Some)}.

tell([], _, _) -> ok;
tell(Pids, Tracer, Ts) ->
    {Some, Rest} = case length(Pids) > ?CHUNK of true -> lists:split(?CHUNK, Pids); false -> {Pids, []} end,
    Tracer ! {events, [{scope, alive, P, About, Ts} || P <- Some, About <- [about(P)], About =/= dead]},
    receive after 1 -> ok end,
    tell(Rest, Tracer, Ts).

about(Pid) ->
    case process_info(Pid, [registered_name, links, initial_call, total_heap_size]) of
        undefined -> dead;
        [{_, Name}, {_, Links}, {_, Initial}, {_, Words}] ->
            Dictionary = case Words < 131072 of
                             true -> process_info(Pid, dictionary);
                             false -> undefined
                         end,
            Call = case Dictionary of
                       {_, D} ->
                           case proplists:get_value('$initial_call', D) of
                               {M, F, A} when is_atom(M), is_atom(F), is_integer(A) -> {M, F, A};
                               _ -> Initial             % anything may be there
                           end;
                       _ -> Initial
                   end,
            maps:merge(#{initial_call => Call, links => lists:sublist([P || P <- Links, is_pid(P)], 100)},
                       maps:merge(case Name of [] -> #{}; _ -> #{name => Name} end, parent(Pid, Dictionary)))
    end.

parent(Pid, Dictionary) ->
    try process_info(Pid, parent) of
        {parent, P} when is_pid(P) -> #{parent => P};
        _ -> #{}
    catch
        error:badarg ->         % OTP 24 and before
            case Dictionary of
                {_, D} -> case proplists:get_value('$ancestors', D) of
                              [P | _] when is_pid(P) -> #{parent => P};
                              _ -> #{}
                          end;
                _ -> #{}
            end
    end.
