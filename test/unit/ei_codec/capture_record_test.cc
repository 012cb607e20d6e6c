#include "ei_codec/capture_record.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "ei_codec/record_parts.h"
#include "ei_codec/term_builder.h"
#include "ei_codec/term_print.h"
#include "test/unit/ei_codec/codec_fixture.h"

namespace scope::codec {
namespace {

struct Collect : RecordSink {
  std::vector<TraceRecord> records;
  void record(const TraceRecord& record) override { records.push_back(record); }
};

std::string text(Bytes term) { return term.empty() ? "" : print(*view(term), Syntax::erlang, 200); }

// A batch whose events are put into `b` one by one; its node is "n" with creation 1.
struct Batch {
  TermBuilder b = TermBuilder::with_version();
  TermBuilder message;  // what was read last; the records point into these
  std::unique_ptr<BatchStrings> strings;
  Batch() = default;
  explicit Batch(std::uint32_t events) { b.list(events); }
  TermBuilder& trace(std::uint32_t arity, std::string_view kind) {
    return b.tuple(arity).atom("trace_ts").pid({"n", 1, 2, 1}).atom(kind);
  }
  Collect read(DecodeStats* stats = nullptr) {
    message = head();
    message.nil().integer(5).tuple(3).atom("etf").integer(1).binary(b.bytes());
    Collect out;
    const auto header = read_batch_header(*view_message(message.bytes()));
    EXPECT_TRUE(header) << (header ? "" : to_string(header.error()));
    if (!header) return out;
    strings = std::make_unique<BatchStrings>();
    const DecodeStats got = decode_records(*header, {{}, "n", 1}, *strings, out);
    if (stats) *stats = got;
    return out;
  }
  static TermBuilder head() {
    TermBuilder out = TermBuilder::with_version();
    out.tuple(7).atom("batch").integer(7).integer(1).tuple(2).integer(10).integer(20);
    return out;
  }
};

class GoldenBatch : public testing::Test {
 protected:
  virtual std::string_view file() const { return "batch_etf_v1.etf"; }
  void SetUp() override {
    bytes_ = golden(std::string(file()));
    const auto message = view_message(bytes_);
    ASSERT_TRUE(message);
    const auto header = read_batch_header(*message);
    ASSERT_TRUE(header) << to_string(header.error());
    header_ = *header;
    const auto events = view_message(header_.events);
    ASSERT_TRUE(events) << to_string(events.error());
    const auto pid = events->list()->item().element(1).pid();
    ASSERT_TRUE(pid);
    stats_ = decode_records(header_, {{}, "shop@golden.example", pid->creation}, strings_, sink_);
  }
  std::vector<TraceRecord> of(EventType type) const {
    std::vector<TraceRecord> out;
    for (const auto& r : sink_.records) {
      if (r.type == type) out.push_back(r);
    }
    return out;
  }

  Buffer bytes_;
  BatchHeader header_;
  BatchStrings strings_;
  Collect sink_;
  DecodeStats stats_;
};

TEST_F(GoldenBatch, HeaderAndCounts) {
  EXPECT_EQ(header_.agent_id, 0xFEDCBA9876543210u);
  EXPECT_EQ(header_.seq, 42u);
  EXPECT_EQ(stats_.malformed, 2u);
  EXPECT_EQ(stats_.records, sink_.records.size());
  for (const auto type :
       {EventType::function_entry, EventType::function_exit, EventType::function_exception,
        EventType::message_send, EventType::message_fetch, EventType::message_take,
        EventType::state_change, EventType::process_spawn, EventType::process_exit,
        EventType::process_link, EventType::process_unlink, EventType::process_register,
        EventType::process_unregister, EventType::code_load, EventType::node_up,
        EventType::node_down, EventType::gap, EventType::process_alive}) {
    EXPECT_FALSE(of(type).empty()) << event_type_name(type);
  }
}

class GoldenBatch2 : public GoldenBatch {
  std::string_view file() const override { return "batch_etf_v2.etf"; }
};

TEST_F(GoldenBatch2, WhatTokensSay) {
  EXPECT_EQ(stats_.malformed, 4u);  // two of either version
  const auto sent = of(EventType::seq_send), taken = of(EventType::seq_receive);
  ASSERT_EQ(sent.size(), 2u);
  ASSERT_EQ(taken.size(), 2u);
  const auto whole = read_seq(sent[0]);
  ASSERT_TRUE(whole);
  EXPECT_EQ(whole->label.integer(), 17);
  EXPECT_EQ(whole->previous, 0u);
  EXPECT_EQ(whole->current, 1u);
  EXPECT_EQ(text(whole->message.bytes()), "{'$gen_cast',{paid,<<\"order-17\">>,3}}");
  EXPECT_EQ(sent[0].peer.kind, Peer::Kind::remote_name);
  EXPECT_EQ(taken[0].peer.kind, Peer::Kind::pid);
  // The hash is the message's, as a send's is.
  EXPECT_TRUE(sent[0].has(TraceRecord::kHashed));
  EXPECT_EQ(sent[0].match_hash, match_hash(whole->message, {}).value);
  EXPECT_EQ(taken[0].match_hash, sent[0].match_hash);
  EXPECT_TRUE(sent[1].has(TraceRecord::kTruncated));
  EXPECT_EQ(sent[1].original_bytes, 100000u);
  EXPECT_EQ(sent[1].match_hash, 0x1122334455667788u);
  EXPECT_TRUE(taken[1].has(TraceRecord::kRedacted));
  EXPECT_FALSE(taken[1].has(TraceRecord::kTruncated));
  EXPECT_TRUE(read_seq(taken[1])->label.is_atom("my_label"));
  EXPECT_FALSE(read_seq(of(EventType::message_send).front()));
}

TEST_F(GoldenBatch, Gaps) {
  const auto gaps = of(EventType::gap);
  ASSERT_EQ(gaps.size(), 2u);
  const auto counted = read_gap(*view(gaps[0].payload));
  EXPECT_EQ(counted->reason, "ring_full");
  EXPECT_EQ(counted->count, 17u);
  EXPECT_EQ(counted->until.ns, 2000);
  EXPECT_EQ(gaps[0].time.ns, 2000);
  EXPECT_EQ(read_gap(*view(gaps[1].payload))->count, std::nullopt);
}

TEST_F(GoldenBatch, AMessageKeepsItsHashFromSendToTaking) {
  const auto sent = of(EventType::message_send), fetched = of(EventType::message_fetch);
  const auto taken = of(EventType::message_take);
  const auto find = [](const std::vector<TraceRecord>& records, std::uint64_t hash) {
    return std::ranges::count_if(records,
                                 [&](const TraceRecord& r) { return r.match_hash == hash; });
  };
  int calls = 0;
  for (const auto& r : sent) {
    if (!text(r.payload).starts_with("{'$gen_call'")) continue;
    ++calls;
    EXPECT_TRUE(r.has(TraceRecord::kHashed));
    EXPECT_EQ(find(fetched, r.match_hash), 1);
    EXPECT_EQ(find(taken, r.match_hash), 1);
    EXPECT_EQ(r.peer.kind, Peer::Kind::pid);
    EXPECT_EQ(r.peer.node, "");  // its own
  }
  EXPECT_EQ(calls, 2);
}

TEST_F(GoldenBatch, PeersOfSends) {
  std::map<Peer::Kind, int> kinds;
  for (const auto& r : of(EventType::message_send)) {
    ++kinds[r.peer.kind];
    if (r.peer.kind == Peer::Kind::remote_name && r.has(TraceRecord::kTruncated)) {
      EXPECT_EQ(r.peer.name, "orders");
      EXPECT_EQ(r.peer.node, "b@golden.example");
      EXPECT_EQ(r.match_hash, 0x1122334455667788u);
      EXPECT_EQ(r.original_bytes, 100000u);
      EXPECT_TRUE(r.has(TraceRecord::kHashBounded));
      EXPECT_EQ(text(r.payload), "{order,[1,2]}");
    }
    if (r.peer.name == "nobody") {
      EXPECT_EQ(text(r.payload), "{'$scope_cut',1,2,3}");
      EXPECT_FALSE(r.has(TraceRecord::kTruncated));
      EXPECT_TRUE(r.has(TraceRecord::kHashed));
    }
    EXPECT_EQ(r.has(TraceRecord::kDeadReceiver), text(r.payload) == "too_late");
  }
  EXPECT_GT(kinds[Peer::Kind::name], 0);
  EXPECT_GT(kinds[Peer::Kind::remote_name], 0);
  EXPECT_GT(kinds[Peer::Kind::alias], 0);
}

TEST_F(GoldenBatch, FlagsOfFetchedMessages) {
  int system = 0, timeouts = 0, unhashed = 0;
  for (const auto& r : of(EventType::message_fetch)) {
    const bool down = text(r.payload).starts_with("{'DOWN'");
    EXPECT_EQ(r.has(TraceRecord::kSystem), down) << text(r.payload);
    system += down;
    timeouts += r.has(TraceRecord::kTimeoutNotMessage);
    unhashed += !r.has(TraceRecord::kHashed);
  }
  EXPECT_EQ(system, 2);
  EXPECT_EQ(timeouts, 1);
  EXPECT_EQ(unhashed, 1);  // cut, with no hash
}

TEST_F(GoldenBatch, StatesAndProcesses) {
  int final_states = 0, inferred = 0;
  for (const auto& r : of(EventType::state_change)) {
    EXPECT_EQ(r.mfa.module, "gen_server");
    final_states += r.has(TraceRecord::kEndState);
    inferred += r.has(TraceRecord::kInferred);
  }
  EXPECT_EQ(final_states, 1);
  EXPECT_EQ(inferred, 1);
  bool child_side = false, parent_side = false;
  for (const auto& r : of(EventType::process_spawn)) {
    (r.has(TraceRecord::kChildSide) ? child_side : parent_side) = true;
    EXPECT_EQ(r.mfa.function, "child");
    EXPECT_EQ(r.mfa.arity, 1);
    EXPECT_EQ(r.peer.kind, Peer::Kind::pid);
  }
  EXPECT_TRUE(child_side && parent_side);
  const auto alive = of(EventType::process_alive);
  EXPECT_EQ(alive[0].mfa.module, "shop");
  EXPECT_EQ(alive[0].peer.kind, Peer::Kind::pid);
  EXPECT_EQ(text(of(EventType::process_register)[0].payload), "golden");
  EXPECT_EQ(of(EventType::code_load)[0].mfa.module, "shop");
  EXPECT_EQ(text(of(EventType::node_up)[0].payload), "'b@golden.example'");
  const auto error = of(EventType::function_exception);
  EXPECT_EQ(text(error[0].payload), "{error,{crash,3}}");
}

TEST(CaptureRecord, RefusesOtherBatches) {
  const auto refused = [](const TermBuilder& b) {
    return !read_batch_header(*view_message(b.bytes()));
  };
  TermBuilder version = Batch::head(), compact = Batch::head(), kind = Batch::head(),
              gaps = Batch::head();
  version.nil().integer(5).tuple(3).atom("etf").integer(3).binary("");
  EXPECT_TRUE(refused(version));
  compact.nil().integer(5).tuple(4).atom("compact").integer(2).binary("").binary("");
  EXPECT_TRUE(refused(compact));
  kind.nil().integer(5).tuple(3).atom("new").integer(1).binary("");
  EXPECT_TRUE(refused(kind));
  gaps.atom("gaps").integer(5).tuple(3).atom("etf").integer(1).binary("");
  EXPECT_TRUE(refused(gaps));
  TermBuilder other = TermBuilder::with_version();
  other.tuple(0);
  EXPECT_TRUE(refused(other));
}

TEST(CaptureRecord, TraceesOfOtherNodesAreMalformed) {
  Batch batch(3);
  batch.b.tuple(5).atom("trace_ts").pid({"m", 1, 2, 1}).atom("exit").atom("normal").integer(1);
  batch.b.tuple(5).atom("trace_ts").pid({"n", 1, 2, 9}).atom("exit").atom("normal").integer(1);
  batch.trace(5, "exit").atom("normal").integer(-7).nil();
  DecodeStats stats;
  const auto out = batch.read(&stats);
  EXPECT_EQ(stats.malformed, 2u);
  ASSERT_EQ(out.records.size(), 1u);
  EXPECT_EQ(out.records[0].time.ns, -7);
  EXPECT_EQ(out.records[0].pid, (LocalPid{1, 2}));
  EXPECT_EQ(stats.newest.ns, -7);
}

TEST(CaptureRecord, PayloadsOfEveryShape) {
  Batch batch(6);
  batch.trace(5, "receive").list(2).integer(1000).list(1).integer(1).nil().nil().integer(1);
  batch.trace(5, "receive").list(1).atom("a").atom("tail").integer(1);
  batch.trace(5, "receive").map(1).nil().tuple(0).integer(1);
  batch.trace(5, "receive").charlist("text").integer(1);
  batch.b.list(1).atom("no_event").nil();
  batch.trace(5, "receive").list_cons().integer(1000).list_cons().integer(2000).nil().integer(1);
  batch.b.nil();
  DecodeStats stats;
  const auto out = batch.read(&stats);
  EXPECT_EQ(stats.malformed, 1u);
  ASSERT_EQ(out.records.size(), 5u);
  EXPECT_EQ(text(out.records[0].payload), "[1000,[1]]");
  EXPECT_EQ(text(out.records[1].payload), "[a|tail]");
  EXPECT_EQ(text(out.records[2].payload), "#{[] => {}}");
  EXPECT_EQ(text(out.records[3].payload), "\"text\"");
  EXPECT_EQ(text(out.records[4].payload), "[1000,2000]");
}

TEST(CaptureRecord, EventsThatAreBytesOrImproperAreCounted) {
  Batch bytes;
  bytes.b.charlist("abc");
  DecodeStats stats;
  EXPECT_TRUE(bytes.read(&stats).records.empty());
  EXPECT_EQ(stats.malformed, 3u);
  Batch improper(1);
  improper.trace(5, "exit").atom("normal").integer(1).atom("tail");
  EXPECT_EQ(improper.read(&stats).records.size(), 1u);
  EXPECT_EQ(stats.malformed, 1u);
  EXPECT_FALSE(stats.unreadable);
  Batch half(2);
  half.trace(5, "exit").atom("normal").integer(1);
  EXPECT_EQ(half.read(&stats).records.size(), 1u);  // what is there is used
  EXPECT_TRUE(stats.unreadable);
  Batch more(1);
  more.trace(5, "exit").atom("normal").integer(1).nil().nil();
  EXPECT_EQ(more.read(&stats).records.size(), 1u);
  EXPECT_TRUE(stats.unreadable);
}

TEST(CaptureRecord, SystemMessages) {
  Batch batch(3);
  const RefParts ref{"n", 1, 1, {4}};
  const PidParts pid{"n", 1, 2, 1};
  batch.trace(5, "receive").tuple(3).atom("system").tuple(2).pid(pid).reference(ref);
  batch.b.atom("get_state").integer(1);
  batch.trace(5, "receive").tuple(3).atom("timeout").reference(ref).atom("tick").integer(1);
  // Who sends what looks like one is still its sender.
  batch.trace(6, "send").tuple(3).atom("EXIT").pid(pid).atom("normal").pid({"m", 3, 4, 5});
  batch.b.integer(1).nil();
  const auto out = batch.read();
  ASSERT_EQ(out.records.size(), 3u);
  EXPECT_TRUE(out.records[0].has(TraceRecord::kSystemMessage));
  EXPECT_FALSE(out.records[0].has(TraceRecord::kSystem));
  EXPECT_TRUE(out.records[1].has(TraceRecord::kSystem));
  EXPECT_FALSE(out.records[2].has(TraceRecord::kSystem));
  EXPECT_EQ(out.records[2].peer.node, "m");
  EXPECT_EQ(out.records[2].peer.creation, 5u);
}

TEST(EventType, NamesGoBothWays) {
  for (unsigned i = 1; i <= kMaxEventType; ++i) {
    const auto type = static_cast<EventType>(i);
    EXPECT_EQ(event_type_from_name(event_type_name(type)), type);
  }
  EXPECT_EQ(event_type_from_name("nothing"), std::nullopt);
}

// What ports and sockets send to who waits for them; the same sent by a process is its own.
TEST(DescribeMessage, PortsAndSocketsAreTheSystem) {
  const PortParts port{"a@h", 5, 1};
  const RefParts ref{"a@h", 1, 3, {1, 2, 3}};
  const auto system = [](const TermBuilder& term, EventType type) {
    TraceRecord r;
    r.type = type;
    r.payload = term.bytes();
    describe_message(r);
    return r.has(TraceRecord::kSystem);
  };
  TermBuilder reply, async, socket, other;
  reply.tuple(3).atom("inet_reply").port(port).atom("ok");
  async.tuple(4).atom("inet_async").port(port).integer(1).atom("ok");
  socket.tuple(4).atom("$socket").reference(ref).atom("select").reference(ref);
  other.tuple(3).atom("inet_reply").atom("a").atom("ok");
  for (const auto* term : {&reply, &async, &socket}) {
    EXPECT_TRUE(system(*term, EventType::message_fetch));
    EXPECT_FALSE(system(*term, EventType::message_send));
  }
  EXPECT_FALSE(system(other, EventType::message_fetch));
}

}  // namespace
}  // namespace scope::codec
