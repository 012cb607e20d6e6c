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

}  // namespace scope::codec
