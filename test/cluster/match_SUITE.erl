%% Matching of messages against seq_trace on three real nodes: what the tokens of every message say is so, what the
%% store's rows were matched to (match_pairs.cc) is compared with it, over all pairs whose two ends were recorded.
-module(match_SUITE).
-export([all/0, timeout/1, pairs_are_those_of_seq_trace/1]).
-import(scope_test, [log/2]).

all() -> [pairs_are_those_of_seq_trace].
timeout(_) -> 240000.

%% $SCOPE_MATCH_TIMES: messages of each load and worker.
pairs_are_those_of_seq_trace(Config) ->
    Times = list_to_integer(os:getenv("SCOPE_MATCH_TIMES", "60")),
    #{loads := Loads, odd := Odd} = Figures = scope_match:measure(Config, Times),
    [log("~-8s ~p", [L, F]) || {L, F} <- lists:sort(maps:to_list(Loads))],
    log("~p", [maps:without([loads, odd], Figures)]),
    [log("~p", [O]) || O <- lists:sublist(Odd, 10)],
    #{precision := Precision, recall := Recall, ambiguous_hashed_whole := Ambiguous, recorded := Recorded, corrupt := 0} = Figures,
    true = Precision >= 0.999,
    true = Recall >= 0.999,
    %% What is hashed only in part is never more than ambiguous (flow_test): ambiguous_rate has it, and is over 0.01.
    true = Ambiguous =< 0.01,
    %% So much is compared: an oracle that sees nothing would agree with everything.
    true = Recorded >= 0.9,
    [] = [L || L <- [storm, same, alike, later, sooner, map, body, long, name, aliased, alive, call, cast, reply],
               maps:get(pairs, maps:get(L, Loads, #{pairs => 0})) < Times div 10],
    ok.
