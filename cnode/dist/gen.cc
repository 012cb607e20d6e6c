#include "cnode/dist/gen.h"

namespace scope::node {
namespace {

std::vector<std::byte> copy(codec::Bytes b) { return {b.begin(), b.end()}; }

// Tag is Ref, [alias | Ref], or {Ref, Node} (multi_call); anything else is sent back unread.
void read_tag(const codec::TermView& tag, CallFrom& from) {
  if (auto ref = tag.reference()) {
    from.monitor = Ref(*ref);
    return;
  }
  if (tag.kind() == codec::TermKind::list) {
    codec::ListView it = *tag.list();
    if (it.done() || !it.item().is_atom("alias")) return;
    it.next();
    if (!it.done()) return;
    auto tail = it.tail();
    if (!tail) return;
    if (auto ref = tail->reference()) from.alias = from.monitor = Ref(*ref);
    return;
  }
  if (tag.arity() == 2) {
    if (auto ref = tag.element(0).reference()) from.monitor = Ref(*ref);
  }
}

std::optional<GenCall> read_call(const Message& message, std::string_view label) {
  if (!message.term.is_tuple(label, 3)) return std::nullopt;
  codec::TermView from = message.term.element(1);
  if (from.arity() != 2) return std::nullopt;
  auto pid = from.element(0).pid();
  if (!pid) return std::nullopt;
  GenCall call;
  call.from.pid = Pid(*pid);
  call.from.tag = copy(from.element(1).bytes());
  read_tag(from.element(1), call.from);
  if (message.token) call.from.token = copy(message.token->bytes());
  call.request = message.with_term(message.term.element(2));
  return call;
}

}  // namespace

std::optional<GenCall> read_gen_call(const Message& message) {
  return read_call(message, "$gen_call");
}

std::optional<GenCall> read_system_message(const Message& message) {
  return read_call(message, "system");
}

std::optional<Message> read_gen_cast(const Message& message) {
  if (!message.term.is_tuple("$gen_cast", 2)) return std::nullopt;
  return message.with_term(message.term.element(1));
}

}  // namespace scope::node
