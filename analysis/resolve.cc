#include "analysis/resolve.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

namespace scope::analysis {
namespace {

using store::IncarnationInfo;

constexpr ClusterTime kEver{std::numeric_limits<std::int64_t>::max()};
constexpr ClusterTime kNever{std::numeric_limits<std::int64_t>::min()};

// The time in which a VM was the one of that name: until the next creation of the node was heard of.
struct Spell {
  ClusterTime from = kNever, until = kEver;
  bool overlaps(ClusterTime a, ClusterTime b) const { return from <= b && until >= a; }
};

Spell vm_spell(const store::View& view, const IncarnationInfo& vm) {
  Spell spell;
  ClusterTime first = vm.first_seen;
  for (const auto& info : view.incarnations()) {
    if (info.home == vm.home) first = std::min(first, info.first_seen);
  }
  for (const auto& info : view.incarnations()) {
    if (info.node == vm.node && info.creation != vm.creation && info.first_seen > first) {
      spell.until = std::min(spell.until, info.first_seen);
    }
  }
  return spell;
}

struct Candidate {
  Process process;
  Spell spell;
};

Spell name_spell(const store::View& view, const ClockModel& clock, const store::NameSpell& name) {
  Spell spell;
  // Held already when tracing began: since when is not known.
  if (!name.from_baseline) spell.from = clock.cluster(name.process.incarnation, name.from).time;
  if (name.until) {
    spell.until = clock.cluster(name.process.incarnation, *name.until).time;
  } else if (const auto* info = info_of(view, name.process.incarnation)) {
    spell.until = vm_spell(view, *info).until;
  }
  return spell;
}

Result<std::vector<Candidate>> by_name(const Context& context, const ClockModel& clock,
                                       const NameSpec& spec) {
  std::vector<Candidate> out;
  std::shared_ptr<const void> owner;
  std::vector<store::NameSpell> spells;
  ASSIGN_OR_RETURN(spells, context.view->name_spells(spec.node, spec.name, owner));
  for (const auto& spell : spells) {
    out.push_back(
        {process_of(*context.view, spell.process), name_spell(*context.view, clock, spell)});
  }
  return out;
}

Result<std::vector<Candidate>> by_text(const Context& context, const ClockModel& clock,
                                       const TextSpec& spec) {
  std::vector<Candidate> out;
  for (const auto& info : context.view->incarnations()) {
    if (info.home != info.number || (!spec.node.empty() && info.node != spec.node)) continue;
    Candidate candidate{process_of(*context.view, ProcessId{info.number, spec.id, spec.serial}),
                        vm_spell(*context.view, info)};
    std::shared_ptr<const void> owner;
    std::vector<store::Life> lives;
    ASSIGN_OR_RETURN(lives, context.view->lives(candidate.process.ids.front(), owner));
    if (lives.empty()) {
      bool seen = false;
      ASSIGN_OR_RETURN(seen, recorded(context, candidate.process));
      if (!seen) continue;
    }
    for (const auto& life : lives) {
      if (life.exited) {
        candidate.spell.until = std::min(
            candidate.spell.until, clock.cluster(life.process.incarnation, *life.exited).time);
      }
    }
    out.push_back(std::move(candidate));
  }
  return out;
}

Result<Process> choose(std::vector<Candidate> candidates, ClusterTime from, ClusterTime until,
                       std::string_view field, const std::string& given) {
  if (candidates.empty()) {
    return fail(Code::no_such_process, "no process of that pid or name was recorded",
                std::string(field), given);
  }
  for (const ClusterTime since : {until, from}) {
    std::vector<const Process*> found;
    for (const auto& c : candidates) {
      const bool known = std::any_of(found.begin(), found.end(),
                                     [&](const Process* p) { return *p == c.process; });
      if (c.spell.overlaps(since, until) && !known) found.push_back(&c.process);
    }
    if (found.size() == 1) return *found.front();
    if (found.empty()) continue;
    std::string list;
    for (std::size_t i = 0; i < found.size() && i < 20; ++i) {
      list +=
          fmt::format("{}{} on {} (creation {})", i == 0 ? "" : ", ",
                      pid_text(found[i]->id, found[i]->serial), found[i]->node, found[i]->creation);
    }
    return fail(Code::ambiguous_process,
                fmt::format("{} processes match: {}; name the node, the pid or a narrower time",
                            found.size(), list),
                std::string(field), given);
  }
  return fail(Code::no_such_process, "it was recorded, but at another time than the one asked for",
              std::string(field), given);
}

Status check_node(const store::View& view, const std::string& node, std::string_view field) {
  if (node.empty()) return {};
  for (const auto& info : view.incarnations()) {
    if (info.node == node) return {};
  }
  return fail(Code::unknown_node, "no node of that name was seen", std::string(field), node);
}

}  // namespace

std::string pid_text(std::uint32_t id, std::uint32_t serial) {
  return fmt::format("<0.{}.{}>", id, serial);
}

bool Process::holds(const ProcessId& process) const {
  return std::binary_search(ids.begin(), ids.end(), process);
}

const IncarnationInfo* info_of(const store::View& view, Incarnation incarnation) {
  const auto all = view.incarnations();
  const auto at = std::partition_point(all.begin(), all.end(),
                                       [&](const auto& info) { return info.number < incarnation; });
  return at != all.end() && at->number == incarnation ? &*at : nullptr;
}

Process process_of(const store::View& view, const ProcessId& id) {
  Process out{{}, {}, 0, id.id, id.serial};
  const auto* own = info_of(view, id.incarnation);
  if (own == nullptr) {
    out.ids.push_back(id);
    return out;
  }
  out.node = own->node;
  out.creation = own->creation;
  for (const auto& info : view.incarnations()) {
    if (info.home == own->home) out.ids.push_back({info.number, id.id, id.serial});
  }
  return out;
}

std::optional<Process> process_of(const store::View& view, std::string_view node,
                                  std::uint32_t creation, std::uint32_t id, std::uint32_t serial) {
  for (const auto& info : view.incarnations()) {
    if (info.node == node && info.creation == creation) {
      return process_of(view, ProcessId{info.number, id, serial});
    }
  }
  return std::nullopt;
}

Result<std::vector<Incarnation>> incarnations_of(const store::View& view,
                                                 std::span<const std::string> nodes) {
  std::vector<Incarnation> out;
  for (const auto& node : nodes) RETURN_IF_ERROR(check_node(view, node, "node"));
  for (const auto& info : view.incarnations()) {
    if (std::find(nodes.begin(), nodes.end(), info.node) != nodes.end()) out.push_back(info.number);
  }
  return out;
}

Result<bool> recorded(const Context& context, const Process& process) {
  store::RowFilter filter;
  filter.processes = process.ids;
  filter.payload = false;
  filter.newest_only = true;
  const auto units = context.view->units();
  for (auto unit = units.rbegin(); unit != units.rend(); ++unit) {
    const bool here = std::any_of(unit->ranges.begin(), unit->ranges.end(), [&](const auto& range) {
      return std::any_of(process.ids.begin(), process.ids.end(),
                         [&](const ProcessId& id) { return id.incarnation == range.incarnation; });
    });
    if (!here) continue;
    const auto rows = context.view->read(*unit, filter);
    if (rows && !rows->rows.empty()) return true;
    if (context.budget.spent()) {
      return fail(Code::deadline, "the deadline passed while looking for the process");
    }
  }
  return false;
}

Result<Process> resolve(const Context& context, const ClockModel& clock, const ProcessSpec& spec,
                        ClusterTime from, ClusterTime until, std::string_view field) {
  if (const auto* pid = std::get_if<PidSpec>(&spec)) {
    RETURN_IF_ERROR(check_node(*context.view, pid->node, field));
    auto found = process_of(*context.view, pid->node, pid->creation, pid->id, pid->serial);
    if (found) return *std::move(found);
    return fail(Code::no_such_process, "that incarnation of the node was never recorded",
                std::string(field),
                fmt::format("{} on {} (creation {})", pid_text(pid->id, pid->serial), pid->node,
                            pid->creation));
  }
  if (const auto* name = std::get_if<NameSpec>(&spec)) {
    RETURN_IF_ERROR(check_node(*context.view, name->node, field));
    std::vector<Candidate> candidates;
    ASSIGN_OR_RETURN(candidates, by_name(context, clock, *name));
    return choose(std::move(candidates), from, until, field, name->name);
  }
  const auto& text = std::get<TextSpec>(spec);
  RETURN_IF_ERROR(check_node(*context.view, text.node, field));
  std::vector<Candidate> candidates;
  ASSIGN_OR_RETURN(candidates, by_text(context, clock, text));
  return choose(std::move(candidates), from, until, field, pid_text(text.id, text.serial));
}

PeerMatcher::PeerMatcher(const Context& context, const ClockModel& clock, const Process& process)
    : view_(*context.view), process_(process) {
  std::shared_ptr<const void> owner;
  auto names = view_.names_of(process.ids.front(), owner);
  if (!names) {
    status_ = std::unexpected(std::move(names).error());
    return;
  }
  for (const auto& name : *names) {
    const auto spell = name_spell(view_, clock, name);
    spells_.push_back({std::string(name.name), spell.from, spell.until});
  }
}

Means PeerMatcher::means(const store::StoredRow& row, ClusterTime at) const {
  const auto& peer = row.record.peer;
  const auto* own = info_of(view_, row.process.incarnation);
  if (own == nullptr) return Means::no;
  const std::string_view node = peer.node.empty() ? std::string_view(own->node) : peer.node;
  using Kind = codec::Peer::Kind;
  switch (peer.kind) {
    case Kind::pid: {
      const std::uint32_t creation =
          peer.creation == 0 && node == own->node ? own->creation : peer.creation;
      return node == process_.node && creation == process_.creation && peer.id == process_.id &&
                     peer.serial == process_.serial
                 ? Means::yes
                 : Means::no;
    }
    case Kind::name:
    case Kind::remote_name:
      if (node != process_.node) return Means::no;
      for (const auto& spell : spells_) {
        if (spell.name == peer.name && spell.from <= at && at <= spell.until) return Means::yes;
      }
      return Means::no;
    case Kind::alias:
      return peer.alias.node == process_.node && peer.alias.creation == process_.creation
                 ? Means::perhaps
                 : Means::no;
    case Kind::none:
    case Kind::port:
      return Means::no;
  }
  return Means::no;
}

}  // namespace scope::analysis
