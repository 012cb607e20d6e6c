// Process: what an actor on this node implements. Node calls it on the io_context's thread, one
// call at a time, never from within a call that the process makes to Node. Callbacks must not block
// and must not throw.
//
// Life   The Node does not own it: end_process() (or Node::stop()) comes before its destruction.
#pragma once

#include "cnode/dist/identity.h"
#include "cnode/dist/message.h"

namespace scope::node {

class Process {
 public:
  virtual ~Process() = default;

  // Any message: gen calls and casts arrive as the plain tuples that they are (cnode/dist/gen.h
  // reads them).
  virtual void on_message(Message message) = 0;

  // A monitor of ours fired (once; it is gone now). reason.term is the reason: noproc,
  // noconnection, ...
  virtual void on_down(const Ref& monitor, const Target& who, const Message& reason);

  // An exit signal: from a linked process, its node's loss (noconnection), or exit/2. `linked`
  // tells which. Our processes trap exits: nothing ends unless the process says so.
  virtual void on_exit(const Pid& from, const Message& reason, bool linked);

  // A monitor that a remote process held on this one is gone: demonitored, or its node's link was
  // lost. The reference is also the tag of its gen call: a query for that caller may be cancelled.
  virtual void on_watcher_gone(const Pid& watcher, const Ref& monitor);

  // What sys:get_state and sys:get_status say: one term. By default #{}. System messages never reach on_message.
  virtual void write_state(codec::TermBuilder& out) const;
};

}  // namespace scope::node
