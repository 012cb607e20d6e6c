// What Causality makes of links: whose end passed on to whom (causality.h, SpanLink).
//
// When a linked process ends with an error, the VM ends the other one with the same error, unless it traps exits: then it has
// an 'EXIT' message, whose span is a child of the end. Recorded are the links and the ends, not what the VM did; so an end is
// told as passed on only where one linked process alone ended with the same error, certainly before.
#include <algorithm>
#include <utility>

#include "analysis/causality.h"

namespace scope::analysis {
namespace {

constexpr std::size_t kMaxLinks = 256;  // of a process; of one with more nothing is told

}  // namespace

void Causality::linked(const RowStream::Item& item) {
  const auto& row = *item.row;
  const auto mine = receivers_.home(row.process), other = receivers_.other_end(row);
  if (!other) return;
  // Either end's row tells of both: the other may not be traced.
  for (const auto& [who, to] : {std::pair(mine, other), std::pair(other, mine)}) {
    auto& links = linked_[who];
    const auto known = std::ranges::find(links, to);
    if (row.record.type == codec::EventType::process_unlink) {
      if (known != links.end()) links.erase(known);
    } else if (known == links.end() && links.size() < kMaxLinks) {
      links.push_back(to);
    }
  }
}

void Causality::ends_passed_on() {
  for (const auto& who : ended_) {
    const auto& end = exits_.at(who);
    const auto links = linked_.find(who);
    if (end.error.empty() || end.activity == kNoSpan || links == linked_.end() ||
        links->second.size() == kMaxLinks)
      continue;
    int candidates = 0;
    std::uint32_t from = kNoSpan;
    for (const auto& other : links->second) {
      const auto exit = exits_.find(other);
      if (exit == exits_.end() || exit->second.error != end.error) continue;
      const auto& before = exit->second;
      const auto s = slack(before.at, before.id, end.at, end.id);
      const auto apart = end.at.time.ns - before.at.time.ns;
      if (s != kUnknownError && apart < -s) continue;  // it ended later
      ++candidates;
      if (s != kUnknownError && apart > s) from = before.activity;
    }
    if (candidates == 1 && from != kNoSpan && spans_[end.activity].parent != from)
      links_.push_back({from, end.activity, "exit"});
  }
}

}  // namespace scope::analysis
