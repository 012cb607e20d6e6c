#include "analysis/sample_rates.h"

#include <algorithm>

#include "analysis/event_scan.h"
#include "ei_codec/capture_record.h"

namespace scope::analysis {

SampleRates::SampleRates(const Context& context, const ClockModel& clock,
                         std::span<const Incarnation> incarnations,
                         std::optional<ClusterTime> from) {
  if (context.coverage) {
    for (const auto& info : context.view->incarnations()) {
      for (const auto& s : context.coverage->sampled) {
        if (s.node != info.node || s.rate <= 0 || s.rate >= 1) continue;
        auto& of = of_[info.number];
        (s.receivers ? of.present_fan_out : of.present) = s.rate;
      }
    }
  }
  ScanSpec spec;
  spec.incarnations.assign(incarnations.begin(), incarnations.end());
  spec.types = 1u << static_cast<unsigned>(codec::EventType::gap);
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
    (of_[event.row.process.incarnation].*told).push_back({gap->from.ns, gap->until.ns, rate});
  }
  for (auto& [incarnation, of] : of_) {
    for (auto* told : {&of.sampled, &of.fewer, &of.fan_out})
      std::ranges::sort(*told, {}, &Told::until);
  }
}

// Of several that tell of one time the largest: no row counts for more than it may.
double SampleRates::rate_at(const std::vector<Told>& told, std::int64_t at, double after) {
  if (told.empty() || at > told.back().until) return after;
  double rate = 0;
  for (auto it = std::ranges::lower_bound(told, at, {}, &Told::until); it != told.end(); ++it) {
    if (it->from <= at) rate = std::max(rate, it->rate);
    if (it->until - at > 60'000'000'000) break;  // told every 5 s
  }
  return rate == 0 ? 1 : rate;
}

double SampleRates::weight(codec::EventType type, Incarnation incarnation, RawTime at) const {
  const auto of = of_.find(incarnation);
  if (of == of_.end()) return 1;
  const bool message =
      type == codec::EventType::message_send || type == codec::EventType::message_fetch;
  return 1 / (rate_at(of->second.sampled, at.ns, of->second.present) *
              rate_at(of->second.fewer, at.ns, 1) *
              (message ? rate_at(of->second.fan_out, at.ns, of->second.present_fan_out) : 1));
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
