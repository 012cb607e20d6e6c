#include "ei_codec/trace_event.h"

namespace scope::codec {

std::string_view event_type_name(EventType type) {
  switch (type) {
#define SCOPE_CASE(number, name) \
  case EventType::name:          \
    return #name;
    SCOPE_EVENT_TYPES(SCOPE_CASE)
#undef SCOPE_CASE
  }
  return "unknown";
}

std::optional<EventType> event_type_from_name(std::string_view name) {
#define SCOPE_CASE(number, type) \
  if (name == #type) return EventType::type;
  SCOPE_EVENT_TYPES(SCOPE_CASE)
#undef SCOPE_CASE
  return std::nullopt;
}

std::optional<SeqMessage> read_seq(const TraceRecord& record) {
  const bool seq = record.type == EventType::seq_send || record.type == EventType::seq_receive;
  if (!seq || record.payload.empty()) return std::nullopt;
  const auto term = record.term();
  if (term.arity() != 3u || term.element(1).arity() != 2u) return std::nullopt;
  const auto serial = term.element(1);
  const auto previous = serial.element(0).unsigned_integer();
  const auto current = serial.element(1).unsigned_integer();
  if (!previous || !current) return std::nullopt;
  return SeqMessage{term.element(0), *previous, *current, term.element(2)};
}

}  // namespace scope::codec
