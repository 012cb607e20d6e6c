#include <fmt/format.h>

#include "analysis/text_search.h"
#include "cnode/service/parse.h"
#include "cnode/service/trace_spec.h"
#include "ei_codec/trace_event.h"

namespace scope::node {
namespace {

using codec::TermView;

struct Building {
  FilterRequest out;
  std::optional<TermView> pid, peer;  // read last: `node` completes them
};

Status read_types(Building& b, const TermView& value, std::string_view field) {
  b.out.filter.types = 0;
  for (const auto& item : one_or_many(value)) {
    std::string name;
    ASSIGN_OR_RETURN(name, read_name(item, field));
    std::uint32_t bits = event_group(name);
    if (const auto type = codec::event_type_from_name(name)) {
      bits = 1u << static_cast<unsigned>(*type);
    } else if (name == "message_receive") {
      bits = 1u << static_cast<unsigned>(codec::EventType::message_fetch) |
             1u << static_cast<unsigned>(codec::EventType::message_take);
    }
    if (bits == 0) {
      std::vector<std::string_view> names{"message_receive", "calls", "messages", "lifecycle"};
      for (unsigned i = 1; i <= codec::kMaxEventType; ++i) {
        names.push_back(codec::event_type_name(static_cast<codec::EventType>(i)));
      }
      const auto near = nearest(name, names);
      return bad_value(field, item,
                       near.empty()
                           ? "not an event type; for example message_send or function_entry"
                           : fmt::format("not an event type; did you mean {}?", near));
    }
    b.out.filter.types |= bits;
  }
  if (b.out.filter.types == 0) return bad_value(field, value, "must name at least one event type");
  return {};
}

Status read_names(std::vector<std::string>& out, const TermView& value, std::string_view field) {
  for (const auto& item : one_or_many(value)) {
    std::string name;
    ASSIGN_OR_RETURN(name, read_name(item, field));
    out.push_back(std::move(name));
  }
  if (out.empty()) return bad_value(field, value, "must not be empty");
  return {};
}

constexpr OptionReader<Building> kFilterOptions[] = {
    {"pid",
     [](Building& b, const TermView& v, std::string_view) -> Status {
       return b.pid = v, Status{};
     }},
    {"node", [](Building& b, const TermView& v,
                std::string_view f) { return read_names(b.out.filter.nodes, v, f); }},
    {"type", read_types},
    {"event_type", read_types},
    {"mfa",
     [](Building& b, const TermView& v, std::string_view f) -> Status {
       ASSIGN_OR_RETURN(b.out.filter.mfa, read_mfa(v, f));
       return {};
     }},
    {"module", [](Building& b, const TermView& v,
                  std::string_view f) { return read_names(b.out.filter.modules, v, f); }},
    {"peer",
     [](Building& b, const TermView& v, std::string_view) -> Status {
       return b.peer = v, Status{};
     }},
    {"since",
     [](Building& b, const TermView& v, std::string_view f) -> Status {
       ASSIGN_OR_RETURN(b.out.filter.since, read_time(v, f));
       return {};
     }},
    {"until",
     [](Building& b, const TermView& v, std::string_view f) -> Status {
       ASSIGN_OR_RETURN(b.out.filter.until, read_time(v, f));
       return {};
     }},
    {"limit",
     [](Building& b, const TermView& v, std::string_view f) -> Status {
       std::int64_t limit = 0;
       ASSIGN_OR_RETURN(limit, read_integer(v, f, 1, analysis::kMaxLimit));
       b.out.filter.limit = static_cast<std::uint32_t>(limit);
       b.out.limit = b.out.filter.limit;
       return {};
     }},
    {"bytes",
     [](Building& b, const TermView& v, std::string_view f) -> Status {
       std::int64_t bytes = 0;
       ASSIGN_OR_RETURN(bytes, read_integer(v, f, 1, analysis::kMostAnswerBytes));
       b.out.filter.max_bytes = static_cast<std::size_t>(bytes);
       return {};
     }},
    {"order",
     [](Building& b, const TermView& v, std::string_view f) -> Status {
       std::string name;
       ASSIGN_OR_RETURN(name, read_name(v, f));
       const bool newest = name == "newest" || name == "newest_first" || name == "desc";
       if (!newest && name != "oldest" && name != "oldest_first" && name != "asc") {
         return bad_value(f, v, "must be newest_first or oldest_first");
       }
       b.out.filter.order = newest ? analysis::Order::newest_first : analysis::Order::oldest_first;
       return {};
     }},
    {"cursor",
     [](Building& b, const TermView& v, std::string_view f) -> Status {
       if (v.is_atom("none") || v.is_atom("nil") || v.is_atom("undefined")) return {};
       const auto bytes = v.binary_text();
       if (!bytes || bytes->empty())
         return bad_value(f, v, "must be `next` of an answer, unchanged");
       b.out.filter.cursor = *bytes;
       return {};
     }},
    {"min_duration",
     [](Building& b, const TermView& v, std::string_view f) -> Status {
       ASSIGN_OR_RETURN(b.out.filter.min_duration_ns, read_duration(v, f, 1));
       return {};
     }},
    {"deadline",
     [](Building& b, const TermView& v, std::string_view f) -> Status {
       std::int64_t ms = 0;
       ASSIGN_OR_RETURN(ms, read_integer(v, f, 1, 60'000));
       b.out.deadline = std::chrono::milliseconds(ms);
       return {};
     }},
    {"match",
     [](Building& b, const TermView& v, std::string_view) -> Status {
       ASSIGN_OR_RETURN(b.out.filter.match, analysis::MatchSpec::compile(v));
       return {};
     }},
    {"text",
     [](Building& b, const TermView& v, std::string_view f) -> Status {
       // One byte more than may be: a longer text is refused, not cut.
       const auto text = v.kind() == codec::TermKind::nil
                             ? std::nullopt
                             : v.text(analysis::TextSearch::kMaxBytes + 1);
       if (!text || text->empty()) return bad_value(f, v, "must be an atom or a string");
       if (text->size() > analysis::TextSearch::kMaxBytes) {
         return bad_value(f, v, fmt::format("at most {} bytes", analysis::TextSearch::kMaxBytes));
       }
       b.out.filter.text = *text;
       return {};
     }},
    {"explain",
     [](Building& b, const TermView& v, std::string_view f) -> Status {
       ASSIGN_OR_RETURN(b.out.filter.explain, read_boolean(v, f));
       return {};
     }},
    {"trace_id",
     [](Building& b, const TermView& v, std::string_view f) -> Status {
       const auto text = v.kind() == codec::TermKind::nil ? std::nullopt : v.text(55 + 1);
       if (text) b.out.filter.trace_id = store::read_trace_id(*text);
       if (!b.out.filter.trace_id) {
         return bad_value(f, v, "must be 32 hex digits, or a W3C traceparent");
       }
       return {};
     }},
    // Of traces only: the last.
    {"errors",
     [](Building& b, const TermView& v, std::string_view f) -> Status {
       ASSIGN_OR_RETURN(b.out.errors, read_boolean(v, f));
       return {};
     }},
};

}  // namespace

Result<FilterRequest> read_filter(const TermView& options, Of of) {
  Building b;
  const std::span<const OptionReader<Building>> table(kFilterOptions);
  RETURN_IF_ERROR(
      read_options(options, of == Of::traces ? table : table.first(table.size() - 1), b));
  const std::string node = b.out.filter.nodes.size() == 1 ? b.out.filter.nodes.front() : "";
  if (b.pid) {
    ASSIGN_OR_RETURN(b.out.filter.pid, read_process(*b.pid, "pid", node));
  }
  if (b.peer) {
    ASSIGN_OR_RETURN(b.out.filter.peer, read_process(*b.peer, "peer"));
  }
  return std::move(b.out);
}

}  // namespace scope::node
