#include "cnode/dist/control.h"

#include <gtest/gtest.h>

#include <functional>

#include "cnode/dist/handshake.h"

namespace scope::node {
namespace {

using codec::TermBuilder;

Pid pid(const char* node, std::uint32_t id) {
  Pid p;
  p.node = node;
  p.id = id;
  p.serial = 2;
  p.creation = 3;
  return p;
}

Ref ref() {
  Ref r;
  r.node = "a@host";
  r.creation = 3;
  r.count = 5;
  r.ids = {1, 2, 3, 4, 5};
  return r;
}

ByteBuffer token() {
  TermBuilder b;
  b.tuple(5).integer(0).atom("label").integer(1).pid(pid("a@host", 9).parts()).integer(0);
  return {b.bytes().begin(), b.bytes().end()};
}

ByteBuffer reason() {
  TermBuilder b;
  b.atom("why");
  return {b.bytes().begin(), b.bytes().end()};
}

// Every control message that we write, and those that only others write.
std::vector<ByteBuffer> all_messages() {
  const Pid from = pid("a@host", 1), to = pid("b@host", 2);
  const ByteBuffer t = token(), r = reason();
  std::vector<ByteBuffer> all;
  auto add = [&](const std::function<void(TermBuilder&)>& write) {
    TermBuilder b;
    write(b);
    all.emplace_back(b.bytes().begin(), b.bytes().end());
  };
  for (const codec::Bytes tok : {codec::Bytes{}, codec::Bytes(t)}) {
    add([&](TermBuilder& b) { control::send(b, flags::kOurs, from, to, tok); });
    add([&](TermBuilder& b) { control::send(b, 0, from, to, tok); });
    add([&](TermBuilder& b) { control::reg_send(b, from, "name", tok); });
    add([&](TermBuilder& b) { control::alias_send(b, from, ref(), tok); });
  }
  add([&](TermBuilder& b) { control::link(b, from, to); });
  add([&](TermBuilder& b) { control::unlink_id(b, 1ull << 63, from, to); });
  add([&](TermBuilder& b) { control::unlink_id_ack(b, 7, from, to); });
  for (const Target& target : {Target(to), Target(NameAt{"name", "b@host"})}) {
    add([&](TermBuilder& b) { control::monitor(b, from, target, ref()); });
    add([&](TermBuilder& b) { control::demonitor(b, from, target, ref()); });
    for (std::uint64_t f : {flags::kOurs, std::uint64_t{0}}) {
      add([&](TermBuilder& b) { control::monitor_exit(b, f, target, from, ref(), r); });
    }
  }
  for (std::uint64_t f : {flags::kOurs, std::uint64_t{0}}) {
    add([&](TermBuilder& b) { control::exit(b, f, from, to, r); });
    add([&](TermBuilder& b) { control::exit2(b, f, from, to, r); });
  }
  add([&](TermBuilder& b) { control::spawn_request(b, ref(), from, "m", "f", 3, true, true); });
  add([&](TermBuilder& b) { control::spawn_reply(b, ref(), to, 3, from, {}); });
  add([&](TermBuilder& b) { control::spawn_reply(b, ref(), to, 0, from, "notsup"); });
  for (int op : {13, 18}) {
    add([&](TermBuilder& b) {
      b.tuple(5).integer(op).pid(from.parts()).pid(to.parts()).raw(t).raw(r);
    });
  }
  for (int op : {25, 27}) {
    add([&](TermBuilder& b) { b.tuple(4).integer(op).pid(from.parts()).pid(to.parts()).raw(t); });
  }
  return all;
}

Result<Signal> read(codec::Bytes bytes) {
  auto view = codec::view(bytes);
  if (!view) return std::unexpected(view.error());
  return read_signal(*view);
}

TEST(Control, EveryMessageIsReadAndNoCutIs) {
  for (const ByteBuffer& message : all_messages()) {
    const auto signal = read(message);
    ASSERT_TRUE(signal) << to_string(signal.error());
    for (std::size_t n = 0; n < message.size(); ++n) {
      EXPECT_FALSE(read(codec::Bytes(message).first(n)));
    }
  }
}

// Every element left out, and one too many.
TEST(Control, WrongArityIsRefused) {
  for (const ByteBuffer& message : all_messages()) {
    const auto view = codec::view(message);
    ASSERT_TRUE(view);
    const std::uint32_t arity = *view->arity();
    for (std::uint32_t n = 0; n < arity; ++n) {
      TermBuilder b;
      b.tuple(n);
      for (std::uint32_t i = 0; i < n; ++i) b.term(view->element(i));
      EXPECT_FALSE(read(b.bytes()));
    }
    TermBuilder b;
    b.tuple(arity + 1);
    for (std::uint32_t i = 0; i < arity; ++i) b.term(view->element(i));
    b.nil();
    EXPECT_FALSE(read(b.bytes()));
  }
}

// A flipped bit is read as something or refused; it never reads out of bounds (the sanitizers watch).
TEST(Control, FlippedBitsDoNoHarm) {
  for (ByteBuffer message : all_messages()) {
    for (std::size_t bit = 0; bit < message.size() * 8; ++bit) {
      const auto mask = static_cast<std::byte>(1u << (bit % 8));
      message[bit / 8] ^= mask;
      (void)read(message);
      message[bit / 8] ^= mask;
    }
  }
}

TEST(Control, FieldsSurvive) {
  TermBuilder b;
  const Pid from = pid("a@host", 1), to = pid("b@host", 2);
  control::send(b, flags::kOurs, from, to, token());
  auto s = read(b.bytes());
  ASSERT_TRUE(s);
  EXPECT_EQ(s->op, Op::send);
  EXPECT_TRUE(s->payload);
  EXPECT_EQ(Pid(*s->from), from);
  EXPECT_EQ(Pid(*s->to), to);
  ASSERT_TRUE(s->token);
  EXPECT_EQ(s->token->arity(), 5u);

  b.clear();
  EXPECT_FALSE(control::monitor_exit(b, 0, NameAt{"n", "b@host"}, from, ref(), reason()));
  s = read(b.bytes());
  ASSERT_TRUE(s);
  EXPECT_EQ(s->op, Op::monitor_exit);
  EXPECT_EQ(s->from_name, "n");
  EXPECT_EQ(Ref(*s->ref), ref());
  EXPECT_TRUE(s->reason->is_atom("why"));

  b.clear();
  control::spawn_request(b, ref(), from, "mod", "fun", 3, true, false);
  s = read(b.bytes());
  ASSERT_TRUE(s);
  EXPECT_EQ(s->module, "mod");
  EXPECT_EQ(s->function, "fun");
  EXPECT_EQ(s->arity, 3u);
}

TEST(Control, UnknownOperationsAreRefused) {
  for (int op : {0, 5, 9, 10, 11, 14, 15, 17, 37, 1000, -1}) {
    TermBuilder b;
    b.tuple(3).integer(op).nil().nil();
    EXPECT_FALSE(read(b.bytes())) << op;
  }
}

}  // namespace
}  // namespace scope::node
