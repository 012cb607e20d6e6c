// Batches as agents send them, made with TermBuilder: the grammar of ei_codec/capture_record.h.
//
//   BatchMaker node("shop@host", 3, 77);                 // node, creation, agent id
//   node.call(pid(90), {"gen_server", "call", 2}, 1000); // raw times in ns
//   node.send(pid(90), node.far("stock@host", 5, 91), term, 1010);
//   store.append(node.batch(incarnation, seq));          // takes the events gathered so far
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "ei_codec/capture_record.h"
#include "ei_codec/term_builder.h"
#include "store/trace_store.h"
#include "test/unit/ei_codec/compact_maker.h"

namespace scope::test {

using codec::Bytes;
using codec::Mfa;
using codec::PidParts;
using codec::TermBuilder;

using Term = std::function<void(TermBuilder&)>;  // writes one term

inline Term atom_term(std::string text) {
  return [text = std::move(text)](TermBuilder& b) { b.atom(text); };
}
inline Term int_term(std::int64_t value) {
  return [value](TermBuilder& b) { b.integer(value); };
}
inline Term binary_term(std::string text) {
  return [text = std::move(text)](TermBuilder& b) { b.binary(std::string_view(text)); };
}
// {'$gen_call', {From, Ref}, {order, N, Text}}: what GenServers send each other.
inline Term gen_call(PidParts from, std::uint32_t n, std::string text) {
  return [from, n, text = std::move(text)](TermBuilder& b) {
    codec::RefParts ref;
    ref.node = from.node;
    ref.creation = from.creation;
    ref.count = 3;
    ref.ids[0] = n & 0x3FFFF;
    ref.ids[1] = n * 2654435761U;
    ref.ids[2] = 12345;
    b.tuple(3).atom("$gen_call").tuple(2).pid(from).reference(ref);
    b.tuple(3).atom("order").integer(n).binary(std::string_view(text));
  };
}
// A GenServer's state: a map with a counter and some text.
inline Term server_state(std::int64_t counter, std::string text) {
  return [counter, text = std::move(text)](TermBuilder& b) {
    b.map(3).atom("counter").integer(counter).atom("name").binary(std::string_view(text));
    b.atom("queue").list(2).integer(counter).integer(counter + 1).nil();
  };
}

class BatchMaker {
 public:
  BatchMaker(std::string node, std::uint32_t creation, std::uint64_t agent_id)
      : node_(std::move(node)), creation_(creation), agent_id_(agent_id) {}

  const std::string& node() const { return node_; }
  std::uint32_t creation() const { return creation_; }
  std::uint64_t agent_id() const { return agent_id_; }
  std::size_t events() const { return count_; }
  PidParts own(std::uint32_t id, std::uint32_t serial = 0) const {
    return {node_, id, serial, creation_};
  }
  static PidParts far(std::string_view node, std::uint32_t creation, std::uint32_t id) {
    return {node, id, 0, creation};
  }

  BatchMaker& call(PidParts pid, Mfa f, std::int64_t ts) {
    return head("call", pid, 5).mfa(f).time(ts);
  }
  // role: args (term: a list), take, state, final
  BatchMaker& role(PidParts pid, Mfa f, std::string_view role, const Term& term, std::int64_t ts) {
    head("call", pid, 6).mfa(f);
    events_.tuple(2).atom(role);
    term(events_);
    return time(ts);
  }
  BatchMaker& state(PidParts pid, const Term& state, std::int64_t ts) {
    return role(pid, {"gen_server", "loop", 7}, "state", state, ts);
  }
  BatchMaker& take(PidParts pid, const Term& message, std::int64_t ts) {
    return role(pid, {"gen_server", "decode_msg", 9}, "take", message, ts);
  }
  BatchMaker& returned(PidParts pid, Mfa f, const Term& result, std::int64_t ts) {
    head("return_from", pid, 6).mfa(f);
    result(events_);
    return time(ts);
  }
  BatchMaker& raised(PidParts pid, Mfa f, const Term& reason, std::int64_t ts) {
    head("exception_from", pid, 6).mfa(f);
    events_.tuple(2).atom("error");
    reason(events_);
    return time(ts);
  }
  BatchMaker& send(PidParts pid, PidParts to, const Term& message, std::int64_t ts,
                   bool dead = false) {
    return send_to(pid, [to](TermBuilder& b) { b.pid(to); }, message, ts, dead);
  }
  // `to` writes a pid, an atom, {Name, Node}, a reference or a port.
  BatchMaker& send_to(PidParts pid, const Term& to, const Term& message, std::int64_t ts,
                      bool dead = false) {
    head(dead ? "send_to_non_existing_process" : "send", pid, 6);
    message(events_);
    to(events_);
    return time(ts);
  }
  BatchMaker& fetch(PidParts pid, const Term& message, std::int64_t ts) {
    head("receive", pid, 5);
    message(events_);
    return time(ts);
  }
  // A token's word of a message with the serial `current`: sent by `pid` to `peer`, or (`send` false) taken from it.
  BatchMaker& token(bool send, PidParts pid, PidParts peer, std::int64_t label,
                    std::uint64_t previous, std::uint64_t current, const Term& message,
                    std::int64_t ts) {
    ++count_;
    only_etf_ = true;
    events_.tuple(6).atom("scope").atom(send ? "seq_send" : "seq_receive").pid(pid).pid(peer);
    events_.tuple(3).integer(label).tuple(2).unsigned_integer(previous).unsigned_integer(current);
    message(events_);
    return time(ts);
  }
  BatchMaker& spawn(PidParts parent, PidParts child, Mfa f, std::int64_t ts) {
    head("spawn", parent, 6);
    events_.pid(child);
    return mfa(f).time(ts);
  }
  BatchMaker& spawned(PidParts child, PidParts parent, Mfa f, std::int64_t ts) {
    head("spawned", child, 6);
    events_.pid(parent);
    return mfa(f).time(ts);
  }
  BatchMaker& exit(PidParts pid, const Term& reason, std::int64_t ts) {
    head("exit", pid, 5);
    reason(events_);
    return time(ts);
  }
  BatchMaker& link(PidParts pid, PidParts peer, std::int64_t ts, bool linked = true) {
    head(linked ? "link" : "unlink", pid, 5);
    events_.pid(peer);
    return time(ts);
  }
  BatchMaker& registered(PidParts pid, std::string_view name, std::int64_t ts, bool yes = true) {
    head(yes ? "register" : "unregister", pid, 5);
    events_.atom(name);
    return time(ts);
  }
  // A process found alive; an empty name or parent is left out.
  BatchMaker& alive(PidParts pid, std::string_view name, std::optional<PidParts> parent,
                    Mfa initial, std::int64_t ts) {
    ++count_;
    only_etf_ = true;
    events_.tuple(5).atom("scope").atom("alive").pid(pid);
    events_.map((name.empty() ? 0U : 1U) + (parent ? 1U : 0U) + (initial ? 1U : 0U));
    if (!name.empty()) events_.atom("name").atom(name);
    if (parent) events_.atom("parent").pid(*parent);
    if (initial) {
      events_.atom("initial_call");
      mfa(initial);
    }
    return time(ts);
  }
  BatchMaker& checkpoint(PidParts pid, const Term& state, std::int64_t ts) {
    ++count_;
    events_.tuple(6).atom("scope").atom("checkpoint").pid(pid);
    mfa({"gen_server", "loop", 7});
    state(events_);
    return time(ts);
  }
  BatchMaker& code_load(std::string_view module, std::int64_t vsn, std::int64_t ts) {
    ++count_;
    only_etf_ = true;
    events_.tuple(5).atom("scope").atom("code_load").atom(module).integer(vsn);
    return time(ts);
  }
  BatchMaker& node_up(std::string_view node, std::int64_t ts, bool up = true) {
    ++count_;
    only_etf_ = true;
    events_.tuple(4).atom("scope").atom(up ? "node_up" : "node_down").atom(node);
    return time(ts);
  }
  // A gap of this batch, count -1: unknown. Of samples with the rate.
  BatchMaker& gap(std::string_view reason, std::int64_t count, std::int64_t from,
                  std::int64_t until, double rate = 0,
                  const std::map<std::string, double>& flags = {}) {
    ++gap_count_;
    gaps_.tuple(rate > 0 ? 5 : 4).atom(reason);
    if (count < 0) {
      gaps_.atom("unknown");
    } else {
      gaps_.integer(count);
    }
    gaps_.integer(from).integer(until);
    if (rate > 0) gaps_.map(flags.empty() ? 1 : 2).atom("rate").real(rate);
    if (!flags.empty()) gaps_.atom("flags").map(static_cast<std::uint32_t>(flags.size()));
    for (const auto& [flag, share] : flags) gaps_.atom(flag).real(share);
    newest_ = std::max(newest_, until);
    return *this;
  }

  // The message {batch, ...} of all events since the last one, and forgets them.
  std::vector<std::byte> message(std::uint64_t seq) {
    TermBuilder events = TermBuilder::with_version();
    events.list(count_).raw(events_.bytes()).nil();
    TermBuilder b;
    b.tuple(7).atom("batch").unsigned_integer(agent_id_).unsigned_integer(seq);
    b.tuple(2).integer(newest_).integer(newest_ + 1'600'000'000'000'000'000);
    b.list(gap_count_).raw(gaps_.bytes()).nil().integer(newest_);
    b.tuple(3).atom("etf").integer(1).binary(events.bytes());
    events_.clear();
    gaps_.clear();
    count_ = gap_count_ = 0;
    only_etf_ = false;
    return {b.bytes().begin(), b.bytes().end()};
  }
  store::IncomingBatch batch(Incarnation incarnation, std::uint64_t seq) {
    return incoming(incarnation, seq, message(seq));
  }
  bool has_compact_form() const { return !only_etf_; }  // of the events gathered so far
  // The same batch as the native tracer would send it. REQUIRES events that have a compact form.
  std::vector<std::byte> compact(Bytes message, const codec::HashKey& key) const {
    const auto header = codec::read_batch_header(*codec::view(message));
    SCOPE_CHECK(header.has_value() && !header->compact);
    struct Events : codec::RecordSink {
      codec::CompactMaker maker;
      explicit Events(const BatchMaker& m) : maker(m.node_, m.creation_) {}
      void record(const codec::TraceRecord& r) override {
        if (r.type == codec::EventType::gap) return;  // in the header
        SCOPE_CHECK(codec::CompactMaker::has_form(r));
        maker.record(r);
      }
    } events(*this);
    codec::BatchStrings none;
    const auto stats = codec::decode_records(*header, {key, node_, creation_}, none, events);
    SCOPE_CHECK(stats.malformed == 0);
    TermBuilder b;
    b.tuple(7).atom("batch").unsigned_integer(agent_id_).unsigned_integer(header->seq);
    b.tuple(2).integer(header->clock_raw.ns).integer(header->clock_system_ns);
    b.term(header->gaps).integer(header->cut.ns);
    b.tuple(4).atom("compact").integer(1);
    b.binary(Bytes(events.maker.strings())).binary(Bytes(events.maker.records()));
    return {b.bytes().begin(), b.bytes().end()};
  }
  store::IncomingBatch compact_batch(Incarnation incarnation, std::uint64_t seq,
                                     const codec::HashKey& key) {
    return incoming(incarnation, seq, compact(message(seq), key));
  }
  static store::IncomingBatch incoming(Incarnation incarnation, std::uint64_t seq,
                                       std::vector<std::byte> message) {
    auto buffer = std::make_shared<std::vector<std::byte>>(std::move(message));
    auto term = codec::view(*buffer);
    SCOPE_CHECK(term.has_value());
    return {incarnation, seq, buffer, *term};
  }

 private:
  BatchMaker& head(std::string_view kind, PidParts pid, std::uint32_t arity) {
    ++count_;
    only_etf_ |= pid.node != node_ || pid.creation != creation_;
    events_.tuple(arity).atom("trace_ts").pid(pid).atom(kind);
    return *this;
  }
  BatchMaker& mfa(Mfa f) {
    events_.tuple(3).atom(f.module).atom(f.function).integer(f.arity);
    return *this;
  }
  BatchMaker& time(std::int64_t ts) {
    events_.integer(ts);
    newest_ = std::max(newest_, ts);
    return *this;
  }

  std::string node_;
  std::uint32_t creation_;
  std::uint64_t agent_id_;
  TermBuilder events_, gaps_;
  std::uint32_t count_ = 0, gap_count_ = 0;
  std::int64_t newest_ = INT64_MIN;  // raw times may be negative
  bool only_etf_ = false;
};

}  // namespace scope::test
