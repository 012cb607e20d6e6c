// Reading request terms: option lists by table, and the values of api.md (Pid, Time, Filter).
//
// Every error names the field, what was given there (printed, bounded) and what to do; an unknown key names the nearest
// known one. Strings are binaries or charlists; a value that is an atom in Erlang may be given as text too.
// Thread: pure functions; the views need only live during the call.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "analysis/query.h"
#include "ei_codec/base/result.h"
#include "ei_codec/term_view.h"

namespace scope::node {

// The term as text, at most about 200 characters.
std::string printed(const codec::TermView& term);

// The nearest of `known` by edit distance, if it is near enough to be meant; else empty.
std::string_view nearest(std::string_view given, std::span<const std::string_view> known);

std::unexpected<Error> bad_value(std::string_view field, const codec::TermView& got,
                                 std::string hint);

// One key of an option list and how its value is read.
template <typename T>
struct OptionReader {
  std::string_view name;
  Status (*read)(T& out, const codec::TermView& value, std::string_view field);
};

struct KeyValue {
  std::string_view key;
  codec::TermView value;
};
// A keyword list or a map with atom keys; a bare atom in a list is {Atom, true}.
Result<std::vector<KeyValue>> read_pairs(const codec::TermView& options);
Error unknown_key(std::string_view key, std::span<const std::string_view> known);

template <typename T>
Status read_options(const codec::TermView& options, std::span<const OptionReader<T>> table,
                    T& out) {
  std::vector<KeyValue> pairs;
  ASSIGN_OR_RETURN(pairs, read_pairs(options));
  for (const auto& [key, value] : pairs) {
    const OptionReader<T>* found = nullptr;
    for (const auto& option : table) {
      if (option.name == key) found = &option;
    }
    if (found == nullptr) {
      std::vector<std::string_view> names;
      for (const auto& option : table) names.push_back(option.name);
      return std::unexpected(unknown_key(key, names));
    }
    RETURN_IF_ERROR(found->read(out, value, key));
  }
  return {};
}

// ---- values ---------------------------------------------------------------------------------------------------------

// An atom, binary or charlist, as text.
Result<std::string> read_name(const codec::TermView& value, std::string_view field);
Result<bool> read_boolean(const codec::TermView& value, std::string_view field);
Result<std::int64_t> read_integer(const codec::TermView& value, std::string_view field,
                                  std::int64_t least, std::int64_t most);
Result<double> read_number(const codec::TermView& value, std::string_view field);
// One value or a list of them. An empty list is no value. A charlist is one value, as is a tuple.
std::vector<codec::TermView> one_or_many(const codec::TermView& value);
// {N, Unit} with ns, us, ms, second(s), minute(s), hour(s), day(s); plain integers are in `plain` ns.
Result<std::int64_t> read_duration(const codec::TermView& value, std::string_view field,
                                   std::int64_t plain_ns);
Result<analysis::MfaSpec> read_mfa(const codec::TermView& value, std::string_view field);

Result<analysis::TimeSpec> read_time(const codec::TermView& value, std::string_view field);
// A time that needs no node's clock.
Result<ClusterTime> read_cluster_time(const codec::TermView& value, std::string_view field,
                                      ClusterTime now);
// ISO 8601: date and time with a zone or Z; without a zone it is UTC.
std::optional<std::int64_t> parse_iso8601(std::string_view text);

// A pid, {Name, Node}, a name, "<0.123.0>", {Text, Node}. `node` completes a text or name that has none.
Result<analysis::ProcessSpec> read_process(const codec::TermView& value, std::string_view field,
                                           std::string_view node = {});
// "<0.123.0>", "#PID<0.123.0>", and with the node in place of the first number, as we print pids.
std::optional<analysis::TextSpec> parse_pid_text(std::string_view text);

struct FilterRequest {
  analysis::Filter filter;
  std::optional<std::chrono::milliseconds> deadline;
  std::optional<std::uint32_t> limit;  // where it was said
  std::optional<bool> errors;          // only traces with (without) one
};
enum class Of { events, traces };
Result<FilterRequest> read_filter(const codec::TermView& options, Of of = Of::events);

}  // namespace scope::node
