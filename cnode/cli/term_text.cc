#include "cnode/cli/term_text.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <vector>

namespace scope::node::cli {
namespace {

using codec::TermBuilder;

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Result<TermBuilder> whole() {
    TermBuilder out;
    RETURN_IF_ERROR(term(out, 0));
    skip();
    if (at_ < text_.size() && text_[at_] == '.') ++at_;
    skip();
    if (at_ != text_.size()) return wrong("the end");
    return out;
  }

 private:
  static constexpr int kMaxDepth = 100;

  std::unexpected<Error> wrong(std::string_view expected) const {
    return fail(Code::bad_value, fmt::format("expected {} at character {}", expected, at_ + 1),
                "--match", std::string(text_.substr(0, 200)));
  }
  void skip() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n'))
      ++at_;
  }
  bool take(std::string_view what) {
    skip();
    if (!text_.substr(at_).starts_with(what)) return false;
    at_ += what.size();
    return true;
  }
  char peek() {
    skip();
    return at_ < text_.size() ? text_[at_] : '\0';
  }

  // Up to the closing quote, with Erlang's simple escapes.
  Result<std::string> quoted(char quote) {
    std::string out;
    while (at_ < text_.size() && text_[at_] != quote) {
      char c = text_[at_++];
      if (c == '\\' && at_ < text_.size()) {
        c = text_[at_++];
        if (c == 'n') c = '\n';
        if (c == 't') c = '\t';
        if (c == 'r') c = '\r';
        if (c == '0') c = '\0';
      }
      out += c;
    }
    if (at_ == text_.size()) return wrong(std::string("a closing ") + quote);
    ++at_;
    return out;
  }

  // Items up to `close`, each written into a builder of its own. A list's tail is the last one, and `tail` set.
  Status items(std::vector<TermBuilder>& out, std::string_view close, std::string_view between,
               bool* tail, int depth) {
    if (take(close)) return {};
    while (true) {
      RETURN_IF_ERROR(term(out.emplace_back(), depth));
      if (!between.empty() && out.size() % 2 == 1) {
        if (!take(between)) return wrong(between);
        continue;
      }
      if (take(close)) return {};
      if (tail != nullptr && !*tail && take("|")) {
        *tail = true;
      } else if ((tail != nullptr && *tail) || !take(",")) {
        return wrong(fmt::format(", or {}", close));
      }
    }
  }

  Status number(TermBuilder& out) {
    skip();
    const char* const begin = text_.data() + at_;
    const char* const end = text_.data() + text_.size();
    std::int64_t integer = 0;
    const auto whole = std::from_chars(begin, end, integer);
    if (whole.ec == std::errc{} && (whole.ptr == end || (*whole.ptr != '.' && *whole.ptr != 'e'))) {
      at_ += static_cast<std::size_t>(whole.ptr - begin);
      out.integer(integer);
      return {};
    }
    const bool real_follows = whole.ptr != end && (*whole.ptr == '.' || *whole.ptr == 'e');
    if (!real_follows) return wrong("a number of at most 64 bits");
    double real = 0;
    const auto parsed = std::from_chars(begin, end, real);
    if (parsed.ec != std::errc{} || !std::isfinite(real))
      return wrong("a number of at most 64 bits");
    at_ += static_cast<std::size_t>(parsed.ptr - begin);
    out.real(real);
    return {};
  }

  Status term(TermBuilder& out, int depth) {
    if (depth > kMaxDepth) return wrong("fewer levels");
    std::vector<TermBuilder> parts;
    const auto write = [&] {
      for (const auto& part : parts) out.raw(part.bytes());
    };
    if (take("#{")) {
      RETURN_IF_ERROR(items(parts, "}", "=>", nullptr, depth + 1));
      out.map(static_cast<std::uint32_t>(parts.size() / 2));
      write();
    } else if (take("{")) {
      RETURN_IF_ERROR(items(parts, "}", "", nullptr, depth + 1));
      out.tuple(static_cast<std::uint32_t>(parts.size()));
      write();
    } else if (take("[")) {
      bool tail = false;
      RETURN_IF_ERROR(items(parts, "]", "", &tail, depth + 1));
      out.list(static_cast<std::uint32_t>(parts.size() - (tail ? 1 : 0)));
      write();
      if (!tail) out.nil();
    } else if (take("<<\"")) {
      std::string text;
      ASSIGN_OR_RETURN(text, quoted('"'));
      take("/utf8");
      if (!take(">>")) return wrong(">>");
      out.binary(std::string_view(text));
    } else if (take("<<")) {
      if (!take(">>")) return wrong("<<\"text\">>");
      out.binary(std::string_view());
    } else if (take("\"")) {
      std::string text;
      ASSIGN_OR_RETURN(text, quoted('"'));
      text.empty() ? out.nil() : out.charlist(text);
    } else if (take("'")) {
      std::string text;
      ASSIGN_OR_RETURN(text, quoted('\''));
      out.atom(text);
    } else if (const char c = peek(); (c >= '0' && c <= '9') || c == '-') {
      return number(out);
    } else if ((c >= 'a' && c <= 'z') || c == '_' || c == '$') {
      const auto begin = at_;
      const auto letter = [](char l) {
        return (l >= 'a' && l <= 'z') || (l >= 'A' && l <= 'Z') || (l >= '0' && l <= '9') ||
               l == '_' || l == '@' || l == '$';
      };
      while (at_ < text_.size() && letter(text_[at_])) ++at_;
      out.atom(text_.substr(begin, at_ - begin));
    } else {
      return wrong("a term such as {add, '_'} or [{set, '$1'}]");
    }
    return {};
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

}  // namespace

Result<TermBuilder> parse_term(std::string_view text) { return Parser(text).whole(); }

}  // namespace scope::node::cli
