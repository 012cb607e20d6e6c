#include "cnode/service/aggregate_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "cnode/service/parse.h"
#include "cnode/service/reply.h"

namespace scope::node {
namespace {

using analysis::GroupKey;
using analysis::ValueOf;
using codec::TermBuilder;
using codec::TermView;

constexpr std::string_view kGroupKeys[] = {"node", "mfa", "module", "pid", "edge", "type"};
constexpr std::string_view kStatistics[] = {"min", "max", "mean", "p50", "p90", "p99"};
constexpr std::string_view kMeasures[] = {"count", "rate", "min", "max",      "mean",
                                          "p50",   "p90",  "p99", "duration", "queue_time"};

std::unexpected<Error> wrong_name(std::string_view field, const TermView& got,
                                  std::span<const std::string_view> known) {
  const auto name = got.text(64).value_or("");
  const auto near = nearest(name, known);
  return bad_value(field, got,
                   near.empty()
                       ? fmt::format("known: {}", fmt::join(known, ", "))
                       : fmt::format("did you mean {}? known: {}", near, fmt::join(known, ", ")));
}

Result<std::vector<analysis::Grouping>> read_group_by(const TermView& value) {
  std::vector<analysis::Grouping> out;
  for (const auto& item : one_or_many(value)) {
    analysis::Grouping by;
    if (item.is_tuple("time", 3)) {
      const auto count = item.element(1).integer();
      TermBuilder pair;
      pair.tuple(2).term(item.element(1)).term(item.element(2));
      const auto duration = codec::view(pair.bytes());
      if (!count || !duration) return bad_value("group_by", item, "must be {time, N, Unit}");
      by.key = GroupKey::time;
      ASSIGN_OR_RETURN(by.bucket_ns, read_duration(*duration, "group_by", 1));
      if (by.bucket_ns < 1'000'000) {
        return bad_value("group_by", item, "a bucket of time is a millisecond at least");
      }
    } else {
      const auto name = item.text(64).value_or("");
      const auto known = std::ranges::find(kGroupKeys, name == "process" ? "pid" : name);
      if (known == std::end(kGroupKeys)) {
        if (name == "time") return bad_value("group_by", item, "say how long: {time, 1, second}");
        return wrong_name("group_by", item, kGroupKeys);
      }
      by.key = static_cast<GroupKey>(known - kGroupKeys);
    }
    if (std::ranges::find(out, by.key, &analysis::Grouping::key) != out.end()) {
      return bad_value("group_by", item, "the same twice");
    }
    out.push_back(by);
  }
  return out;
}

Result<ValueOf> read_measures(const TermView& value, const analysis::Filter& filter) {
  ValueOf out = ValueOf::nothing;
  bool statistics = false;
  const auto of = [&](const TermView& item, std::string_view name) -> Status {
    const auto next = name == "duration" ? ValueOf::duration : ValueOf::queue_time;
    if (out != ValueOf::nothing && out != next) {
      return bad_value("measures", item, "duration or queue_time, not both: ask twice");
    }
    out = next;
    return {};
  };
  for (const auto& item : one_or_many(value)) {
    if (item.arity() == 2u &&
        (item.element(0).is_atom("duration") || item.element(0).is_atom("queue_time"))) {
      RETURN_IF_ERROR(of(item, *item.element(0).atom()));
      for (const auto& inner : one_or_many(item.element(1))) {
        if (std::ranges::find(kStatistics, inner.text(64).value_or("")) == std::end(kStatistics)) {
          return wrong_name("measures", inner, kStatistics);
        }
      }
      continue;
    }
    const auto name = item.text(64).value_or("");
    if (name == "duration" || name == "queue_time") {
      RETURN_IF_ERROR(of(item, name));
    } else if (std::ranges::find(kStatistics, name) != std::end(kStatistics)) {
      statistics = true;
    } else if (name != "count" && name != "rate") {
      return wrong_name("measures", item, kMeasures);
    }
  }
  if (!statistics || out != ValueOf::nothing) return out;
  constexpr auto bit = [](codec::EventType t) { return 1u << static_cast<unsigned>(t); };
  constexpr std::uint32_t kMessages = bit(codec::EventType::message_send) |
                                      bit(codec::EventType::message_fetch) |
                                      bit(codec::EventType::message_take);
  return (filter.types & ~kMessages) == 0 ? ValueOf::queue_time : ValueOf::duration;
}

void write_measures(TermBuilder& out, const analysis::Measured& m, double seconds) {
  MapWriter map;
  map.key("count").unsigned_integer(static_cast<std::uint64_t>(std::llround(m.count)));
  map.key("rows").unsigned_integer(m.rows);
  seconds > 0 ? void(map.key("rate").real(m.count / seconds)) : unknown(map.key("rate"));
  const auto& v = m.values;
  map.key("measured").unsigned_integer(v.count());
  if (v.count() == 0) {
    for (const auto name : kStatistics) unknown(map.key(name));
  } else {
    map.key("min").integer(v.min());
    map.key("max").integer(v.max());
    map.key("mean").real(v.mean());
    map.key("p50").integer(std::llround(v.quantile(0.5)));
    map.key("p90").integer(std::llround(v.quantile(0.9)));
    map.key("p99").integer(std::llround(v.quantile(0.99)));
  }
  map.write(out);
}

void write_key(TermBuilder& out, const store::View& view, const analysis::AggregateSpec& spec,
               const analysis::Group& g) {
  MapWriter map;
  for (const auto& by : spec.by) {
    switch (by.key) {
      case GroupKey::node:
        text_or_unknown(map.key("node"), g.node);
        break;
      case GroupKey::mfa:
        write_mfa(map.key("mfa"), {g.module, g.function, g.arity});
        break;
      case GroupKey::module:
        text_or_unknown(map.key("module"), g.module);
        break;
      case GroupKey::pid:
        write_process(map.key("pid"), view, g.pid);
        break;
      case GroupKey::edge: {
        auto& edge = map.key("edge").tuple(2);
        write_process(edge, view, g.pid);
        write_peer(edge, view, g.sender);
        break;
      }
      case GroupKey::type:
        map.key("type").atom(codec::event_type_name(g.type));
        break;
      case GroupKey::time:
        map.key("time").integer(g.time.ns);
        break;
    }
  }
  map.write(out);
}

}  // namespace

Result<AggregateRequest> read_aggregate(const TermView& filter, const TermView& group_by,
                                        const TermView& measures) {
  AggregateRequest out;
  auto& spec = out.spec;
  FilterRequest request;
  ASSIGN_OR_RETURN(request, read_filter(filter));
  spec.filter = std::move(request.filter);
  spec.limit = request.limit.value_or(0);
  ASSIGN_OR_RETURN(spec.by, read_group_by(group_by));
  ASSIGN_OR_RETURN(spec.value, read_measures(measures, spec.filter));
  out.deadline = request.deadline;
  return out;
}

Status run_aggregate(const TermView& request, Env& env, TermBuilder& out) {
  AggregateRequest asked;
  ASSIGN_OR_RETURN(asked,
                   read_aggregate(request.element(1), request.element(2), request.element(3)));
  if (asked.deadline) env.context.budget.deadline = env.received + *asked.deadline;
  const auto& spec = asked.spec;
  analysis::Aggregate result;
  ASSIGN_OR_RETURN(result, analysis::aggregate(env.context, spec));
  MapWriter map;
  auto& groups = map.key("groups").list(static_cast<std::uint32_t>(result.groups.size()));
  for (const auto& group : result.groups) {
    MapWriter item;
    write_key(item.key("key"), *env.context.view, spec, group);
    write_measures(item.key("measures"), group.measured, result.seconds);
    item.write(groups);
  }
  groups.nil();
  constexpr std::string_view kOf[] = {"none", "duration", "queue_time"};
  map.key("of").atom(kOf[static_cast<unsigned>(spec.value)]);
  map.key("scaled").boolean(result.scaled);
  map.key("not_listed").unsigned_integer(result.not_listed);
  // Rows of groups beyond kMaxGroups, together.
  result.other ? write_measures(map.key("other"), *result.other, result.seconds)
               : void(map.key("other").atom("none"));
  result.seconds > 0 ? void(map.key("seconds").real(result.seconds)) : unknown(map.key("seconds"));
  write_completeness(map.key("completeness"), result.completeness);
  if (result.explain) write_explain(map.key("explain"), *result.explain);
  map.write(out);
  return {};
}

}  // namespace scope::node
