%% What tracing may cost on this node, what it does cost, and when it has to cost less. Pure; no trace BIFs.
%%
%% Limits   #{cpu => per cent of the online schedulers' time, memory => bytes of our processes and the hold,
%%            events => per second, bytes => per second} or none.
%% Costs    ns that one small event of a kind takes of its tracee and of us, and that each byte beyond costs, measured on
%%          this node (scope_probe:costs/2).
%% Spent    = events of each kind x their costs + bytes x the cost of a byte + what was discarded x its tracee's cost
%%            + the drainer's passes x what waking up costs
%%            + how often tracees began to run x what a flag costs then (native: the VM does not tell the Erlang tracer)
%%            + reductions of our other processes x the measured time of a reduction. With the native tracer the session and the
%%            drainer are timed instead (scope_beat:worked/3), and what is ours of the events' costs is the drainer's time.
%% Bucket   A fifth of a second's worth of each limit. It fills with time, events empty it; who finds it dry says so, once.
%%          So in any time t at most limit x (t + 0.2 s) is spent, plus what comes until the flags are off; with the Erlang
%%          tracer, which has its queue before the bucket, nothing is traced again until that is paid for (`account`).
%%          The native tracer's holds a tenth of a second's, and pays for events out of 0.85 of the cpu's limit: the
%%          rest is what our other processes take. The Erlang tracer has its queue before the bucket; a smaller one gained nothing.
%% Ladder   full -> no_args -> fewer -> counters -> off. On `fewer` those that spent most are left out, 32 at most, until the
%%          budget should pay for the others by how quickly the bucket ran dry; if it does not, the others are a sample
%%          that follows the rate. Fitted anew up to three times in a row.
%%          Down at once; up after a quiet time that doubles with each failed try, and not at all after the third, until
%%          something else is started or stopped.
-module(scope_budget).

-export([limits/2, narrowest/2, count/1, spent_ns/3, percent/2, rate/1, events/1, account/4, bucket/3, native/3, spend/4, bucket_ns/1, owed_ns/1,
         in_sample/2, new/1, rung/1, factor/1, args/1, fewer/1, left_out/1, still_left_out/2,
         tracees/1, down/5, up/5, demand/3, blame/3, status/1, reset/1]).
-export_type([limits/0, costs/0, native/0, bucket/0, ladder/0, rung/0]).

-type limits() :: #{cpu | memory | events | bytes | up_ms | available => number()} | none.
-type costs() :: #{atom() => {Tracee :: number(), Ours :: number()} | number()} | unknown.
-type native() :: {Debt :: integer(), Kinds :: [non_neg_integer()], TurnedAway :: non_neg_integer(), Scheduled :: non_neg_integer(),
                   PerByte256 :: non_neg_integer(), Small :: non_neg_integer()}.
-type rung() :: full | no_args | fewer | counters | off.

-define(DEFAULTS, #{cpu => 1.0, memory => 32 bsl 20, events => 50000, bytes => 32 bsl 20, up_ms => 5000, available => 5}).
-define(TRIES, 3).
-define(BURST_NS, 200000000).
-define(NATIVE_BURST_NS, 100000000).    % kBurst in erl/c_src/budget.h
-define(NATIVE_EVENTS, 0.85).           % of the cpu's limit
-define(AIM, 0.8).              % of the budget, where the share of processes is chosen
-define(LEAST, 1 / 1024).
-define(REFITS, 3).
-define(MOST_OUT, 32).
-define(BUSY, 0.1).             % of the budget: who takes less is not left out by himself
-define(STABLE_MS, 60000).     % so long at the top, and earlier tries are forgotten

%% With the defaults for what is not said; what makes no sense is not said.
-spec limits(term(), limits()) -> limits().
limits(none, _) -> none;
limits(Map, Before) when is_map(Map) ->
    Given = maps:filter(fun(K, V) -> is_map_key(K, ?DEFAULTS) andalso is_number(V) andalso V > 0 end, Map),
    maps:merge(case Before of none -> ?DEFAULTS; _ -> maps:merge(?DEFAULTS, Before) end, Given);
limits(_, Before) -> Before.

%% --- what it costs ---------------------------------------------------------------------------------------------------

-spec count([tuple()]) -> #{scope_beat:kind() => pos_integer()}.
count(Events) -> count(Events, 0, 0, 0, 0, 0, 0, 0, 0).

count([E | Rest], C, A, R, S, F, P, T, St) ->
    case E of
        {trace_ts, _, call, _, _} -> count(Rest, C + 1, A, R, S, F, P, T, St);
        {trace_ts, _, call, _, {args, _}, _} -> count(Rest, C, A + 1, R, S, F, P, T, St);
        {trace_ts, _, call, _, {take, _}, _} -> count(Rest, C, A, R, S, F, P, T + 1, St);
        {trace_ts, _, call, _, _, _} -> count(Rest, C, A, R, S, F, P, T, St + 1);
        {trace_ts, _, return_from, _, _, _} -> count(Rest, C, A, R + 1, S, F, P, T, St);
        {trace_ts, _, exception_from, _, _, _} -> count(Rest, C, A, R + 1, S, F, P, T, St);
        {trace_ts, _, send, _, _, _} -> count(Rest, C, A, R, S + 1, F, P, T, St);
        {trace_ts, _, 'receive', _, _} -> count(Rest, C, A, R, S, F + 1, P, T, St);
        {scope, _, _, _, _} -> count(Rest, C, A, R, S, F, P, T, St);        % our own words
        {scope, seq_send, _, _, _, _} -> count(Rest, C, A, R, S + 1, F, P, T, St);
        {scope, seq_receive, _, _, _, _} -> count(Rest, C, A, R, S, F + 1, P, T, St);
        _ -> count(Rest, C, A, R, S, F, P + 1, T, St)
    end;
count([], C, A, R, S, F, P, T, St) ->
    maps:filter(fun(_, N) -> N > 0 end,
                #{calls => C, args => A, returns => R, sends => S, fetches => F, procs => P, takes => T, state => St}).

%% Counts may hold `discarded`, and `away`: messages that are none of the sample.
-spec spent_ns(#{atom() => number()}, number(), costs()) -> number().
spent_ns(_, _, unknown) -> 0;
spent_ns(Counts, Bytes, Costs = #{per_byte := PerByte, small := Small}) ->
    Events = lists:sum(maps:values(maps:without([discarded, away], Counts))),
    maps:fold(fun(Kind, N, Acc) ->
                      case Costs of
                          #{Kind := {Tracee, Ours}} -> Acc + N * (Tracee + Ours);
                          #{turned_away := Ns} when Kind =:= discarded; Kind =:= away -> Acc + N * Ns;
                          _ -> Acc
                      end
              end, max(0, Bytes - Events * Small) * PerByte, Counts).

%% ns within a time, as per cent of the online schedulers.
-spec percent(number(), number()) -> float().
percent(Ns, OfNs) -> 100 * Ns / (max(1, OfNs) * erlang:system_info(schedulers_online)).

%% --- the bucket ------------------------------------------------------------------------------------------------------

-record(bucket, {costs :: costs(), rates :: {float(), float(), float()},        % ns, events, bytes per ns of time
                 levels :: {float(), float(), float()}, at :: integer(), dry = false :: boolean()}).
-type bucket() :: #bucket{} | none.

%% ns that may be spent in a ns.
-spec rate(limits()) -> float().
rate(none) -> float(erlang:system_info(schedulers_online));
rate(#{cpu := Cpu}) -> Cpu / 100 * erlang:system_info(schedulers_online).

%% Events that may be made in a second.
-spec events(limits()) -> number().
events(none) -> 1.0e18;
events(#{events := Events}) -> Events.

%% ns that may be spent yet, less than 0 if too many were: Dt ns later, of which Ns were spent.
-spec account(limits(), integer(), number(), number()) -> number().
account(Limits, Dt, Ns, Level) -> min(rate(Limits) * ?BURST_NS, Level + rate(Limits) * Dt - Ns).

%% Filled to that share.
-spec bucket(limits(), costs(), float()) -> bucket().
bucket(none, _, _) -> none;
bucket(Limits = #{events := Events, bytes := Bytes}, Costs, Share) ->
    Rates = {rate(Limits), Events / 1.0e9, Bytes / 1.0e9},
    #bucket{costs = Costs, rates = Rates, levels = times(Rates, Share * ?BURST_NS), at = erlang:monotonic_time(nanosecond)}.

%% The same for the native tracer (scope_nif:set_budget/1): what each thing costs as time, in ns: so long does the budget
%% need to pay for it, by the limit that is the narrowest for it.
-spec native(limits(), costs(), float()) -> none | native().
native(none, _, _) -> none;
native(#{cpu := Cpu, events := Events, bytes := Bytes}, Costs, Share) ->
    PerNs = 100 / (?NATIVE_EVENTS * Cpu * erlang:system_info(schedulers_online)),
    Time = fun(Ns) -> min(1 bsl 31, round(max(Ns * PerNs, 1.0e9 / Events))) end,
    {Kinds, Away, Scheduled, Byte, Small} =
        case Costs of
            unknown -> {#{}, 0, 0, 0, 0};
            #{turned_away := A, scheduled := In, per_byte := B, small := S} -> {Costs, A, In, B, S}
        end,
    {round((1 - Share) * ?NATIVE_BURST_NS), [Time(case Kinds of #{K := {Tracee, Ours}} -> Tracee + Ours; _ -> 0 end) || K <- scope_beat:kinds()],
     min(1 bsl 31, round(Away * PerNs)), min(1 bsl 31, round(Scheduled * PerNs)), min(1 bsl 31, round(256 * max(Byte * PerNs, 1.0e9 / Bytes))), round(Small)}.

%% The limit that small events reach first.
-spec narrowest(limits(), costs()) -> cpu | events.
narrowest(#{cpu := Cpu, events := Events}, #{calls := {Tracee, Ours}}) ->
    case (Tracee + Ours) * Events > Cpu / 100 * erlang:system_info(schedulers_online) * 1.0e9 of
        true -> cpu;
        false -> events
    end;
narrowest(_, _) -> events.

%% What is left of the time, in ns.
-spec bucket_ns(bucket()) -> number() | infinity.
bucket_ns(none) -> infinity;
bucket_ns(#bucket{levels = {Ns, _, _}}) -> Ns.

%% How long it takes until what was spent beyond it is paid for.
-spec owed_ns(bucket()) -> non_neg_integer().
owed_ns(#bucket{rates = {R1, R2, R3}, levels = {L1, L2, L3}}) ->
    round(lists:max([0 | [-L / R || {L, R} <- [{L1, R1}, {L2, R2}, {L3, R3}]]])).

%% {dry, What}: it is empty for the first time since it was made.
-spec spend(#{atom() => non_neg_integer()}, non_neg_integer(), integer(), bucket()) ->
          {ok | {dry, cpu | events | bytes}, bucket()}.
spend(_, _, _, none) -> {ok, none};
spend(Counts, Bytes, Now, B = #bucket{costs = Costs, rates = {R1, R2, R3}, levels = {L1, L2, L3}, at = At, dry = Dry}) ->
    Dt = max(0, Now - At),
    Fill = fun(Level, Rate, Less) -> min(Rate * ?BURST_NS, Level + Rate * Dt) - Less end,
    New = {A, E, C} = {Fill(L1, R1, spent_ns(Counts, Bytes, Costs)), Fill(L2, R2, lists:sum(maps:values(maps:remove(away, Counts)))),
                       Fill(L3, R3, Bytes)},
    What = if A < 0 -> cpu; E < 0 -> events; C < 0 -> bytes; true -> none end,
    {case What =/= none andalso not Dry of true -> {dry, What}; false -> ok end,
     B#bucket{levels = New, at = max(Now, At), dry = Dry orelse What =/= none}}.

times({A, B, C}, F) -> {A * F, B * F, C * F}.

%% --- samples ---------------------------------------------------------------------------------------------------------

%% By the process: the same one is in it each time, and in every larger sample, and is traced whole. Receivers of messages
%% may be names and references, too.
-spec in_sample(term(), number()) -> boolean().
in_sample(_, Rate) when Rate >= 1 -> true;
in_sample(Pid, Rate) ->       % as left_out() in erl/c_src/trace.cc; the hash alone is uneven in its low bits
    ((erlang:phash2(Pid) * 2654435761) band 16#FFFFFFFF) bsr 12 < Rate * (1 bsl 20).

%% --- the ladder ------------------------------------------------------------------------------------------------------

-record(l, {rung = full :: rung(), cause = none :: atom(), since :: integer(), tries = 0 :: non_neg_integer(),
            raised = never :: integer() | never, up_ms :: pos_integer(),
            factor = 0.125 :: float(), refits = 0 :: non_neg_integer(),      % of the rung `fewer`, as is:
            out = #{} :: #{pid() => true}}).                                 % who is left out
-opaque ladder() :: #l{}.

-spec new(limits()) -> ladder().
new(Limits) ->
    UpMs = case Limits of #{up_ms := Ms} -> Ms; _ -> 5000 end,
    #l{since = erlang:monotonic_time(millisecond), up_ms = UpMs}.

-spec rung(ladder()) -> rung().
rung(#l{rung = R}) -> R.

%% What it was, or would be, on the rung `fewer`.
-spec fewer(ladder()) -> float().
fewer(#l{factor = F}) -> F.

%% The share of the processes that keep their flags.
-spec factor(ladder()) -> float().
factor(#l{rung = R}) when R =:= full; R =:= no_args -> 1.0;
factor(#l{rung = fewer, factor = F}) -> F;
factor(_) -> 0.0.

%% The busiest, which are not traced whatever the share of the others.
-spec left_out(ladder()) -> #{pid() => true}.
left_out(#l{rung = fewer, out = Out}) -> Out;
left_out(_) -> #{}.

-spec still_left_out(fun((pid()) -> boolean()), ladder()) -> ladder().
still_left_out(Alive, L = #l{out = Out}) -> L#l{out = maps:filter(fun(P, _) -> Alive(P) end, Out)}.

%% Equal if the same processes are traced.
-spec tracees(ladder()) -> term().
tracees(L) -> {factor(L), left_out(L)}.

-spec args(ladder()) -> boolean().
args(#l{rung = R}) -> R =:= full.

%% How much of the limit was asked for, when a bucket that was filled to Share so many ns ago is dry now.
-spec demand(native | erlang, float(), integer()) -> float().
demand(Capture, Share, Ns) -> 1 + Share * case Capture of native -> ?NATIVE_BURST_NS; _ -> ?BURST_NS end / max(1000, Ns).

%% One down. Useful: whether `no_args` would change anything; Demand: as demand/3 has it, or unknown. Soon after a step up
%% it is a failed try. Spenders: who spent most, and which part of all.
-spec down(atom(), boolean(), float() | unknown, [{pid(), float()}], ladder()) -> ladder().
down(Cause, Useful, Demand, Spenders, L0 = #l{rung = R, raised = Raised, tries = Tries, up_ms = UpMs, factor = F, refits = N}) ->
    Now = erlang:monotonic_time(millisecond),
    Failed = Raised =/= never andalso Now - Raised < 2 * UpMs,
    L = L0#l{cause = Cause, since = Now, raised = never, tries = Tries + case Failed of true -> 1; false -> 0 end},
    case R of
        full when Useful -> L#l{rung = no_args};
        _ when R =:= full; R =:= no_args -> fit(1.0, Demand, Spenders, L#l{rung = fewer, refits = 0, out = #{}});
        fewer when Demand =/= unknown, N < ?REFITS, F > 2 * ?LEAST -> fit(F, Demand, Spenders, L#l{refits = N + 1});
        fewer -> L#l{rung = counters};
        _ -> L#l{rung = off}
    end.

fit(F, unknown, _, L) -> L#l{factor = max(?LEAST, F / 8)};
fit(F, Demand, Spenders, L = #l{out = Before}) ->
    case leave_out(Spenders, Demand, Demand, Before) of
        {Left, Out} when Left =< ?AIM -> L#l{factor = F, out = Out};
        {Left, Before} -> L#l{factor = max(?LEAST, min(F / 2, F * ?AIM / Left))};
        {Left, Out} -> L#l{factor = max(?LEAST, F * ?AIM / Left), out = Out}
    end.

%% What the others ask for, and who has to go; of who has gone there may have been something under way.
leave_out([{Pid, Part} | Rest], Demand, Left, Out) when is_map_key(Pid, Out) ->
    leave_out(Rest, Demand, Left - Part * Demand, Out);
leave_out([{Pid, Part} | Rest], Demand, Left, Out) when Left > ?AIM, Part * Demand > ?BUSY, map_size(Out) < ?MOST_OUT ->
    leave_out(Rest, Demand, Left - Part * Demand, Out#{Pid => true});
leave_out(_, _, Left, Out) -> {Left, Out}.

%% {up, L}: one up, if the share of the limit that is spent, and that would be spent one rung up, is small, after a quiet
%% time. With few processes first more of them.
-spec up(float(), float(), boolean(), integer(), ladder()) -> {up, ladder()} | {stay, ladder()}.
up(_, _, Useful, Now, L = #l{rung = fewer, factor = 1.0, out = Out}) when map_size(Out) =:= 0 ->     % those that were left out have ended
    {up, L#l{rung = case Useful of true -> no_args; false -> full end, since = Now, raised = Now, cause = quiet}};
up(_, _, _, Now, L = #l{rung = full, tries = Tries, since = Since}) when Tries > 0, Now - Since > ?STABLE_MS ->
    {stay, L#l{tries = 0}};
up(Spent, _, _, Now, L = #l{rung = fewer, factor = F, since = Since, tries = Tries, up_ms = UpMs})
  when F < 0.5, Tries < ?TRIES, Spent < ?AIM / 2, Now - Since >= UpMs bsl Tries ->
    {up, L#l{factor = min(0.5, F * min(4, ?AIM / max(0.01, Spent))), since = Now, raised = Now, cause = quiet, refits = 0}};
up(_, Share, Useful, Now, L = #l{rung = R, since = Since, tries = Tries, up_ms = UpMs})
  when R =/= full, R =/= off, Tries < ?TRIES, Share < 0.5, Now - Since >= UpMs bsl Tries ->
    Up = case R of
             counters -> fewer;
             fewer when Useful -> no_args;
             fewer -> full;
             no_args -> full
         end,
    {up, L#l{rung = Up, since = Now, raised = Now, cause = quiet, out = case Up of fewer -> L#l.out; _ -> #{} end}};
up(_, _, _, _, L) -> {stay, L}.

%% Which limit a second's spending breaks, by the largest share; none if all is within.
-spec blame(#{cpu | memory | events | bytes => number()}, limits(), float()) -> {atom(), float()}.
blame(_, none, _) -> {none, 0.0};
blame(Spent, Limits, Factor) ->
    Shares = [{V / (map_get(K, Limits) * Factor), K} || {K, V} <- maps:to_list(Spent), is_map_key(K, Limits)],
    case Shares of
        [] -> {none, 0.0};
        _ ->
            {Share, What} = lists:max(Shares),
            {What, Share}
    end.

-spec status(ladder()) -> map().
status(L = #l{rung = R, cause = C, since = Since, tries = Tries}) ->
    #{rung => R, rate => factor(L), cause => C, rung_ms => erlang:monotonic_time(millisecond) - Since, failed_tries => Tries,
      left_out => map_size(left_out(L))}.

%% Something else is traced now: what was tried says nothing of it.
-spec reset(ladder()) -> ladder().
reset(L) -> L#l{tries = 0}.
