#include "analysis/cursor.h"

#include <xxhash.h>

#include <cstring>

namespace scope::analysis {
namespace {

constexpr std::uint8_t kCursorVersion = 1;

// version, question, filter hash, clock version, upper LSN, flags, since, until, time, id, checksum; little-endian as
// this daemon writes it for itself.
struct Packed {
  std::uint8_t version = kCursorVersion, question = 0, flags = 0, zero = 0;
  std::uint32_t checksum = 0;
  std::uint64_t filter_hash = 0;
  std::int64_t clock_version = 0;
  std::uint64_t upper = 0;
  std::int64_t since = 0, until = 0, time = 0;
  std::array<std::byte, EventId::kBytes> id{};
};
static_assert(sizeof(Packed) == 80 && std::is_trivially_copyable_v<Packed>);

enum : std::uint8_t { kSince = 1, kUntil = 2, kId = 4 };

std::uint32_t checksum(Packed packed) {
  packed.checksum = 0;
  return static_cast<std::uint32_t>(XXH3_64bits(&packed, sizeof packed));
}

class Hasher {
 public:
  Hasher() { XXH3_64bits_reset(state_.get()); }
  void add(std::string_view text) {
    add_number(text.size());
    XXH3_64bits_update(state_.get(), text.data(), text.size());
  }
  void add_number(std::uint64_t n) { XXH3_64bits_update(state_.get(), &n, sizeof n); }
  void add(const ProcessSpec* spec) {
    if (spec == nullptr) return add_number(99);
    add_number(spec->index());
    if (const auto* pid = std::get_if<PidSpec>(spec)) {
      add(pid->node);
      add_number(pid->creation);
      add_number(std::uint64_t{pid->id} << 32 | pid->serial);
    } else if (const auto* name = std::get_if<NameSpec>(spec)) {
      add(name->name);
      add(name->node);
    } else {
      const auto& text = std::get<TextSpec>(*spec);
      add(text.node);
      add_number(std::uint64_t{text.id} << 32 | text.serial);
    }
  }
  std::uint64_t value() const { return XXH3_64bits_digest(state_.get()); }

 private:
  struct Free {
    void operator()(XXH3_state_t* s) const { XXH3_freeState(s); }
  };
  std::unique_ptr<XXH3_state_t, Free> state_{XXH3_createState()};
};

}  // namespace

std::string encode(const Cursor& cursor) {
  Packed p;
  p.question = static_cast<std::uint8_t>(cursor.question);
  p.filter_hash = cursor.filter_hash;
  p.clock_version = cursor.clock_version;
  p.upper = cursor.upper;
  if (cursor.since) p.flags |= kSince, p.since = cursor.since->ns;
  if (cursor.until) p.flags |= kUntil, p.until = cursor.until->ns;
  p.time = cursor.position.time.ns;
  if (cursor.position.id) p.flags |= kId, p.id = cursor.position.id->to_bytes();
  p.checksum = checksum(p);
  return {reinterpret_cast<const char*>(&p), sizeof p};
}

Result<Cursor> decode_cursor(std::string_view bytes, Question question, std::uint64_t filter_hash) {
  Packed p;
  if (bytes.size() == sizeof p) std::memcpy(&p, bytes.data(), sizeof p);
  if (bytes.size() != sizeof p || p.version != kCursorVersion || p.checksum != checksum(p)) {
    return fail(Code::bad_cursor, "not a cursor of this daemon: pass `next` of an answer unchanged",
                "cursor");
  }
  if (p.question != static_cast<std::uint8_t>(question) || p.filter_hash != filter_hash) {
    return fail(Code::bad_cursor,
                "this cursor belongs to another request: keep the filter, change only the cursor",
                "cursor");
  }
  Cursor c;
  c.question = question;
  c.filter_hash = p.filter_hash;
  c.clock_version = p.clock_version;
  c.upper = p.upper;
  if (p.flags & kSince) c.since = ClusterTime{p.since};
  if (p.flags & kUntil) c.until = ClusterTime{p.until};
  c.position.time = ClusterTime{p.time};
  if (p.flags & kId) c.position.id = EventId::from_bytes(p.id);
  return c;
}

std::uint64_t hash_of(const Filter& filter, const ProcessSpec* first, const ProcessSpec* second) {
  Hasher h;
  h.add(first);
  h.add(second);
  h.add(filter.pid ? &*filter.pid : nullptr);
  h.add(filter.peer ? &*filter.peer : nullptr);
  h.add_number(filter.nodes.size());
  for (const auto& node : filter.nodes) h.add(node);
  h.add_number(filter.types);
  h.add_number(filter.mfa.has_value());
  if (filter.mfa) {
    h.add(filter.mfa->module);
    h.add(filter.mfa->function);
    h.add_number(filter.mfa->arity ? *filter.mfa->arity : 1000U);
  }
  h.add_number(filter.modules.size());
  for (const auto& module : filter.modules) h.add(module);
  h.add_number(filter.min_duration_ns ? static_cast<std::uint64_t>(*filter.min_duration_ns) + 1
                                      : 0);
  h.add_number(static_cast<std::uint64_t>(filter.order));
  h.add(filter.match ? filter.match->bytes() : std::string_view());
  h.add(filter.text);
  h.add_number(filter.trace_id ? store::trace_key(*filter.trace_id) : 0);
  return h.value();
}

Result<Walk> begin_walk(const Context& context, const Filter& filter, Question question,
                        const ProcessSpec* first, const ProcessSpec* second) {
  Walk walk;
  walk.filter_hash = hash_of(filter, first, second);
  if (!filter.cursor.empty()) {
    Cursor cursor;
    ASSIGN_OR_RETURN(cursor, decode_cursor(filter.cursor, question, walk.filter_hash));
    walk.since = cursor.since;
    walk.until = cursor.until;
    walk.clock_version = cursor.clock_version;
    walk.after = cursor.position;
    walk.upper = cursor.upper;
    return walk;
  }
  const ClockModel clock(*context.view);
  walk.upper = context.view->upper();
  if (filter.since) {
    ASSIGN_OR_RETURN(walk.since, resolve_time(context, clock, *filter.since));
  }
  if (filter.until) {
    ASSIGN_OR_RETURN(walk.until, resolve_time(context, clock, *filter.until));
  }
  if (walk.since && walk.until && *walk.since > *walk.until) {
    return fail(Code::bad_value, "since is later than until", "since");
  }
  return walk;
}

std::string next_cursor(const Walk& walk, Question question, std::int64_t clock_version,
                        const Position& position) {
  return encode(
      {question, walk.filter_hash, clock_version, walk.upper, walk.since, walk.until, position});
}

}  // namespace scope::analysis
