#include "analysis/message.h"

#define XXH_INLINE_ALL  // keys are short: a call costs as much as their hash
#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "analysis/resolve.h"

namespace scope::analysis {
namespace {

using codec::EventType;
using codec::TermKind;
using codec::TermView;
using codec::TraceRecord;

// Of all that a reference is: node, creation, numbers.
Identity::Ref hash_of(const codec::RefParts& ref) {
  const auto node = XXH3_128bits(ref.node.data(), ref.node.size());
  std::array<std::uint64_t, 5> words{node.low64, node.high64};
  const std::uint32_t count = std::min<std::uint32_t>(ref.count, 5);
  for (std::uint32_t i = 0; i < count; ++i)
    words[2 + i / 2] |= std::uint64_t{ref.ids[i]} << (i % 2 * 32);
  words[4] |= std::uint64_t{ref.creation} << 32;
  const auto h = XXH3_128bits(words.data(), sizeof words);
  return {h.low64, h.high64};
}

// Ref, [alias | Ref], [[alias | Ref] | _] (gen_statem's own marks).
std::optional<Identity::Ref> tag_of(TermView term) {
  for (int depth = 0; depth < 3; ++depth) {
    if (const auto ref = term.reference()) return hash_of(*ref);
    auto list = term.kind() == TermKind::list ? term.list() : std::nullopt;
    if (!list || list->done() || list->left() != 1) return std::nullopt;
    const auto head = list->item();
    list->next();
    const auto tail = list->tail();
    if (head.is_atom("alias") && tail) {
      const auto ref = tail->reference();
      return ref ? std::optional(hash_of(*ref)) : std::nullopt;
    }
    term = head;
  }
  return std::nullopt;
}

}  // namespace

Receivers::Receivers(const Context& context, const ClockModel& clock)
    : view_(*context.view), clock_(clock) {
  for (const auto& info : view_.incarnations()) {
    if (homes_.size() <= info.number) homes_.resize(info.number + 1, kNoIncarnation);
    homes_[info.number] = info.home;
  }
}

ProcessId Receivers::home(ProcessId process) const {
  if (process.incarnation < homes_.size() && homes_[process.incarnation] != kNoIncarnation) {
    process.incarnation = homes_[process.incarnation];
  }
  return process;
}

ProcessId Receivers::home(const codec::PidParts& pid) const {
  return {vm(pid.node, pid.creation), pid.id, pid.serial};
}

Incarnation Receivers::vm(std::string_view node, std::uint32_t creation) const {
  for (const auto& info : view_.incarnations()) {
    if (info.creation == creation && info.node == node) return info.home;
  }
  return kNoIncarnation;
}

// The VM of that name which was the last one heard of before.
Incarnation Receivers::vm_at(std::string_view node, ClusterTime at) const {
  Incarnation best = kNoIncarnation;
  std::optional<ClusterTime> since;
  for (const auto& info : view_.incarnations()) {
    if (info.node != node) continue;
    const bool better = !since || (info.first_seen <= at ? *since > at || info.first_seen >= *since
                                                         : *since > at && info.first_seen < *since);
    if (better) {
      best = info.home;
      since = info.first_seen;
    }
  }
  return best;
}

Destination Receivers::owner(std::string_view node, std::string_view name, ClusterTime at) {
  const auto key = std::pair(std::string(node), std::string(name));
  auto found = owners_.find(key);
  if (found == owners_.end()) {
    found = owners_.emplace(key, std::vector<Owner>{}).first;
    std::shared_ptr<const void> keep;
    const auto spells = view_.name_spells(node, name, keep);
    for (const auto& spell : spells ? *spells : std::vector<store::NameSpell>{}) {
      using Limits = std::numeric_limits<std::int64_t>;
      Owner owner{home(spell.process), Limits::min(), Limits::max()};
      const auto from = clock_.cluster(spell.process.incarnation, spell.from);
      if (!spell.from_baseline && from.error_ns != kUnknownError) {
        owner.from = from.time.ns - from.error_ns;
      }
      if (spell.until) {
        const auto until = clock_.cluster(spell.process.incarnation, *spell.until);
        if (until.error_ns != kUnknownError) owner.until = until.time.ns + until.error_ns;
      }
      found->second.push_back(owner);
    }
  }
  // A VM that ended never gave its names back: a later one of that node with an owner of its own comes first.
  std::optional<ProcessId> process;
  bool several = false;
  const Incarnation now = vm_at(node, at);
  for (const auto& o : found->second) {
    if (at.ns < o.from || at.ns > o.until || o.process.incarnation != now) continue;
    several |= process && *process != o.process;
    process = o.process;
  }
  if (process && !several) return {Destination::Kind::process, *process};
  if (now == kNoIncarnation) return {};
  return {Destination::Kind::vm, {now, 0, 0}};
}

ProcessId Receivers::other_end(const store::StoredRow& row) const {
  const auto& peer = row.record.peer;
  const auto* own = info_of(view_, row.process.incarnation);
  if (peer.kind != codec::Peer::Kind::pid || own == nullptr) return {};
  const std::string_view node = peer.node.empty() ? std::string_view(own->node) : peer.node;
  const bool local = peer.creation == 0 && node == own->node;
  const auto out =
      home(codec::PidParts{node, peer.id, peer.serial, local ? own->creation : peer.creation});
  return out ? out : ProcessId{};
}

Destination Receivers::destination(const store::StoredRow& send, ClusterTime at) {
  const auto& peer = send.record.peer;
  const auto* own = info_of(view_, send.process.incarnation);
  if (own == nullptr) return {};
  const std::string_view node = peer.node.empty() ? std::string_view(own->node) : peer.node;
  using Kind = codec::Peer::Kind;
  switch (peer.kind) {
    case Kind::pid: {
      const bool local = peer.creation == 0 && node == own->node;
      const Incarnation there = local ? own->home : vm(node, peer.creation);
      if (there == kNoIncarnation) return {};
      return {Destination::Kind::process, {there, peer.id, peer.serial}};
    }
    case Kind::name:
    case Kind::remote_name:
      return owner(node, peer.name, at);
    case Kind::alias: {
      const Incarnation there = vm(peer.alias.node, peer.alias.creation);
      if (there == kNoIncarnation) return {};
      return {Destination::Kind::vm, {there, 0, 0}};
    }
    case Kind::none:
    case Kind::port:
      return {};
  }
  return {};
}

Identity identity_of(const store::StoredRow& row, const Receivers& receivers) {
  Identity out;
  const auto& record = row.record;
  if (record.has(TraceRecord::kTimeoutNotMessage)) {
    out.kind = Identity::Kind::timer;
    return out;
  }
  if (record.payload.empty()) return out;
  const auto term = record.term();
  const auto arity = term.arity();
  const bool received = record.type != EventType::message_send;
  if (!arity) {
    if (received && term.is_atom("timeout")) out.kind = Identity::Kind::timer;
    return out;
  }
  if (*arity < 2) return out;
  const auto first = term.element(0);
  if (const auto atom = first.atom()) {
    if (*arity == 3 && *atom == "$gen_call") {
      const auto from = term.element(1);
      if (from.arity() != 2u) return out;
      if (const auto ref = tag_of(from.element(1))) {
        out.kind = Identity::Kind::request;
        out.ref = *ref;
      }
      return out;
    }
    if (!received) return out;
    // A lost connection ends nobody.
    const auto lost = [&](std::uint32_t reason) {
      return term.element(reason).is_atom("noconnection");
    };
    const auto who = [&](std::uint32_t i) {
      if (const auto pid = term.element(i).pid()) out.process = receivers.home(*pid);
    };
    if (*arity == 5 && *atom == "DOWN") {
      if (const auto ref = tag_of(term.element(1))) {
        out.kind = Identity::Kind::down;
        out.ref = *ref;
        if (!lost(4)) who(3);
      }
    } else if (*arity == 3 && *atom == "EXIT" && term.element(1).pid()) {
      out.kind = Identity::Kind::exit;
      if (!lost(2)) who(1);
    } else if (*arity == 4 && *atom == "spawn_reply") {
      out.kind = Identity::Kind::spawned;
      who(3);
    } else if (*arity == 3 && *atom == "timeout" &&
               (record.has(TraceRecord::kSystem) ||
                (record.type == EventType::message_take && record.mfa.module == "gen_statem"))) {
      out.kind = Identity::Kind::timer;
    } else if (record.has(TraceRecord::kSystem)) {
      out.kind = Identity::Kind::port;
    }
    return out;
  }
  if (received && record.has(TraceRecord::kSystem)) {
    out.kind = Identity::Kind::port;
  } else if (*arity == 2) {
    if (const auto ref = tag_of(first)) {
      out.kind = Identity::Kind::reply;
      out.ref = *ref;
    }
  }
  return out;
}

Message Receivers::message(const store::StoredRow& row, Corrected at) {
  Message out;
  out.type = row.record.type;
  out.flags = row.record.flags;
  out.hash = row.record.has(TraceRecord::kHashed) ? row.record.match_hash : 0;
  out.id = row.id();
  out.at = at;
  out.process = home(row.process);
  out.identity = identity_of(row, *this);
  if (out.type == EventType::message_send) out.to = destination(row, at.time);
  return out;
}

}  // namespace scope::analysis
