// Message: a term that arrived, with the packet that holds its bytes.
//
// Life   The packet is shared: copying or moving a Message never copies bytes, and `term`, `token`
// stay valid as long
//        as any copy lives. Hand it to another thread by moving it: the packet is immutable.
// Checks `term` is validated (depth, lengths, UTF-8). Its shape is the receiver's business.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>

#include "cnode/dist/identity.h"
#include "ei_codec/term_view.h"

namespace scope::node {

// Bytes that arrived (or were built), shared and immutable.
struct Packet {
  std::shared_ptr<const std::byte[]> data;
  std::size_t size = 0;

  static Packet copy_of(codec::Bytes bytes);
  codec::Bytes bytes() const { return {data.get(), size}; }
};

struct Message {
  Packet packet;
  codec::TermView term;  // the message itself, in `packet`
  Pid from;              // the sender, where the signal said so; else empty
  std::string node;      // the name of the peer it came from (our own for local sends)
  std::optional<codec::TermView> token;  // the seq_trace token that came with it, in `packet`

  // The same message, narrowed to a part of itself.
  Message with_term(const codec::TermView& part) const;
  // A message made here; `term` is encoded without version magic. Throws nothing; SCOPE_CHECKs that
  // it is valid.
  static Message local(codec::Bytes term, std::string node);
};

}  // namespace scope::node
