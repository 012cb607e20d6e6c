// What comes in over links, and what becomes of it.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>

#include "cnode/dist/node_impl.h"

namespace scope::node {
namespace {

constexpr std::size_t kMaxHeld = 100'000;  // watches and links of one peer on our processes

Pid pid_of(const std::optional<codec::PidParts>& parts) { return parts ? Pid(*parts) : Pid(); }

std::unexpected<Error> malformed(std::string_view what) {
  return fail(Code::malformed, fmt::format("broke the protocol: {}", what));
}

}  // namespace

Status Node::Impl::on_signal_bytes(Link& link, Packet packet) {
  codec::Bytes rest = packet.bytes();
  auto control = codec::view(rest);
  if (!control) return malformed(control.error().message);
  rest = rest.subspan(control->size());
  auto signal = read_signal(*control);
  if (!signal) return malformed(signal.error().message);
  Message message;
  message.packet = std::move(packet);
  message.node = link.peer();
  message.from = pid_of(signal->from);
  message.token = signal->token;
  if (signal->payload) {
    auto payload = link.fragments() ? codec::view_whole(rest) : codec::view_message(rest);
    if (!payload && payload.error().code == Code::too_large) {
      // Fine on a BEAM, only deeper than we read: it costs its sender the message, not the link.
      counters_->add(Counter::too_deep);
      spdlog::warn("dropped a message from {}: {}", link.peer(), payload.error().message);
      return {};
    }
    if (!payload) return malformed(payload.error().message);
    message.term = *payload;
  } else if (!rest.empty()) {
    return malformed("bytes after a control message that has no payload");
  } else if (signal->reason) {
    message.term = *signal->reason;
  }
  return on_signal(link, *signal, std::move(message));
}

Status Node::Impl::on_signal(Link& link, const Signal& signal, Message message) {
  switch (signal.op) {
    case Op::send:
      deliver(find(*signal.to), std::move(message));
      return {};
    case Op::reg_send:
      deliver(find_name(signal.to_name), std::move(message));
      return {};
    case Op::alias_send: {
      auto alias = aliases_.find(Ref(*signal.ref));
      deliver(alias == aliases_.end() ? nullptr : find(alias->second), std::move(message));
      return {};
    }
    case Op::link:
      on_link(link, signal);
      break;
    case Op::unlink:
    case Op::unlink_id:
      on_unlink(link, signal);
      break;
    case Op::exit:
    case Op::exit2:
      on_exit(signal, message);
      break;
    case Op::monitor:
      on_monitor(link, signal);
      break;
    case Op::demonitor:
      on_demonitor(link, signal);
      break;
    case Op::monitor_exit:
      on_monitor_exit(signal, message);
      break;
    case Op::spawn_request:
      if (auto args = message.term.list(); !args || !args->proper()) {
        return malformed("a spawn request whose arguments are no list");
      }
      on_spawn_request(link, signal, message);
      break;
    case Op::spawn_reply:
      on_spawn_reply(link, signal, message);
      break;
    case Op::group_leader:
    case Op::unlink_id_ack:
      break;
  }
  if (link.held > kMaxHeld) return malformed("more monitors and links than we keep for one node");
  return {};
}

void Node::Impl::deliver(LocalProcess* to, Message message) {
  if (to == nullptr) {
    counters_->add(Counter::no_receiver);
    return;
  }
  ++to->messages;
  if (const auto system = read_system_message(message)) return answer_system(*to, *system);
  Process* process = to->process;
  const Message keep = message;  // for the token while it is handled; shares the packet
  handling_ = &keep;
  guarded([&] { process->on_message(std::move(message)); });
  handling_ = nullptr;
}

void Node::Impl::on_link(Link& link, const Signal& signal) {
  const Pid from(*signal.from), to(*signal.to);
  LocalProcess* p = find(to);
  if (p == nullptr) {
    ++link.held;  // tell_linked gives it back
    tell_linked(to, from, local_atom("noproc").term.bytes());
    return;
  }
  if (std::ranges::count(p->links, from) > 0) return;
  p->links.push_back(from);
  ++link.held;
}

void Node::Impl::on_unlink(Link& link, const Signal& signal) {
  const Pid from(*signal.from);
  LocalProcess* p = find(*signal.to);
  if (p != nullptr && std::erase(p->links, from) > 0 && link.held > 0) --link.held;
  if (signal.op != Op::unlink_id) return;
  control_.clear();
  control::unlink_id_ack(control_, signal.id, Pid(*signal.to), from);
  (void)link.push(receiver_of(from), control_.bytes(), {}, Link::Urgency::must);
}

void Node::Impl::on_exit(const Signal& signal, const Message& reason) {
  LocalProcess* p = find(*signal.to);
  if (p == nullptr) return;
  const Pid from(*signal.from);
  const bool linked = signal.op == Op::exit;
  // An exit of a link that we gave up in the meantime means nothing.
  if (linked && std::erase(p->links, from) == 0) return;
  if (auto link = link_to(from.node); linked && link && link->held > 0) --link->held;
  guarded([&] { p->process->on_exit(from, reason, linked); });
}

void Node::Impl::on_monitor(Link& link, const Signal& signal) {
  Watch watch{Pid(*signal.from), Ref(*signal.ref), std::string(signal.to_name)};
  LocalProcess* p = signal.to ? find(*signal.to) : find_name(signal.to_name);
  ++link.held;
  if (p == nullptr) {
    tell_watcher(watch, pid_of(signal.to), local_atom("noproc").term.bytes());
    return;
  }
  p->watches.push_back(std::move(watch));
}

void Node::Impl::on_demonitor(Link& link, const Signal& signal) {
  LocalProcess* p = signal.to ? find(*signal.to) : find_name(signal.to_name);
  if (p == nullptr) return;
  const Ref ref(*signal.ref);
  const auto gone = std::erase_if(p->watches, [&](const Watch& w) { return w.ref == ref; });
  if (gone == 0) return;
  if (link.held > 0) --link.held;
  const Pid watcher(*signal.from);
  guarded([&] { p->process->on_watcher_gone(watcher, ref); });
}

void Node::Impl::on_monitor_exit(const Signal& signal, const Message& reason) {
  fire_down(Ref(*signal.ref), reason);
}

void Node::Impl::on_link_down(Link& link, std::string_view reason) {
  const std::string node = link.peer();
  auto it = links_.find(node);
  if (it != links_.end() && it->second.get() == &link) links_.erase(it);
  if (stopped_) return;
  spdlog::info("disconnected from {}: {}", node, reason);
  const Message noconnection = local_atom("noconnection");
  // What is lost is settled now; who is told is told from the loop, never from within a call of theirs.
  for (const auto& [ref, monitor] : monitors_) {
    if (node_of(monitor.target) != node) continue;
    post([ref, noconnection](Impl& impl) { impl.fire_down(ref, noconnection); });
  }
  for (const auto& [ref, call] : std::unordered_map(calls_)) {
    if (call->node == node) {
      call->complete(
          fail(Code::node_down, fmt::format("the link to {} was lost: {}", node, reason)));
    }
  }
  for (auto& [id, p] : processes_) {
    const Pid pid = p.pid;
    for (const Pid& linked : p.links) {
      if (linked.node != node) continue;
      post([pid, linked, noconnection](Impl& impl) {
        LocalProcess* q = impl.find(pid);
        if (q != nullptr) {
          impl.guarded([&] { q->process->on_exit(linked, noconnection, true); });
        }
      });
    }
    std::erase_if(p.links, [&](const Pid& linked) { return linked.node == node; });
    for (const Watch& watch : p.watches) {
      if (watch.watcher.node != node) continue;
      post([pid, watch](Impl& impl) {
        LocalProcess* q = impl.find(pid);
        if (q != nullptr) {
          impl.guarded([&] { q->process->on_watcher_gone(watch.watcher, watch.ref); });
        }
      });
    }
    std::erase_if(p.watches, [&](const Watch& w) { return w.watcher.node == node; });
  }
  post([info = link.info(), why = std::string(reason)](Impl& impl) {
    for (NodeObserver* o : std::vector(impl.observers_)) {
      impl.guarded([&] { o->on_node_down(info, why); });
    }
  });
}

}  // namespace scope::node
