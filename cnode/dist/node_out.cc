// Signals that processes of this node send: messages, monitors, links, exits.
#include <fmt/format.h>

#include <algorithm>

#include "cnode/dist/node_impl.h"

namespace scope::node {

// --- messages out -----------------------------------------------------------------------------------

codec::Bytes Node::Impl::next_token(const Pid& from, codec::Bytes given) {
  std::optional<codec::TermView> token;
  if (!given.empty()) {
    if (auto view = codec::view(given)) token = *view;
  } else if (handling_ != nullptr) {
    token = handling_->token;
  }
  if (!token || token->arity() != 5) return {};
  const auto serial = token->element(2).integer();
  if (!serial) return {};
  // {Flags, Label, Serial, From, Last}, as a process that received it would send it on.
  token_.clear();
  token_.tuple(5).term(token->element(0)).term(token->element(1)).integer(*serial + 1);
  token_.pid(from.parts()).integer(*serial);
  return token_.bytes();
}

Status Node::Impl::send_here(const Pid& to, const Payload& term, const Pid& from) {
  ByteBuffer joined;
  if (!term.rest.empty()) {
    put(joined, term.first);
    put(joined, term.rest);
  }
  Message message =
      Message::local(joined.empty() ? term.first : codec::Bytes(joined), options_.name);
  message.from = from;
  post([to, message = std::move(message)](Impl& impl) mutable {
    impl.deliver(impl.find(to), std::move(message));
  });
  return {};
}

Status Node::Impl::send(const Target& to, const Payload& term, const Pid& given_from,
                        codec::Bytes given_token) {
  const std::string_view node = node_of(to);
  const Pid& from = sender(given_from);
  const auto* pid = std::get_if<Pid>(&to);
  if (is_here(node)) {
    if (pid != nullptr) return send_here(*pid, term, from);
    LocalProcess* named = find_name(std::get<NameAt>(to).name);
    if (named != nullptr) return send_here(named->pid, term, from);
    counters_->add(Counter::no_receiver);
    return {};
  }
  auto link = link_to(node);
  if (!link) return fail(Code::node_down, fmt::format("{} is not connected", node));
  const codec::Bytes token = next_token(from, given_token);
  control_.clear();
  if (pid != nullptr) {
    control::send(control_, link->flags(), from, *pid, token);
  } else {
    control::reg_send(control_, from, std::get<NameAt>(to).name, token);
  }
  return link->push(receiver_of(to), control_.bytes(), term, Link::Urgency::may_refuse);
}

Status Node::Impl::send_alias(const Ref& alias, const Pid& holder, const Payload& term,
                              const Pid& given_from, codec::Bytes given_token) {
  const Pid& from = sender(given_from);
  if (is_here(alias.node)) {
    auto it = aliases_.find(alias);
    if (it != aliases_.end()) return send_here(it->second, term, from);
    counters_->add(Counter::no_receiver);
    return {};
  }
  auto link = link_to(alias.node);
  if (!link) return fail(Code::node_down, fmt::format("{} is not connected", alias.node));
  if ((link->flags() & flags::kAlias) == 0) {
    return fail(Code::refused, fmt::format("{} knows no aliases", alias.node));
  }
  const codec::Bytes token = next_token(from, given_token);
  control_.clear();
  control::alias_send(control_, from, alias, token);
  const auto receiver = holder ? receiver_of(holder) : std::hash<Ref>{}(alias);
  return link->push(receiver, control_.bytes(), term, Link::Urgency::may_refuse);
}

Status Node::Impl::reply(const CallFrom& to, codec::Bytes term, std::shared_ptr<const void> owner) {
  codec::TermBuilder head;
  head.tuple(2).raw(to.tag);
  auto link = link_to(to.pid.node);
  const bool by_alias = to.alias && (!link || (link->flags() & flags::kAlias) != 0);
  const Payload payload(head.bytes(), term, std::move(owner));
  if (by_alias) return send_alias(to.alias, to.pid, payload, {}, to.token);
  return send(to.pid, payload, {}, to.token);
}

// --- monitors and links out -------------------------------------------------------------------------

Message Node::Impl::local_atom(std::string_view atom) const {
  codec::TermBuilder b;
  b.atom(atom);
  return Message::local(b.bytes(), options_.name);
}

void Node::Impl::post_down(const Ref& ref, std::string_view reason_atom) {
  post([ref, reason = local_atom(reason_atom)](Impl& impl) { impl.fire_down(ref, reason); });
}

Ref Node::Impl::monitor(const Pid& watcher, const Target& target) {
  const Ref ref = new_ref();
  monitors_.emplace(ref, OutMonitor{watcher, target});
  start_monitor(watcher, target, ref);
  return ref;
}

void Node::Impl::start_monitor(const Pid& watcher, const Target& target, const Ref& ref) {
  if (is_here(node_of(target))) {
    const auto* pid = std::get_if<Pid>(&target);
    LocalProcess* p = pid != nullptr ? find(*pid) : find_name(std::get<NameAt>(target).name);
    if (p == nullptr) return post_down(ref, "noproc");
    p->watches.push_back({watcher, ref, pid != nullptr ? "" : p->name});
    return;
  }
  auto link = link_to(node_of(target));
  if (!link) return post_down(ref, "noconnection");
  if ((link->flags() & flags::kMonitor) == 0 || (link->flags() & flags::kMonitorName) == 0) {
    return post_down(ref, "notsup");
  }
  control_.clear();
  control::monitor(control_, watcher, target, ref);
  (void)link->push(receiver_of(target), control_.bytes(), {}, Link::Urgency::must);
}

void Node::Impl::demonitor(const Ref& ref) {
  auto it = monitors_.find(ref);
  if (it == monitors_.end()) return;
  const OutMonitor monitor = std::move(it->second);
  monitors_.erase(it);
  if (is_here(node_of(monitor.target))) {
    for (auto& [id, p] : processes_) {
      std::erase_if(p.watches, [&](const Watch& w) { return w.ref == ref; });
    }
    return;
  }
  auto link = link_to(node_of(monitor.target));
  if (!link) return;
  control_.clear();
  control::demonitor(control_, monitor.watcher, monitor.target, ref);
  (void)link->push(receiver_of(monitor.target), control_.bytes(), {}, Link::Urgency::must);
}

void Node::Impl::fire_down(const Ref& ref, const Message& reason) {
  if (auto call = calls_.find(ref); call != calls_.end()) {
    const std::shared_ptr<PendingCall> pending = call->second;
    complete_call(ref, *pending, reason);
    return;
  }
  auto it = monitors_.find(ref);
  if (it == monitors_.end()) return;
  const OutMonitor monitor = std::move(it->second);
  monitors_.erase(it);
  LocalProcess* p = find(monitor.watcher);
  if (p == nullptr) return;
  guarded([&] { p->process->on_down(ref, monitor.target, reason); });
}

void Node::Impl::link(const Pid& ours, const Pid& theirs) {
  LocalProcess* p = find(ours);
  if (p == nullptr || std::ranges::count(p->links, theirs) > 0) return;
  p->links.push_back(theirs);
  std::string_view failure;
  if (is_here(theirs.node)) {
    LocalProcess* other = find(theirs);
    if (other != nullptr) other->links.push_back(ours);
    if (other == nullptr) failure = "noproc";
  } else if (auto link = link_to(theirs.node)) {
    ++link->held;
    control_.clear();
    control::link(control_, ours, theirs);
    (void)link->push(receiver_of(theirs), control_.bytes(), {}, Link::Urgency::must);
  } else {
    failure = "noconnection";
  }
  if (failure.empty()) return;
  post([ours, theirs, reason = local_atom(failure)](Impl& impl) {
    LocalProcess* q = impl.find(ours);
    if (q == nullptr || std::erase(q->links, theirs) == 0) return;
    impl.guarded([&] { q->process->on_exit(theirs, reason, true); });
  });
}

void Node::Impl::unlink(const Pid& ours, const Pid& theirs) {
  LocalProcess* p = find(ours);
  if (p == nullptr || std::erase(p->links, theirs) == 0) return;
  if (is_here(theirs.node)) {
    if (LocalProcess* other = find(theirs)) std::erase(other->links, ours);
    return;
  }
  auto link = link_to(theirs.node);
  if (!link) return;
  if (link->held > 0) --link->held;
  control_.clear();
  control::unlink_id(control_, next_unlink_++, ours, theirs);
  (void)link->push(receiver_of(theirs), control_.bytes(), {}, Link::Urgency::must);
}

Status Node::Impl::exit(const Pid& given_from, const Pid& to, codec::Bytes reason) {
  const Pid& from = sender(given_from);
  if (is_here(to.node)) {
    post([from, to, message = Message::local(reason, options_.name)](Impl& impl) {
      LocalProcess* p = impl.find(to);
      if (p != nullptr) impl.guarded([&] { p->process->on_exit(from, message, false); });
    });
    return {};
  }
  auto link = link_to(to.node);
  if (!link) return fail(Code::node_down, fmt::format("{} is not connected", to.node));
  control_.clear();
  const bool payload = control::exit2(control_, link->flags(), from, to, reason);
  return link->push(receiver_of(to), control_.bytes(), payload ? reason : codec::Bytes{},
                    Link::Urgency::must);
}

}  // namespace scope::node
