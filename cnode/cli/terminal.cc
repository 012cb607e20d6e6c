#include "cnode/cli/terminal.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace scope::node::cli {
namespace {

struct CodePoint {
  char32_t value = 0;
  std::size_t bytes = 1;
  bool valid = false;
};

CodePoint decode(std::string_view s) {
  auto b = [&](std::size_t i) { return static_cast<unsigned char>(s[i]); };
  const unsigned char lead = b(0);
  if (lead < 0x80) return {lead, 1, true};
  const std::size_t n = lead >= 0xF0 && lead < 0xF5   ? 4
                        : lead >= 0xE0 && lead < 0xF0 ? 3
                        : lead >= 0xC2 && lead < 0xE0 ? 2
                                                      : 0;
  if (n == 0 || s.size() < n) return {lead, 1, false};
  char32_t value = lead & (0x7Fu >> n);
  for (std::size_t i = 1; i < n; ++i) {
    if ((b(i) & 0xC0) != 0x80) return {lead, 1, false};
    value = value << 6 | (b(i) & 0x3Fu);
  }
  constexpr std::array<char32_t, 5> smallest = {0, 0, 0x80, 0x800, 0x10000};
  if (value < smallest[n] || value > 0x10FFFF || (value >= 0xD800 && value < 0xE000)) {
    return {lead, 1, false};
  }
  return {value, n, true};
}

bool harmful(char32_t c) {
  return c < 0x20 || (c >= 0x7F && c < 0xA0) || c == 0x200E || c == 0x200F ||
         (c >= 0x202A && c <= 0x202E) || (c >= 0x2066 && c <= 0x2069) || c == 0x2028 || c == 0x2029;
}

struct Range {
  char32_t first, last;
};
// Coarse on purpose: a column more or less in a rare script does no harm.
constexpr Range kWide[] = {
    {0x1100, 0x115F},   {0x2E80, 0x303E},   {0x3041, 0x4DBF},   {0x4E00, 0xA4CF},  {0xA960, 0xA97F},
    {0xAC00, 0xD7A3},   {0xF900, 0xFAFF},   {0xFE30, 0xFE6F},   {0xFF00, 0xFF60},  {0xFFE0, 0xFFE6},
    {0x1F300, 0x1F64F}, {0x1F680, 0x1F6FF}, {0x1F900, 0x1F9FF}, {0x20000, 0x3FFFD}};
constexpr Range kZero[] = {{0x0300, 0x036F}, {0x0483, 0x0489}, {0x0591, 0x05BD}, {0x0610, 0x061A},
                           {0x064B, 0x065F}, {0x1AB0, 0x1AFF}, {0x1DC0, 0x1DFF}, {0x200B, 0x200D},
                           {0x20D0, 0x20FF}, {0xFE00, 0xFE0F}, {0xFE20, 0xFE2F}, {0xFEFF, 0xFEFF}};

int width_of(char32_t c) {
  for (auto r : kZero) {
    if (c >= r.first && c <= r.last) return 0;
  }
  for (auto r : kWide) {
    if (c >= r.first && c <= r.last) return 2;
  }
  return 1;
}

}  // namespace

Terminal terminal_of(int fd, bool no_color) {
  Terminal t;
  if (isatty(fd) == 0) return t;
  auto env = [](const char* name) -> std::string_view {
    const char* value = std::getenv(name);
    return value == nullptr ? "" : value;
  };
  t.color = !no_color && env("NO_COLOR").empty() && env("TERM") != "dumb";
  t.width = 80;
  if (winsize size{}; ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) t.width = size.ws_col;
  const auto columns = env("COLUMNS");
  int given = 0;
  if (std::from_chars(columns.data(), columns.data() + columns.size(), given).ec == std::errc{} &&
      given > 0) {
    t.width = given;
  }
  return t;
}

std::string paint(Paint paint, std::string_view text, const Terminal& terminal) {
  if (!terminal.color || paint == Paint::none || text.empty()) return std::string(text);
  constexpr std::array<std::string_view, 7> codes = {"", "1", "2", "31", "32", "33", "36"};
  return fmt::format("\x1b[{}m{}\x1b[0m", codes[static_cast<std::size_t>(paint)], text);
}

std::string printable(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const auto c = decode(text);
    if (c.valid && !harmful(c.value)) {
      out += text.substr(0, c.bytes);
    } else if (c.value == '\n') {
      out += "\\n";
    } else if (c.value == '\t') {
      out += "\\t";
    } else {
      out += fmt::format("\\x{{{:X}}}", static_cast<std::uint32_t>(c.value));
    }
    text.remove_prefix(c.bytes);
  }
  return out;
}

int display_width(std::string_view text) {
  int width = 0;
  while (!text.empty()) {
    const auto c = decode(text);
    width += width_of(c.value);
    text.remove_prefix(c.bytes);
  }
  return width;
}

std::string fit(std::string_view text, int width) {
  if (display_width(text) <= width) return std::string(text);
  int used = 0;
  std::size_t end = 0;
  while (end < text.size()) {
    const auto c = decode(text.substr(end));
    const int w = width_of(c.value);
    if (used + w > width - 1) break;
    used += w;
    end += c.bytes;
  }
  return width < 1 ? std::string() : std::string(text.substr(0, end)) + "…";
}

std::string wrap(std::string_view text, int width, int indent) {
  const std::string margin(static_cast<std::size_t>(indent), ' ');
  std::string out = margin;
  int used = indent;
  auto line_break = [&] {
    out += '\n';
    out += margin;
    used = indent;
  };
  while (!text.empty()) {
    auto end = text.find(' ');
    std::string_view word = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    int w = display_width(word);
    const bool fresh = used == indent;
    if (!fresh && width > 0 && used + 1 + w > width) {
      line_break();
    } else if (!fresh) {
      out += ' ';
      ++used;
    }
    while (width > indent + 1 && used + w > width) {  // a word longer than a line
      std::size_t cut = 0;
      for (int room = width - used; cut < word.size();) {
        const auto c = decode(word.substr(cut));
        if ((room -= width_of(c.value)) < 0 && cut > 0) break;
        cut += c.bytes;
      }
      out += word.substr(0, cut);
      word.remove_prefix(cut);
      w = display_width(word);
      if (!word.empty()) line_break();
      if (word.empty()) used = width;
    }
    out += word;
    used += w;
  }
  return out;
}

}  // namespace scope::node::cli
