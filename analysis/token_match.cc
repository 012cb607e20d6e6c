#include "analysis/token_match.h"

#include <cstdlib>
#include <map>
#include <tuple>
#include <unordered_map>

namespace scope::analysis {

using codec::EventType;

void TokenMatcher::add(const SeqToken& token) {
  (token.send ? sends_ : takes_).push_back({token.message, token.key, nullptr});
}

void TokenMatcher::pair(std::vector<Token>& tokens, EventType type) {
  struct Rows {
    std::vector<const Message*> rows;
    std::size_t next = 0;
  };
  std::map<std::tuple<ProcessId, std::uint64_t>, Rows> by_content;
  for (const auto& t : tokens) {
    if (t.message.hash != 0) by_content[{t.message.id.process, t.message.hash}];
  }
  for (const auto& m : own_) {
    if (m.type != type) continue;
    const auto rows = by_content.find({m.id.process, m.hash});
    if (rows != by_content.end()) rows->second.rows.push_back(&m);
  }
  for (auto& t : tokens) {
    const auto found = by_content.find({t.message.id.process, t.message.hash});
    if (t.own != nullptr || found == by_content.end()) continue;
    auto& [rows, next] = found->second;
    const auto apart = [&](std::size_t i) {
      return std::abs(rows[i]->id.time.ns - t.message.id.time.ns);
    };
    auto nearest = next;
    while (nearest + 1 < rows.size() && apart(nearest + 1) < apart(nearest)) ++nearest;
    if (nearest >= rows.size() || apart(nearest) > kTwinNs) continue;
    t.own = rows[nearest];
    next = nearest + 1;
    beside_.insert(t.message.id);
  }
}

std::vector<TokenMatcher::Edge> TokenMatcher::edges() {
  std::vector<Edge> out;
  pair(sends_, EventType::message_send);
  pair(takes_, EventType::message_take);
  pair(takes_, EventType::message_fetch);
  std::unordered_map<std::uint64_t, const Token*> taken;
  for (const auto& t : takes_) taken.emplace(t.key, &t);
  for (const auto& s : sends_) {
    const auto at = taken.find(s.key);
    if (at == taken.end()) continue;
    const auto& t = *at->second;
    out.push_back(
        {s.own != nullptr ? s.own->id : s.message.id, t.own != nullptr ? *t.own : t.message});
  }
  return out;
}

}  // namespace scope::analysis
