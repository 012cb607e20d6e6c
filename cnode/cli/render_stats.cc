// Aggregates, and how a question was answered, as text.
#include <fmt/format.h>

#include "cnode/cli/answer.h"
#include "cnode/cli/table.h"
#include "cnode/cli/times.h"

namespace scope::node::cli {
namespace {

using codec::TermView;

std::string number(const TermView& map, std::string_view key) {
  const auto n = get_integer(map, key);
  return n && *n >= 0 ? format_count(static_cast<std::uint64_t>(*n)) : "?";
}

std::string rate(const TermView& map) {
  const auto value = get(map, "rate");
  return value && value->real() ? fmt::format("{:.4g}", *value->real()) : "";
}

std::string span(const TermView& map, std::string_view key) {
  const auto value = get(map, key);
  if (!value) return "";
  if (const auto ns = value->integer()) return format_duration(*ns);
  return value->real() ? format_duration(static_cast<std::int64_t>(*value->real())) : "";
}

std::string key_cell(const TermView& key, std::string_view name, const Screen& screen) {
  const auto value = get(key, name);
  if (!value) return "";
  if (name == "time") return when(key, "time", "");
  if (name == "mfa") return screen.mfa(*value);
  if (name == "edge" && value->arity() == 2u) {
    return screen.term(value->element(0)) + " -> " + screen.term(value->element(1));
  }
  return screen.term(*value);
}

}  // namespace

std::string explain_text(const TermView& answer, const Screen& screen) {
  const auto explain = get(answer, "explain");
  if (!explain) return {};
  std::string out = "\n" + paint(Paint::bold, "how it was found", screen.out) + "\n";
  for (const auto& step : get_list(*explain, "plan")) {
    out += fmt::format("  by {}: {} of {} units left\n", get_text(step, "index"),
                       number(step, "after"), number(step, "before"));
  }
  out += fmt::format("  read: {} blocks, {} batches of the tail, {} rows",
                     number(*explain, "blocks_read"), number(*explain, "tail_read"),
                     number(*explain, "rows_read"));
  if (get_integer(*explain, "rollup_cells").value_or(0) > 0) {
    out += fmt::format(", {} cells of rollups", number(*explain, "rollup_cells"));
  }
  out += "\n ";
  for (const auto& step : get_list(*explain, "steps")) {
    if (step.arity() != 2u) continue;
    out += fmt::format(" {} {}", printable(step.element(0).atom().value_or("")),
                       format_duration(step.element(1).integer().value_or(0)));
  }
  return out + "\n";
}

std::string render_stats(const TermView& value, const Screen& screen) {
  static constexpr std::string_view kKeys[] = {"time", "node", "type", "module",
                                               "mfa",  "pid",  "edge"};
  std::vector<Column> columns;
  for (const auto key : kKeys)
    columns.push_back({std::string(key), false, key == "mfa" || key == "edge"});
  for (const auto name :
       {"count", "per second", "measured", "min", "p50", "p90", "p99", "max", "mean"}) {
    columns.push_back({name, true});
  }
  Table table(columns);
  const bool values = get_text(value, "of") != "none";
  const auto groups = get_list(value, "groups");
  const auto add = [&](const std::optional<TermView>& key, const TermView& measures) {
    std::vector<Cell> row;
    for (const auto name : kKeys) row.emplace_back(key ? key_cell(*key, name, screen) : "");
    if (!key) row[4] = "(all others)";
    row.emplace_back(number(measures, "count"));
    row.emplace_back(rate(measures));
    row.emplace_back(values ? number(measures, "measured") : "");
    for (const auto name : {"min", "p50", "p90", "p99", "max", "mean"})
      row.emplace_back(span(measures, name));
    table.add(std::move(row));
  };
  for (const auto& group : groups) {
    const auto key = get(group, "key"), measures = get(group, "measures");
    if (key && measures) add(*key, *measures);
  }
  if (const auto other = get(value, "other"); other && other->map()) add(std::nullopt, *other);
  std::string out = table.render(screen.out);
  if (groups.empty()) out += "nothing\n";
  if (const auto more = get_integer(value, "not_listed").value_or(0); more > 0) {
    out += fmt::format("{} more groups: --limit\n", more);
  }
  if (get_flag(value, "scaled")) out += "counts are scaled up by the sampling rates\n";
  return out + completeness_text(value, screen) + explain_text(value, screen);
}

}  // namespace scope::node::cli
