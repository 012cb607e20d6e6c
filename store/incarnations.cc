#include "store/incarnations.h"

#include "store/key_format.h"

namespace scope::store {
namespace {
constexpr unsigned kVersion = 2;
}

std::string_view NodePool::intern(std::string_view text) {
  auto it = texts_.find(text);
  if (it == texts_.end()) it = texts_.emplace(text).first;
  return *it;
}

void Incarnations::add(IncarnationInfo info) {
  const auto name = pool_->intern(info.node);
  names_.push_back(name);
  numbers_.emplace(std::tuple(name, info.creation, info.agent_id), info.number);
  homes_.emplace(std::tuple(name, info.creation), info.home);
  auto& newest = newest_home_[name];
  newest = std::max(newest, info.home);
  if (info.agent_id == 0) ++heard_of_;
  entries_.push_back(std::move(info));
}

Status Incarnations::load(const lmdb::Txn& txn, lmdb::Dbi dbi) {
  ASSIGN_OR_RETURN(auto cursor, lmdb::Cursor::open(txn, dbi));
  const Key prefix('i');
  ASSIGN_OR_RETURN(bool found, cursor.seek(prefix));
  while (found && starts_with(cursor.key(), prefix)) {
    KeyReader key(cursor.key().subspan(1));
    ByteReader in(cursor.value());
    IncarnationInfo info;
    info.number = key.u32();
    const auto version = in.u8();
    info.home = in.u32();
    info.creation = in.u32();
    info.agent_id = in.u64();
    info.last_committed_seq = in.u64();
    info.first_seen.ns = in.i64();
    info.node = in.text();
    if (version == kVersion && in.left() > 0) info.complete_until = RawTime{in.i64()};
    if (version < 1 || version > kVersion || !in.done() || info.number != entries_.size() + 1 ||
        info.home < 1 || info.home > info.number)
      return fail(Code::corrupt, "the table of incarnations is damaged");
    add(std::move(info));
    ASSIGN_OR_RETURN(found, cursor.next());
  }
  return {};
}

Status Incarnations::store(lmdb::Txn& txn, lmdb::Dbi dbi, bool everything) const {
  ByteWriter out;
  auto put = [&](const IncarnationInfo& info) {
    out.clear();
    out.u8(kVersion);
    out.u32(info.home);
    out.u32(info.creation);
    out.u64(info.agent_id);
    out.u64(info.last_committed_seq);
    out.i64(info.first_seen.ns);
    out.text(info.node);
    if (info.complete_until) out.i64(info.complete_until->ns);
    return txn.put(dbi, incarnation_key(info.number), out.bytes());
  };
  if (everything) {
    for (const auto& info : entries_) RETURN_IF_ERROR(put(info));
  } else {
    for (const auto number : dirty_) RETURN_IF_ERROR(put(info(number)));
  }
  return {};
}

Incarnation Incarnations::find(std::string_view node, std::uint32_t creation,
                               std::uint64_t agent_id) const {
  const auto it = numbers_.find(std::tuple(node, creation, agent_id));
  return it == numbers_.end() ? kNoIncarnation : it->second;
}

Incarnation Incarnations::find_or_make(std::string_view node, std::uint32_t creation,
                                       std::uint64_t agent_id, ClusterTime now) {
  if (const auto known = find(node, creation, agent_id)) return known;
  IncarnationInfo info;
  info.number = static_cast<Incarnation>(entries_.size() + 1);
  const auto home = homes_.find(std::tuple(node, creation));
  info.home = home == homes_.end() ? info.number : home->second;
  info.node = node;
  info.creation = creation;
  info.agent_id = agent_id;
  info.first_seen = now;
  dirty_.insert(info.number);
  add(std::move(info));
  return static_cast<Incarnation>(entries_.size());
}

Incarnation Incarnations::home_of(std::string_view node, std::uint32_t creation, ClusterTime now) {
  const auto it = homes_.find(std::tuple(node, creation));
  if (it != homes_.end()) return it->second;
  if (heard_of_ >= kMaxHeardOf) {
    ++refused_;
    return kNoIncarnation;
  }
  return find_or_make(node, creation, 0, now);
}

void Incarnations::set_committed(Incarnation n, std::uint64_t seq) {
  entries_[n - 1].last_committed_seq = seq;
  dirty_.insert(n);
}

void Incarnations::set_complete(Incarnation n, RawTime until) {
  auto& known = entries_[n - 1].complete_until;
  if (!known || *known < until) known = until;
}

}  // namespace scope::store
