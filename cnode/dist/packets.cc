#include "cnode/dist/packets.h"

#include <fmt/format.h>

#include <algorithm>

namespace scope::node {
namespace {

constexpr std::uint8_t kPassThrough = 112, kVersion = codec::kVersionMagic;
constexpr std::uint8_t kHeader = 68, kFirstFragment = 69, kNextFragment = 70;
constexpr std::uint8_t kNoAtoms = 0;
constexpr std::size_t kTurnBytes = 256u << 10;

// What is left of a packet after its first n bytes; shares it.
Packet without(Packet packet, std::size_t n) {
  const std::byte* rest = packet.data.get() + n;
  return {std::shared_ptr<const std::byte[]>(std::move(packet.data), rest), packet.size - n};
}

std::unexpected<Error> malformed(std::string_view what) {
  return fail(Code::malformed, fmt::format("broke the protocol: {}", what));
}

}  // namespace

// --- in ---------------------------------------------------------------------------------------------

PacketReader::~PacketReader() {
  if (limits_.incoming) limits_.incoming->give(open_bytes_);
}

Result<std::optional<Packet>> PacketReader::take(Packet packet) {
  WireReader in(packet.bytes());
  const auto first = in.number<std::uint8_t>();
  const auto second = in.number<std::uint8_t>();
  if (!fragments_) {
    if (!in.ok() || first != kPassThrough || second != kVersion) {
      return malformed("a packet that does not begin as one without an atom cache");
    }
    return without(std::move(packet), 2);
  }
  if (!in.ok() || first != kVersion || second < kHeader || second > kNextFragment) {
    return malformed("a packet that does not begin as one with a header");
  }
  if (second != kHeader) return take_fragment(second, packet.bytes());
  if (in.number<std::uint8_t>() != kNoAtoms || !in.ok()) {
    return malformed("a header with atoms of a cache that we did not agree to");
  }
  return without(std::move(packet), 3);
}

Result<std::optional<Packet>> PacketReader::take_fragment(std::uint8_t tag, codec::Bytes packet) {
  WireReader in(packet.subspan(2));
  const auto id = in.number<std::uint64_t>();
  const auto left = in.number<std::uint64_t>();
  const bool starts = tag == kFirstFragment;
  if (starts && in.number<std::uint8_t>() != kNoAtoms) {
    return malformed("a header with atoms of a cache that we did not agree to");
  }
  if (!in.ok() || left == 0) return malformed("half a fragment's header");
  const codec::Bytes part = in.rest();
  auto it = open_.find(id);
  if (starts != (it == open_.end()) || (!starts && it->second.left != left)) {
    return malformed("a fragment that is out of order");
  }
  if (starts && open_.size() >= limits_.max_sequences) {
    return fail(Code::too_large,
                fmt::format("more than {} messages in fragments at once", limits_.max_sequences));
  }
  if (part.size() > limits_.max_bytes - open_bytes_) {
    return fail(Code::too_large,
                fmt::format("messages in fragments of over {} bytes", limits_.max_bytes));
  }
  if (limits_.incoming && !limits_.incoming->take(part.size())) {
    return fail(Code::too_large, fmt::format("over {} bytes of large messages are on their way in",
                                             limits_.incoming->most()));
  }
  if (starts) it = open_.try_emplace(id).first;
  Sequence& sequence = it->second;
  sequence.left = left - 1;
  put(sequence.signal, part);
  open_bytes_ += part.size();
  if (sequence.left > 0) return std::nullopt;

  open_bytes_ -= sequence.signal.size();
  if (limits_.incoming) limits_.incoming->give(sequence.signal.size());
  const auto whole = std::make_shared<const ByteBuffer>(std::move(sequence.signal));
  open_.erase(it);
  return Packet{std::shared_ptr<const std::byte[]>(whole, whole->data()), whole->size()};
}

// --- out --------------------------------------------------------------------------------------------

PacketQueue::Room PacketQueue::room(std::size_t signal_bytes) const {
  const std::size_t queued = large(signal_bytes) ? large_bytes_ : small_.size() + follower_bytes_;
  if (queued == 0 || queued + signal_bytes <= max_bytes_) return Room::enough;
  return queued + signal_bytes <= 2 * max_bytes_ ? Room::full : Room::overflow;
}

void PacketQueue::put_whole(ByteBuffer& out, codec::Bytes control, const Payload& payload) const {
  const std::size_t size =
      (fragments_ || payload.size() > 0 ? 3 : 2) + control.size() + payload.size();
  if (size > kTurnBytes) out.reserve(out.size() + 4 + size);  // not doubled
  put(out, static_cast<std::uint32_t>(size));
  if (fragments_) {
    put(out, kVersion);
    put(out, kHeader);
    put(out, kNoAtoms);
  } else {
    put(out, kPassThrough);
    put(out, kVersion);
  }
  put(out, control);
  if (!fragments_ && payload.size() > 0) put(out, kVersion);
  put(out, payload.first);
  put(out, payload.rest);
}

void PacketQueue::push(Receiver receiver, codec::Bytes control, const Payload& payload) {
  auto lane = std::ranges::find(lanes_, receiver, &Lane::receiver);
  const bool is_large = large(control.size() + payload.size());
  if (lane == lanes_.end() && !is_large) return put_whole(small_, control, payload);
  if (lane == lanes_.end()) lane = lanes_.insert(lanes_.end(), Lane{receiver, {}});
  Waiting& waiting = lane->waiting.emplace_back();
  waiting.control = control.size();
  const bool held = is_large && payload.owner;
  waiting.head.reserve(control.size() + payload.first.size() + (held ? 0 : payload.rest.size()));
  put(waiting.head, control);
  put(waiting.head, payload.first);
  if (held) {
    waiting.rest = payload.rest;
    waiting.owner = payload.owner;
  } else {
    put(waiting.head, payload.rest);
  }
  (is_large ? large_bytes_ : follower_bytes_) += waiting.size();
}

void PacketQueue::put_fragment(ByteBuffer& out, Waiting& waiting) {
  const std::size_t size = waiting.size();
  const bool starts = waiting.left == 0;
  const std::size_t first = std::max(kFragmentBytes, waiting.control);
  if (starts) {
    waiting.sequence = next_sequence_++;
    waiting.left = 1 + (size - first + kFragmentBytes - 1) / kFragmentBytes;
  }
  const std::size_t part = std::min(starts ? first : kFragmentBytes, size - waiting.sent);
  put(out, static_cast<std::uint32_t>(18 + (starts ? 1 : 0) + part));
  put(out, kVersion);
  put(out, starts ? kFirstFragment : kNextFragment);
  put(out, waiting.sequence);
  put(out, waiting.left);
  if (starts) put(out, kNoAtoms);
  const codec::Bytes head(waiting.head);
  const std::size_t of_head = std::min(part, head.size() - std::min(head.size(), waiting.sent));
  if (of_head > 0) put(out, head.subspan(waiting.sent, of_head));
  if (part > of_head) {
    put(out, waiting.rest.subspan(waiting.sent + of_head - head.size(), part - of_head));
  }
  waiting.sent += part;
  --waiting.left;
  large_bytes_ -= part;
}

void PacketQueue::next(ByteBuffer& out) {
  out.swap(small_);
  while (!lanes_.empty()) {
    Lane& lane = lanes_.front();
    Waiting& waiting = lane.waiting.front();
    if (large(waiting.size())) {
      put_fragment(out, waiting);
    } else {
      const codec::Bytes signal(waiting.head);  // small ones are whole in it
      put_whole(out, signal.first(waiting.control), signal.subspan(waiting.control));
      follower_bytes_ -= signal.size();
      waiting.sent = signal.size();
    }
    if (waiting.sent == waiting.size()) lane.waiting.pop_front();
    if (lane.waiting.empty()) {
      lanes_.pop_front();
    } else {
      lanes_.splice(lanes_.end(), lanes_, lanes_.begin());
    }
    if (out.size() >= kTurnBytes) break;
  }
}

void PacketQueue::clear() {
  small_ = {};
  lanes_.clear();
  large_bytes_ = follower_bytes_ = 0;
}

}  // namespace scope::node
