// The walk of print() and its cap. Every open container keeps bytes in reserve for its own mark and its closing
// brackets, so that whatever stops the walk, the text can be ended in order.
#include "ei_codec/term_print.h"

#include <algorithm>
#include <charconv>

#include "ei_codec/term_tags.h"
#include "ei_codec/term_text.h"
#include "fmt/format.h"

namespace scope::codec {
namespace {

using namespace etf;

class Printer {
 public:
  Printer(Syntax syntax, std::size_t cap)
      : syntax_(syntax), cap_(std::max(cap, kMinPrint)), reserve_(mark().size()) {}

  std::string run(const TermView& term) {
    if (!value(term)) out_ += mark();
    return std::move(out_);
  }

 private:
  bool json() const { return syntax_ == Syntax::json; }
  bool elixir() const { return syntax_ == Syntax::elixir; }
  std::string_view mark() const { return json() ? "\"...\"" : "..."; }
  std::string_view comma() const { return elixir() ? ", " : ","; }
  std::size_t room() const {
    const std::size_t used = out_.size() + reserve_;
    return used < cap_ ? cap_ - used : 0;
  }
  bool put(std::string_view token) {
    if (token.size() > room()) return false;
    out_ += token;
    return true;
  }

  // A container: `ending` is what may be needed to end it: separator, mark, brackets. False: it does not fit.
  bool open(std::string_view bracket, std::size_t ending) {
    if (bracket.size() + ending > room()) return false;
    out_ += bracket;
    reserve_ += ending;
    return true;
  }
  void close(std::string_view bracket, std::size_t ending) {
    reserve_ -= ending;
    out_ += bracket;
  }
  std::size_t ending(std::string_view bracket) const {
    return comma().size() + mark().size() + bracket.size();
  }

  // Each writes the whole term, or as much as fits with its marks and answers true, or nothing and answers false.
  bool value(const TermView& term);
  bool integer(std::int64_t value);
  bool big(const TermView& term);
  bool list(const TermView& term);
  bool redacted(const TermView& term);
  bool sequence(ListView items, std::string_view left, std::string_view right);
  bool map(const TermView& term);
  bool record(const RecordParts& record);
  bool json_pairs(MapView map);
  bool bits(const TermView& term);
  bool bytes_as_numbers(const TermView::BitParts& bits);
  template <typename Next>
  bool string(std::string_view left, std::string_view right, std::string_view cut, Next next);

  // The items of a sequence, until one does not fit. `item` is called for each; false: the sequence was cut.
  template <typename Items, typename Write>
  bool items(Items& it, Write write, std::string_view cut_mark) {
    for (bool first = true; !it.done(); it.next(), first = false) {
      if (!first) out_ += comma();
      if (!write(it)) {
        out_ += cut_mark;
        return false;
      }
    }
    return true;
  }

  bool text_list(const TermView& term) const;
  bool keyword_list(const TermView& term) const;
  // Do the visible keys of the map fulfil the condition? It gets a key and where its value begins (nullptr: unseen).
  template <typename Condition>
  bool keys(const TermView& map, Condition condition) const;
  bool text_binary(Bytes bytes) const;

  Syntax syntax_;
  std::size_t cap_;
  std::size_t reserve_;
  std::string out_;
};

bool Printer::value(const TermView& term) {
  if (room() == 0) return false;
  switch (term.kind()) {
    case TermKind::atom:
      return put(text::atom(*term.atom(), syntax_));
    case TermKind::integer:
      return integer(*term.integer());
    case TermKind::big:
      return big(term);
    case TermKind::real:
      return put(text::real(*term.real()));
    case TermKind::nil:
      return put("[]");
    case TermKind::list:
    case TermKind::string:
      return list(term);
    case TermKind::tuple:
      if (syntax_ != Syntax::erlang && term.is_tuple("$scope_redacted", 2)) return redacted(term);
      return json() ? sequence(*term.elements(), "[", "]") : sequence(*term.elements(), "{", "}");
    case TermKind::map:
      return map(term);
    case TermKind::record:
      return record(*term.record());
    case TermKind::binary:
    case TermKind::bitstring:
      return bits(term);
    default: {
      const std::string name = text::opaque(term, syntax_);
      if (!json()) return put(name);
      return put(text::quoted(name, '"', syntax_));
    }
  }
}

bool Printer::redacted(const TermView& term) {
  const auto hash = term.element(1).unsigned_integer();
  const std::string digits = hash ? fmt::format("{:016x}", *hash) : "...";
  return put(json() ? "{\"$redacted\":\"" + digits + "\"}" : "#Redacted<" + digits + ">");
}

bool Printer::integer(std::int64_t value) {
  char digits[24];
  const auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
  return put({digits, static_cast<std::size_t>(end - digits)});
}

bool Printer::big(const TermView& term) {
  if (const auto value = term.integer()) return integer(*value);
  const BigParts parts = *term.big();
  if (parts.magnitude.size() * 2 > room()) return false;  // fewer digits it cannot have
  const std::string digits = text::big(parts, syntax_);
  return put(json() && !term.unsigned_integer() ? "\"" + digits + "\"" : digits);
}

// Text between `left` and `right`, or as much as fits between `left` and `cut`. `next` gives the characters' code
// points; the first that it does not have is 0, which is no printable character.
template <typename Next>
bool Printer::string(std::string_view left, std::string_view right, std::string_view cut,
                     Next next) {
  const std::size_t ending = std::max(right.size(), cut.size());
  constexpr std::size_t kWorthShowing = 8;
  if (left.size() + ending + kWorthShowing > room()) {
    // Only something this short may still fit, whole.
    std::string whole(left);
    for (std::uint32_t c = next(), following; c != 0 && whole.size() <= room(); c = following) {
      following = next();
      text::escape(whole, c, following, '"', syntax_);
    }
    whole += right;
    return put(whole);
  }
  out_ += left;
  reserve_ += ending;
  std::string one;
  bool whole = true;
  for (std::uint32_t c = next(), following; c != 0 && whole; c = following) {
    following = next();
    one.clear();
    text::escape(one, c, following, '"', syntax_);
    whole = put(one);
  }
  reserve_ -= ending;
  out_ += whole ? right : cut;
  return true;
}

bool Printer::text_list(const TermView& term) const {
  ListView it = *term.list();
  for (std::size_t left = room() + 1; !it.done() && left > 0; it.next(), --left) {
    const auto c = it.item().integer();
    if (!c || *c > 126 || *c <= 0 || !text::printable(static_cast<std::uint32_t>(*c))) {
      return false;
    }
  }
  return !it.done() || !it.tail();
}

bool Printer::keyword_list(const TermView& term) const {
  if (u8(term.start()) != kList) return false;
  std::size_t nodes = 2 * room();
  const std::byte* at = term.start() + 5;
  for (std::uint32_t left = be32(term.start() + 1); left > 0; --left) {
    if (u8(at) != kSmallTuple || u8(at + 1) != 2) return false;
    const auto key = TermView::unchecked(at + 2, term.strings()).atom();
    if (!key || text::elixir_alias(*key)) return false;
    at = skip_within(at, nodes);
    if (!at) return true;  // the rest will not be shown
  }
  return u8(at) == kNil;
}

bool Printer::list(const TermView& term) {
  if (text_list(term)) {
    ListView it = *term.list();
    const auto next = [&it]() -> std::uint32_t {
      if (it.done()) return 0;
      const auto c = it.item().integer();
      it.next();
      return static_cast<std::uint32_t>(*c);
    };
    if (elixir()) return string("~c\"", "\"", "\"...", next);
    return json() ? string("\"", "\"", "...\"", next) : string("\"", "\"", "\"...", next);
  }
  if (elixir() && keyword_list(term)) {
    const std::size_t end = ending("]");
    if (!open("[", end)) return false;
    ListView it = *term.list();
    items(
        it,
        [this](const ListView& at) {
          const TermView pair = at.item();
          const auto key = pair.arity() == 2u ? pair.element(0).atom() : std::nullopt;
          return key && put(text::elixir_key(*key)) && value(pair.element(1));
        },
        mark());
    close("]", end);
    return true;
  }
  return sequence(*term.list(), "[", "]");
}

bool Printer::sequence(ListView it, std::string_view left, std::string_view right) {
  // In JSON an improper list is known as such only at its end, so its beginning is written again then.
  const std::size_t start = out_.size();
  constexpr std::string_view kImproper = "{\"$list\":", kTail = ",\"$tail\":";
  const std::size_t end = ending(right) + 1;  // 1: the space of " | " over ", "
  if (!open(left, end)) return false;
  const bool whole = items(it, [this](const ListView& at) { return value(at.item()); }, mark());
  const auto tail = whole ? it.tail() : std::nullopt;
  if (!tail) {
    close(right, end);
    return true;
  }
  if (!json()) {
    out_ += elixir() ? " | " : "|";
    if (!value(*tail)) out_ += mark();
    close(right, end);
    return true;
  }
  close(right, end);
  if (kImproper.size() + kTail.size() + mark().size() + 1 > room()) {
    out_.resize(start);
    return false;
  }
  out_.insert(start, kImproper);
  out_ += kTail;
  reserve_ += mark().size() + 1;
  const bool shown = value(*tail);
  reserve_ -= mark().size() + 1;
  if (!shown) out_ += mark();
  out_ += '}';
  return true;
}

template <typename Condition>
bool Printer::keys(const TermView& map, Condition condition) const {
  std::size_t nodes = 2 * room();
  const std::byte* at = map.start() + 5;
  for (std::uint32_t left = be32(map.start() + 1); left > 0 && at; --left) {
    const TermView key = TermView::unchecked(at, map.strings());
    at = skip_within(at, nodes);
    if (!condition(key, at)) return false;
    if (at) at = skip_within(at, nodes);
  }
  return true;
}

bool Printer::map(const TermView& term) {
  MapView pairs = *term.map();
  if (json()) {
    bool atoms = true, texts = true;
    keys(term, [&](const TermView& key, const std::byte*) {
      const auto bytes = key.binary();
      atoms = atoms && key.kind() == TermKind::atom;
      texts = texts && bytes && text_binary(*bytes);
      return atoms || texts;
    });
    if (!atoms && !texts) return json_pairs(pairs);
  }
  bool atoms = elixir();
  std::string_view structure;
  if (elixir()) {
    keys(term, [&](const TermView& key, const std::byte* after) {
      const auto name = key.atom();
      if (!name || text::elixir_alias(*name)) atoms = false;
      if (atoms && after && *name == "__struct__") {
        structure = TermView::unchecked(after, term.strings()).atom().value_or(std::string_view{});
      }
      return atoms;
    });
    if (!atoms) structure = {};
  }
  std::string left = json() ? "{" : elixir() ? "%{" : "#{";
  if (!structure.empty()) left = "%" + text::atom(structure, syntax_) + "{";

  const std::string_view arrow = json() ? ":" : " => ";
  const std::string_view key_mark = json() ? "\"...\":\"...\"" : mark();
  const std::size_t end =
      1 + std::max(comma().size() + key_mark.size(), arrow.size() + mark().size());
  if (!open(left, end)) return false;
  bool first = true;
  for (; !pairs.done(); pairs.next()) {
    const TermView key = pairs.key();
    if (!structure.empty() && key.is_atom("__struct__")) continue;
    if (!first) out_ += comma();
    first = false;
    bool shown;
    if (atoms) {
      const auto name =
          key.atom();  // none: a key beyond what was examined, with no room for it either
      shown = name && put(text::elixir_key(*name));
    } else if (json() && key.kind() == TermKind::atom) {
      std::string name = text::atom(*key.atom(), syntax_);
      if (name[0] != '"') name = "\"" + std::string(*key.atom()) + "\"";  // true, false, null
      shown = put(name);
    } else if (json()) {  // whole or not at all: a key that was cut could look like another one
      const auto name = key.binary_text();
      shown = name && name->size() <= room() && put(text::quoted(*name, '"', syntax_));
    } else {
      shown = value(key);
    }
    if (!shown) {
      out_ += key_mark;
      break;
    }
    if (!atoms) out_ += arrow;
    if (!value(pairs.value())) {
      out_ += mark();
      break;
    }
  }
  close("}", end);
  return true;
}

bool Printer::record(const RecordParts& record) {
  std::string left;
  if (json()) {
    left = "{\"$record\":" + text::quoted(record.module, '"', syntax_) +
           ",\"$name\":" + text::quoted(record.name, '"', syntax_);
  } else if (elixir()) {
    left = "#Record<" + text::atom(record.module, syntax_) + "." + text::atom(record.name, syntax_);
  } else {
    left = "#" + text::atom(record.module, syntax_) + ":" + text::atom(record.name, syntax_) + "{";
  }
  const std::string_view right = elixir() ? ">" : "}";
  const std::string_view cut = json() ? "\"...\":\"...\"" : mark();
  const std::size_t end = comma().size() + cut.size() + right.size();
  if (!open(left, end)) return false;
  ListView names = record.names, values = record.values;
  bool first = true;
  for (; !names.done(); names.next(), values.next()) {
    const std::string_view name = *names.item().atom();
    const std::string key = json()     ? text::quoted(name, '"', syntax_) + ":"
                            : elixir() ? text::elixir_key(name)
                                       : text::atom(name, syntax_) + " = ";
    out_ += first && elixir() ? " " : first && !json() ? "" : comma();
    first = false;
    if (key.size() + mark().size() > room()) {
      out_ += cut;
      break;
    }
    out_ += key;
    reserve_ += mark().size();
    const bool shown = value(values.item());
    reserve_ -= mark().size();
    if (!shown) {
      out_ += mark();
      break;
    }
  }
  close(right, end);
  return true;
}

bool Printer::json_pairs(MapView pairs) {
  const std::size_t end = ending("]}");
  if (!open("{\"$map\":[", end)) return false;
  items(
      pairs,
      [this](const MapView& at) {
        const std::size_t pair_end = ending("]");
        if (!open("[", pair_end)) return false;
        if (value(at.key())) {
          out_ += ',';
          if (!value(at.value())) out_ += mark();
        } else {
          out_ += mark();
        }
        close("]", pair_end);
        return true;
      },
      mark());
  close("]}", end);
  return true;
}

bool Printer::text_binary(Bytes bytes) const {
  std::string_view rest(chars(bytes.data()), bytes.size());
  const bool partly = rest.size() > room() + 4;
  if (partly) rest = rest.substr(0, room() + 4);
  while (!rest.empty()) {
    const CodePoint c = decode_utf8(rest);
    if (c.length == 0) return partly && rest.size() < 4;  // a character cut in two by us
    if (!text::printable(c.value)) return false;
    rest.remove_prefix(c.length);
  }
  return true;
}

bool Printer::bits(const TermView& term) {
  const auto bits = *term.bitstring();
  const bool binary = bits.bits % 8 == 0;
  if (bits.bits == 0) return put(syntax_ == Syntax::erlang ? "<<>>" : "\"\"");
  if (binary && text_binary(bits.bytes)) {
    std::string_view rest(chars(bits.bytes.data()), bits.bytes.size());
    const bool ascii =
        std::ranges::none_of(rest.substr(0, room()), [](char c) { return (c & 0x80) != 0; });
    const auto next = [&rest]() -> std::uint32_t {
      if (rest.empty()) return 0;
      const CodePoint c = decode_utf8(rest);
      rest.remove_prefix(std::max(1u, c.length));
      return c.length ? c.value : 0xFFFD;  // beyond what was examined, hence beyond the cap
    };
    if (elixir()) return string("\"", "\"", "\" <> ...", next);
    if (json()) return string("\"", "\"", "...\"", next);
    return string("<<\"", ascii ? "\">>" : "\"/utf8>>", ascii ? "\"...>>" : "\"/utf8...>>", next);
  }
  if (!json()) return bytes_as_numbers(bits);
  const std::string left =
      binary ? "{\"$binary\":\"" : fmt::format("{{\"$bits\":{},\"$binary\":\"", bits.bits);
  constexpr std::string_view kRight = "\"}", kCut = "...\"}";
  if (left.size() + kCut.size() + 4 > room()) return false;
  const std::size_t fits = (room() - left.size() - kCut.size()) / 4 * 3;
  const bool whole = bits.bytes.size() <= fits;
  out_ += left;
  out_ += text::base64(bits.bytes.first(whole ? bits.bytes.size() : fits));
  out_ += whole ? kRight : kCut;
  return true;
}

bool Printer::bytes_as_numbers(const TermView::BitParts& bits) {
  const std::size_t end = ending(">>");
  if (!open("<<", end)) return false;
  const std::size_t count = bits.bytes.size();
  const std::uint64_t last = bits.bits % 8;
  for (std::size_t i = 0; i < count; ++i) {
    if (i > 0) out_ += comma();
    std::string one;
    if (i + 1 == count && last != 0) {
      one = fmt::format("{}{}", u8(&bits.bytes[i]) >> (8 - last),
                        elixir() ? fmt::format("::size({})", last) : fmt::format(":{}", last));
    } else {
      one = fmt::format("{}", u8(&bits.bytes[i]));
    }
    if (!put(one)) {
      out_ += mark();
      break;
    }
  }
  close(">>", end);
  return true;
}

}  // namespace

std::string print(const TermView& term, Syntax syntax, std::size_t max_bytes) {
  return Printer(syntax, max_bytes).run(term);
}

}  // namespace scope::codec
