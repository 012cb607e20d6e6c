#include "store/clocks.h"

#include <algorithm>

#include "store/key_format.h"

namespace scope::store {
namespace {

constexpr unsigned kVersion = 1;

Status put(lmdb::Txn& txn, lmdb::Dbi dbi, const ClockVersion& c) {
  ByteWriter out;
  out.u8(kVersion);
  out.i64(c.raw_at.ns);
  out.i64(c.offset_ns);
  out.i64(c.lower_ns);
  out.i64(c.upper_ns);
  out.fixed(c.drift_ppb);
  out.fixed(c.drift_bound_ppb);
  out.i64(c.raw_to_system_ns);
  out.i64(c.measured_at.ns);
  out.u8(c.source);
  return txn.put(dbi, clock_key(c.incarnation, c.version), out.bytes());
}

}  // namespace

Status Clocks::load(const lmdb::Txn& txn, lmdb::Dbi dbi) {
  ASSIGN_OR_RETURN(auto cursor, lmdb::Cursor::open(txn, dbi));
  ASSIGN_OR_RETURN(bool found, cursor.first());
  while (found) {
    KeyReader key(cursor.key());
    ByteReader in(cursor.value());
    ClockVersion c;
    c.incarnation = key.u32();
    c.version = key.u32();
    const auto version = in.u8();
    c.raw_at = {in.i64()};
    c.offset_ns = in.i64();
    c.lower_ns = in.i64();
    c.upper_ns = in.i64();
    c.drift_ppb = in.fixed<std::int32_t>();
    c.drift_bound_ppb = in.fixed<std::int32_t>();
    c.raw_to_system_ns = in.i64();
    c.measured_at = {in.i64()};
    c.source = in.u8();
    if (version != kVersion || !in.done() || !key.done())
      return fail(Code::corrupt, "a version of the clock model is damaged");
    versions_[{c.incarnation, c.version}] = c;
    ASSIGN_OR_RETURN(found, cursor.next());
  }
  all_ = nullptr;
  return {};
}

void Clocks::add(ClockVersion c) {
  auto after = versions_.upper_bound({c.incarnation, ~0U});
  c.version = 1;
  if (after != versions_.begin() && (--after)->first.first == c.incarnation)
    c.version = after->first.second + 1;
  versions_[{c.incarnation, c.version}] = c;
  new_.emplace_back(c.incarnation, c.version);
  all_ = nullptr;
}

Status Clocks::write_new(lmdb::Txn& txn, lmdb::Dbi dbi) const {
  for (const auto& key : new_) {
    if (const auto it = versions_.find(key); it != versions_.end())
      RETURN_IF_ERROR(put(txn, dbi, it->second));
  }
  return {};
}

Status Clocks::write_newest(lmdb::Txn& txn, lmdb::Dbi dbi) const {
  const auto list = all();  // of one raw time the newest version stands last
  for (auto it = list->begin(); it != list->end(); ++it) {
    const auto next = std::next(it);
    if (next == list->end() || next->incarnation != it->incarnation)
      RETURN_IF_ERROR(put(txn, dbi, *it));
  }
  return {};
}

void Clocks::forget_before(ClusterTime time) {
  std::map<Incarnation, std::uint32_t>
      newest;  // a revision of an older time may have come after it
  for (const auto& c : *all()) newest[c.incarnation] = c.version;
  std::erase_if(versions_, [&](const auto& entry) {
    const auto& c = entry.second;
    const auto next = versions_.upper_bound(entry.first);
    return c.measured_at < time && newest[c.incarnation] != c.version && next != versions_.end() &&
           next->first.first == c.incarnation && next->second.measured_at < time;
  });
  all_ = nullptr;
}

std::shared_ptr<const std::vector<ClockVersion>> Clocks::all() const {
  if (!all_) {
    auto list = std::make_shared<std::vector<ClockVersion>>();
    for (const auto& [key, c] : versions_) list->push_back(c);
    std::ranges::sort(*list, [](const ClockVersion& a, const ClockVersion& b) {
      return std::tie(a.incarnation, a.raw_at, a.version) <
             std::tie(b.incarnation, b.raw_at, b.version);
    });
    all_ = std::move(list);
  }
  return all_;
}

}  // namespace scope::store
