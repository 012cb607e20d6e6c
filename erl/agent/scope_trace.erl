%% What is traced: patterns, flags, what others have set, and taking everything away again. (scope_session calls the VM.)
-module(scope_trace).

-export([check_spec/1, flags/1, filtered/1, set_pattern/2, clear_pattern/1, count_calls/1, measured/3, pattern_state/2, owner_of_patterns/1,
         flags_on/3, flags_off/3, all_off/1, native_off/0, new_on/2, new_off/1, tracer_of/1, is_ours/2, roles/1, pid_flags/1, left_out/0,
         delivered/1, canary/0, set_canary/0, canary_sings/0, finish/3,
         unload/1]).

-type spec() :: map().

-define(MOST_SHOTS, 1000).
-define(EVENTS, [calls, returns, messages, sends, fetches, procs, state, takes]).

%% --- specs -----------------------------------------------------------------------------------------------------------

%% The spec with every key there, or what is wrong with it.
-spec check_spec(map()) -> {ok, spec()} | {error, {bad_spec, term(), term()}}.
check_spec(Spec) when is_map(Spec) ->
    try maps:fold(fun check/3, ok, Spec) of
        ok -> {ok, defaults(Spec)}
    catch
        throw:{Key, Why} -> {error, {bad_spec, Key, Why}}
    end;
check_spec(_) -> {error, {bad_spec, spec, not_a_map}}.

check(events, L, _) -> each(events, L, fun(E) -> lists:member(E, ?EVENTS) end, {one_of, ?EVENTS});
check(modules, L, _) -> each(modules, L, fun is_atom/1, module_expected);
check(behaviours, L, _) -> each(behaviours, L, fun is_atom/1, module_expected);
check(names, L, _) -> each(names, L, fun is_atom/1, atom_expected);
check(pids, L, _) -> each(pids, L, fun(P) -> is_pid(P) andalso node(P) =:= node() end, local_pid_expected);
check(mfas, L, _) ->
    each(mfas, L, fun({M, F, A}) -> is_atom(M) andalso is_atom(F)
                                        andalso (A =:= '_' orelse is_integer(A) andalso A >= 0 andalso A < 256);
                     (_) -> false
                  end, mfa_expected);
check(Key, B, _) when Key =:= all; Key =:= new_processes; Key =:= children; Key =:= args; Key =:= force;
                      Key =:= continuous ->
    is_boolean(B) orelse throw({Key, boolean_expected}),
    ok;
check(limit, L, _) when is_map(L) ->
    maps:foreach(fun(K, V) ->
                         (K =:= ms orelse K =:= count) andalso is_integer(V) andalso V > 0
                             orelse throw({limit, {ms_or_count_expected, K}})
                 end, L);
check(follow, F = #{shots := N}, _) ->
    is_integer(N) andalso N > 0 andalso N =< ?MOST_SHOTS orelse throw({follow, {shots, 1, ?MOST_SHOTS}}),
    maps:foreach(fun(K, L) when K =:= pids; K =:= names; K =:= mfas -> check(K, L, ok);
                    (shots, _) -> ok;
                    (K, _) -> throw({follow, {unknown_key, K}})
                 end, F);
check(caps, M, _) when is_map(M) -> ok;
check(budget, B, _) when is_map(B); B =:= none -> ok;
check(sample, R, _) -> is_number(R) andalso R > 0 andalso R =< 1 orelse throw({sample, share_expected}), ok;
check(fan_out, R, _) -> is_number(R) andalso R >= 0.001 andalso R =< 1 orelse throw({fan_out, {share, 0.001, 1}}), ok;
check(meta, _, _) -> ok;
check(Key, _, _) -> throw({Key, case lists:member(Key, [limit, caps, budget, follow]) of true -> map_expected; _ -> unknown_key end}).

each(Key, L, Good, Why) when is_list(L) ->
    length(L) =< 100000 orelse throw({Key, too_many}),
    lists:foreach(fun(E) -> Good(E) orelse throw({Key, {Why, E}}) end, L);
each(Key, _, _, _) -> throw({Key, list_expected}).

defaults(Spec = #{follow := Follow}) ->
    With = fun(Key, L, M) -> M#{Key => lists:usort(maps:get(Key, M, []) ++ L)} end,
    Targets = maps:with([pids, names, mfas], Follow),
    Events = [takes || maps:get(pids, Targets, []) =/= [] orelse maps:get(names, Targets, []) =/= []]
        ++ [calls || maps:get(mfas, Targets, []) =/= []],
    filled(With(events, Events, maps:fold(With, maps:merge(#{all => false}, Spec), Targets)));
defaults(Spec) -> filled(Spec).

filled(Spec) ->
    All = maps:merge(#{modules => [], mfas => [], pids => [], names => [], all => false, new_processes => false,
                       children => false, args => false, behaviours => scope_behaviours:modules(), limit => #{},
                       caps => #{}, force => false, continuous => false, sample => 1.0, fan_out => 1.0, budget => #{}}, Spec),
    Calls = map_get(modules, All) =/= [] orelse map_get(mfas, All) =/= [],
    WithEvents = maps:merge(#{events => case Calls of
                                            true -> [calls];
                                            false -> [messages, procs, state, takes]
                                        end}, All),
    case All of
        #{pids := [], names := [], all := false, new_processes := false} when Calls, not is_map_key(follow, Spec) -> WithEvents#{all => true};
        _ -> WithEvents
    end.

-spec flags(spec()) -> [atom()].
flags(#{events := Events, children := Children}) ->
    Of = fun(E) when E =:= calls; E =:= returns; E =:= state; E =:= takes -> [call];
            (messages) -> [send, 'receive'];
            (sends) -> [send];
            (fetches) -> ['receive'];
            (procs) -> [procs]
         end,
    lists:usort(lists:flatmap(Of, Events) ++ case Children of true -> [procs, set_on_spawn]; false -> [] end).

%% --- patterns --------------------------------------------------------------------------------------------------------

%% Number of functions that it matches.
-spec set_pattern({module(), atom(), arity() | '_'}, list()) -> non_neg_integer().
set_pattern(MFA, MatchSpec) -> scope_session:function(MFA, as_set(MatchSpec), [local]).

%% To the native tracer a match spec costs as much as the rest of an event, so where it can, it finds the terms itself.
as_set(MatchSpec) ->
    case scope_nif:active() of
        true -> element(1, split(MatchSpec));
        false -> MatchSpec
    end.

%% What the tracer is to do about these patterns' functions; told before they are set.
-spec roles(#{{module(), atom(), arity() | '_'} => list()}) -> ok | {error, term()}.
roles(Patterns) ->
    case scope_nif:active() of
        true -> roles([{M, F, A, R, Path} || {{M, F, A}, MS} <- maps:to_list(Patterns), {_, {R, Path}} <- [split(MS)]], 100);
        false -> ok
    end.

roles(Rows, N) ->
    case scope_nif:set_roles(Rows) of
        busy when N > 0 -> receive after 1 -> roles(Rows, N - 1) end;
        busy -> {error, tracer_busy};
        Other -> Other
    end.

%% {What the VM matches, what the tracer does: its role and the path to the term from the list of arguments}
split(MatchSpec = [{'_', [], Actions}]) ->
    case [A || A <- Actions, element(1, A) =/= message] of
        Actions -> {case Actions of [] -> []; _ -> MatchSpec end, {plain, []}};
        [] -> {[], {args, []}};
        Rest -> {[{'_', [], Rest}], {args, []}}
    end;
split(MatchSpec = [{Head, [], [{message, {{Role, What}}}]}]) when is_list(Head) ->
    Path = case What of
               '$1' -> path(Head);
               {element, I, '$1'} -> [P ++ [I] || P <- path(Head)];
               _ -> []
           end,
    case Path of
        [P] when length(P) =< 4 -> {[], {Role, P}};
        _ -> {MatchSpec, {spec, []}}
    end;
split(MatchSpec) -> {MatchSpec, {spec, []}}.

%% The ways to '$1', if nothing is asked of the rest but its shape. (A record's name is its shape.)
path('$1') -> [[]];
path(L) when is_list(L) -> paths(L);
path(T) when is_tuple(T), is_atom(element(1, T)), element(1, T) =/= '$1', element(1, T) =/= '_' ->
    [[I + 1 | P] || [I | P] <- paths(tl(tuple_to_list(T)))];
path(T) when is_tuple(T) -> paths(tuple_to_list(T));
path(_) -> [].

paths(L) ->
    Found = [[I | P] || {I, E} <- lists:zip(lists:seq(1, length(L)), L), E =/= '_', P <- path(E)],
    case [E || E <- L, E =/= '_', path(E) =:= []] of
        [] -> Found;
        _ -> []
    end.

-spec clear_pattern({module(), atom(), arity() | '_'} | {call_count, tuple()} | trace_control_word) -> non_neg_integer().
clear_pattern(trace_control_word) -> scope_follow:clear(), 0;
clear_pattern({call_count, MFA}) -> scope_session:function(MFA, false, [call_count]);
clear_pattern(MFA) -> scope_session:function(MFA, false, [local]).

%% Counts the calls from now on, by whatever process.
-spec count_calls({module(), atom(), arity() | '_'}) -> non_neg_integer().
count_calls(MFA) -> scope_session:function(MFA, true, [call_count]).

%% A throwaway process of ours, traced by the caller, or by the native tracer, to see what that costs.
-spec measured(pid(), atom(), boolean()) -> boolean().
measured(Pid, messages, On) -> 1 =:= scope_session:process(Pid, On, with(self()) ++ [send, 'receive']);
measured(Pid, Kind, On) ->
    Spec = [{'_', [], case Kind of
                          _ when Kind =:= calls; Kind =:= yields -> [];
                          args -> [{message, {{args, '$_'}}}];
                          returns -> [{exception_trace}]
                      end}],
    ok = roles(case On of true -> #{{scope_probe, mark, 1} => Spec}; false -> #{} end),
    _ = scope_session:function({scope_probe, mark, 1}, On andalso as_set(Spec), [local]),
    1 =:= scope_session:process(Pid, On, with(self()) ++ [call]).

%% ours: as we set it. other: somebody's. none: no pattern, or no such function.
-spec pattern_state(mfa(), list()) -> ours | other | none.
pattern_state(MFA, Ours) ->
    case scope_session:info(MFA, traced) of
        {traced, local} ->
            Set = as_set(Ours),
            case scope_session:info(MFA, match_spec) of
                {match_spec, Set} -> ours;
                _ -> other
            end;
        {traced, global} -> other;
        _ -> none
    end.

%% Patterns have no owner in OTP up to 26: whoever traces processes now is the best guess.
-spec owner_of_patterns(pid()) -> pid() | unknown.
owner_of_patterns(Tracer) -> owner(processes(), ours(Tracer)).

owner([], _) -> unknown;
owner([P | Rest], Ours) ->
    case tracer_of(P) of
        none -> owner(Rest, Ours);
        Ours -> owner(Rest, Ours);
        Other -> Other
    end.

%% Message events that another tool's match spec filters for everybody: we leave it alone, and say so.
-spec filtered([atom()]) -> [send | 'receive'].
filtered(Flags) ->
    [E || E <- [send, 'receive'], lists:member(E, Flags), {match_spec, MS} <- [scope_session:info(E, match_spec)], MS =/= true].

%% A pattern on a function that nobody calls and nobody else would trace. It falls silent when all patterns are wiped,
%% not when a module is reloaded. It goes with our code.
-spec canary() -> ok.
canary() -> ok.

-spec set_canary() -> ok.
set_canary() ->
    _ = scope_session:function({?MODULE, canary, 0}, true, [local]),
    ok.

-spec canary_sings() -> boolean().
canary_sings() -> scope_session:info({?MODULE, canary, 0}, traced) =:= {traced, local}.

%% --- flags -----------------------------------------------------------------------------------------------------------

%% Switches flags on for one process. A look at its tracer comes first: the VM would log an error on the node.
-spec flags_on(pid(), [atom()], pid()) -> ok | {owned_by, term()} | dead.
flags_on(Pid, Flags, Tracer) ->
    Ours = ours(Tracer),
    case tracer_of(Pid) of
        Free when Free =:= none; Free =:= Ours ->
            try scope_session:process(Pid, true, with(Tracer) ++ Flags) of
                0 -> dead;
                _ -> ok
            catch
                error:badarg -> dead
            end;
        Other -> {owned_by, Other}
    end.

-spec flags_off(pid(), [atom()], pid()) -> ok.
flags_off(Pid, Flags, Tracer) ->
    case is_ours(Pid, Tracer) of
        true -> try scope_session:process(Pid, false, [to(Tracer) | Flags]) of _ -> ok catch error:badarg -> ok end;
        _ -> ok
    end.

%% Whichever process drains it, the native tracer is one. It reads the clock itself, and wants the arguments.
ours(Tracer) ->
    case scope_nif:active() of
        true -> {scope_nif, scope};
        false -> Tracer
    end.

-spec is_ours(pid() | new_processes, pid()) -> boolean().
is_ours(P, Tracer) -> tracer_of(P) =:= ours(Tracer).

to(Tracer) ->
    case ours(Tracer) of
        {Module, State} -> {tracer, Module, State};
        Tracer -> {tracer, Tracer}
    end.

with(Tracer) ->
    case to(Tracer) of
        {tracer, Tracer} = To -> [monotonic_timestamp, arity, To];
        To -> [To]
    end.

%% Of all that this tracer traces, and of new processes: one stop of the schedulers, 23 ms with 100,000 processes.
-spec all_off(pid()) -> ok.
all_off(Tracer) ->
    new_off(Tracer),
    try scope_session:process(all, false, [all, to(Tracer)]) of _ -> ok catch error:badarg -> ok end.

%% Of the native tracer, when its library is not this module's any more.
-spec native_off() -> ok.
native_off() ->
    scope_session:close_all(),
    [try scope_session:process(P, false, [all, {tracer, scope_nif, scope}]) of _ -> ok catch error:badarg -> ok end
     || not scope_session:there_are(), P <- [new_processes | processes()], tracer_of(P) =:= {scope_nif, scope}],
    ok.

-spec new_on([atom()], pid()) -> ok | {owned_by, term()}.
new_on(Flags, Tracer) ->
    Ours = ours(Tracer),
    case tracer_of(new_processes) of
        T when T =:= none; T =:= Ours ->
            _ = scope_session:process(new_processes, true, with(Tracer) ++ Flags),
            ok;
        Other -> {owned_by, Other}
    end.

-spec new_off(pid()) -> ok.
new_off(Tracer) ->
    case is_ours(new_processes, Tracer) of
        true ->
            try scope_session:process(new_processes, false, [all, to(Tracer)]) of _ -> ok catch error:badarg -> ok end;
        _ -> ok
    end.

-spec tracer_of(pid() | new_processes) -> none | pid() | port() | {module(), term()}.
tracer_of(Pid) ->
    case scope_session:info(Pid, tracer) of
        {tracer, []} -> none;
        {tracer, Tracer} -> Tracer;
        undefined -> none
    end.

-spec pid_flags(pid()) -> [atom()] | undefined.
pid_flags(Pid) ->
    case scope_session:info(Pid, flags) of
        {flags, Flags} -> Flags;
        undefined -> undefined
    end.

%% Processes that are never traced, and why: ours; the VM's own; those that carry what we ship, for to trace them would
%% make events out of shipping events.
-spec left_out() -> #{pid() => own | vm | distribution}.
left_out() ->
    Own = [{P, own} || N <- [scope_agent, scope_sup, scope_guard, scope_tracer, scope_lease, scope_follow], P <- [whereis(N)], is_pid(P)],
    Vm = [{P, vm} || P <- [whereis(init) | system_processes()], is_pid(P)],
    Kernel = whereis(net_kernel),
    Links = fun(P) -> case process_info(P, links) of {links, L} -> [X || X <- L, is_pid(X)]; _ -> [] end end,
    Sups = [whereis(net_sup), whereis(kernel_sup)],
    Dist = case Kernel of
               undefined -> [];
               _ ->
                   First = Links(Kernel) -- Sups,
                   [Kernel | First ++ (lists:flatmap(Links, First) -- Sups)]
           end,
    Tls = [P || S <- [ssl_dist_connection_sup, ssl_dist_sup, tls_dist_connection_sup, tls_dist_sup,
                      ssl_dist_admin_sup, tls_dist_server_sup], is_pid(whereis(S)), P <- [whereis(S) | Links(whereis(S))]],
    maps:from_list([{P, distribution} || P <- Dist ++ Tls] ++ Vm ++ Own).

system_processes() ->
    [P || I <- lists:seq(0, 16), P <- [catch list_to_pid("<0." ++ integer_to_list(I) ++ ".0>")],
          is_pid(P), is_process_alive(P), is_system(P)].

is_system(P) ->
    case process_info(P, initial_call) of
        {initial_call, {M, _, _}} -> lists:member(M, [erts_code_purger, erts_literal_area_collector,
                                                      erts_dirty_process_signal_handler, erts_internal,
                                                      erts_trace_cleaner, prim_file, otp_ring0]);
        _ -> false
    end.

%% All that was traced until now is in the tracer's queue when this returns.
-spec delivered(pos_integer()) -> ok | timeout.
delivered(Timeout) ->
    Ref = erlang:trace_delivered(all),
    receive {trace_delivered, all, Ref} -> ok after Timeout -> timeout end.

%% --- the end ---------------------------------------------------------------------------------------------------------

%% Takes everything of ours away: flags, patterns, processes (the caller's too), code. By a process that nobody knows: who
%% is killed while it takes away has already killed those who would have done it. Several may do it at once. Only local
%% calls and calls of OTP from here on: this module is deleted while it runs.
-spec finish(pid() | none, [{module(), atom(), arity() | '_'}], [pid()]) -> ok.
finish(Tracer0, Patterns, Others) ->
    Self = self(),
    Tracer = case Tracer0 of none -> Self; T -> T end,
    Modules = scope_agent:modules(),
    _ = spawn_opt(fun() -> clean_up(Tracer, Patterns, [Self, Tracer | Others], Modules) end, [{priority, high}]),
    ok.

clean_up(Tracer, Patterns, Known, Modules) ->
    _ = scope_nif:stop(),
    relieve(Tracer),
    Names = [whereis(N) || N <- [scope_agent, scope_guard, scope_sup, scope_tracer, scope_lease, scope_follow]],
    Pids = lists:usort([P || P <- Known ++ Names, is_pid(P)]),
    %% Whoever could set something again goes before the patterns do.
    Mons = [begin
                M = erlang:monitor(process, P),
                exit(P, kill),
                M
            end || P <- Pids],
    lists:foreach(fun(M) -> receive {'DOWN', M, _, _, _} -> ok after 1000 -> ok end end, Mons),
    relieve(Tracer),
    lists:foreach(fun(P) -> catch clear_pattern(P) end, Patterns),
    one_at_a_time(),
    unload(Modules).

%% The code server complains, on the node's own log, of a module that another of us has deleted a moment ago.
one_at_a_time() ->
    try true = register(scope_unload, self())
    catch error:badarg ->
            M = erlang:monitor(process, scope_unload),
            receive {'DOWN', M, _, _, _} -> one_at_a_time() after 5000 -> ok end
    end.

relieve(Tracer) ->
    scope_session:close_all(),
    all_off(Tracer).

%% The code goes last. Whatever runs of it then is killed by the purge, in a process that runs none of it. Not by way of
%% the code server: it would serve nobody else meanwhile, and a purge waits until every process has run.
-spec unload([module()]) -> ok.
unload(Modules) ->
    lists:foreach(fun(M) ->
                          _ = erlang:check_old_code(M) andalso not erlang:check_process_code(self(), M)
                              andalso code:purge(M),
                          erlang:module_loaded(M) andalso code:delete(M)        % another of us may have been quicker
                  end, Modules),
    _ = spawn_opt(lists, foreach, [fun erts_code_purger:purge/1, Modules], [{priority, high}]),
    ok.
