#include "analysis/flow_match.h"

#include <tuple>

namespace scope::analysis {
namespace {

// Can `later` have happened after `earlier`?
bool possible(const Hit& earlier, const Hit& later) {
  const std::int64_t s = slack(earlier, later);
  return s == kUnknownError || later.at.time.ns + s >= earlier.at.time.ns;
}

}  // namespace

std::int64_t slack(const Hit& a, const Hit& b) {
  if (a.id.process.incarnation == b.id.process.incarnation) return 0;
  if (a.at.error_ns == kUnknownError || b.at.error_ns == kUnknownError) return kUnknownError;
  return a.at.error_ns + b.at.error_ns;
}

std::int64_t elapsed(const Hit& earlier, const Hit& later) {
  if (earlier.id.process.incarnation == later.id.process.incarnation) {
    return later.id.time.ns - earlier.id.time.ns;
  }
  return later.at.time.ns - earlier.at.time.ns;
}

void match(const Content& content, std::map<EventId, Match>& out) {
  const bool by_take = content.fetches.empty();
  const auto& arrivals = by_take ? content.takes : content.fetches;
  std::size_t s = 0, f = 0;
  while (s < content.sends.size()) {
    // Arrivals that precede every send still open came from elsewhere, or from before the window.
    while (f < arrivals.size() && !possible(content.sends[s], arrivals[f])) ++f;
    const std::size_t s_begin = s, f_begin = f;
    ++s;
    while (true) {
      // Everything fetched that cannot be after the next send belongs to this cluster.
      while (f < arrivals.size() &&
             (s == content.sends.size() || arrivals[f].at.time < content.sends[s].at.time)) {
        ++f;
      }
      if (s == content.sends.size()) break;
      const bool even = f - f_begin == s - s_begin;
      const bool apart = f == f_begin || !possible(content.sends[s], arrivals[f - 1]);
      if (even && apart) break;
      ++s;
    }
    const auto sent = s - s_begin, arrived = f - f_begin;
    for (std::size_t i = s_begin, j = f_begin; i < s; ++i) {
      Match m;
      m.candidates = static_cast<std::uint32_t>(std::max(sent, arrived));
      while (j < f && !possible(content.sends[i], arrivals[j])) ++j;
      if (j < f) {
        (by_take ? m.take : m.fetch) = arrivals[j++];
      }
      out.emplace(content.sends[i].id, m);
    }
  }
  if (by_take) return;
  // Takings follow fetches in the receiver's own order.
  std::map<EventId, Hit> taking;
  std::size_t t = 0;
  for (const auto& fetch : content.fetches) {
    while (t < content.takes.size() && std::tie(content.takes[t].at.time, content.takes[t].id) <
                                           std::tie(fetch.at.time, fetch.id)) {
      ++t;
    }
    if (t < content.takes.size()) taking.emplace(fetch.id, content.takes[t++]);
  }
  for (const auto& send : content.sends) {
    auto& m = out.at(send.id);
    if (!m.fetch) continue;
    const auto at = taking.find(m.fetch->id);
    if (at != taking.end()) m.take = at->second;
  }
}

}  // namespace scope::analysis
