// validate(): the one place where bytes from outside are distrusted. One pass, no recursion, an explicit stack of
// kMaxDepth frames. What it accepts, the unchecked readers of term_tags.h may read.
#include <charconv>
#include <cmath>
#include <vector>

#include "ei_codec/term_walk.h"
#include "fmt/format.h"

namespace scope::codec {
namespace {

using namespace etf;

// An open container on the stack: how many terms it still awaits, and what is to be done after the last of them.
constexpr std::uint64_t kListFrame = 1ULL << 63, kFunFrame = 1ULL << 62, kLeft = kFunFrame - 1;
constexpr const char* kCutOff = "cut off";

// `Strings`: the table's own type where it is known, so that asking it is no virtual call.
template <typename Strings>
class Validator {
 public:
  Validator(Bytes bytes, const ValidateLimits& limits, const Strings* strings)
      : begin_(bytes.data()),
        at_(begin_),
        end_(begin_ + bytes.size()),
        limits_(limits),
        strings_(strings) {}

  Result<std::size_t> run();
  bool saw_local_atoms() const { return saw_local_atoms_; }

 private:
  std::size_t room() const { return static_cast<std::size_t>(end_ - at_); }
  bool fail(const char* why) {
    why_ = why;
    return false;
  }
  bool skip(std::size_t n) {
    if (room() < n) return fail(kCutOff);
    at_ += n;
    return true;
  }
  bool atom();
  bool atom_then(std::size_t n) { return atom() && skip(n); }
  bool reference(std::size_t creation_bytes);
  bool fun(std::uint64_t& free, const std::byte*& fun_end);
  bool record(std::uint64_t& fields);
  bool small_or_plain_integer();
  bool old_float();
  bool leaf();

  const std::byte* begin_;
  const std::byte* at_;
  const std::byte* end_;
  const ValidateLimits& limits_;
  const Strings* strings_;
  const char* why_ = "";
  bool saw_local_atoms_ = false;
};

template <typename Strings>
bool Validator<Strings>::atom() {
  if (room() < 2) return fail(kCutOff);
  const std::uint8_t tag = u8(at_);
  if (tag == kSmallAtomUtf8 || tag == kSmallAtom) [[likely]] {
    const std::size_t length = u8(at_ + 1);
    if (room() - 2 < length) return fail(kCutOff);
    const bool good =
        ascii(at_ + 2, length) || (tag == kSmallAtomUtf8 && utf8_atom(at_ + 2, length));
    at_ += 2 + length;
    return good || fail("an atom's text");
  }
  if (tag == kAtomUtf8 || tag == kAtom) {
    if (room() < 3) return fail(kCutOff);
    const std::size_t length = be16(at_ + 1);
    if (room() - 3 < length) return fail(kCutOff);
    const bool good = ascii(at_ + 3, length) ? length <= kMaxAtomChars
                                             : tag == kAtomUtf8 && utf8_atom(at_ + 3, length);
    at_ += 3 + length;
    return good || fail("an atom's text");
  }
  if (tag == kLocalAtom) {
    if (!limits_.local_atoms) return fail("a local atom where none is allowed");
    if (room() < 5) return fail(kCutOff);
    if (strings_ && !strings_->atom(be32(at_ + 1))) return fail("a local atom without its text");
    saw_local_atoms_ = true;
    at_ += 5;
    return true;
  }
  return fail("an atom was expected");
}

template <typename Strings>
bool Validator<Strings>::reference(std::size_t creation_bytes) {
  if (room() < 3) return fail(kCutOff);
  const std::size_t words = be16(at_ + 1);
  if (words < 1 || words > 5) return fail("a reference's length");
  at_ += 3;
  return atom_then(creation_bytes + 4 * words);
}

template <typename Strings>
bool Validator<Strings>::small_or_plain_integer() {
  if (room() < 1) return fail(kCutOff);
  if (u8(at_) == kSmallInteger) return skip(2);
  if (u8(at_) == kInteger) return skip(5);
  return fail("an integer was expected");
}

// Everything of a fun up to its free variables, which the caller walks.
template <typename Strings>
bool Validator<Strings>::fun(std::uint64_t& free, const std::byte*& fun_end) {
  if (room() < kFunHeader) return fail(kCutOff);
  const std::size_t size = be32(at_ + 1);
  if (size < kFunHeader - 1 || room() - 1 < size) return fail("a fun's size");
  fun_end = at_ + 1 + size;
  free = be32(at_ + kFunHeader - 4);
  at_ += kFunHeader;
  if (!atom() || !small_or_plain_integer() || !small_or_plain_integer()) return false;
  if (room() < 1) return fail(kCutOff);
  const std::uint8_t tag = u8(at_++);
  if (tag != kNewPid && tag != kPid) return fail("a fun's pid");
  if (!atom_then(tag == kNewPid ? 12 : 9)) return false;
  if (at_ > fun_end) return fail("a fun's size");
  return true;
}

// Everything of a native record up to its values, which the caller walks. Each name is two bytes at least.
template <typename Strings>
bool Validator<Strings>::record(std::uint64_t& fields) {
  if (room() < kRecordHeader) return fail(kCutOff);
  fields = be32(at_ + 1);
  if (u8(at_ + 5) > 1) return fail("a record's flags");
  at_ += kRecordHeader;
  if (!atom() || !atom()) return false;
  for (std::uint64_t i = 0; i < fields; ++i) {
    if (!atom()) return false;
  }
  return true;
}

template <typename Strings>
bool Validator<Strings>::old_float() {
  if (room() < 1 + kFloatText) return fail(kCutOff);
  const char* text = chars(at_ + 1);
  double value = 0;
  const auto [stop, error] = std::from_chars(text, text + kFloatText, value);
  if (error != std::errc() || !std::isfinite(value)) return fail("a float");
  for (const char* p = stop; p != text + kFloatText; ++p) {
    if (*p != 0) return fail("a float");
  }
  at_ += 1 + kFloatText;
  return true;
}

// The whole check: for what walk() does not vouch for, and then it has the reason.
template <typename Strings>
Result<std::size_t> Validator<Strings>::run() {
  std::uint64_t stack[kMaxDepth];
  std::size_t depth = 0;
  std::uint64_t left = 1, kind = 0;  // the innermost container's
  std::uint64_t nodes = limits_.max_nodes;
  std::vector<const std::byte*> fun_ends;  // where the open funs say that they end
  const std::byte* at = at_;
  const std::byte* const end = end_;
  const char* why = kCutOff;
  Code code = Code::malformed;
  std::uint64_t entered = 0, frame = 0;  // the container whose head was just read
  std::size_t length = 0;

  if (nodes-- == 0) goto too_many;
  while (true) {
    while (left == 0) [[unlikely]] {
      if (depth == 0) return static_cast<std::size_t>(at - begin_);
      const std::uint64_t closed = kind;
      left = stack[--depth] & kLeft;
      kind = stack[depth] & ~kLeft;
      if (closed == 0) continue;
      if (closed == kListFrame) {  // its tail is one more term, at the list's own level
        ++left;
        if (nodes-- == 0) goto too_many;
        break;
      }
      if (fun_ends.back() != at) {
        why = "a fun's size";
        goto failed;
      }
      fun_ends.pop_back();
    }
    --left;
    if (at == end) goto failed;
    frame = 0;
    switch (u8(at)) {
      case kSmallAtomUtf8:
        if (end - at < 2) goto failed;
        length = u8(at + 1);
        at += 2;
        goto atom_text;
      case kSmallInteger:
        if (end - at < 2) goto failed;
        at += 2;
        continue;
      case kInteger:
        if (end - at < 5) goto failed;
        at += 5;
        continue;
      case kNil:
        ++at;
        continue;
      case kSmallTuple:
        if (end - at < 2) goto failed;
        entered = u8(at + 1);
        at += 2;
        break;
      case kLargeTuple:
      case kMap:
      case kList:
        if (end - at < 5) goto failed;
        entered = be32(at + 1);
        if (u8(at) == kMap) entered *= 2;
        if (u8(at) == kList) {
          frame = kListFrame;
          if (entered == 0) {  // no node sends it: the term would be its tail
            why = "a list of no items";
            goto failed;
          }
        }
        at += 5;
        break;
      case kBinary:
        if (end - at < 5) goto failed;
        length = be32(at + 1);
        at += 5;
        goto whole_bytes;
      case kString:
        if (end - at < 3) goto failed;
        length = be16(at + 1);
        at += 3;
        goto whole_bytes;
      case kSmallBig:
        if (end - at < 3) goto failed;
        length = u8(at + 1);
        at += 3;
        goto whole_bytes;
      case kNewFun: {
        at_ = at;
        const std::byte* fun_end = nullptr;
        const bool sound = fun(entered, fun_end);
        at = at_;
        if (!sound) goto failed_there;
        fun_ends.push_back(fun_end);
        frame = kFunFrame;
        break;
      }
      case kRecord: {
        at_ = at;
        const bool sound = record(entered);
        at = at_;
        if (!sound) goto failed_there;
        break;
      }
      default: {
        at_ = at;
        const bool sound = leaf();
        at = at_;
        if (!sound) goto failed_there;
        continue;
      }
    }

    // A container. A false count needs no check against the bytes that are left: terms will be missing.
    if (entered > nodes) goto too_many;
    if (depth == kMaxDepth) {
      why = "nested too deeply";
      code = Code::too_large;
      goto failed;
    }
    nodes -= entered;
    stack[depth++] = left | kind;
    left = entered;
    kind = frame;
    continue;

  atom_text:
    if (static_cast<std::size_t>(end - at) < length) goto failed;
    if (!ascii(at, length) && !utf8_atom(at, length)) {
      why = "an atom's text";
      goto failed;
    }
    at += length;
    continue;

  whole_bytes:
    if (static_cast<std::size_t>(end - at) < length) goto failed;
    at += length;
  }

too_many:
  why = "too many terms";
  code = Code::too_large;
  goto failed;
failed_there:
  why = why_;
failed:
  return scope::fail(code,
                     fmt::format("bad term at byte {} of {}: {}", at - begin_, end - begin_, why));
}

// The less common terms that hold no others.
template <typename Strings>
bool Validator<Strings>::leaf() {
  switch (u8(at_)) {
    case kNewPid:
      ++at_;
      return atom_then(12);
    case kPid:
      ++at_;
      return atom_then(9);
    case kNewerReference:
      return reference(4);
    case kNewReference:
      return reference(1);
    case kReference:
      ++at_;
      return atom_then(5);
    case kAtomUtf8:
    case kSmallAtom:
    case kAtom:
    case kLocalAtom:
      return atom();
    case kLargeBig:
      return room() < 6 ? fail(kCutOff) : skip(std::size_t{6} + be32(at_ + 1));
    case kNewFloat:
      if (room() < 9) return fail(kCutOff);
      return finite(be64(at_ + 1)) ? skip(9) : fail("a float");
    case kFloat:
      return old_float();
    case kBitBinary: {
      if (room() < 6) return fail(kCutOff);
      const std::size_t length = be32(at_ + 1);
      const unsigned bits = u8(at_ + 5);
      const bool sound = length == 0 ? bits == 0 : bits >= 1 && bits <= 8;
      return sound ? skip(6 + length) : fail("a bitstring");
    }
    case kV4Port:
      ++at_;
      return atom_then(12);
    case kNewPort:
      ++at_;
      return atom_then(8);
    case kPort:
      ++at_;
      return atom_then(5);
    case kExport:
      ++at_;
      if (!atom() || !atom()) return false;
      return room() >= 2 && u8(at_) == kSmallInteger ? skip(2) : fail("an export's arity");
    case kCompressed:
      return fail("compressed terms are refused");
    case kAtomCacheRef:
      return fail("an atom cache reference; the link negotiates no atom cache");
    default:
      return fail("an unknown tag");
  }
}

template <typename Strings>
Result<std::size_t> check(Bytes bytes, const ValidateLimits& limits, const Strings* strings,
                          bool& local_atoms) {
  const std::byte* const end = bytes.data() + bytes.size();
  if (bytes.size() <= limits.max_nodes) {  // else the terms must be counted
    TermWalk<Strings> walk(end, strings, limits.local_atoms);
    if (const auto* stop = walk.end_of(bytes.data(), end)) {
      local_atoms = walk.local_atoms;
      return static_cast<std::size_t>(stop - bytes.data());
    }
  }
  Validator<Strings> validator(bytes, limits, strings);
  auto length = validator.run();
  local_atoms = validator.saw_local_atoms();
  return length;
}

}  // namespace

bool etf::utf8_atom(const std::byte* p, std::size_t n) {
  std::string_view text(chars(p), n);
  std::size_t count = 0;
  for (; !text.empty(); ++count) {
    const CodePoint c = decode_utf8(text);
    if (c.length == 0) return false;
    text.remove_prefix(c.length);
  }
  return count <= kMaxAtomChars;
}

bool etf::valid_atom(const std::byte* text, std::size_t size) {
  return ascii(text, size) ? size <= kMaxAtomChars : utf8_atom(text, size);
}

Result<std::size_t> validate(Bytes bytes, const ValidateLimits& limits) {
  bool used = false;
  return check<StringTable>(bytes, limits, nullptr, used);
}

const std::byte* etf::check_rare_term(Bytes bytes, const BatchStrings* strings, bool& local_atoms) {
  const ValidateLimits limits{.local_atoms = strings != nullptr};
  Validator<BatchStrings> validator(bytes, limits, strings);
  const auto length = validator.run();
  if (validator.saw_local_atoms()) local_atoms = true;
  return length ? bytes.data() + *length : nullptr;
}

Result<TermView> view(Bytes bytes, const ValidateLimits& limits, const StringTable* strings) {
  if (limits.local_atoms && !strings) {
    return fail(Code::internal, "a view with local atoms needs their string table");
  }
  bool used = false;
  RETURN_IF_ERROR(check(bytes, limits, strings, used));
  return TermView::unchecked(bytes.data(), strings);
}

Result<TermView> view_message(Bytes bytes, const ValidateLimits& limits) {
  if (bytes.empty() || u8(bytes.data()) != kVersionMagic) {
    return fail(Code::malformed, "a message must begin with the version byte 131");
  }
  return view_whole(bytes.subspan(1), limits);
}

Result<TermView> view_whole(Bytes term, const ValidateLimits& limits) {
  auto length = validate(term, limits);
  if (!length) return std::unexpected(std::move(length).error());
  if (*length != term.size()) {
    return fail(Code::malformed,
                fmt::format("{} bytes follow the message's term", term.size() - *length));
  }
  return TermView::unchecked(term.data(), nullptr);
}

}  // namespace scope::codec
