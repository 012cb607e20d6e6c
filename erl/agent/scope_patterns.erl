%% The trace patterns: what the starts ask for, what is set, and whether it still stands. The guard owns the value.
%%
%% The supervisor and the tracer are told of each pattern before it is set, so that either can take it away.
-module(scope_patterns).

-export([new/0, desired/2, intend/2, set/3, all/1, lost/1, taken/2, without/2, rearm/1, functions/1]).
-export_type([patterns/0]).

-type pattern() :: {module(), atom(), arity() | '_'}.
-record(p, {set = #{} :: #{pattern() => list()}, md5 = #{} :: #{module() => binary() | none}}).
-opaque patterns() :: #p{}.

-spec new() -> patterns().
new() -> #p{}.

-spec all(patterns()) -> [pattern()].
all(#p{set = Set}) -> maps:keys(Set).

%% Every pattern that these starts, each with its behaviours, ask for. A behaviour's role goes before what calls and
%% returns ask of a function; what marks requests that are followed before both. Args = false: without arguments, whoever
%% asks for them.
-spec desired([{scope_trace:spec(), list()}], boolean()) -> #{pattern() => list()}.
desired(Starts, Args) ->
    Calls = lists:foldl(fun({Spec, _}, M) -> calls(Spec, M) end, #{}, Starts),
    Specs = maps:map(fun(_, Wants) -> match_spec([W || W <- Wants, Args orelse W =/= args]) end, Calls),
    Roles = [P || {_, B} <- Starts, {_, _, Ps} <- B, P <- Ps],
    Patterns = maps:merge(Specs, lists:foldl(fun({MFA, Clauses}, M) ->
                                                     Before = maps:get(MFA, M, []),
                                                     M#{MFA => Before ++ (Clauses -- Before)}
                                             end, #{}, Roles)),
    lists:foldl(fun scope_follow:clauses/2, Patterns, [Follow || {#{follow := Follow}, _} <- Starts]).

calls(Spec = #{events := Events, modules := Modules, mfas := Mfas, args := Args}, Acc) ->
    Returns = lists:member(returns, Events),
    case Returns orelse lists:member(calls, Events) of
        false -> Acc;
        true ->
            Wants = [args || Args] ++ [returns || Returns],
            lists:foldl(fun({P, W}, M) -> M#{P => lists:usort(W ++ maps:get(P, M, []))} end, Acc,
                        [{P, Wants} || P <- [{M, '_', '_'} || M <- Modules] ++ Mfas]
                        ++ [{P, Wants -- [returns]} || P <- maps:get(no_returns, Spec, [])])
    end.

match_spec(Wants) ->
    Actions = [{exception_trace} || lists:member(returns, Wants)]
        ++ [{message, {{args, '$_'}}} || lists:member(args, Wants)],
    [{'_', [], Actions}].

%% From what is set to what is wanted, module by module; wide patterns before narrow ones, which they overwrite.
-spec set(#{pattern() => list()}, patterns(), map()) ->
          {ok, #{pattern() => non_neg_integer()}, patterns()} | {error, {pattern_owned, mfa(), term()}}.
set(Wanted, P = #p{set = Set}, Ctx = #{tracer := Tracer}) ->
    Changed = [X || X <- maps:keys(maps:merge(Set, Wanted)), maps:find(X, Set) =/= maps:find(X, Wanted)],
    Modules = lists:usort([M || {M, _, _} <- Changed]),
    lists:foreach(fun(M) -> code:ensure_loaded(M) end, [M || M <- Modules, not erlang:module_loaded(M)]),
    New = [X || X <- Changed, not is_map_key(X, Set)],
    case foreign(New, Set) of
        [] ->
            intend(maps:keys(maps:merge(Set, Wanted)), Ctx),
            scope_trace:set_canary(),
            ok = scope_trace:roles(Wanted),
            Matched = maps:from_list(lists:append([set_module(M, Wanted, Set) || M <- Modules])),
            intend(maps:keys(Wanted), Ctx),
            {ok, Matched, P#p{set = Wanted, md5 = md5s(Wanted)}};
        [MFA | _] ->
            {error, {pattern_owned, MFA, scope_trace:owner_of_patterns(Tracer)}}
    end.

%% The supervisor, the tracer and the lease know what to take away; `also` is what else is set, in clear_pattern/1's words.
-spec intend([pattern()], map()) -> ok.
intend(Patterns, Ctx = #{sup := Sup, tracer := Tracer, lease := Lease}) ->
    All = Patterns ++ maps:get(also, Ctx, []),
    lists:foreach(fun(P) -> P ! {patterns, All} end, [Sup, Tracer, Lease]).

set_module(M, Wanted, Set) ->
    Was = [P || P = {Mod, _, _} <- maps:keys(Set), Mod =:= M],
    Will = [P || P = {Mod, _, _} <- maps:keys(Wanted), Mod =:= M],
    Wide = fun({_, F, A}) -> F =:= '_' orelse A =:= '_' end,
    Again = lists:any(Wide, Was ++ Will),
    [scope_trace:clear_pattern(P) || P <- Was, Again orelse not lists:member(P, Will)],
    {WideOnes, Narrow} = lists:partition(Wide, Will),
    [{P, scope_trace:set_pattern(P, map_get(P, Wanted))}
     || P <- lists:sort(fun wider/2, WideOnes) ++ Narrow, Again orelse maps:find(P, Wanted) =/= maps:find(P, Set)].

wider({_, '_', _}, _) -> true;
wider(_, {_, '_', _}) -> false;
wider(A, B) -> A =< B.

%% Functions under the new patterns that have a pattern which we did not set.
foreign(New, Set) ->
    [MFA || P <- New, MFA <- functions(P), not covered(MFA, Set),
            {traced, How} <- [scope_session:info(MFA, traced)], How =:= local orelse How =:= global].

-spec functions(pattern()) -> [mfa()].
functions({M, F, A}) ->
    All = try M:module_info(functions) catch error:undef -> [] end,
    [{M, F1, A1} || {F1, A1} <- All, F =:= '_' orelse F =:= F1, A =:= '_' orelse A =:= A1].

covered({M, F, A}, Set) ->
    is_map_key({M, F, A}, Set) orelse is_map_key({M, F, '_'}, Set) orelse is_map_key({M, '_', '_'}, Set).

md5s(Set) -> maps:from_list([{M, md5(M)} || {M, _, _} <- maps:keys(Set)]).

md5(M) ->
    try M:module_info(md5) catch error:undef -> none end.

%% --- do they stand? --------------------------------------------------------------------------------------------------

%% {Patterns that are not as we set them, whether all of the node's were wiped, modules that were only reloaded}
-spec lost(patterns()) -> {[pattern()], boolean(), [module()]}.
lost(P = #p{set = Set}) ->
    Lost = [X || {X = {_, F, A}, MS} <- maps:to_list(Set), is_integer(A), F =/= '_', still_there(X),
                 scope_trace:pattern_state(X, MS) =/= ours]
        ++ [X || {X = {M, F, A}, MS} <- maps:to_list(Set), F =:= '_' orelse A =:= '_',
                 MFA <- lists:sublist(functions({M, F, A}), 1), not is_map_key(MFA, Set),
                 scope_trace:pattern_state(MFA, MS) =/= ours],
    Wiped = map_size(Set) > 0 andalso not scope_trace:canary_sings(),
    {Lost, Wiped, lists:usort([M || {M, _, _} <- Lost, not Wiped, was_reloaded(M, P)])}.

still_there({M, F, A}) -> lists:member({F, A}, try M:module_info(functions) catch error:undef -> [] end).

%% With the same code, too: what was current is old then. (The other patterns still stand: nobody wiped them.)
was_reloaded(M, #p{md5 = Md5}) -> md5(M) =/= maps:get(M, Md5, none) orelse erlang:check_old_code(M).

%% Those of the lost in whose place somebody has put his own.
-spec taken([pattern() | term()], patterns()) -> [pattern()].
taken(Lost, #p{set = Set}) -> [P || P = {_, _, _} <- Lost, is_taken(P, Set)].

is_taken(P = {_, F, A}, Set) ->
    lists:any(fun(MFA) -> scope_trace:pattern_state(MFA, map_get(P, Set)) =:= other end,
              case F =:= '_' orelse A =:= '_' of
                  true -> [MFA || MFA <- lists:sublist(functions(P), 1), not is_map_key(MFA, Set)];
                  false -> [P]
              end).

%% Forgotten, not cleared: they are another's now.
-spec without([pattern()], patterns()) -> patterns().
without(Taken, P = #p{set = Set}) -> P#p{set = maps:without(Taken, Set)}.

-spec rearm(patterns()) -> patterns().
rearm(P = #p{set = Set}) ->
    scope_trace:set_canary(),
    _ = [set_module(M, Set, #{}) || M <- lists:usort([M || {M, _, _} <- maps:keys(Set)])],
    P#p{md5 = md5s(Set)}.
