%% What scope_guard and its parts (scope_ask, scope_flags, scope_ladder, scope_watch) hand to each other.
-record(start, {asked :: map(), spec :: map(), flags :: [atom()], pids = #{} :: #{pid() => true}, names = #{} :: #{atom() => pid()},
                behaviours = [] :: list(), until = infinity :: integer() | infinity,
                count = infinity :: integer() | infinity}).
-record(follow, {id :: term(), pid :: pid(), mon :: reference(), marks :: boolean()}).     % marks: processes of this node
-record(s, {ctx :: map(), tracer :: pid(),
            starts = #{} :: #{term() => #start{}},
            watch = scope_beat:watch([session, sup, tracer]) :: scope_beat:watch(),
            seen = 0 :: integer(),              % what was captured, at the last tick
            idle :: integer(),                  % raw time since when nothing is traced, while there are no starts
            patterns = scope_patterns:new() :: scope_patterns:patterns(),
            checked :: integer(), checked_raw :: integer(), lost = none :: none | integer(),
            overloads = [] :: [integer()], since = 0 :: integer(),   % ms: of the last ones; when this spell began
            kills = [] :: [integer()], settings = #{} :: map(),
            paused = no :: no | {reference(), atom(), integer()},    % flags are off: why, since which raw time
            limits :: scope_budget:limits(), costs = unknown :: scope_budget:costs(),
            ladder :: scope_budget:ladder(), spent :: scope_spent:spent(),
            filled = {1.0, 0} :: {float(), integer()},          % the bucket: how far, raw time when
            account :: {number(), integer(), number()},   % ns that may be spent, less than 0 if too many were; when; all that was spent by then
            debt = none :: none | {reference(), {non_neg_integer(), integer()}, integer()},   % flags are off until it is paid: ns by the
                                       % tracer's bucket, and how many events were discarded by then; since when
            low :: integer(),                       % raw time up to which it is told what a rung or a sample leaves out
            counters = #{} :: map(),                % what the rung `counters` counts: {MFA, Rate}
            job = none :: none | {reference(), pid(), reference(), tuple() | measure, list()},
            jobs = [] :: list(),
            follow = none :: none | #follow{}}).                % who is the system tracer of seq_trace, for which start
