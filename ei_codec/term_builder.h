// TermBuilder: RAII over ei_x_buff for making terms. Sizes of tuples, lists and maps are given before their elements,
// as in ei. Move-only; one thread. Allocation failure throws std::bad_alloc and nothing else throws.
//
//   TermBuilder b;                       // no version magic; with_version() adds 131 first
//   b.tuple(2).atom("ok").map(1).atom("api").integer(1);
//   send(b.bytes());
//
// Lists: b.list(n) then n elements, then b.nil() (or an improper tail). A list of unknown length is built with
// list_begin(): one element at a time, each preceded by list_cons(), closed by nil(); it costs 5 bytes an element.
#pragma once

#include <cstdint>
#include <string_view>

#include "ei_codec/base/ids.h"
#include "ei_codec/term_view.h"

struct ei_x_buff_TAG;  // NOLINT(readability-identifier-naming): ei's

namespace scope::codec {

class TermBuilder {
 public:
  TermBuilder();
  static TermBuilder with_version();
  ~TermBuilder();
  TermBuilder(TermBuilder&& other) noexcept;
  TermBuilder& operator=(TermBuilder&& other) noexcept;

  TermBuilder& atom(std::string_view utf8);  // longer than 255 characters: cut there
  TermBuilder& boolean(bool value);
  TermBuilder& integer(std::int64_t value);
  TermBuilder& unsigned_integer(std::uint64_t value);
  TermBuilder& real(double value);
  TermBuilder& binary(Bytes bytes);
  TermBuilder& binary(std::string_view text);
  TermBuilder& charlist(
      std::string_view latin1_or_ascii);  // STRING_EXT (or a list when over 65535)
  TermBuilder& pid(const PidParts& pid);
  TermBuilder& reference(const RefParts& ref);
  TermBuilder& port(const PortParts& port);
  TermBuilder& tuple(std::uint32_t arity);
  TermBuilder& map(std::uint32_t pairs);
  TermBuilder& list(std::uint32_t length);  // 0 writes nothing: follow with nil()
  TermBuilder& list_cons();  // one more element follows, then another list_cons() or nil()
  TermBuilder& nil();
  TermBuilder& empty_list() { return nil(); }
  TermBuilder& event_id(const EventId& id);  // a binary of 24 bytes
  // A validated term, copied. kLocalAtom in it is replaced by the atom it stands for.
  TermBuilder& term(const TermView& term);
  // Bytes that are known to be whole, encoded terms (another builder's).
  TermBuilder& raw(Bytes encoded);

  Bytes bytes() const;
  std::size_t size() const { return bytes().size(); }
  void clear();  // keeps the buffer (and with_version's magic)

 private:
  ei_x_buff_TAG* x_;
  bool version_ = false;
};

}  // namespace scope::codec
