%% The native tracer: the library's functions, and how it gets into a node and out again. The library (erl/c_src) is a
%% tracer module of the VM: `enabled` and `trace` are called by tracees on their own threads, each of which has a ring of
%% records; scope_tracer drains them. In a process's flags it is {scope_nif, scope}, for every process the same.
%%
%% It comes with the modules as bytes, is a private file only as long as it takes to load it, and is gone from memory
%% when this module is purged. Where it cannot be loaded, or does not find the VM's terms where it expects them, the
%% Erlang tracer does the work.
-module(scope_nif).

-export([load/2, samples/0, random/0]).
-export([enabled/3, trace/5]).
-export([setup/1, drain/0, pending/0, spenders/0, counters/0, lease/1, stop/0, watch/1, drainer/1, active/0, calibrated/0, cpu/0,
         set_sample/1, set_receivers/1, set_budget/1, set_procs/2, set_caps/1, set_key/1, set_roles/1,
         set_redaction/1]).
-export_type([drained/0]).

%% {Events, First, Last, Cut, Gaps, Strings, Records, More, Family, Rejected, Counts}; times are raw; More: call again at once.
%% Family: what is told of children when somebody follows them; pids as {Id, Serial}. Rejected: {N, FromRaw, UntilRaw} | none.
%% Counts: events by kind, as scope_beat:kinds/0 has them.
-type ids() :: {non_neg_integer(), non_neg_integer()}.
-type drained() :: {non_neg_integer(), integer(), integer(), integer(), [scope_hold:gap()], binary(), binary(),
                    boolean(), [{spawned, ids(), ids()} | {exit, ids()}],
                    none | {pos_integer(), integer(), integer()}, [non_neg_integer()]}.

%% native, or why not. What was written is deleted again in any case.
-spec load(binary() | none, #{memory => pos_integer()}) -> native | {erlang, term()}.
load(none, _) -> {erlang, configured};
load(Library, Opts) ->
    Arch = erlang:system_info(system_architecture),
    case lists:prefix(machine(Library), Arch) of
        true -> load_it(Library, Opts);
        false -> {erlang, {other_architecture, Arch}}       % the linker would say that there is no such file
    end.

%% What the library was made for, as its ELF header has it; "": that is for the linker to say.
machine(<<127, "ELF", _:14/binary, 62:16/little, _/bits>>) -> "x86_64";
machine(<<127, "ELF", _:14/binary, 183:16/little, _/bits>>) -> "aarch64";
machine(_) -> "".

load_it(Library, Opts) ->
    case in_some_folder(Library, [D || D <- [os:getenv("TMPDIR"), "/tmp", "/var/tmp", "/dev/shm"], is_list(D)], none) of
        ok -> set_up(Opts);
        Why -> {erlang, Why}
    end.

in_some_folder(_, [], Why) -> Why;
in_some_folder(Library, [Dir | More], _) ->
    case in_folder(Library, Dir) of
        ok -> ok;
        {Of, Text} when Of =:= upgrade; Of =:= load; Of =:= bad_lib -> {Of, Text};      % no other folder helps
        Why -> in_some_folder(Library, More, {Dir, Why})
    end.

in_folder(Library, Dir) ->
    Random = erlang:phash2({make_ref(), erlang:system_time(), self()}),
    Own = filename:join(Dir, lists:flatten(io_lib:format("scope-~s-~.16b", [os:getpid(), Random]))),
    File = filename:join(Own, "tracer"),
    case file:make_dir(Own) of                  % fails if it is there: nobody else has made it
        ok ->
            try write(Own, File ++ ".so", Library) of
                ok -> load_file(File);
                {error, Why} -> Why
            after
                _ = file:delete(File ++ ".so", [raw]),
                _ = file:del_dir(Own)
            end;
        {error, Why} -> Why
    end.

write(Own, File, Library) ->
    case file:change_mode(Own, 8#700) of
        ok ->
            case file:write_file(File, <<>>, [exclusive]) of
                ok ->
                    _ = file:change_mode(File, 8#600),
                    file:write_file(File, Library);
                Error -> Error
            end;
        Error -> Error
    end.

load_file(File) ->
    case erlang:load_nif(File, 0) of
        ok -> ok;
        {error, {load_failed, Text}} -> {load_failed, lists:sublist(lists:flatten(Text), 200)};     % noexec, say
        {error, {Of, Text}} -> {Of, lists:sublist(lists:flatten(Text), 200)}
    end.

set_up(Opts) ->
    Threads = erlang:system_info(schedulers) + erlang:system_info(dirty_cpu_schedulers)
        + erlang:system_info(dirty_io_schedulers) + 4,
    try setup(maps:merge(samples(), #{memory => maps:get(memory, Opts, 32 bsl 20), threads => Threads,
                                      node => node(), creation => erlang:system_info(creation),
                                      random => random()})) of
        ok -> native;
        {error, already} -> native;
        {error, Why} -> {erlang, {not_calibrated, Why}}
    catch
        error:Why -> {erlang, Why}
    end.

%% 16 bytes that nobody knows; crypto need not be there.
-spec random() -> <<_:128>>.
random() -> erlang:md5(term_to_binary({node(), self(), make_ref(), erlang:system_time(), erlang:monotonic_time(), os:getpid()})).

%% Terms whose parts are known: the library compares what it reads of the VM's words with them (erl/c_src/layout.h).
-spec samples() -> #{atom() => [tuple()]}.
samples() ->
    Node = atom_to_binary(node(), utf8),
    Name = <<119, (byte_size(Node)), Node/binary>>,
    C = erlang:system_info(creation),
    Pid = fun(I, S) -> binary_to_term(<<131, 88, Name/binary, I:32, S:32, C:32>>) end,
    Port = fun(I) -> binary_to_term(<<131, 120, Name/binary, I:64, C:32>>) end,
    Ref = fun(A, B, D) -> binary_to_term(<<131, 90, 3:16, Name/binary, C:32, A:32, B:32, D:32>>) end,
    Aliases = [apply(erlang, alias, []) || _ <- [1, 2, 3]],
    _ = [apply(erlang, unalias, [A]) || A <- Aliases],
    Long = binary:copy(<<"y">>, 200),
    Funs = [fun() -> ok end, fun(X) -> {X, C} end, fun(X, Y) -> {X, Y, C, Node, Name} end | scope_cut:sample_funs(C)],
    <<Big:800>> = << <<I>> || I <- lists:seq(1, 100) >>,
    #{atoms => [{A, atom_to_list(A)} || A <- [false, true, '', '_', scope_nif, erlang, init, 'odd atom', node()]],
      smalls => [{I} || I <- [0, 1, -1, 255, -4711, 1 bsl 59 - 1, -(1 bsl 59)]],
      %% How large they may be differs between versions, and so do the places of their bits: each of them alone.
      pids => [{P, I, S} || P <- [self(), whereis(init), Pid(32767, 0), Pid(1, 8191), Pid(16#5432, 16#1357),
                                  try_to(Pid, [16#7654321, 16#13579B])]
                                ++ [try_to(Pid, [1 bsl B, 0]) || B <- lists:seq(0, 27)]
                                ++ [try_to(Pid, [0, 1 bsl B]) || B <- lists:seq(0, 31)],
                            is_pid(P), {I, S} <- [ids(P)]],
      ports => [{P, I} || I <- [0, 1, 16#1234567, 16#ABCDEF01 | [1 bsl B || B <- lists:seq(1, 59)]],
                          P <- [try_to(Port, [I])], is_port(P)],
      %% Each kind of term that the VM has more than one form of, in all of them: another form is left out, and marked.
      others => [{T} || T <- [1.5, <<"x">>, <<1:3>>, Long, binary:part(Long, 3, 190), part_of_bits(Long), #{}, #{a => 1},
                              maps:from_list([{I, I} || I <- lists:seq(1, 99)]), {}, {a}, [a], "ab", make_ref(), hd(Aliases),
                              atomics:new(1, []), 1 bsl 70, -(1 bsl 70), hd(Funs), fun lists:map/2,
                              binary_to_term(<<131, 88, 119, 3, "a@b", 7:32, 1:32, 5:32>>),
                              binary_to_term(<<131, 120, 119, 3, "a@b", 7:64, 5:32>>),
                              binary_to_term(<<131, 90, 3:16, 119, 3, "a@b", 5:32, 7:32, 1:32, 2:32>>)]],
      refs => [{R, ref_ids(R)} || R <- [make_ref(), make_ref(), Ref(16#2AAAA, 16#12345678, 16#9ABCDEF0),
                                       Ref(1, 2, 3), Ref(16#155, 16#F00DF00D, 77)]],
      aliases => [{A, ref_ids(A)} || A <- Aliases],
      bigs => [{B, N, magnitude(B)}
               || M <- [1 bsl 64, 1 bsl 70 + 12345, 16#FFFFFFFFFFFFFFFF, Big], {B, N} <- [{M, 0}, {-M, 1}]],
      funs => [{F, info(F, module), info(F, new_index), info(F, new_uniq), info(F, arity)} || F <- Funs],
      exports => [{F} || F <- [fun lists:map/2, fun erlang:node/0, fun ?MODULE:load/2, fun maps:fold/3]]}.

part_of_bits(Bin) -> <<_:3, Part:1501/bits, _/bits>> = Bin, Part.

try_to(Make, Args) -> try apply(Make, Args) catch error:badarg -> none end.

ids(P) ->
    B = term_to_binary(P),
    <<I:32, S:32, _:32>> = binary:part(B, byte_size(B), -12),
    {I, S}.

ref_ids(R) ->
    <<131, 90, N:16, Rest/binary>> = term_to_binary(R),
    << <<I:32/native>> || <<I:32>> <= binary:part(Rest, byte_size(Rest), -4 * N) >>.

magnitude(B) ->
    Bin = binary:encode_unsigned(abs(B), little),
    Pad = (8 - byte_size(Bin) rem 8) rem 8,
    <<Bin/binary, 0:Pad/unit:8>>.

info(F, Item) -> element(2, erlang:fun_info(F, Item)).

%% --- the library -----------------------------------------------------------------------------------------------------

-spec enabled(atom(), term(), pid() | port()) -> trace | discard | remove.
enabled(trace_status, _, _) -> remove;          % the library is not there
enabled(_, _, _) -> discard.
-spec trace(atom(), term(), pid() | port(), term(), map()) -> ok.
trace(_, _, _, _, _) -> ok.

-spec setup(map()) -> ok | {error, atom()}.
setup(_) -> erlang:nif_error(not_loaded).
-spec drain() -> drained() | busy.
drain() -> erlang:nif_error(not_loaded).
%% {Bytes that wait, how full the fullest ring is in 1/256, events that were dropped or rejected and not yet told of, raw
%% time when the budget's bucket was found dry or 0, how often tracees began to run}
-spec pending() -> {non_neg_integer(), non_neg_integer(), non_neg_integer(), 0 | {integer(), integer()}, non_neg_integer()}.
pending() -> erlang:nif_error(not_loaded).

%% Who spent most since the bucket was filled, and which part of all.
-spec spenders() -> [{ids(), float()}].
spenders() -> erlang:nif_error(not_loaded).
%% scheduled: how often a process began to run that is traced. Before each call event the VM asks us for the same again.
-spec counters() -> #{pushed | dropped | rejected | bytes | ring_bytes | rings | held | scheduled => non_neg_integer()}.
counters() -> #{pushed => 0, dropped => 0, rejected => 0, bytes => 0, ring_bytes => 0, rings => 0, held => 0, scheduled => 0}.
%% The agent's word that it is there; without it for so many ms, tracees lose their flags. expired: that has begun so many ns ago.
-spec lease(pos_integer()) -> ok | {expired, integer()}.
lease(_) -> binary_to_term(<<131, 119, 2, "ok">>).      % as active()
-spec stop() -> ok.
stop() -> ok.
-spec watch(pid()) -> ok | {error, dead}.
watch(_) -> ok.
%% The caller drains, and is woken with `scope_wake` when a ring fills (1) or at any event (2).
%% Since when the bucket is dry, by the library's clock, or 0: what found that while the caller was at work woke nobody.
-spec drainer(0..2) -> integer().
drainer(_) -> binary_to_term(<<131, 97, 0>>).      % as active()
-spec active() -> boolean().
active() -> binary_to_term(<<131, 119, 5, "false">>).      % so that dialyzer does not believe it for ever
-spec calibrated() -> [refs | aliases | bigs | cells | funs].
calibrated() -> [].
%% The thread that the caller runs on, and the time it has had; none: there is no library.
-spec cpu() -> none | {non_neg_integer(), non_neg_integer()}.
cpu() -> binary_to_term(<<131, 119, 4, "none">>).      % as active()
%% Processes are traced whose hash is below so many 65536ths.
-spec set_sample(0..65536) -> ok.
set_sample(_) -> ok.
%% Messages are recorded if the hash of their receiver is below so many 65536ths.
-spec set_receivers(0..65536) -> ok.
set_receivers(_) -> ok.
%% {Debt, Costs by kind, of what is turned away, of a tracee's beginning to run, of 256 bytes more than Small}, in ns of the budget's time (scope_budget:
%% native/3). Once dry, events are turned away and tracees lose their flags, until this is called again.
-spec set_budget(none | scope_budget:native()) -> ok.
set_budget(_) -> ok.
-spec set_procs(boolean(), boolean()) -> ok.
set_procs(_, _) -> ok.
-spec set_caps(map()) -> ok.
set_caps(_) -> ok.
%% What is hidden from now on: erl/c_src/redact.h. A mask's bit 0 is the first element or argument.
-spec set_redaction(none | {[binary()], [{atom(), arity(), non_neg_integer()}],
                            [{module(), atom(), arity() | '_', non_neg_integer(), 0 | 1}], term()}) -> ok | busy | {error, atom()}.
set_redaction(_) -> erlang:nif_error(not_loaded).
-spec set_key(<<_:128>>) -> ok | {error, another_key}.
set_key(_) -> ok.
%% What a call of these functions is. spec: what its match spec's `message` action says.
-spec set_roles([{module(), atom(), arity() | '_', plain | spec | args | take | state | final, [pos_integer()]}]) ->
          ok | busy | {error, atom()}.
set_roles(_) -> erlang:nif_error(not_loaded).
