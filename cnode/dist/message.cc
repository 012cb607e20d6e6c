#include "cnode/dist/message.h"

#include <algorithm>

namespace scope::node {

Packet Packet::copy_of(codec::Bytes bytes) {
  auto data = std::make_shared_for_overwrite<std::byte[]>(bytes.size());
  std::copy(bytes.begin(), bytes.end(), data.get());
  return {std::move(data), bytes.size()};
}

Message Message::with_term(const codec::TermView& part) const {
  Message m = *this;
  m.term = part;
  return m;
}

Message Message::local(codec::Bytes term, std::string node) {
  Message m;
  m.packet = Packet::copy_of(term);
  auto view = codec::view(m.packet.bytes());
  SCOPE_CHECK(view.has_value());
  m.term = *view;
  m.node = std::move(node);
  return m;
}

}  // namespace scope::node
