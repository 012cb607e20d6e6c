// Reading and answering gen_server calls and casts.
//
//   void on_message(Message m) override {
//     if (auto call = read_gen_call(m)) return node_.reply(call->from, answer(call->request));
//     if (auto cast = read_gen_cast(m)) ...
//   }
#pragma once

#include <optional>
#include <vector>

#include "cnode/dist/identity.h"
#include "cnode/dist/message.h"
#include "ei_codec/term_view.h"

namespace scope::node {

// Who asked and how to answer: owned, so it may be kept while the answer is worked out, on any
// thread.
struct CallFrom {
  Pid pid;
  Ref alias;    // answer here if it is set: a late answer then goes nowhere
  Ref monitor;  // the caller's monitor (Process::on_watcher_gone names it), if the tag shows it
  std::vector<std::byte> tag;    // the encoded tag, to be sent back
  std::vector<std::byte> token;  // the seq_trace token to carry on, or empty
};

struct GenCall {
  CallFrom from;
  Message request;  // request.term is the request
};

// {'$gen_call', {Pid, Tag}, Request}; nullopt for anything else.
std::optional<GenCall> read_gen_call(const Message& message);
// {system, {Pid, Tag}, Request}: what the module sys sends. The Node answers it for every process.
std::optional<GenCall> read_system_message(const Message& message);
// {'$gen_cast', Request}: the message narrowed to the request.
std::optional<Message> read_gen_cast(const Message& message);

}  // namespace scope::node
