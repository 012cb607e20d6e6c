// Otp: what the tools of OTP ask of a node, answered with what this daemon is: Observer, etop, appmon, the process window.
//
// What   Puts functions on the Node's allow-list, takes spawns of observer_backend and dbg, and makes a process for each of the
//        daemon's parts, so that they can be seen. Every figure is read when it is asked for (memory at most once in
//        0.5 s); what cannot be measured is left out. What is not served is `undef`, as on a BEAM without it.
// Life   The Node and what `sources` call outlive it. Before Node::stop().
// Thread The io_context's. `ask` may answer on any thread of its own, at once or later, once.
#pragma once

#include <boost/asio/io_context.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cnode/dist/node.h"
#include "ei_codec/term_builder.h"

namespace scope::node {

// queue: what waits; work: what was done since the start, in its own unit; memory: bytes that wait.
struct PartFigures {
  std::uint64_t queue = 0, work = 0, memory = 0;
};
// A part of the daemon that is no Process: threads, the store.
struct OtpPart {
  std::string name;
  std::function<PartFigures()> figures;
};

struct OtpSources {
  std::string version;  // of the daemon
  std::size_t link_queue_bytes = 0;
  std::string listen_address;  // the node's, for dbg's trace ports
  std::vector<OtpPart> parts;
  // A request of the daemon's own (requests.h), encoded; the whole reply.
  std::function<void(codec::TermBuilder request, std::move_only_function<void(codec::TermBuilder)>)>
      ask;
  struct Sizes {
    std::uint64_t nodes = 0, traces = 0, events = 0, gaps = 0, waiting = 0;
  };
  std::function<Sizes()> sizes;
};

class Otp {
 public:
  Otp(boost::asio::io_context& io, Node& node, OtpSources sources);
  ~Otp();
  Otp(const Otp&) = delete;
  Otp& operator=(const Otp&) = delete;

  class Impl;  // internal to cnode/otp

 private:
  std::shared_ptr<Impl> impl_;
};

}  // namespace scope::node
