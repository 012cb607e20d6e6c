#include "analysis/kept_edges.h"

#include <algorithm>

namespace scope::analysis {
namespace {

using store::MessageEdge;

// A slice that can be used, and its parts once they are asked for.
struct Kept {
  store::SliceState state;
  std::vector<store::EdgePart> parts;
  bool opened = false, damaged = false;
};

Status open_parts(const store::EdgeStore::Reading& here, Kept& kept) {
  if (kept.opened) return {};
  kept.opened = true;
  for (std::uint32_t i = 0; i < kept.state.parts; ++i) {
    ASSIGN_OR_RETURN(auto part, here.part(kept.state.slice, i));
    kept.parts.push_back(part);
  }
  return {};
}

Result<std::optional<MessageEdge>> look(const store::EdgeStore::Reading& here, Kept& kept,
                                        const EventId& id, bool by_arrival) {
  RETURN_IF_ERROR(open_parts(here, kept));
  std::optional<MessageEdge> found;
  for (const auto& part : kept.parts) {
    ASSIGN_OR_RETURN(found, by_arrival ? part.by_arrival(id) : part.by_send(id));
    if (found) break;
  }
  if (!found || found->take || found->arrival_is_take) return found;
  for (const auto& part : kept.parts) {
    ASSIGN_OR_RETURN(found->take, part.late_take(found->arrival));
    if (found->take) break;
  }
  return found;
}

}  // namespace

std::vector<KeptAnswer> KeptEdges::of_sends(std::span<const AskedEvent> sends) {
  return answer(sends, false);
}
std::vector<KeptAnswer> KeptEdges::of_arrivals(std::span<const AskedEvent> arrivals) {
  return answer(arrivals, true);
}

std::vector<KeptAnswer> KeptEdges::answer(std::span<const AskedEvent> events, bool by_arrival) {
  std::vector<KeptAnswer> out(events.size());
  if (!context_.edges || events.empty()) return out;
  const auto here = context_.edges->read();
  if (!here) return out;

  // An event's slice is told by the slice's own ends, which may be somewhat beside those of today's clock model; its sending
  // may be in the slice before.
  std::map<std::int64_t, Kept> kept;
  std::map<std::int64_t, bool> empty;
  Slices known;
  for (const auto& event : events) {
    const auto slice = slice_of(event.at);
    for (auto s = slice - (by_arrival ? 2 : 1); s <= slice + 1; ++s) {
      if (known.contains(s)) continue;
      known[s] = nullptr;
      auto state = here->state(s);
      if (!state || !*state) continue;
      known[s] = &kept.emplace(s, Kept{*std::move(*state), {}, false, false}).first->second.state;
    }
  }
  const ClockModel clock(*context_.view);  // the newest one, also where a walk goes on by an older
  const auto now = windows(context_, clock, known, true);
  for (const auto& [slice, state] : known) {
    const auto window = now.find(slice);
    const bool any = window != now.end() && (window->second.blocks > 0 || window->second.tail);
    empty[slice] = !any;
    if (state == nullptr) continue;
    if (any && window->second.units == state->units && !state->crowded) continue;
    kept.erase(slice);
  }

  for (std::size_t i = 0; i < events.size(); ++i) {
    const auto& event = events[i];
    const auto slice = slice_of(event.at);
    for (auto s = slice - 1; s <= slice + 1; ++s) {
      const auto own = kept.find(s);
      if (own == kept.end()) continue;
      const auto* cut = own->second.state.cut(event.id.process.incarnation);
      if (cut == nullptr || event.id.time < cut->from || event.id.time >= cut->until) continue;
      const auto before = kept.find(s - 1);
      if (by_arrival && before == kept.end() && !empty[s - 1]) break;
      KeptAnswer& answer = out[i];
      for (auto* use :
           {by_arrival && before != kept.end() ? &before->second : nullptr, &own->second}) {
        if (use == nullptr || answer.edge) continue;
        Result<std::optional<MessageEdge>> found = std::optional<MessageEdge>{};
        if (!use->damaged) found = look(*here, *use, event.id, by_arrival);
        if (!found) {
          use->damaged = true;
          context_.edges->report(use->state.slice);
        }
        if (use->damaged) {
          answer = {};
          break;
        }
        answer.settled = true;
        answer.edge = *found;
        corrupt_ = std::max<std::uint64_t>(corrupt_, use->state.corrupt);
      }
      break;
    }
  }
  return out;
}

}  // namespace scope::analysis
