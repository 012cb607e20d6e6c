// Stream: an ordered stream of bytes to a peer, over TCP or TLS. Internal to cnode/dist.
// One reader and one writer at a time. close() makes both fail with Code::closed; it may be called any number of times.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "cnode/dist/awaitable.h"
#include "ei_codec/base/result.h"
#include "ei_codec/term_view.h"

namespace scope::node {

class Stream {
 public:
  virtual ~Stream() = default;
  // At least one byte; Code::closed at the end of the stream, Code::io otherwise.
  virtual Awaitable<Result<std::size_t>> read_some(std::span<std::byte> into) = 0;
  virtual Awaitable<Result<std::size_t>> write_some(codec::Bytes bytes) = 0;
  // As much as can be written without waiting; 0: ask write_some(), which also has the reason. While it is not at work.
  virtual std::size_t write_now(codec::Bytes) { return 0; }
  virtual void close() = 0;
  virtual std::string peer_address() const = 0;
  // How long the lengths of the handshake's frames are.
  virtual std::size_t handshake_length_bytes() const { return 2; }
};

Awaitable<Status> read_exactly(std::shared_ptr<Stream> stream, std::span<std::byte> into);
Awaitable<Status> write_all(std::shared_ptr<Stream> stream, codec::Bytes bytes);

}  // namespace scope::node
