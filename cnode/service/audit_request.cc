#include "cnode/service/audit_request.h"

#include "cnode/service/parse.h"
#include "cnode/service/reply.h"
#include "store/audit_log.h"

namespace scope::node {
namespace {

using codec::TermBuilder;
using codec::TermView;

constexpr std::int64_t kMostEntries = 1000;
constexpr std::size_t kCursorBytes = 8;  // the number of the last entry shown, big-endian

struct Building {
  store::AuditRange range;
  ClusterTime now;
};

constexpr OptionReader<Building> kOptions[] = {
    {"since",
     [](Building& b, const TermView& v, std::string_view f) -> Status {
       ASSIGN_OR_RETURN(b.range.since, read_cluster_time(v, f, b.now));
       return {};
     }},
    {"until",
     [](Building& b, const TermView& v, std::string_view f) -> Status {
       ASSIGN_OR_RETURN(b.range.until, read_cluster_time(v, f, b.now));
       return {};
     }},
    {"limit",
     [](Building& b, const TermView& v, std::string_view f) -> Status {
       std::int64_t limit = 0;
       ASSIGN_OR_RETURN(limit, read_integer(v, f, 1, kMostEntries));
       b.range.limit = static_cast<std::size_t>(limit);
       return {};
     }},
    {"cursor",
     [](Building& b, const TermView& v, std::string_view f) -> Status {
       if (v.is_atom("none")) return {};
       const auto bytes = v.binary();
       if (!bytes || bytes->size() != kCursorBytes)
         return bad_value(f, v, "must be `next` of an answer, unchanged");
       b.range.before = 0;
       for (const auto byte : *bytes)
         b.range.before = b.range.before << 8 | std::to_integer<std::uint64_t>(byte);
       return {};
     }},
};

std::string cursor_of(std::uint64_t number) {
  std::string out;
  for (int shift = 56; shift >= 0; shift -= 8) out += static_cast<char>(number >> shift & 0xFF);
  return out;
}

}  // namespace

Status run_audit(const TermView& request, Env& env, TermBuilder& out) {
  Building wanted;
  wanted.now = env.context.now;
  RETURN_IF_ERROR(read_options<Building>(request.element(1), kOptions, wanted));
  ASSIGN_OR_RETURN(const auto page, env.store.audit().read(wanted.range));
  MapWriter map;
  auto& list = map.key("entries").list(static_cast<std::uint32_t>(page.entries.size()));
  for (const auto& entry : page.entries) {
    MapWriter item;
    item.key("number").unsigned_integer(entry.number);
    item.key("time").integer(entry.at.ns);
    if (const auto said = codec::view(entry.term); said && said->map()) {
      for (auto it = *said->map(); !it.done(); it.next()) {
        if (const auto key = it.key().atom()) item.key(*key).raw(it.value().bytes());
      }
    }
    item.write(list);
  }
  list.nil();
  write_cursor(map.key("next"), page.more ? cursor_of(page.entries.back().number) : "");
  map.key("dropped").unsigned_integer(page.dropped);
  map.key("damaged").unsigned_integer(page.damaged);
  map.write(out);
  return {};
}

}  // namespace scope::node
