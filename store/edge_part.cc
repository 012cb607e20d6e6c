#include "store/edge_part.h"

#include <xxhash.h>

#include <algorithm>
#include <limits>

namespace scope::store {
namespace {

constexpr unsigned kVersion = 1;
constexpr std::size_t kIdBytes = 24, kEntryBytes = kIdBytes + 12, kLateBytes = 2 * kIdBytes;
constexpr std::size_t kHeaderBytes = 1 + 8 + 8 + 12;
enum Flag : unsigned {
  kHow = 3,
  kSender = 4,
  kReceiver = 8,
  kIsTake = 16,
  kTaken = 32,
  kOrdinals = 64,
  kCandidates = 128
};

std::uint64_t zigzag(std::int64_t v) {
  return static_cast<std::uint64_t>(v) << 1 ^ static_cast<std::uint64_t>(v >> 63);
}
std::int64_t unzigzag(std::uint64_t v) {
  return static_cast<std::int64_t>(v >> 1 ^ (~(v & 1) + 1));
}
// Differences wrap: bytes that were made by somebody else must not overflow.
std::int64_t minus(std::int64_t a, std::int64_t b) {
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(a) - static_cast<std::uint64_t>(b));
}
std::int64_t plus(std::int64_t a, std::int64_t b) {
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(a) + static_cast<std::uint64_t>(b));
}

void put_id(ByteWriter& out, const EventId& id) {
  out.u32(id.process.incarnation);
  out.u32(id.process.id);
  out.u32(id.process.serial);
  out.i64(id.time.ns);
  out.u32(id.ordinal);
}
EventId id_at(const std::byte* at) {
  return {{load<std::uint32_t>(at), load<std::uint32_t>(at + 4), load<std::uint32_t>(at + 8)},
          RawTime{load<std::int64_t>(at + 12)},
          load<std::uint32_t>(at + 20)};
}

std::uint32_t hash_of(const EventId& id) {
  const std::uint64_t words[] = {std::uint64_t{id.process.incarnation} << 32 | id.process.id,
                                 std::uint64_t{id.process.serial} << 32 | id.ordinal,
                                 static_cast<std::uint64_t>(id.time.ns)};
  return static_cast<std::uint32_t>(XXH3_64bits(words, sizeof words) >> 40);
}

std::uint32_t low(std::uint64_t v) { return static_cast<std::uint32_t>(v); }

// What an edge's numbers are told from: the edge before it in the page.
struct Chain {
  ProcessId sender, receiver;
  std::int64_t sent = 0;
  std::vector<std::pair<Incarnation, std::int64_t>> apart;  // arrival - sending, by incarnation

  std::int64_t& apart_of(Incarnation n) {
    for (auto& [incarnation, ns] : apart) {
      if (incarnation == n) return ns;
    }
    return apart.emplace_back(n, 0).second;
  }
};

void put_process(ByteWriter& out, const ProcessId& p, const ProcessId& before) {
  const bool more = p.incarnation != before.incarnation || p.serial != before.serial;
  out.varint(zigzag(std::int64_t{p.id} - before.id) << 1 | (more ? 1 : 0));
  if (!more) return;
  out.varint(p.incarnation);
  out.varint(p.serial);
}
ProcessId get_process(ByteReader& in, const ProcessId& before) {
  ProcessId p = before;
  const auto id = in.varint();
  p.id = low(static_cast<std::uint64_t>(plus(before.id, unzigzag(id >> 1))));
  if ((id & 1) == 0) return p;
  p.incarnation = low(in.varint());
  p.serial = low(in.varint());
  return p;
}

void put_edge(ByteWriter& out, const MessageEdge& e, Chain& chain) {
  const bool taken = e.take.has_value();
  unsigned flags = e.how & kHow;
  if (e.send.process != chain.sender) flags |= kSender;
  if (e.arrival.process != chain.receiver) flags |= kReceiver;
  if (e.arrival_is_take) flags |= kIsTake;
  if (taken) flags |= kTaken;
  const std::uint32_t take_ordinal = taken ? e.take->ordinal : 0;
  if (e.send.ordinal != 0 || e.arrival.ordinal != 0 || take_ordinal != 0) flags |= kOrdinals;
  if (e.candidates != 1) flags |= kCandidates;
  out.u8(flags);
  if (flags & kSender) put_process(out, e.send.process, chain.sender);
  if (flags & kReceiver) put_process(out, e.arrival.process, chain.receiver);
  out.varint(zigzag(minus(e.send.time.ns, chain.sent)));
  const auto apart = minus(e.arrival.time.ns, e.send.time.ns);
  auto& before = chain.apart_of(e.arrival.process.incarnation);
  out.varint(zigzag(minus(apart, before)));
  if (taken) out.varint(zigzag(minus(e.take->time.ns, e.arrival.time.ns)));
  if (flags & kOrdinals) {
    out.varint(e.send.ordinal);
    out.varint(e.arrival.ordinal);
    out.varint(take_ordinal);
  }
  if (flags & kCandidates) out.varint(e.candidates);
  before = apart;
  chain.sender = e.send.process;
  chain.receiver = e.arrival.process;
  chain.sent = e.send.time.ns;
}

MessageEdge get_edge(ByteReader& in, Chain& chain) {
  MessageEdge e;
  const unsigned flags = in.u8();
  e.how = flags & kHow;
  e.arrival_is_take = (flags & kIsTake) != 0;
  e.send.process = chain.sender =
      (flags & kSender) != 0 ? get_process(in, chain.sender) : chain.sender;
  e.arrival.process = chain.receiver =
      (flags & kReceiver) != 0 ? get_process(in, chain.receiver) : chain.receiver;
  e.send.time.ns = chain.sent = plus(chain.sent, unzigzag(in.varint()));
  auto& apart = chain.apart_of(e.arrival.process.incarnation);
  apart = plus(apart, unzigzag(in.varint()));
  e.arrival.time.ns = plus(e.send.time.ns, apart);
  EventId take{e.arrival.process, {}, 0};
  if (flags & kTaken) take.time.ns = plus(e.arrival.time.ns, unzigzag(in.varint()));
  if (flags & kOrdinals) {
    e.send.ordinal = low(in.varint());
    e.arrival.ordinal = low(in.varint());
    take.ordinal = low(in.varint());
  }
  if (flags & kTaken) e.take = take;
  if (flags & kCandidates) e.candidates = low(in.varint());
  return e;
}

std::unexpected<Error> damaged(const char* what) {
  return fail(Code::corrupt, std::string("kept edges: ") + what);
}

}  // namespace

std::vector<std::byte> encode_edges(std::vector<MessageEdge>& edges, std::vector<LateTake>& late) {
  SCOPE_CHECK(edges.size() <= kPartEdges);
  std::ranges::sort(edges, {}, &MessageEdge::send);
  std::ranges::sort(late, {}, &LateTake::fetch);
  ByteWriter directory, pages, lists;
  std::vector<std::uint32_t> arrivals;
  arrivals.reserve(edges.size());
  std::uint32_t count = 0;
  for (std::size_t begin = 0; begin < edges.size(); begin += kPageEdges, ++count) {
    const auto offset = pages.size();
    Chain chain;
    for (std::size_t i = begin; i < std::min(edges.size(), begin + kPageEdges); ++i) {
      put_edge(pages, edges[i], chain);
      arrivals.push_back(hash_of(edges[i].arrival) << 8 | count);
    }
    put_id(directory, edges[begin].send);
    directory.u32(low(offset));
    directory.u32(low(pages.size() - offset));
    directory.u32(low(XXH3_64bits(pages.data() + offset, pages.size() - offset)));
  }
  std::ranges::sort(arrivals);
  for (const auto entry : arrivals) lists.u32(entry);
  for (const auto& l : late) {
    put_id(lists, l.fetch);
    put_id(lists, l.take);
  }
  ByteWriter head;
  head.u64(XXH3_64bits(lists.data(), lists.size()));
  head.u32(low(edges.size()));
  head.u32(count);
  head.u32(low(late.size()));
  head.raw(directory.bytes());
  ByteWriter out;
  out.vector().reserve(9 + head.size() + lists.size() + pages.size());
  out.u8(kVersion);
  out.u64(XXH3_64bits(head.data(), head.size()));
  out.raw(head.bytes());
  out.raw(lists.bytes());
  out.raw(pages.bytes());
  return std::move(out.vector());
}

Result<EdgePart> EdgePart::open(Bytes bytes) {
  ByteReader in(bytes);
  const auto version = in.u8();
  const auto head_hash = in.u64();
  EdgePart part;
  part.lists_hash_ = in.u64();
  part.edges_ = in.u32();
  part.pages_ = in.u32();
  part.late_ = in.u32();
  if (!in.ok()) return damaged("a part is cut short");
  if (version != kVersion) return damaged("a part of another version");
  if (part.edges_ > kPartEdges || part.pages_ != (part.edges_ + kPageEdges - 1) / kPageEdges)
    return damaged("a part's counts");
  part.directory_ = in.raw(part.pages_ * kEntryBytes);
  part.arrivals_ = in.raw(std::size_t{part.edges_} * 4);
  part.late_bytes_ = in.raw(part.late_ * kLateBytes);
  part.data_ = in.rest();
  if (!in.ok()) return damaged("a part is cut short");
  const auto head = bytes.subspan(9, kHeaderBytes - 9 + part.directory_.size());
  if (XXH3_64bits(head.data(), head.size()) != head_hash) return damaged("a part's directory");
  return part;
}

Result<std::vector<MessageEdge>> EdgePart::page(std::size_t number) const {
  const auto* entry = directory_.data() + number * kEntryBytes + kIdBytes;
  const std::size_t offset = load<std::uint32_t>(entry), size = load<std::uint32_t>(entry + 4);
  if (offset > data_.size() || size > data_.size() - offset) return damaged("a page's place");
  const auto bytes = data_.subspan(offset, size);
  if (low(XXH3_64bits(bytes.data(), bytes.size())) != load<std::uint32_t>(entry + 8))
    return damaged("a page");
  const auto first = number * kPageEdges;
  std::vector<MessageEdge> out(std::min<std::size_t>(kPageEdges, edges_ - first));
  ByteReader in(bytes);
  Chain chain;
  for (auto& edge : out) edge = get_edge(in, chain);
  if (!in.done()) return damaged("a page's length");
  return out;
}

Status EdgePart::check_lists() const {
  if (lists_checked_) return {};
  const auto size = arrivals_.size() + late_bytes_.size();
  if (XXH3_64bits(arrivals_.data(), size) != lists_hash_) return damaged("a part's lists");
  lists_checked_ = true;
  return {};
}

Result<std::optional<MessageEdge>> EdgePart::by_send(const EventId& send) const {
  std::size_t first = 0, last = pages_;
  while (first < last) {  // the first page that begins beyond it
    const auto middle = (first + last) / 2;
    if (id_at(directory_.data() + middle * kEntryBytes) <= send) {
      first = middle + 1;
    } else {
      last = middle;
    }
  }
  if (first == 0) return std::optional<MessageEdge>{};
  ASSIGN_OR_RETURN(const auto edges, page(first - 1));
  const auto at = std::ranges::lower_bound(edges, send, {}, &MessageEdge::send);
  if (at == edges.end() || at->send != send) return std::optional<MessageEdge>{};
  return std::optional(*at);
}

Result<std::optional<MessageEdge>> EdgePart::by_arrival(const EventId& arrival) const {
  RETURN_IF_ERROR(check_lists());
  const auto entry = [this](std::size_t i) {
    return load<std::uint32_t>(arrivals_.data() + i * 4);
  };
  const std::uint32_t wanted = hash_of(arrival);
  std::size_t first = 0, last = edges_;
  while (first < last) {
    const auto middle = (first + last) / 2;
    if (entry(middle) >> 8 < wanted) {
      first = middle + 1;
    } else {
      last = middle;
    }
  }
  std::optional<std::uint32_t> looked;
  for (; first < edges_ && entry(first) >> 8 == wanted; ++first) {
    const auto number = entry(first) & 255;
    if (looked == number) continue;
    looked = number;
    if (number >= pages_) return damaged("a part's arrivals");
    ASSIGN_OR_RETURN(const auto edges, page(number));
    const auto at = std::ranges::find(edges, arrival, &MessageEdge::arrival);
    if (at != edges.end()) return std::optional(*at);
  }
  return std::optional<MessageEdge>{};
}

Result<std::optional<EventId>> EdgePart::late_take(const EventId& fetch) const {
  if (late_ == 0) return std::optional<EventId>{};
  RETURN_IF_ERROR(check_lists());
  std::size_t first = 0, last = late_;
  while (first < last) {
    const auto middle = (first + last) / 2;
    if (id_at(late_bytes_.data() + middle * kLateBytes) < fetch) {
      first = middle + 1;
    } else {
      last = middle;
    }
  }
  const auto* at = late_bytes_.data() + first * kLateBytes;
  if (first == late_ || id_at(at) != fetch) return std::optional<EventId>{};
  return std::optional(id_at(at + kIdBytes));
}

Result<std::vector<MessageEdge>> EdgePart::all() const {
  RETURN_IF_ERROR(check_lists());
  std::vector<MessageEdge> out;
  out.reserve(edges_);
  for (std::size_t i = 0; i < pages_; ++i) {
    ASSIGN_OR_RETURN(const auto edges, page(i));
    out.insert(out.end(), edges.begin(), edges.end());
  }
  return out;
}

Result<std::vector<LateTake>> EdgePart::late() const {
  RETURN_IF_ERROR(check_lists());
  std::vector<LateTake> out;
  for (std::size_t i = 0; i < late_; ++i) {
    const auto* at = late_bytes_.data() + i * kLateBytes;
    out.push_back({id_at(at), id_at(at + kIdBytes)});
  }
  return out;
}

}  // namespace scope::store
