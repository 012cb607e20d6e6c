// The bounded encoder: a term as external term format with local atom numbers (ei_codec/capture_record.h), in at most
// `cap` bytes, 8 deep, 32 items of a container, 256 bytes of a binary, 512 terms. What is left out is the atom '...' as
// erl/agent/scope_cut.erl puts it: an element, the tail of a list, a key and its value. No key of a map is ever cut,
// so no two become equal. Takes time and stack that the caps bound; allocates nothing, except that the VM encodes pids,
// ports and references of other nodes.
//
// What rules say (redact.h) is written as the mark of it; so is a term that looks like one.
//
// Thread Any that runs Erlang code, each with its own Encoder.
#pragma once

#include <erl_nif.h>

#include <cstddef>
#include <cstdint>

#include "ei_codec/wire/etf_tags.h"
#include "erl/c_src/hash.h"
#include "erl/c_src/redact.h"

namespace scope::tracer {

namespace etf = codec::etf;

struct Names {  // atoms made at load
  std::uint32_t node = 0, dots = 0, fun = 0, redacted = 0, none = 0;
  std::uint32_t creation = 0;
};
extern Names names;

// A binary of which only the beginning is there: BINARY_EXT's tag instead of this on the wire (drain.cc).
inline constexpr std::uint8_t kCutBinary = 0xFC;

struct Secrets {
  const Rules* rules;  // nullptr: nothing is redacted
  const std::array<std::byte, 16>* key;
  AtomTexts* texts;
};

class Encoder {
 public:
  Encoder(ErlNifEnv* env, std::uint8_t* out, std::size_t cap, const Secrets& secrets)
      : env_(env), at_(out), left_(cap), secrets_(secrets) {}

  // Writes the term; REQUIRES cap >= 5.
  void encode(ERL_NIF_TERM term) {
    left_ -= kSlot;
    walk(term, kDepth);
  }
  // A list of arguments of which some are hidden, bit 0 the first.
  void encode_arguments(ERL_NIF_TERM list, std::uint32_t hidden) {
    arguments_ = hidden;
    encode(list);
  }
  // Only the term's mark.
  void encode_hidden(ERL_NIF_TERM term) {
    left_ -= kSlot;
    hide(term);
  }
  std::uint8_t* end() const { return at_; }
  bool cut() const { return cut_; }
  bool redacted() const { return redacted_; }
  // About the term's external size, as far as it was walked.
  std::uint64_t walked() const { return walked_; }

 private:
  static constexpr int kDepth = 8;
  static constexpr unsigned kItems = 32;
  static constexpr std::size_t kMost = 256;
  static constexpr std::size_t kSlot = 5;  // reserved for each term to come: '...' always fits

  bool immediate(ERL_NIF_TERM term);
  void walk(ERL_NIF_TERM term, int depth);
  void boxed_term(ERL_NIF_TERM term, int depth);
  void tuple(ERL_NIF_TERM term, int depth);
  void list(ERL_NIF_TERM term, int depth);
  void map(ERL_NIF_TERM term, int depth);
  void binary(ERL_NIF_TERM term);
  void fun(ERL_NIF_TERM term);
  void integer(std::int64_t value);
  bool big(ERL_NIF_TERM term);
  void reference(ERL_NIF_TERM term);
  void by_vm(ERL_NIF_TERM term);
  void hide(ERL_NIF_TERM term);

  bool take(std::size_t bytes) {
    walked_ += bytes;
    if (bytes > left_) return false;
    left_ -= bytes;
    return true;
  }
  void put8(std::uint8_t v) { *at_++ = v; }
  void put16(std::uint32_t v) {
    put8(static_cast<std::uint8_t>(v >> 8));
    put8(static_cast<std::uint8_t>(v));
  }
  void put32(std::uint32_t v) {
    v = __builtin_bswap32(v);
    __builtin_memcpy(at_, &v, 4);
    at_ += 4;
  }
  void put64(std::uint64_t v) {
    v = __builtin_bswap64(v);
    __builtin_memcpy(at_, &v, 8);
    at_ += 8;
  }
  void atom(std::uint32_t id) {
    put8(etf::kLocalAtom);
    put32(id);
  }
  void dots();

  ErlNifEnv* env_;
  std::uint8_t* at_;
  std::size_t left_;  // bytes that are not reserved
  int nodes_ = 512;
  std::uint64_t walked_ = 0;
  bool cut_ = false, redacted_ = false, in_key_ = false;
  std::uint32_t arguments_ = 0;  // what is to be hidden of the next list
  const Secrets& secrets_;
};

}  // namespace scope::tracer
