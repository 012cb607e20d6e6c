#include "analysis/sample_rates.h"

#include <algorithm>

#include "analysis/event_scan.h"
#include "ei_codec/capture_record.h"

namespace scope::analysis {

using codec::bit, codec::EventType;

std::uint32_t types_of_flag(std::string_view flag) {
  if (flag == "send") return bit(EventType::message_send);
  if (flag == "receive") return bit(EventType::message_fetch);
  if (flag == "call")
    return bit(EventType::function_entry) | bit(EventType::function_exit) |
           bit(EventType::function_exception) | bit(EventType::state_change) |
           bit(EventType::message_take);
  if (flag == "procs")
    return bit(EventType::process_spawn) | bit(EventType::process_exit) |
           bit(EventType::process_link) | bit(EventType::process_unlink) |
           bit(EventType::process_register) | bit(EventType::process_unregister) |
           bit(EventType::process_alive);
  return 0;
}

SampleRates::SampleRates(const Context& context, const ClockModel& clock,
                         std::span<const Incarnation> incarnations,
                         std::optional<ClusterTime> from) {
  if (context.coverage) {
    for (const auto& info : context.view->incarnations()) {
      for (const auto& s : context.coverage->sampled)
        if (s.receivers && s.node == info.node && s.rate > 0)
          of_[info.number].present_fan_out = s.rate;
      for (const auto& s : context.coverage->shares)
        if (s.node == info.node && s.rate > 0) of_[info.number].present.push_back(s);
    }
  }
  ScanSpec spec;
  spec.incarnations.assign(incarnations.begin(), incarnations.end());
  spec.types = bit(EventType::gap);
  spec.since = from;  // a gap's row carries its end
  spec.limit = kMaxLimit;
  const auto found = scan(context, clock, spec);
  const auto loaded = load(context, found.hits, kMaxAnswerBytes);
  for (const auto& event : loaded.events) {
    const auto payload = codec::view(event.row.record.payload);
    const auto gap = payload ? codec::read_gap(*payload) : std::nullopt;
    if (!gap || !gap->figures) continue;
    auto Of::* const told = gap->reason == "sampled"         ? &Of::sampled
                            : gap->reason == "fewer_tracees" ? &Of::fewer
                            : gap->reason == "fan_out"       ? &Of::fan_out
                                                             : nullptr;
    if (told == nullptr) continue;
    const auto value = gap->figures->map()->find("rate");
    const double rate = value ? value->real().value_or(0) : 0;
    if (rate <= 0 || rate >= 1) continue;
    auto& to = of_[event.row.process.incarnation].*told;
    const auto flags = gap->figures->map()->find("flags");
    auto of_flag = flags ? flags->map() : std::nullopt;
    if (!of_flag) to.push_back({gap->from.ns, gap->until.ns, rate, ~0u});
    for (; of_flag && !of_flag->done(); of_flag->next()) {
      const double share = of_flag->value().real().value_or(1);
      to.push_back({gap->from.ns, gap->until.ns, share > 0 ? std::min(share, 1.0) : 1,
                    types_of_flag(of_flag->key().atom().value_or(""))});
    }
  }
  for (auto& [incarnation, of] : of_) {
    for (auto* told : {&of.sampled, &of.fewer, &of.fan_out})
      std::ranges::sort(*told, {}, &Told::until);
  }
}

// Of several that tell of one time the largest: no row counts for more than it may.
double SampleRates::rate_at(const std::vector<Told>& told, std::uint32_t type, std::int64_t at,
                            double after) {
  if (told.empty() || at > told.back().until) return after;
  double rate = 0;
  for (auto it = std::ranges::lower_bound(told, at, {}, &Told::until); it != told.end(); ++it) {
    if (it->from <= at && (it->types & type) != 0) rate = std::max(rate, it->rate);
    if (it->until - at > 60'000'000'000) break;  // told every 5 s
  }
  return rate == 0 ? 1 : rate;
}

double SampleRates::weight(codec::EventType type, Incarnation incarnation, RawTime at) const {
  const auto of = of_.find(incarnation);
  if (of == of_.end()) return 1;
  const bool message = type == EventType::message_send || type == EventType::message_fetch;
  const auto of_type = bit(type);
  const auto present = std::ranges::find_if(
      of->second.present, [&](const Share& s) { return (s.types & of_type) != 0; });
  return 1 /
         (rate_at(of->second.sampled, of_type, at.ns,
                  present == of->second.present.end() ? 1 : present->rate) *
          rate_at(of->second.fewer, of_type, at.ns, 1) *
          (message ? rate_at(of->second.fan_out, of_type, at.ns, of->second.present_fan_out) : 1));
}

bool SampleRates::uniform(Incarnation incarnation, RawTime from, RawTime until) const {
  const auto of = of_.find(incarnation);
  if (of == of_.end()) return true;
  const auto inside = [&](const Told& t) {
    return (t.from > from.ns && t.from <= until.ns) || (t.until >= from.ns && t.until < until.ns);
  };
  return std::ranges::none_of(of->second.sampled, inside) &&
         std::ranges::none_of(of->second.fewer, inside) &&
         std::ranges::none_of(of->second.fan_out, inside);
}

}  // namespace scope::analysis
