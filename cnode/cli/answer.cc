#include "cnode/cli/answer.h"

#include <fmt/format.h>

#include "cnode/cli/times.h"

namespace scope::node::cli {

using codec::TermView;

std::expected<TermView, Trouble> unwrap(const TermView& reply) {
  if (reply.is_tuple("ok", 2)) return reply.element(1);
  Trouble t{"internal", "the daemon's answer has another form than this version knows", {}, {}, {}};
  t.got = codec::print(reply, codec::Syntax::erlang, 200);
  if (!reply.is_tuple("error", 2)) return std::unexpected(t);
  const auto reason = reply.element(1);
  if (const auto code = reason.atom()) {
    return std::unexpected(Trouble{std::string(*code), std::string(*code), {}, {}, {}});
  }
  if (reason.arity() != 2u || !reason.element(0).atom()) return std::unexpected(t);
  t = Trouble{};
  t.code = *reason.element(0).atom();
  const auto about = reason.element(1);
  const auto text = [&](std::string_view key) -> std::string {
    const auto value = get(about, key);
    if (!value || value->is_atom("none")) return {};
    return value->text().value_or(codec::print(*value, codec::Syntax::erlang, 1000));
  };
  t.field = text("field");
  t.got = text("got");
  t.message = fmt::format("{}: {}", t.code, text("hint"));
  return std::unexpected(std::move(t));
}

std::string get_text(const TermView& map, std::string_view key) {
  const auto value = get(map, key);
  if (!value || value->kind() == codec::TermKind::nil) return {};
  return printable(value->text().value_or(""));
}

std::string when(const TermView& map, std::string_view key, std::string_view error_key) {
  const auto ns = get_integer(map, key);
  if (!ns) return "?";
  if (error_key.empty()) return format_time(*ns);
  return fmt::format("{} {}", format_time(*ns), format_error(get_integer(map, error_key)));
}

namespace {

std::string missing_line(const TermView& item) {
  const auto kind = get_text(item, "kind");
  const auto node = get_text(item, "node");
  const auto reason = get_text(item, "reason");
  const auto because = reason.empty() ? "" : fmt::format(" ({})", reason);
  const auto count = get_integer(item, "count").value_or(0);
  if (kind == "gap") {
    const auto dropped = get_integer(item, "dropped");
    return fmt::format(
        "{}: a gap from {} to {}, {}{}", node, when(item, "from", ""), when(item, "until", ""),
        dropped ? format_count(static_cast<std::uint64_t>(*dropped)) + " events dropped"
                : "nobody knows how many events",
        because);
  }
  if (kind == "more_gaps") return fmt::format("{} more gaps, not listed", count);
  if (kind == "not_traced") {
    const bool known = get_integer(item, "since").has_value();
    return fmt::format("{}: not traced{}{}", node, known ? " since " + when(item, "since", "") : "",
                       because);
  }
  if (kind == "sampled") {
    const auto rate = get(item, "rate");
    const auto share = rate && rate->real() ? *rate->real() * 100 : 0;
    if (const auto by = get(item, "by"); by && by->is_atom("receivers"))
      return fmt::format("{}: messages to about {:.3g} % of their receivers only", node, share);
    return fmt::format("{}: sampled, about {:.3g} % of what happened", node, share);
  }
  if (kind == "truncated") return fmt::format("{} terms were captured only in part", count);
  if (kind == "redacted") return fmt::format("{} terms with something redacted in them", count);
  if (kind == "undecided") {
    const auto at_least = get(item, "at_least");
    return fmt::format("{}{} events were captured only in part: whether they match is not known",
                       at_least && at_least->is_atom("true") ? "at least " : "", count);
  }
  if (kind == "retention")
    return "what was recorded earlier is dropped, as the retention settings say";
  if (kind == "corrupt_blocks")
    return fmt::format("{} blocks of the store could not be read", count);
  if (kind == "deadline") return "the deadline ended the search; the cursor goes on from there";
  if (kind == "size") return "the answer would have been too large; the cursor goes on from there";
  return printable(codec::print(item, codec::Syntax::erlang, 300));
}

}  // namespace

std::vector<std::string> completeness(const TermView& map) {
  if (get_flag(map, "complete")) return {};
  std::vector<std::string> out;
  for (const auto& item : get_list(map, "missing")) out.push_back(missing_line(item));
  if (out.empty()) out.emplace_back("the daemon does not say what is missing");
  return out;
}

std::string completeness_text(const TermView& answer, const Screen& screen) {
  const auto value = get(answer, "completeness");
  if (!value) return paint(Paint::dim, "completeness: not said", screen.out) + "\n";
  const auto missing = completeness(*value);
  if (missing.empty()) return paint(Paint::dim, "complete", screen.out) + "\n";
  std::string out = paint(Paint::yellow, "not complete:", screen.out) + "\n";
  for (const auto& line : missing)
    out += paint(Paint::yellow, wrap(line, screen.out.width, 2), screen.out) + "\n";
  return out;
}

std::string id_text(const TermView& map, std::string_view key) {
  const auto value = get(map, key);
  const auto bytes = value ? value->binary() : std::nullopt;
  return bytes ? codec::base64url(*bytes) : "";
}

std::string cursor_text(const TermView& value) { return id_text(value, "next"); }

std::optional<std::string> cursor_bytes(std::string_view text) {
  std::string out;
  std::uint32_t bits = 0;
  int held = 0;
  while (text.ends_with('=')) text.remove_suffix(1);
  for (char c : text) {
    if (c == '+') c = '-';  // as in JSON's {"$binary": ...}
    if (c == '/') c = '_';
    const auto digit = codec::kBase64UrlDigits.find(c);
    if (digit == std::string_view::npos) return std::nullopt;
    bits = bits << 6 | static_cast<std::uint32_t>(digit);
    held += 6;
    if (held < 8) continue;
    held -= 8;
    out += static_cast<char>(bits >> held & 255);
  }
  if (out.empty()) return std::nullopt;
  return out;
}

}  // namespace scope::node::cli
