#include "cnode/cli/filter_flags.h"

#include <CLI/CLI.hpp>

#include "cnode/cli/answer.h"

namespace scope::node::cli {

void Keywords::atoms(std::string_view name, const std::vector<std::string>& values) {
  if (values.empty()) return;
  auto& b = key(name).list(static_cast<std::uint32_t>(values.size()));
  for (const auto& v : values) b.atom(v);
  b.nil();
}

void PageFlags::add_to(CLI::App& app) {
  app.add_option("--since", since_,
                 "from this time on: now, 10s ago, -10s, 2024-05-01T12:00:00Z, 12:00:00, or "
                 "nanoseconds since 1970");
  app.add_option("--until", until_, "up to this time");
  app.add_option("--limit", limit_, "at most so many (default 100)")->check(CLI::Range(1, 10'000));
  app.add_option("--order", order_, "newest (default) or oldest first")
      ->check(CLI::IsMember({"newest", "oldest"}));
  app.add_option("--cursor", cursor, "go on where an earlier answer ended");
}

Status PageFlags::check() {
  const auto read = [](const std::string& text, std::string_view flag,
                       std::optional<TimeArg>& out) -> Status {
    if (text.empty()) return {};
    auto time = parse_time(text);
    if (!time) return fail(Code::bad_value, time.error().message, std::string(flag), text);
    out = *time;
    return {};
  };
  RETURN_IF_ERROR(read(since_, "--since", since_time_));
  RETURN_IF_ERROR(read(until_, "--until", until_time_));
  if (!cursor.empty()) {
    auto bytes = cursor_bytes(cursor);
    if (!bytes)
      return fail(Code::bad_value, "not a cursor: give the one that an earlier answer ended with",
                  "--cursor", cursor);
    cursor = *std::move(bytes);
  }
  return {};
}

void PageFlags::write(Keywords& out) const {
  if (since_time_) since_time_->encode(out.key("since"));
  if (until_time_) until_time_->encode(out.key("until"));
  if (limit_ > 0) out.key("limit").unsigned_integer(limit_);
  if (!order_.empty()) out.key("order").atom(order_ == "oldest" ? "oldest_first" : "newest_first");
  if (!cursor.empty()) out.key("cursor").binary(std::string_view(cursor));
}

}  // namespace scope::node::cli
