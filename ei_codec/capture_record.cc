// A batch's header and gaps; its events are read by etf_record.cc and compact_record.cc.
#include "ei_codec/capture_record.h"

#include "ei_codec/record_parts.h"

namespace scope::codec {
namespace {

// {etf, 1 | 2, Events} or {compact, 1, Strings, Records}
Status read_payload(const TermView& payload, BatchHeader& out) {
  out.compact = payload.is_tuple("compact", 4);
  if (!out.compact && !payload.is_tuple("etf", 3)) {
    return fail(Code::malformed, "a batch's payload is of a kind that this daemon does not know");
  }
  ListView it = *payload.elements();
  const auto next = [&it] {
    it.next();
    return it.item();
  };
  const auto version = next().integer();
  if (version != 1 && (out.compact || version != 2)) {
    return fail(Code::malformed,
                "a batch's payload is of a version that this daemon does not know");
  }
  const auto strings = out.compact ? next().binary() : Bytes{};
  const auto events = next().binary();
  if (!strings || !events) return fail(Code::malformed, "a batch's events are not a binary");
  out.strings = *strings;
  out.events = *events;
  return {};
}

}  // namespace

Result<BatchHeader> read_batch_header(const TermView& message) {
  if (!message.is_tuple("batch", 7)) return fail(Code::malformed, "a batch is {batch, ...} of 7");
  ListView it = *message.elements();
  const auto next = [&it] {
    it.next();
    return it.item();
  };
  BatchHeader out;
  const auto agent = next().unsigned_integer();
  const auto seq = next().unsigned_integer();
  const TermView clock = next();
  out.gaps = next();
  const auto cut = next().integer();
  const TermView payload = next();
  if (!agent || !seq) return fail(Code::malformed, "a batch's agent id or sequence number");
  out.agent_id = *agent;
  out.seq = *seq;
  if (clock.arity() != 2u) return fail(Code::malformed, "a batch's clock pair");
  const auto raw = clock.element(0).integer(), system = clock.element(1).integer();
  if (!raw || !system) return fail(Code::malformed, "a batch's clock pair");
  out.clock_raw = {*raw};
  out.clock_system_ns = *system;
  if (!out.gaps.list()) return fail(Code::malformed, "a batch's gaps are not a list");
  if (!cut) return fail(Code::malformed, "a batch's cut");
  out.cut = {*cut};
  RETURN_IF_ERROR(read_payload(payload, out));
  return out;
}

std::optional<Gap> read_gap(const TermView& payload) {
  const auto arity = payload.arity();
  if (arity != 4u && arity != 5u) return std::nullopt;
  ListView it = *payload.elements();
  Gap out;
  const auto reason = it.item().atom();
  it.next();
  out.count = it.item().unsigned_integer();
  if (!reason || (!out.count && !it.item().is_atom("unknown"))) return std::nullopt;
  out.reason = *reason;
  it.next();
  const auto from = it.item().integer();
  it.next();
  const auto until = it.item().integer();
  if (!from || !until) return std::nullopt;
  out.from = {*from};
  out.until = {*until};
  if (arity == 5u) {
    it.next();
    if (!it.item().map()) return std::nullopt;
    out.figures = it.item();
  }
  return out;
}

DecodeStats decode_records(const BatchHeader& batch, const DecodeContext& context,
                           BatchStrings& strings, RecordSink& sink) {
  DecodeStats stats;
  Delivery deliver(sink, stats);
  for (ListView it = *batch.gaps.list(); !it.done(); it.next()) {
    const TermView term = it.item();
    const auto gap = read_gap(term);
    if (!gap) {
      deliver.malformed();
      continue;
    }
    TraceRecord record;
    record.type = EventType::gap;
    record.time = gap->until;
    record.payload = term.bytes();
    deliver(record);
  }
  if (!batch.compact) {
    read_etf(batch.events, context, deliver);
  } else if (strings.read(batch.strings)) {
    read_compact(batch.events, strings, context, deliver);
  } else {
    deliver.unreadable();
  }
  return stats;
}

}  // namespace scope::codec
