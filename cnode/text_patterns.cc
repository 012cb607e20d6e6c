#include "cnode/text_patterns.h"

#include <algorithm>
#include <bitset>
#include <limits>
#include <map>
#include <optional>

namespace scope::node {
namespace {

using Bytes = std::bitset<256>;

constexpr unsigned kNone = std::numeric_limits<unsigned>::max();
constexpr std::size_t kMostNodes = 4096, kMostEntries = 1u << 18, kMostPatterns = 32;
constexpr unsigned kMostStates = TextPatterns::kState + 1, kMostDepth = 32, kMostTimes = 256;
// Patterns of the user share an automaton while it has no more states: together they may have the product of theirs.
constexpr unsigned kSharedStates = 1024;

constexpr std::string_view kNamed =
    R"((?:passw(?:or)?d|passphrase|pwd|secret|token|(?:api|access|private|secret|signing)[_-]?key|)"
    R"(authorization|cookie|credentials?)\\?["']?\]? *(?:=>?|:) *\\?["']?[^ "'\\&;,<>()\[\]{}\r\n])";
// A hit as soon as the secret has begun where its value may be of any length; of tokens, enough to tell them from words.
constexpr std::string_view kDefaults[] = {
    R"((?:bearer|basic) +[a-z0-9._~+/=-]{8})",
    R"(eyj[a-z0-9_-]+\.eyj[a-z0-9_-]+\.)",
    kNamed,
    R"(://[^/?#@: "'\r\n]*:[^/?#@ "'\r\n]+@)",
    R"(-----begin (?:rsa |dsa |ec |openssh |encrypted )?private key)",
};
// Whether it is one, with its ends and its check digit, agents look at then.
constexpr std::string_view kCardPattern = R"([0-9](?:[ -]?[0-9]){12})";

// Of an automaton that may be in many states at once: a node takes one of `bytes` to `to`, or goes to `to` and `other`
// at once, or is an end.
struct Node {
  enum Kind : std::uint8_t { step, fork, end } kind = fork;
  std::uint16_t known = 0;  // of an end
  Bytes bytes;
  unsigned to = kNone, other = kNone;
};

struct Part {
  unsigned first, last;  // `last` is a fork with no way on yet
};

void add_letter(Bytes& bytes, unsigned char c) {
  bytes.set(c);
  if (c >= 'a' && c <= 'z') bytes.set(c - 32u);
  if (c >= 'A' && c <= 'Z') bytes.set(c + 32u);
}

void add_range(Bytes& bytes, unsigned char from, unsigned char to) {
  for (unsigned c = from; c <= to; ++c) add_letter(bytes, static_cast<unsigned char>(c));
}

class Parser {
 public:
  Parser(std::vector<Node>& nodes, std::string_view text) : nodes_(nodes), text_(text) {}

  // What is wrong, or nullptr and the part.
  const char* parse(Part& out) {
    const auto part = branches(0);
    if (!wrong_ && at_ != text_.size()) wrong_ = "a ')' without its '('";
    if (wrong_) return wrong_;
    out = *part;
    return nullptr;
  }

 private:
  std::optional<Part> fail(const char* why) {
    if (!wrong_) wrong_ = why;
    return std::nullopt;
  }
  bool more() const { return at_ < text_.size(); }
  bool take(char c) {
    if (!more() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  unsigned node() {
    nodes_.emplace_back();
    return static_cast<unsigned>(nodes_.size() - 1);
  }
  Part nothing() {
    const unsigned n = node();
    return {n, n};
  }
  Part step(const Bytes& bytes) {
    const unsigned from = node(), to = node();
    nodes_[from].kind = Node::step;
    nodes_[from].bytes = bytes;
    nodes_[from].to = to;
    return {from, to};
  }
  Part both(Part a, Part b) {
    nodes_[a.last].to = b.first;
    return {a.first, b.last};
  }
  Part either(Part a, Part b) {
    const unsigned from = node(), to = node();
    nodes_[from].to = a.first;
    nodes_[from].other = b.first;
    nodes_[a.last].to = nodes_[b.last].to = to;
    return {from, to};
  }
  Part any_number(Part a) {
    const unsigned from = node(), to = node();
    nodes_[from].to = a.first;
    nodes_[from].other = to;
    nodes_[a.last].to = from;
    return {from, to};
  }

  std::optional<Part> branches(unsigned depth) {
    if (depth > kMostDepth) return fail("too many parentheses");
    auto all = branch(depth);
    while (all && take('|')) {
      const auto next = branch(depth);
      if (!next) return next;
      all = either(*all, *next);
    }
    return all;
  }

  std::optional<Part> branch(unsigned depth) {
    Part all = nothing();
    while (more() && text_[at_] != '|' && text_[at_] != ')') {
      const auto next = repeated(depth);
      if (!next) return next;
      all = both(all, *next);
    }
    return all;
  }

  std::optional<Part> repeated(unsigned depth) {
    const std::size_t begin = at_;
    auto one = atom(depth);
    if (!one) return one;
    if (take('*')) return any_number(*one);
    if (take('?')) return either(*one, nothing());
    unsigned least = 1, most = 1;
    bool endless = false;
    if (take('+')) {
      endless = true;
    } else if (take('{')) {
      if (!number(least)) return fail("expected {n}, {n,} or {n,m}");
      most = least;
      if (take(',') && !number(most)) {
        most = least;
        endless = true;
      }
      if (!take('}') || most > kMostTimes || least > most)
        return fail("expected {n}, {n,} or {n,m}");
    }
    const std::size_t end = at_;
    const auto again = [&]() {
      at_ = begin;
      auto part = atom(depth);
      at_ = end;
      return part;
    };
    Part all = nothing();
    for (unsigned i = 0; i < std::max(most, least) + (endless ? 1 : 0); ++i) {
      if (i > 0) one = again();
      if (!one) return one;
      all = both(all, i < least ? *one : i < most ? either(*one, nothing()) : any_number(*one));
    }
    return all;
  }

  bool number(unsigned& out) {
    const std::size_t begin = at_;
    for (out = 0; more() && text_[at_] >= '0' && text_[at_] <= '9' && out <= kMostTimes; ++at_) {
      out = out * 10 + static_cast<unsigned>(text_[at_] - '0');
    }
    return at_ > begin;
  }

  std::optional<Part> atom(unsigned depth) {
    if (nodes_.size() > kMostNodes) return fail("too large");
    if (take('(')) {
      if (take('?') && !take(':')) return fail("of (?..) only (?:..) is there");
      const auto inside = branches(depth + 1);
      if (inside && !take(')')) return fail("a '(' without its ')'");
      return inside;
    }
    Bytes bytes;
    const char c = text_[at_++];
    if (c == '[') {
      if (!in_class(bytes)) return std::nullopt;
    } else if (c == '\\') {
      if (!escape(bytes)) return std::nullopt;
    } else if (c == '.') {
      bytes.set().reset('\n');
    } else if (std::string_view("*+?{^$").find(c) != std::string_view::npos) {
      return fail("no anchors, and nothing to repeat: write \\ in front of what is meant as it is");
    } else {
      add_letter(bytes, static_cast<unsigned char>(c));
    }
    return step(bytes);
  }

  bool escape(Bytes& bytes) {
    if (!more()) return fail("a \\ at the end").has_value();
    const char c = text_[at_++];
    Bytes of;
    switch (c | 0x20) {
      case 'd':
        add_range(of, '0', '9');
        break;
      case 'w':
        add_range(of, '0', '9');
        add_range(of, 'a', 'z');
        of.set('_');
        break;
      case 's':
        for (const char space : {' ', '\t', '\n', '\v', '\f', '\r'})
          of.set(static_cast<unsigned char>(space));
        break;
      default: {
        const bool letter =
            (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (letter && c != 'n' && c != 'r' && c != 't')
          return fail("this \\ is not known").has_value();
        bytes.set(static_cast<unsigned char>(c == 'n'   ? '\n'
                                             : c == 'r' ? '\r'
                                             : c == 't' ? '\t'
                                                        : c));
        return true;
      }
    }
    bytes |= c & 0x20 ? of : ~of;
    return true;
  }

  bool in_class(Bytes& out) {
    const bool negated = take('^');
    Bytes bytes;
    for (bool first = true; more() && (first || text_[at_] != ']'); first = false) {
      const auto from = static_cast<unsigned char>(text_[at_++]);
      if (from == '\\') {
        if (!escape(bytes)) return false;
      } else if (from == '[' && more() && text_[at_] == ':') {
        return fail("of classes in classes none is there").has_value();
      } else if (at_ + 1 < text_.size() && text_[at_] == '-' && text_[at_ + 1] != ']') {
        const auto to = static_cast<unsigned char>(text_[at_ + 1]);
        if (to == '\\' || to < from) return fail("this range is none").has_value();
        at_ += 2;
        add_range(bytes, from, to);
      } else {
        add_letter(bytes, from);
      }
    }
    if (!take(']')) return fail("a '[' without its ']'").has_value();
    out = negated ? ~bytes : bytes;
    return true;
  }

  std::vector<Node>& nodes_;
  std::string_view text_;
  std::size_t at_ = 0;
  const char* wrong_ = nullptr;
};

using Set = std::vector<unsigned>;  // sorted

class Builder {
 public:
  const char* add(std::string_view pattern, std::uint16_t known) {
    const std::size_t begin = nodes_.size();
    Part part{};
    if (const char* wrong = Parser(nodes_, pattern).parse(part)) return wrong;
    nodes_[part.last].kind = Node::end;
    nodes_[part.last].known = known;
    starts_.push_back(part.first);
    measure(part.first);
    if (after_[part.last] & ((1u << TextPatterns::kShortest) - 1))
      return "it matches less than 4 bytes";
    return nodes_.size() - begin > kMostNodes || nodes_.size() > 4 * kMostNodes ? "too large"
                                                                                : nullptr;
  }

  // False: too large.
  bool build(TextPatterns& out, unsigned most_states) {
    classes(out);
    Set begin;
    reach(begin, starts_);
    std::map<Set, unsigned> known{{begin, 0}};
    std::vector<const Set*> sets{&known.begin()->first};
    for (std::size_t s = 0; s < sets.size(); ++s) {
      if (sets.size() > most_states || out.next.size() > kMostEntries) return false;
      for (unsigned c = 0; c < out.columns; ++c) {
        Set to = starts_;
        for (const unsigned n : *sets[s]) {
          if (nodes_[n].kind == Node::step && nodes_[n].bytes[of_class_[c]])
            to.push_back(nodes_[n].to);
        }
        Set next;
        std::uint16_t value = reach(next, to);
        if (!(value & TextPatterns::kSecret)) {
          const auto [it, is_new] =
              known.try_emplace(std::move(next), static_cast<unsigned>(sets.size()));
          if (is_new) sets.push_back(&it->first);
          value |= static_cast<std::uint16_t>(it->second & TextPatterns::kState);
        }
        out.next.push_back(value);
      }
    }
    return sets.size() <= most_states && out.next.size() <= kMostEntries;
  }

 private:
  // After how many bytes each node of the pattern that was added last may be reached: bit n, kOpenBytes: as many or more.
  void measure(unsigned first) {
    after_.resize(nodes_.size(), 0);
    std::vector<std::pair<unsigned, unsigned>> todo{{first, 0}};
    while (!todo.empty()) {
      const auto [n, bytes] = todo.back();
      todo.pop_back();
      if (n == kNone || after_[n] & 1u << bytes) continue;
      after_[n] |= static_cast<std::uint8_t>(1u << bytes);
      const bool step = nodes_[n].kind == Node::step;
      todo.emplace_back(nodes_[n].to, step ? std::min(bytes + 1, TextPatterns::kOpenBytes) : bytes);
      if (!step) todo.emplace_back(nodes_[n].other, bytes);
    }
  }

  // The nodes that take bytes, from these on; what is known there.
  std::uint16_t reach(Set& out, Set from) {
    std::vector<bool> seen(nodes_.size());
    std::uint16_t known = 0;
    while (!from.empty()) {
      const unsigned n = from.back();
      from.pop_back();
      if (n == kNone || seen[n]) continue;
      seen[n] = true;
      if (nodes_[n].kind == Node::end) known |= nodes_[n].known;
      if (nodes_[n].kind == Node::step) {
        out.push_back(n);
        if (after_[n] >> TextPatterns::kOpenBytes & 1) known |= TextPatterns::kOpen;
      }
      if (nodes_[n].kind == Node::fork) {
        from.push_back(nodes_[n].to);
        from.push_back(nodes_[n].other);
      }
    }
    std::ranges::sort(out);
    return known;
  }

  // Bytes that no node tells apart are one class.
  void classes(TextPatterns& out) {
    std::vector<unsigned> of(256, 0);
    unsigned n = 1;
    for (const Node& node : nodes_) {
      if (node.kind != Node::step) continue;
      std::map<std::pair<unsigned, bool>, unsigned> parts;
      for (unsigned b = 0; b < 256; ++b) {
        of[b] = parts.try_emplace({of[b], node.bytes[b]}, static_cast<unsigned>(parts.size()))
                    .first->second;
      }
      n = static_cast<unsigned>(parts.size());
    }
    out.columns = n;
    of_class_.assign(n, 0);
    for (unsigned b = 0; b < 256; ++b) {
      out.classes.push_back(static_cast<char>(of[b]));
      of_class_[of[b]] = b;
    }
  }

  std::vector<Node> nodes_;
  Set starts_;
  std::vector<std::uint8_t> after_;
  std::vector<unsigned> of_class_;  // a byte of each
};

std::unexpected<Error> bad(const char* why, std::string_view pattern) {
  return fail(Code::bad_value, why, "redact_pattern", std::string(pattern));
}

Result<TextPatterns> compile_defaults() {
  Builder builder;
  for (const auto pattern : kDefaults) {
    if (const char* why = builder.add(pattern, TextPatterns::kSecret)) return bad(why, pattern);
  }
  if (const char* why = builder.add(kCardPattern, TextPatterns::kCard))
    return bad(why, kCardPattern);
  TextPatterns out;
  if (!builder.build(out, kMostStates)) return bad("too large", "");
  return out;
}

Result<TextPatterns> compile(std::span<const std::string> patterns) {
  Builder builder;
  for (const auto& pattern : patterns) {
    if (const char* why = builder.add(pattern, TextPatterns::kSecret)) return bad(why, pattern);
  }
  TextPatterns out;
  if (!builder.build(out, patterns.size() == 1 ? kMostStates : kSharedStates))
    return bad("it is too large", patterns.back());
  return out;
}

}  // namespace

Result<std::vector<TextPatterns>> compile_text_patterns(bool defaults,
                                                        std::span<const std::string> patterns) {
  std::vector<TextPatterns> all;
  const auto too_many = [&] { return bad("the patterns are too large together", patterns.back()); };
  if (patterns.size() > kMostPatterns) return too_many();
  if (defaults) {
    auto made = compile_defaults();
    if (!made) return std::unexpected(std::move(made.error()));
    all.push_back(std::move(*made));
  }
  for (std::size_t first = 0, i = 0; i < patterns.size(); ++i) {
    if (patterns[i].size() > 512) return bad("longer than 512 bytes", "");
    if (i > first) {
      if (auto shared = compile(patterns.subspan(first, i - first + 1))) {
        all.back() = std::move(*shared);
        continue;
      }
    }
    auto alone = compile(patterns.subspan(first = i, 1));
    if (!alone) return std::unexpected(std::move(alone.error()));
    all.push_back(std::move(*alone));
  }
  std::size_t entries = 0;
  for (const auto& one : all) entries += one.next.size();
  if (all.size() > TextPatterns::kMost || entries > kMostEntries) return too_many();
  return all;
}

}  // namespace scope::node
