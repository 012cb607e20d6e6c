// TermView's readers: no bounds checks, because validate() (term_validate.cc) made them needless.
#include "ei_codec/term_view.h"

#include <charconv>

#include "ei_codec/term_tags.h"

namespace scope::codec {

using namespace etf;

namespace {

// Every byte as a SMALL_INTEGER, for the items of a STRING_EXT.
struct ByteTerms {
  std::byte terms[256][2];
  constexpr ByteTerms() : terms{} {
    for (int i = 0; i < 256; ++i) {
      terms[i][0] = static_cast<std::byte>(kSmallInteger);
      terms[i][1] = static_cast<std::byte>(i);
    }
  }
};
constexpr ByteTerms kByteTerms;

// The magnitude of a big, little-endian, without leading zero bytes.
BigParts read_big(const std::byte* at) {
  const bool small = u8(at) == kSmallBig;
  std::size_t length = small ? u8(at + 1) : be32(at + 1);
  const std::byte* digits = at + (small ? 3 : 6);
  while (length > 0 && u8(digits + length - 1) == 0) --length;
  return {u8(digits - 1) != 0, Bytes(digits, length)};
}

std::uint64_t low_word(const BigParts& big) {
  std::uint64_t value = 0;
  std::memcpy(&value, big.magnitude.data(), big.magnitude.size());
  return value;
}

}  // namespace

namespace {

template <bool kBounded>
const std::byte* skip(const std::byte* at, std::size_t& nodes) {
  std::size_t pending = 1;
  do {
    --pending;
    if constexpr (kBounded) {
      if (nodes-- == 0) return nullptr;
    }
    switch (u8(at)) {
      case kSmallInteger:
        at += 2;
        break;
      case kInteger:
        at += 5;
        break;
      case kNil:
        at += 1;
        break;
      case kSmallTuple:
        pending += u8(at + 1);
        at += 2;
        break;
      case kLargeTuple:
        pending += be32(at + 1);
        at += 5;
        break;
      case kList:
        pending += std::size_t{be32(at + 1)} + 1;
        at += 5;
        break;
      case kMap:
        pending += std::size_t{be32(at + 1)} * 2;
        at += 5;
        break;
      case kBinary:
        at += std::size_t{5} + be32(at + 1);
        break;
      case kBitBinary:
        at += std::size_t{6} + be32(at + 1);
        break;
      case kString:
        at += 3 + be16(at + 1);
        break;
      case kNewPid:
      case kV4Port:
        at = skip_atom(at + 1) + 12;
        break;
      case kPid:
        at = skip_atom(at + 1) + 9;
        break;
      case kNewPort:
        at = skip_atom(at + 1) + 8;
        break;
      case kPort:
      case kReference:
        at = skip_atom(at + 1) + 5;
        break;
      case kNewerReference:
        at = skip_atom(at + 3) + 4 + 4 * std::size_t{be16(at + 1)};
        break;
      case kNewReference:
        at = skip_atom(at + 3) + 1 + 4 * std::size_t{be16(at + 1)};
        break;
      case kSmallBig:
        at += 3 + u8(at + 1);
        break;
      case kLargeBig:
        at += std::size_t{6} + be32(at + 1);
        break;
      case kNewFloat:
        at += 9;
        break;
      case kFloat:
        at += 1 + kFloatText;
        break;
      case kExport:
        at = skip_atom(skip_atom(at + 1)) + 2;
        break;
      case kNewFun:
        at += std::size_t{1} + be32(at + 1);
        break;
      case kRecord:
        pending += std::size_t{be32(at + 1)} * 2;
        at = skip_atom(skip_atom(at + kRecordHeader));
        break;
      default:
        at = skip_atom(at);
        break;
    }
  } while (pending != 0);
  return at;
}

}  // namespace

std::size_t term_length(const std::byte* start) {
  std::size_t unused = 0;
  return static_cast<std::size_t>(skip<false>(start, unused) - start);
}

const std::byte* etf::skip_within(const std::byte* at, std::size_t& nodes) {
  return skip<true>(at, nodes);
}

TermKind TermView::kind() const {
  switch (u8(at_)) {
    case kSmallInteger:
    case kInteger:
      return TermKind::integer;
    case kSmallBig:
    case kLargeBig:
      return TermKind::big;
    case kNewFloat:
    case kFloat:
      return TermKind::real;
    case kNewPid:
    case kPid:
      return TermKind::pid;
    case kV4Port:
    case kNewPort:
    case kPort:
      return TermKind::port;
    case kNewerReference:
    case kNewReference:
    case kReference:
      return TermKind::reference;
    case kSmallTuple:
    case kLargeTuple:
      return TermKind::tuple;
    case kNil:
      return TermKind::nil;
    case kList:
      return TermKind::list;
    case kString:
      return be16(at_ + 1) == 0 ? TermKind::nil : TermKind::string;
    case kBinary:
      return TermKind::binary;
    case kBitBinary:
      return be32(at_ + 1) == 0 || u8(at_ + 5) == 8 ? TermKind::binary : TermKind::bitstring;
    case kMap:
      return TermKind::map;
    case kNewFun:
      return TermKind::fun;
    case kExport:
      return TermKind::export_fun;
    case kRecord:
      return TermKind::record;
    default:
      return TermKind::atom;
  }
}

Bytes TermView::bytes() const { return {at_, term_length(at_)}; }

std::optional<std::string_view> TermView::atom() const {
  std::string_view text;
  if (!read_atom(at_, strings_, text)) return std::nullopt;
  return text;
}

bool TermView::is_atom(std::string_view text) const {
  std::string_view own;
  return read_atom(at_, strings_, own) && own == text;
}

std::optional<std::int64_t> TermView::integer() const {
  switch (u8(at_)) {
    case kSmallInteger:
      return u8(at_ + 1);
    case kInteger:
      return static_cast<std::int32_t>(be32(at_ + 1));
    case kSmallBig:
    case kLargeBig: {
      const BigParts big = read_big(at_);
      if (big.magnitude.size() > 8) return std::nullopt;
      const std::uint64_t value = low_word(big);
      constexpr std::uint64_t kSign = 1ULL << 63;
      if (big.negative ? value > kSign : value >= kSign) return std::nullopt;
      return static_cast<std::int64_t>(big.negative ? 0 - value : value);
    }
    default:
      return std::nullopt;
  }
}

std::optional<std::uint64_t> TermView::unsigned_integer() const {
  if (kind() == TermKind::big) {
    const BigParts big = read_big(at_);
    if (big.magnitude.size() > 8 || (big.negative && !big.magnitude.empty())) return std::nullopt;
    return low_word(big);
  }
  const auto value = integer();
  if (!value || *value < 0) return std::nullopt;
  return static_cast<std::uint64_t>(*value);
}

std::optional<BigParts> TermView::big() const {
  if (kind() != TermKind::big) return std::nullopt;
  return read_big(at_);
}

std::optional<double> TermView::real() const {
  if (u8(at_) == kNewFloat) return std::bit_cast<double>(be64(at_ + 1));
  if (u8(at_) != kFloat) return std::nullopt;
  double value = 0;
  std::from_chars(chars(at_ + 1), chars(at_ + 1) + kFloatText, value);
  return value;
}

std::optional<PidParts> TermView::pid() const {
  PidParts out;
  if (!read_pid(at_, strings_, out)) return std::nullopt;
  return out;
}

std::optional<PortParts> TermView::port() const {
  if (kind() != TermKind::port) return std::nullopt;
  PortParts out;
  const std::byte* p = read_atom(at_ + 1, strings_, out.node);
  if (u8(at_) == kV4Port) {
    out.id = be64(p);
    out.creation = be32(p + 8);
  } else {
    out.id = be32(p);
    out.creation = u8(at_) == kNewPort ? be32(p + 4) : u8(p + 4);
  }
  return out;
}

std::optional<RefParts> TermView::reference() const {
  if (kind() != TermKind::reference) return std::nullopt;
  RefParts out;
  if (u8(at_) == kReference) {
    const std::byte* p = read_atom(at_ + 1, strings_, out.node);
    out.count = 1;
    out.ids[0] = be32(p);
    out.creation = u8(p + 4);
    return out;
  }
  out.count = be16(at_ + 1);
  const std::byte* p = read_atom(at_ + 3, strings_, out.node);
  const bool newer = u8(at_) == kNewerReference;
  out.creation = newer ? be32(p) : u8(p);
  p += newer ? 4 : 1;
  for (std::uint32_t i = 0; i < out.count; ++i, p += 4) out.ids[i] = be32(p);
  return out;
}

std::optional<Bytes> TermView::binary() const {
  if (kind() != TermKind::binary) return std::nullopt;
  return Bytes(at_ + (u8(at_) == kBinary ? 5 : 6), be32(at_ + 1));
}

std::optional<TermView::BitParts> TermView::bitstring() const {
  if (kind() == TermKind::binary) return BitParts{*binary(), std::uint64_t{be32(at_ + 1)} * 8};
  if (kind() != TermKind::bitstring) return std::nullopt;
  const std::size_t length = be32(at_ + 1);
  return BitParts{Bytes(at_ + 6, length), (std::uint64_t{length} - 1) * 8 + u8(at_ + 5)};
}

std::optional<std::string_view> TermView::binary_text() const {
  const auto bytes = binary();
  if (!bytes) return std::nullopt;
  return std::string_view(chars(bytes->data()), bytes->size());
}

std::optional<std::uint32_t> TermView::arity() const {
  if (u8(at_) == kSmallTuple) return u8(at_ + 1);
  if (u8(at_) == kLargeTuple) return be32(at_ + 1);
  return std::nullopt;
}

TermView TermView::element(std::uint32_t index) const {
  const std::byte* p = at_ + (u8(at_) == kSmallTuple ? 2 : 5);
  for (; index > 0; --index) p += term_length(p);
  return {p, strings_};
}

std::optional<ListView> TermView::elements() const {
  const auto n = arity();
  if (!n) return std::nullopt;
  ListView out;
  out.at_ = at_ + (u8(at_) == kSmallTuple ? 2 : 5);
  out.strings_ = strings_;
  out.left_ = *n;
  return out;
}

bool TermView::is_tuple(std::string_view tag, std::uint32_t wanted) const {
  return wanted > 0 && arity() == wanted && element(0).is_atom(tag);
}

std::optional<ListView> TermView::list() const {
  const std::uint8_t tag = u8(at_);
  if (tag != kNil && tag != kList && tag != kString) return std::nullopt;
  ListView out;
  out.at_ = at_;
  out.strings_ = strings_;
  out.has_tail_ = true;
  out.enter();
  return out;
}

void ListView::enter() {
  string_ = false;
  while (left_ == 0) {
    const std::uint8_t tag = u8(at_);
    if (tag == kList) {
      left_ = be32(at_ + 1);
      at_ += 5;
    } else if (tag == kString && be16(at_ + 1) > 0) {
      left_ = be16(at_ + 1);
      at_ += 3;
      string_ = true;
      has_tail_ = false;
    } else {
      return;
    }
  }
}

void ListView::next() {
  at_ += string_ ? 1 : term_length(at_);
  if (--left_ == 0 && has_tail_) enter();
}

TermView ListView::item() const { return {string_ ? kByteTerms.terms[u8(at_)] : at_, strings_}; }

bool ListView::proper() const {
  ListView rest = *this;
  while (!rest.done()) rest.next();
  return !rest.tail();
}

std::optional<TermView> ListView::tail() const {
  if (!has_tail_ || u8(at_) == kNil || u8(at_) == kString) return std::nullopt;
  return TermView(at_, strings_);
}

std::optional<MapView> TermView::map() const {
  if (u8(at_) != kMap) return std::nullopt;
  MapView out;
  out.at_ = at_ + 5;
  out.strings_ = strings_;
  out.left_ = be32(at_ + 1);
  return out;
}

void MapView::next() {
  at_ += term_length(at_);
  at_ += term_length(at_);
  --left_;
}

TermView MapView::key() const { return {at_, strings_}; }

TermView MapView::value() const { return {at_ + term_length(at_), strings_}; }

std::optional<TermView> MapView::find(std::string_view atom_key) const {
  for (MapView it = *this; !it.done(); it.next()) {
    if (it.key().is_atom(atom_key)) return it.value();
  }
  return std::nullopt;
}

std::optional<TermView::FunParts> TermView::fun() const {
  if (u8(at_) != kNewFun) return std::nullopt;
  FunParts out;
  out.arity = u8(at_ + 5);
  out.uniq = Bytes(at_ + 6, 16);
  out.index = be32(at_ + 22);
  const std::byte* p = read_atom(at_ + kFunHeader, strings_, out.module);
  p += term_length(p);  // the old index
  out.old_uniq = static_cast<std::uint32_t>(TermView(p, strings_).integer().value_or(0));
  return out;
}

ListView TermView::fun_environment() const {
  ListView out;
  out.left_ = be32(at_ + kFunHeader - 4);
  out.strings_ = strings_;
  out.at_ = at_ + kFunHeader;
  for (int i = 0; i < 4; ++i) out.at_ += term_length(out.at_);  // module, old index, old uniq, pid
  return out;
}

std::optional<TermView::ExportParts> TermView::export_fun() const {
  if (u8(at_) != kExport) return std::nullopt;
  ExportParts out;
  const std::byte* p = read_atom(at_ + 1, strings_, out.module);
  p = read_atom(p, strings_, out.function);
  out.arity = u8(p + 1);
  return out;
}

std::optional<RecordParts> TermView::record() const {
  if (u8(at_) != kRecord) return std::nullopt;
  RecordParts out;
  out.exported = (u8(at_ + 5) & 1) != 0;
  const std::byte* p = read_atom(at_ + kRecordHeader, strings_, out.module);
  p = read_atom(p, strings_, out.name);
  out.names.at_ = p;
  out.names.strings_ = out.values.strings_ = strings_;
  out.names.left_ = out.values.left_ = be32(at_ + 1);
  for (std::uint32_t i = 0; i < out.names.left_; ++i) p = skip_atom(p);
  out.values.at_ = p;
  return out;
}

namespace {

struct TextOut {
  std::string text;
  std::size_t limit;
  bool add(std::string_view more) {  // false: full
    const std::size_t room = limit - text.size();
    text.append(more.substr(0, room));
    return more.size() <= room;
  }
};

enum class TextStep { more, full, not_text };

// Depth is bounded by kMaxDepth: a term that a view shows was validated.
TextStep add_chars(const TermView& term, TextOut& out) {
  if (const auto text = term.binary_text()) {
    return out.add(*text) ? TextStep::more : TextStep::full;
  }
  auto items = term.list();
  if (!items) return TextStep::not_text;
  for (; !items->done(); items->next()) {
    const TermView item = items->item();
    if (const auto c = item.integer()) {
      if (!valid_code_point(*c)) return TextStep::not_text;
      std::string encoded;
      append_utf8(encoded, static_cast<std::uint32_t>(*c));
      if (out.text.size() + encoded.size() > out.limit) return TextStep::full;
      out.text += encoded;
    } else if (const TextStep step = add_chars(item, out); step != TextStep::more) {
      return step;
    }
  }
  const auto tail = items->tail();
  if (!tail) return TextStep::more;
  return tail->kind() == TermKind::binary ? add_chars(*tail, out) : TextStep::not_text;
}

}  // namespace

std::optional<std::string> TermView::text(std::size_t limit) const {
  if (const auto name = atom()) return std::string(name->substr(0, limit));
  TextOut out{{}, limit};
  if (add_chars(*this, out) == TextStep::not_text) return std::nullopt;
  return std::move(out.text);
}

}  // namespace scope::codec
