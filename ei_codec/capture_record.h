// The grammar of an agent's batches: the only place where it is written. erl/agent/scope_tracer.erl produces it,
// decode_records() reads it; golden bytes in test/golden/batch_*.etf are tested from both languages.
//
//   Batch   = {batch, AgentId :: u64, Seq :: u64, ClockPair, Gaps, Cut, Payload}
//   ClockPair = {RawNs, SystemNs}       the node's raw clock and its system clock (ns since 1970), read together
//   Gaps    = [{Reason :: atom, Count :: integer | unknown, FromRawNs, UntilRawNs} or the same with Figures :: map]   what was not captured or was
//             dropped since the batch before; each becomes one `gap` record. [] as a rule.
//   Cut     = RawNs     records older than this will not come any more (from the native tracer proven; from the
//             Erlang tracer the time of its flush before the last one)
//   Payload = {etf, 2, Bin :: binary}    the Erlang tracer: term_to_binary([Event], [{minor_version, 2}]) (with its 131) of native
//             trace messages; minor version 2, because 1 writes Latin-1 atoms, which the validator refuses.
//             {etf, 1, Bin} is the same without seq_ events.
//             A binary, so that its size is exact on both sides (credit, hold), a resend encodes nothing, and the
//             network thread need not look inside. The *bytes of a batch*, for credit, are byte_size of this binary.
//           | {compact, 1, Strings :: binary, Records :: binary}   the native tracer; the *bytes* are those of both.
//             One session may mix both kinds of payload: what the agent's own processes have to tell comes as etf.
//
//   Compact, version 1; integers little-endian (the tracer refuses to load on other machines):
//     Strings = (id:32 length:16 utf8)*      the atoms that Records name by number; each number once, in any order, at most
//             65,536 (batch_strings.h). Atoms that only Terms hold may also stand in them as they are
//     Records = record*                      each begins at a multiple of 8; padding is 0, after the last one optional
//     record  = size:32 kind:8 arity:8 flags:16 time:64 id:32 serial:32 mfa hash original peer payload
//               size: bytes from here (with these four) to the payload's end, padding not counted.
//               kind: an EventType's number up to process_unregister; all others come as etf.
//               flags: TraceRecord::Flag, each only where it has a meaning (compact_record.cc, kShapes); kSystem,
//               kSystemMessage and kTimeoutNotMessage are left to the reader.
//               time: raw ns, signed. id, serial: the tracee
//     mfa     = module:32 function:32        of function_entry, _exit, _exception, message_take, state_change and
//               process_spawn; nothing of other kinds, whose arity is 0
//     hash    = match hash:64                if kHashed; of the whole term. kHashBounded is exact here. Only of messages;
//               of one that is there whole and not redacted it may be left out and is made here: the tracee need not pay
//     original = bytes:32                    if kTruncated; about the term's external size, as far as it was walked
//     peer    = one term                     of message_send, process_spawn, process_link and process_unlink
//     payload = one term or nothing          as TraceRecord::payload (nothing of links, an atom of process_register and
//               _unregister); what was left out is the atom '...', as the Erlang tracer has it (erl/agent/scope_cut.erl)
//     Terms are external term format in which kLocalAtom may stand for an atom, also inside pids.
//     A record that does not fit is malformed. Strings that do not fit make the batch unreadable, and a size that cannot
//     be right makes the rest of Records so.
//
//   Event (etf, version 2); trace flags `monotonic_timestamp`, so Ts is integer raw ns; `arity` is always set:
//     {trace_ts, Pid, call, {M, F, Arity}, Ts}                      function_entry without arguments
//     {trace_ts, Pid, call, {M, F, Arity}, Role, Ts}                Role is made by the match spec's `message` action:
//          {args, [Arg]}       function_entry with arguments
//          {take, Message}     message_take; {M,F,Arity} is the behaviour's take function
//          {state, State}      state_change; the behaviour's loop entry
//          {final, State}      state_change with kEndState; the behaviour's terminate
//     {trace_ts, Pid, return_from, {M, F, Arity}, Result, Ts}       function_exit
//     {trace_ts, Pid, exception_from, {M, F, Arity}, {Class, Reason}, Ts}     function_exception
//     {trace_ts, Pid, send | send_to_non_existing_process, Message, To, Ts}   message_send; To: pid, name,
//          {Name, Node}, alias reference or port
//     {trace_ts, Pid, 'receive', Message, Ts}                       message_fetch (the atom timeout: kTimeoutNotMessage)
//     {trace_ts, Pid, spawn, Child, {M, F, Args | Arity}, Ts}       process_spawn, pid = the parent, peer = the child
//     {trace_ts, Pid, spawned, Parent, {M, F, Args | Arity}, Ts}    process_spawn with flag kChildSide, pid = the child,
//                                                                   peer = the parent
//     {trace_ts, Pid, exit, Reason, Ts}                             process_exit
//     {trace_ts, Pid, link | getting_linked | unlink | getting_unlinked, Peer, Ts}
//     {trace_ts, Pid, register | unregister, Name, Ts}
//     {scope, alive, Pid, #{name => atom, parent => pid, initial_call => {M,F,A}, links => [pid], label => term}, Ts}
//                                                                   process_alive, kInferred; keys only where known
//     {scope, checkpoint, Pid, {M, F, Arity}, State, Ts}            state_change with kInferred (sys:get_state)
//     {scope, seq_send | seq_receive, Pid, Peer, {Label, {Previous, Current}, Message}, Ts}
//          of seq_trace (erl/agent/scope_follow.erl); Pid is local: the sender, with To as Peer, or the receiver, with From.
//          Bounded it is {'$scope_cut', OriginalBytes, {Label, Serial, Bounded}, Hash, ..}; the hash is the Message's alone
//     {scope, code_load, Module, Vsn, Ts} · {scope, node_up | node_down, Node, Ts}      pid {0, 0}
//
//   A Message, Arg list, State, Result, Reason or Args may be given bounded:
//     {'$scope_cut', OriginalBytes :: integer, Bounded :: term, Hash :: u64 | none}    -> kTruncated, original_bytes
//   or, if something of it is redacted (erl/c_src/redact.h says how; OriginalBytes is 0 if it was not cut as well)
//     {'$scope_cut', OriginalBytes, Bounded, Hash, {redacted, IsHashBounded :: boolean}}     -> kRedacted
//   (a user's own term of these shapes is wrapped in one itself). Hash is the match hash of the whole term; with `none`
//   a message cannot be matched by content and its record has kHashed unset.
//   Where nobody says whether that hash was bounded, it counts as bounded. kTruncated is set if OriginalBytes is more than
//   Bounded has here; 0 wraps a term that is whole. Messages are hashed here otherwise. {system, From, Req} sets kSystemMessage;
//   received or taken messages of the shapes that the runtime system makes ('DOWN', 'EXIT', timeout, spawn_reply, and
//   those of ports and sockets) set kSystem.
//   payload is Vsn for code_load (mfa.module = Module), Node for node_up and node_down, the map for alive.
//
// An Event that does not fit is counted in DecodeStats::malformed and skipped; the rest of the batch is used.
#pragma once

#include "ei_codec/batch_strings.h"
#include "ei_codec/match_hash.h"
#include "ei_codec/term_view.h"
#include "ei_codec/trace_event.h"

namespace scope::codec {

struct Gap {
  std::string_view reason;
  std::optional<std::uint64_t> count;  // nullopt: unknown
  RawTime from, until;
  std::optional<TermView> figures;  // of steps of the budget's ladder, and of samples: a map
};

// Views into the message; it must outlive this.
struct BatchHeader {
  std::uint64_t agent_id = 0;
  std::uint64_t seq = 0;
  RawTime clock_raw;
  std::int64_t clock_system_ns = 0;
  RawTime cut;
  TermView gaps;
  bool compact = false;  // else etf
  Bytes strings;         // of a compact one
  Bytes events;          // etf: of term_to_binary; compact: Records
};

// `message` is a validated {batch, ...} term. Checks the tuple's shape and the payload's kind and version, not the events.
Result<BatchHeader> read_batch_header(const TermView& message);

class RecordSink {
 public:
  virtual ~RecordSink() = default;
  // Called in batch order; the record's views live as long as the batch's message and its BatchStrings.
  virtual void record(const TraceRecord& record) = 0;
};

struct DecodeContext {
  HashKey hash_key{};
  std::string_view node;  // the agent's node and creation: tracees must carry them
  std::uint32_t creation = 0;
};

struct DecodeStats {
  std::uint64_t records = 0;
  std::uint64_t malformed = 0;
  // The payload, or from some place on the rest of it, cannot be told into events: how many there were is unknown.
  bool unreadable = false;
  RawTime oldest, newest;  // of the records; meaningless when there are none
};

// Gaps come first (type gap, payload = the gap's own tuple, time = until), then the events in order. `strings` is filled
// for them (batch_strings.h says how long it must live).
DecodeStats decode_records(const BatchHeader& batch, const DecodeContext& context,
                           BatchStrings& strings, RecordSink& sink);

// The gap that a record of type gap carries in its payload.
std::optional<Gap> read_gap(const TermView& payload);

}  // namespace scope::codec
