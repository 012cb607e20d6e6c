// A peer that has passed the handshake sends any packets. Whatever they are, what we send back are whole frames of
// signals that a BEAM would accept, and the link is open or closed, nothing between.
//   input  = [0xFC: a peer that takes fragments] packet*
//   packet = 0xFF size:2 bytes (as they are) | signal | 0xFD sequence:1 pieces:1 signal (in that many fragments)
//   signal = 0xFE size:2 bytes (after what each packet begins with)
//          | operation:1 recipe (its fields, now and then of another type)
#include <spdlog/spdlog.h>

#include <cstdlib>
#include <deque>

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

ByteBuffer make_signal(std::string_view operation, test::Recipe& recipe, bool version) {
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
  ByteBuffer signal;
  put(signal, control.bytes());
  if (bar == operation.npos) return signal;
  TermBuilder payload;
  write_field(operation[bar + 1], recipe, payload);
  if (version) put(signal, std::uint8_t{codec::kVersionMagic});
  put(signal, payload.bytes());
  return signal;
}

// As one packet, or in as many fragments as the recipe says; between them lie other packets, and what it leaves out.
constexpr std::uint8_t kTakesFragments = 0xFC, kInFragments = 0xFD;
void say(ByteBuffer& says, codec::Bytes packet) {
  put(says, static_cast<std::uint32_t>(packet.size()));
  put(says, packet);
}
struct Pieces {
  std::uint64_t sequence = 0, left = 0;
  ByteBuffer rest;
};
// The next piece; true: that was the last.
bool say_piece(ByteBuffer& says, Pieces& pieces, bool first) {
  ByteBuffer packet{std::byte{131}, first ? std::byte{69} : std::byte{70}};
  put(packet, pieces.sequence);
  put(packet, pieces.left);
  if (first) put(packet, std::uint8_t{0});
  const auto n = pieces.left <= 1 ? pieces.rest.size() : pieces.rest.size() / pieces.left;
  put(packet, codec::Bytes(pieces.rest).first(n));
  pieces.rest.erase(pieces.rest.begin(), pieces.rest.begin() + static_cast<std::ptrdiff_t>(n));
  say(says, packet);
  return --pieces.left == 0;
}

// Every frame that we sent is one that we would take.
void judge(codec::Bytes told, bool fragments) {
  WireReader in(told);
  PacketReader reader(fragments, {.max_bytes = told.size()});
  while (!in.rest().empty()) {
    const auto frame = in.take(in.number<std::uint32_t>());
    if (!in.ok()) std::abort();
    if (frame.empty()) continue;  // a tick
    const auto whole = reader.take(Packet::copy_of(frame));
    if (!whole) std::abort();
    if (!*whole) continue;
    const auto bytes = (*whole)->bytes();
    const auto control = codec::view(bytes);
    if (!control) std::abort();
    const auto signal = read_signal(*control);
    if (!signal) std::abort();
    const auto rest = bytes.subspan(control->size());
    if (signal->payload != !rest.empty()) std::abort();
    if (!signal->payload) continue;
    if (!(fragments ? codec::view_whole(rest) : codec::view_message(rest))) std::abort();
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
  const bool fragments = size > 0 && data[0] == kTakesFragments;
  test::Recipe recipe(std::span(data, size).subspan(fragments ? 1 : 0), kWords);
  const ByteBuffer head = fragments ? ByteBuffer{std::byte{131}, std::byte{68}, std::byte{0}}
                                    : ByteBuffer{std::byte{112}, std::byte{131}};
  std::deque<Pieces> open;
  for (int packets = 0; packets < 64 && !recipe.done(); ++packets) {
    auto what = recipe.number();
    ByteBuffer packet;
    if (what == 0xFF) {
      put(packet, std::as_bytes(recipe.take(recipe.wide<std::uint16_t>())));
      say(says, packet);
      continue;
    }
    Pieces pieces;
    const bool cut = fragments && what == kInFragments;
    if (cut) {
      pieces.sequence = recipe.number() % 4;
      pieces.left = 1 + recipe.number() % 8;
      what = recipe.number();
    }
    ByteBuffer signal;
    if (what == 0xFE) {
      put(signal, std::as_bytes(recipe.take(recipe.wide<std::uint16_t>())));
    } else {
      signal = make_signal(kOperations[what % std::size(kOperations)], recipe, !fragments);
    }
    if (!cut) {
      packet = head;
      put(packet, codec::Bytes(signal));
      say(says, packet);
    } else {
      pieces.rest = std::move(signal);
      if (!say_piece(says, pieces, true)) open.push_back(std::move(pieces));
    }
    // Now and then, what began goes on.
    if (!open.empty() && recipe.number() % 2 == 0) {
      if (!say_piece(says, open.front(), false)) open.push_back(std::move(open.front()));
      open.pop_front();
    }
  }
  for (Pieces& pieces : open) {
    while (!say_piece(says, pieces, false)) {
    }
  }
  auto stream = std::make_shared<test::FakeStream>(io, std::move(says), false);
  const auto taken = fragments ? flags::kOurs : flags::kOurs & ~flags::kFragments;
  impl->link_up(stream, {taken, 7, "a@h", 0}, false);
  io.poll();
  judge(stream->told, fragments);
  impl->stop();
  impl->links_.clear();
  io.restart();
  io.poll();
  return 0;
}
