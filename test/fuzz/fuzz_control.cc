// A peer that has passed the handshake sends any packets. Whatever they are, what we send back are whole frames of
// signals that a BEAM would accept, and the link is open or closed, nothing between.
//   input = packet*     packet = 0xFF size:2 bytes (as they are)
//                              | 0xFE size:2 bytes (after the two bytes that each packet begins with)
//                              | operation:1 recipe (its fields, now and then of another type)
#include <spdlog/spdlog.h>

#include <cstdlib>

#include "cnode/dist/node_impl.h"
#include "cnode/dist/spawn.h"
#include "test/fuzz/fake_stream.h"
#include "test/fuzz/recipe.h"

using namespace scope;
using namespace scope::node;
using codec::TermBuilder;

namespace {

// p, o: a pid of theirs, of ours; n: a name; r: a reference; i: a number; e: ''; m: a function; l: options; t: any term.
// After the |: the payload, a list of arguments (a) or any term (t).
constexpr std::string_view kOperations[] = {
    "1po",        "2eo|t",    "3pot",   "4po",     "6pen|t", "7po",     "8pot",    "12eot|t",
    "13potr",     "16pent|t", "18potr", "19por",   "19pnr",  "20por",   "20pnr",   "21port",
    "22po|t",     "23pot|t",  "24po|t", "25pot|t", "26po|t", "27pot|t", "28por|t", "29rpoml|a",
    "30rpomlt|a", "31roio",   "31roin", "32roiot", "33pr|t", "34prt|t", "35ipo",   "36ipo"};
constexpr std::string_view kWords[] = {"rex",
                                       "net_kernel",
                                       "echo",
                                       "$gen_call",
                                       "$gen_cast",
                                       "call",
                                       "cast",
                                       "block_call",
                                       "is_auth",
                                       "erlang",
                                       "node",
                                       "nodes",
                                       "whereis",
                                       "is_alive",
                                       "erpc",
                                       "execute_call",
                                       "execute_cast",
                                       "monitor",
                                       "link",
                                       "alias",
                                       "sbcast",
                                       "send",
                                       "features_request",
                                       "user",
                                       "normal",
                                       "noproc",
                                       "system",
                                       "get_state",
                                       "a@h",
                                       "scope@h",
                                       "undefined",
                                       ""};

class Echo : public Process {
 public:
  explicit Echo(Node::Impl& impl) : impl_(impl) {}
  void on_message(Message message) override {
    if (auto call = read_gen_call(message)) {
      (void)impl_.reply(call->from, call->request.term.bytes());
    }
  }

 private:
  Node::Impl& impl_;
};

void write_field(char what, test::Recipe& recipe, TermBuilder& out) {
  if (recipe.number() < 8) return recipe.term(out);
  switch (what) {
    case 'p':
      out.pid(recipe.pid(test::Recipe::kTheirs));
      return;
    case 'o':
      out.pid(recipe.pid(test::Recipe::kOurs));
      return;
    case 'n':
      out.atom(recipe.word());
      return;
    case 'r':
      out.reference(recipe.reference());
      return;
    case 'i':
      out.integer(recipe.number());
      return;
    case 'e':
      out.atom("");
      return;
    case 'm':
      out.tuple(3).atom(recipe.word()).atom(recipe.word()).integer(recipe.number() % 8);
      return;
    case 'l':
    case 'a': {
      const std::uint32_t n = recipe.number() % 6;
      out.list(n);
      for (std::uint32_t i = 0; i < n; ++i) recipe.term(out);
      out.nil();
      return;
    }
    default:
      return recipe.term(out);
  }
}

ByteBuffer make_packet(std::string_view operation, test::Recipe& recipe) {
  std::int64_t op = 0;
  while (!operation.empty() && operation[0] >= '0' && operation[0] <= '9') {
    op = op * 10 + (operation[0] - '0');
    operation.remove_prefix(1);
  }
  const auto bar = operation.find('|');
  const auto fields = operation.substr(0, bar);
  TermBuilder control;
  control.tuple(static_cast<std::uint32_t>(fields.size() + 1)).integer(op);
  for (const char f : fields) write_field(f, recipe, control);
  ByteBuffer packet{std::byte{112}, std::byte{131}};
  put(packet, control.bytes());
  if (bar == operation.npos) return packet;
  TermBuilder payload = TermBuilder::with_version();
  write_field(operation[bar + 1], recipe, payload);
  put(packet, payload.bytes());
  return packet;
}

// Every frame that we sent is one that we would take.
void judge(codec::Bytes told) {
  WireReader in(told);
  while (!in.rest().empty()) {
    const auto frame = in.take(in.number<std::uint32_t>());
    if (!in.ok()) std::abort();
    if (frame.empty()) continue;  // a tick
    const auto control = codec::view(frame.subspan(2));
    if (!control) std::abort();
    const auto signal = read_signal(*control);
    if (!signal) std::abort();
    const auto rest = frame.subspan(2 + control->size());
    if (signal->payload != !rest.empty()) std::abort();
    if (signal->payload && !codec::view_message(rest)) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  spdlog::set_level(spdlog::level::off);
  boost::asio::io_context io;
  NodeOptions options;
  options.name = "scope@h";
  options.max_queue_bytes = 64u << 10;
  auto impl = std::make_shared<Node::Impl>(io, options);
  impl->creation_ = 7;
  impl->start_builtins();
  Echo echo(*impl);
  (void)impl->spawn_process(&echo, "echo");

  ByteBuffer says;
  test::Recipe recipe({data, size}, kWords);
  for (int packets = 0; packets < 64 && !recipe.done(); ++packets) {
    const auto what = recipe.number();
    ByteBuffer packet;
    if (what >= 0xFE) {
      if (what == 0xFE) packet = {std::byte{112}, std::byte{131}};
      const auto length = recipe.wide<std::uint16_t>();
      put(packet, std::as_bytes(recipe.take(length)));
    } else {
      packet = make_packet(kOperations[what % std::size(kOperations)], recipe);
    }
    put(says, static_cast<std::uint32_t>(packet.size()));
    put(says, codec::Bytes(packet));
  }
  auto stream = std::make_shared<test::FakeStream>(io, std::move(says), false);
  impl->link_up(stream, {flags::kOurs, 7, "a@h", 0}, false);
  io.poll();
  judge(stream->told);
  impl->stop();
  impl->links_.clear();
  io.restart();
  io.poll();
  return 0;
}
