// validate(): the one place where bytes from outside are distrusted. One pass, no recursion, an explicit stack of
// kMaxDepth frames. What it accepts, the unchecked readers of term_tags.h may read.
#include <charconv>
#include <cmath>

#include "ei_codec/term_tags.h"
#include "fmt/format.h"

namespace scope::codec {
namespace {

using namespace etf;

// Is every byte of [p, p + n) below 128?
bool ascii(const std::byte* p, std::size_t n) {
  std::uint64_t seen = 0, word = 0;
  for (; n >= 8; n -= 8, p += 8) {
    std::memcpy(&word, p, 8);
    seen |= word;
  }
  for (; n > 0; --n, ++p) seen |= u8(p);
  return (seen & 0x8080808080808080ULL) == 0;
}

bool utf8_atom(const std::byte* p, std::size_t n) {
  if (ascii(p, n)) return n <= kMaxAtomChars;
  std::string_view text(chars(p), n);
  std::size_t count = 0;
  for (; !text.empty(); ++count) {
    const CodePoint c = decode_utf8(text);
    if (c.length == 0) return false;
    text.remove_prefix(c.length);
  }
  return count <= kMaxAtomChars;
}

// A frame of the walk: how many terms are still to come in this container.
struct Frame {
  std::size_t left;
  const std::byte* fun_end;  // where a fun says that it ends; nullptr for other containers
  bool list;
};

class Validator {
 public:
  Validator(Bytes bytes, const ValidateLimits& limits, const StringTable* strings)
      : begin_(bytes.data()),
        at_(begin_),
        end_(begin_ + bytes.size()),
        limits_(limits),
        strings_(strings) {}

  Result<std::size_t> run();

 private:
  std::size_t room() const { return static_cast<std::size_t>(end_ - at_); }
  bool fail(const char* why) {
    why_ = why;
    return false;
  }
  bool skip(std::size_t n) {
    if (room() < n) return fail("cut off");
    at_ += n;
    return true;
  }
  bool atom();
  bool atom_then(std::size_t n) { return atom() && skip(n); }
  bool reference(std::size_t creation_bytes);
  bool fun(std::size_t& free, const std::byte*& fun_end);
  bool small_or_plain_integer();
  bool old_float();

  const std::byte* begin_;
  const std::byte* at_;
  const std::byte* end_;
  const ValidateLimits& limits_;
  const StringTable* strings_;
  const char* why_ = "";
};

bool Validator::atom() {
  if (room() < 2) return fail("cut off");
  const std::uint8_t tag = u8(at_);
  if (tag == kSmallAtomUtf8 || tag == kSmallAtom) [[likely]] {
    const std::size_t length = u8(at_ + 1);
    if (room() - 2 < length) return fail("cut off");
    const bool good = tag == kSmallAtomUtf8 ? utf8_atom(at_ + 2, length) : ascii(at_ + 2, length);
    at_ += 2 + length;
    return good || fail("an atom's text");
  }
  if (tag == kAtomUtf8 || tag == kAtom) {
    if (room() < 3) return fail("cut off");
    const std::size_t length = be16(at_ + 1);
    if (room() - 3 < length) return fail("cut off");
    if (tag == kAtom && !ascii(at_ + 3, length)) return fail("an atom's text");
    const bool good = utf8_atom(at_ + 3, length);
    at_ += 3 + length;
    return good || fail("an atom's text");
  }
  if (tag == kLocalAtom) {
    if (!limits_.local_atoms) return fail("a local atom where none is allowed");
    if (room() < 5) return fail("cut off");
    if (strings_ && !strings_->atom(be32(at_ + 1))) return fail("a local atom without its text");
    at_ += 5;
    return true;
  }
  return fail("an atom was expected");
}

bool Validator::reference(std::size_t creation_bytes) {
  if (room() < 3) return fail("cut off");
  const std::size_t words = be16(at_ + 1);
  if (words < 1 || words > 5) return fail("a reference's length");
  at_ += 3;
  return atom_then(creation_bytes + 4 * words);
}

bool Validator::small_or_plain_integer() {
  if (room() < 1) return fail("cut off");
  if (u8(at_) == kSmallInteger) return skip(2);
  if (u8(at_) == kInteger) return skip(5);
  return fail("an integer was expected");
}

// Everything of a fun up to its free variables, which the caller walks.
bool Validator::fun(std::size_t& free, const std::byte*& fun_end) {
  if (room() < kFunHeader) return fail("cut off");
  const std::size_t size = be32(at_ + 1);
  if (size < kFunHeader - 1 || room() - 1 < size) return fail("a fun's size");
  fun_end = at_ + 1 + size;
  free = be32(at_ + kFunHeader - 4);
  at_ += kFunHeader;
  if (!atom() || !small_or_plain_integer() || !small_or_plain_integer()) return false;
  if (room() < 1) return fail("cut off");
  const std::uint8_t tag = u8(at_++);
  if (tag != kNewPid && tag != kPid) return fail("a fun's pid");
  if (!atom_then(tag == kNewPid ? 12 : 9)) return false;
  if (at_ > fun_end) return fail("a fun's size");
  return true;
}

bool Validator::old_float() {
  if (room() < 1 + kFloatText) return fail("cut off");
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

Result<std::size_t> Validator::run() {
  Frame stack[kMaxDepth];
  std::size_t depth = 0;
  Frame top{1, nullptr, false};
  std::size_t nodes = limits_.max_nodes;
  bool good = true;

  // Enters a container of n terms; each takes a byte at least, so a false count fails before it costs anything.
  const auto enter = [&](std::size_t header, std::size_t n, const std::byte* fun_end, bool list) {
    at_ += header;
    if (n > room()) return fail("cut off");
    if (depth == kMaxDepth) return fail("nested too deeply");
    stack[depth++] = top;
    top = {n, fun_end, list};
    return true;
  };

  while (good) {
    if (top.left == 0) {
      if (top.fun_end && top.fun_end != at_) {
        fail("a fun's size");
        break;
      }
      if (depth == 0) return static_cast<std::size_t>(at_ - begin_);
      top = stack[--depth];
      continue;
    }
    --top.left;
    if (top.left == 0 && top.list)
      top = stack[--depth];  // what follows is the tail, at the list's own level
    if (at_ == end_) {
      fail("cut off");
      break;
    }
    if (nodes-- == 0) {
      fail("too many terms");
      break;
    }
    switch (u8(at_)) {
      case kSmallInteger:
        good = skip(2);
        break;
      case kInteger:
        good = skip(5);
        break;
      case kNil:
        ++at_;
        break;
      case kSmallAtomUtf8:
      case kAtomUtf8:
      case kSmallAtom:
      case kAtom:
      case kLocalAtom:
        good = atom();
        break;
      case kSmallTuple:
        good = room() < 2 ? fail("cut off") : enter(2, u8(at_ + 1), nullptr, false);
        break;
      case kLargeTuple:
        good = room() < 5 ? fail("cut off") : enter(5, be32(at_ + 1), nullptr, false);
        break;
      case kList:
        if (room() < 5) {
          good = fail("cut off");
        } else {
          const std::size_t length =
              be32(at_ + 1);  // of 0 the term would be its tail: no node sends it
          good = length > 0 ? enter(5, length + 1, nullptr, true) : fail("a list of no items");
        }
        break;
      case kMap:
        good =
            room() < 5 ? fail("cut off") : enter(5, std::size_t{be32(at_ + 1)} * 2, nullptr, false);
        break;
      case kBinary:
        good = room() < 5 ? fail("cut off") : skip(std::size_t{5} + be32(at_ + 1));
        break;
      case kString:
        good = room() < 3 ? fail("cut off") : skip(std::size_t{3} + be16(at_ + 1));
        break;
      case kNewPid:
        ++at_;
        good = atom_then(12);
        break;
      case kPid:
        ++at_;
        good = atom_then(9);
        break;
      case kNewerReference:
        good = reference(4);
        break;
      case kNewReference:
        good = reference(1);
        break;
      case kReference:
        ++at_;
        good = atom_then(5);
        break;
      case kSmallBig:
        good = room() < 3 ? fail("cut off") : skip(std::size_t{3} + u8(at_ + 1));
        break;
      case kLargeBig:
        good = room() < 6 ? fail("cut off") : skip(std::size_t{6} + be32(at_ + 1));
        break;
      case kNewFloat:
        if (room() < 9) {
          good = fail("cut off");
        } else {
          good = (be64(at_ + 1) >> 52 & 0x7FF) != 0x7FF ? skip(9) : fail("a float");
        }
        break;
      case kFloat:
        good = old_float();
        break;
      case kBitBinary:
        if (room() < 6) {
          good = fail("cut off");
        } else {
          const std::size_t length = be32(at_ + 1);
          const unsigned bits = u8(at_ + 5);
          good = (length == 0 ? bits == 0 : bits >= 1 && bits <= 8) ? skip(6 + length)
                                                                    : fail("a bitstring");
        }
        break;
      case kV4Port:
        ++at_;
        good = atom_then(12);
        break;
      case kNewPort:
        ++at_;
        good = atom_then(8);
        break;
      case kPort:
        ++at_;
        good = atom_then(5);
        break;
      case kExport:
        ++at_;
        good = atom() && atom();
        if (good) {
          good = room() >= 2 && u8(at_) == kSmallInteger ? skip(2) : fail("an export's arity");
        }
        break;
      case kNewFun: {
        std::size_t free = 0;
        const std::byte* fun_end = nullptr;
        good = fun(free, fun_end) && enter(0, free, fun_end, false);
        break;
      }
      case kCompressed:
        good = fail("compressed terms are refused");
        break;
      case kAtomCacheRef:
        good = fail("an atom cache reference; the link negotiates no atom cache");
        break;
      default:
        good = fail("an unknown tag");
        break;
    }
  }
  return scope::fail(Code::malformed, fmt::format("bad term at byte {} of {}: {}", at_ - begin_,
                                                  end_ - begin_, why_));
}

}  // namespace

Result<std::size_t> validate(Bytes bytes, const ValidateLimits& limits) {
  return Validator(bytes, limits, nullptr).run();
}

Result<TermView> view(Bytes bytes, const ValidateLimits& limits, const StringTable* strings) {
  if (limits.local_atoms && !strings) {
    return fail(Code::internal, "a view with local atoms needs their string table");
  }
  RETURN_IF_ERROR(Validator(bytes, limits, strings).run());
  return TermView::unchecked(bytes.data(), strings);
}

Result<TermView> view_message(Bytes bytes, const ValidateLimits& limits) {
  if (bytes.empty() || u8(bytes.data()) != kVersionMagic) {
    return fail(Code::malformed, "a message must begin with the version byte 131");
  }
  const Bytes term = bytes.subspan(1);
  auto length = validate(term, limits);
  if (!length) return std::unexpected(std::move(length).error());
  if (*length != term.size()) {
    return fail(Code::malformed,
                fmt::format("{} bytes follow the message's term", term.size() - *length));
  }
  return TermView::unchecked(term.data(), nullptr);
}

}  // namespace scope::codec
