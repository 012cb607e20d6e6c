#include "ei_codec/term_builder.h"

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

#include "ei.h"
#include "ei_codec/term_tags.h"

namespace scope::codec {
namespace {

// ei answers -1 only when it cannot allocate: every argument is checked before.
void ok(int result) {
  if (result != 0) throw std::bad_alloc();
}

// Makes room for n bytes and a header, doubling. ei itself grows by 200 bytes when fewer than 100 are free, which is
// quadratic for large replies; so it must never come to that. (Its buffers come from malloc.)
ei_x_buff* room(ei_x_buff* x, std::size_t n) {
  constexpr std::size_t kHeader = 256, kMost = INT_MAX;
  const std::size_t needed = static_cast<std::size_t>(x->index) + n + kHeader;
  if (needed <= static_cast<std::size_t>(x->buffsz)) return x;
  if (needed > kMost) throw std::bad_alloc();
  const std::size_t size =
      std::min(kMost, std::max(needed, 2 * static_cast<std::size_t>(x->buffsz)));
  auto* grown = static_cast<char*>(std::realloc(x->buff, size));
  if (!grown) throw std::bad_alloc();
  x->buff = grown;
  x->buffsz = static_cast<int>(size);
  return x;
}

void append(ei_x_buff* x, const void* data, std::size_t size) {
  if (size > 0)
    ok(ei_x_append_buf(room(x, size), static_cast<const char*>(data), static_cast<int>(size)));
}

// At most kMaxAtomChars characters; bytes that are not UTF-8 become '?', so that no node refuses the message.
std::string clean_atom(std::string_view text) {
  std::string out;
  for (std::size_t n = 0; !text.empty() && n < etf::kMaxAtomChars; ++n) {
    const etf::CodePoint c = etf::decode_utf8(text);
    if (c.length == 0) {
      out += '?';
    } else {
      out += text.substr(0, c.length);
    }
    text.remove_prefix(std::max(1u, c.length));
  }
  return out;
}

bool plain_atom(std::string_view text) {
  return text.size() <= etf::kMaxAtomChars &&
         std::none_of(text.begin(), text.end(), [](char c) { return (c & 0x80) != 0; });
}

void put32(char* out, std::uint32_t value) {
  value = __builtin_bswap32(value);
  std::memcpy(out, &value, 4);
}

void patch32(ei_x_buff* x, std::size_t at, std::uint32_t value) { put32(x->buff + at, value); }

}  // namespace

TermBuilder::TermBuilder() : x_(new ei_x_buff{}) {
  if (ei_x_new(x_) != 0) {
    delete x_;
    throw std::bad_alloc();
  }
}

TermBuilder TermBuilder::with_version() {
  TermBuilder out;
  out.version_ = true;
  ok(ei_x_encode_version(out.x_));
  return out;
}

TermBuilder::~TermBuilder() {
  if (x_) ei_x_free(x_);
  delete x_;
}

TermBuilder::TermBuilder(TermBuilder&& other) noexcept
    : x_(std::exchange(other.x_, nullptr)), version_(other.version_) {}

TermBuilder& TermBuilder::operator=(TermBuilder&& other) noexcept {
  std::swap(x_, other.x_);
  std::swap(version_, other.version_);
  return *this;
}

TermBuilder& TermBuilder::atom(std::string_view utf8) {
  std::string cleaned;
  if (!plain_atom(utf8)) {
    cleaned = clean_atom(utf8);
    utf8 = cleaned;
  }
  ok(ei_x_encode_atom_len_as(room(x_, utf8.size()), utf8.data(), static_cast<int>(utf8.size()),
                             ERLANG_UTF8, ERLANG_UTF8));
  return *this;
}

TermBuilder& TermBuilder::boolean(bool value) { return atom(value ? "true" : "false"); }

// ei writes what needs 28 to 32 bits as a big; a node would not, and comparing bytes with a node's is worth having.
TermBuilder& TermBuilder::integer(std::int64_t value) {
  if (value == static_cast<std::int32_t>(value) && (value < 0 || value > 255)) {
    char out[5] = {static_cast<char>(etf::kInteger)};
    put32(out + 1, static_cast<std::uint32_t>(value));
    append(x_, out, sizeof out);
  } else {
    ok(ei_x_encode_longlong(room(x_, 0), value));
  }
  return *this;
}

TermBuilder& TermBuilder::unsigned_integer(std::uint64_t value) {
  if (value <= INT64_MAX) return integer(static_cast<std::int64_t>(value));
  ok(ei_x_encode_ulonglong(room(x_, 0), value));
  return *this;
}

TermBuilder& TermBuilder::real(double value) {
  if (!std::isfinite(value)) return atom("undefined");
  ok(ei_x_encode_double(room(x_, 0), value));
  return *this;
}

TermBuilder& TermBuilder::binary(Bytes bytes) {
  ok(ei_x_encode_binary(room(x_, bytes.size()), bytes.data(), static_cast<int>(bytes.size())));
  return *this;
}

TermBuilder& TermBuilder::binary(std::string_view text) {
  return binary(std::as_bytes(std::span(text)));
}

TermBuilder& TermBuilder::charlist(std::string_view text) {
  if (text.empty()) return nil();
  if (text.size() <= 0xFFFF) {
    ok(ei_x_encode_string_len(room(x_, text.size()), text.data(), static_cast<int>(text.size())));
    return *this;
  }
  list(static_cast<std::uint32_t>(text.size()));
  for (const char c : text) integer(static_cast<unsigned char>(c));
  return nil();
}

// ei's structures would copy node names of up to 1,021 bytes for each; the formats are simple.
TermBuilder& TermBuilder::pid(const PidParts& pid) {
  char out[12];
  put32(out, pid.id);
  put32(out + 4, pid.serial);
  put32(out + 8, pid.creation);
  const char tag = static_cast<char>(etf::kNewPid);
  append(x_, &tag, 1);
  atom(pid.node);
  append(x_, out, sizeof out);
  return *this;
}

TermBuilder& TermBuilder::reference(const RefParts& ref) {
  const std::uint32_t count = std::min<std::uint32_t>(ref.count, 5);
  const char head[3] = {static_cast<char>(etf::kNewerReference), 0, static_cast<char>(count)};
  append(x_, head, sizeof head);
  atom(ref.node);
  char out[24];
  put32(out, ref.creation);
  for (std::size_t i = 0; i < count; ++i) put32(out + 4 + 4 * i, ref.ids[i]);
  append(x_, out, 4 + 4 * std::size_t{count});
  return *this;
}

TermBuilder& TermBuilder::port(const PortParts& port) {
  // As nodes do: the old tag where the id fits it, because a node before V4 ports may read it.
  const bool small = port.id < (1u << 28);
  const char tag = static_cast<char>(small ? etf::kNewPort : etf::kV4Port);
  append(x_, &tag, 1);
  atom(port.node);
  char out[12];
  put32(out, static_cast<std::uint32_t>(port.id >> 32));
  put32(out + 4, static_cast<std::uint32_t>(port.id));
  put32(out + 8, port.creation);
  append(x_, out + (small ? 4 : 0), small ? 8 : 12);
  return *this;
}

TermBuilder& TermBuilder::tuple(std::uint32_t arity) {
  ok(ei_x_encode_tuple_header(room(x_, 0), static_cast<long>(arity)));
  return *this;
}

TermBuilder& TermBuilder::map(std::uint32_t pairs) {
  ok(ei_x_encode_map_header(room(x_, 0), static_cast<long>(pairs)));
  return *this;
}

TermBuilder& TermBuilder::list(std::uint32_t length) {
  if (length > 0) ok(ei_x_encode_list_header(room(x_, 0), static_cast<long>(length)));
  return *this;
}

TermBuilder& TermBuilder::list_cons() { return list(1); }

TermBuilder& TermBuilder::nil() {
  ok(ei_x_encode_empty_list(room(x_, 0)));
  return *this;
}

TermBuilder& TermBuilder::event_id(const EventId& id) {
  const auto bytes = id.to_bytes();
  return binary(Bytes(bytes));
}

// The encoding is a preorder, so replacing atoms needs no tree: copy what lies between them. Only a fun says its own
// length, which must be set right again when all of its terms have passed.
TermBuilder& TermBuilder::term(const TermView& term) {
  const Bytes source = term.bytes();
  if (!term.strings()) return raw(source);
  struct OpenFun {
    const std::byte* end;
    std::size_t start;
  };
  std::vector<OpenFun> funs;
  const std::byte* copied = source.data();
  const std::byte* const end = source.data() + source.size();
  const auto copy_to = [&](const std::byte* p) {
    append(x_, copied, static_cast<std::size_t>(p - copied));
    copied = p;
  };
  const std::byte* at = source.data();
  while (at != end) {
    while (!funs.empty() && funs.back().end == at) {
      copy_to(at);
      const std::size_t start = funs.back().start;
      patch32(x_, start + 1,
              static_cast<std::uint32_t>(static_cast<std::size_t>(x_->index) - start - 1));
      funs.pop_back();
    }
    const std::uint8_t tag = etf::u8(at);
    switch (tag) {
      case etf::kLocalAtom: {
        copy_to(at);
        std::string_view text;
        at = etf::read_atom(at, term.strings(), text);
        atom(text);
        copied = at;
        break;
      }
      // Containers, and what holds a node's or a module's atom: step to the next term or atom.
      case etf::kSmallTuple:
        at += 2;
        break;
      case etf::kLargeTuple:
      case etf::kList:
      case etf::kMap:
        at += 5;
        break;
      case etf::kRecord:
        at += etf::kRecordHeader;
        break;
      case etf::kNewFun:
        copy_to(at);
        funs.push_back({at + 1 + etf::be32(at + 1), static_cast<std::size_t>(x_->index)});
        at += etf::kFunHeader;
        break;
      default: {
        const std::size_t length = term_length(at);
        const std::size_t before = tag == etf::kNewerReference || tag == etf::kNewReference ? 3 : 1;
        const bool holds_atoms = tag == etf::kNewPid || tag == etf::kPid || tag == etf::kNewPort ||
                                 tag == etf::kPort || tag == etf::kV4Port ||
                                 tag == etf::kReference || tag == etf::kNewerReference ||
                                 tag == etf::kNewReference || tag == etf::kExport;
        const std::byte* const term_end = at + length;
        if (holds_atoms) {
          at += before;
          for (int left = tag == etf::kExport ? 2 : 1; left > 0; --left) {
            const std::byte* const next = etf::skip_atom(at);
            if (etf::u8(at) == etf::kLocalAtom) {
              copy_to(at);
              std::string_view text;
              etf::read_atom(at, term.strings(), text);
              atom(text);
              copied = next;
            }
            at = next;
          }
        }
        at = term_end;
        break;
      }
    }
  }
  copy_to(end);
  for (; !funs.empty(); funs.pop_back()) {
    const std::size_t start = funs.back().start;
    patch32(x_, start + 1,
            static_cast<std::uint32_t>(static_cast<std::size_t>(x_->index) - start - 1));
  }
  return *this;
}

TermBuilder& TermBuilder::raw(Bytes encoded) {
  append(x_, encoded.data(), encoded.size());
  return *this;
}

Bytes TermBuilder::bytes() const {
  return {reinterpret_cast<const std::byte*>(x_->buff), static_cast<std::size_t>(x_->index)};
}

void TermBuilder::clear() { x_->index = version_ ? 1 : 0; }

}  // namespace scope::codec
