// The hot tail: batches that were received and are in no block yet, decoded once, readable at once.
//
// TailBatch      one batch's rows, pointing into the buffer that the batch came in. Immutable when published.
// OrdinalMemory  gives each row its ordinal among equals (ids.h, EventId). What it remembers is a function of the
//                batches alone, so that a replay after a crash gives the same ids: for each process of the batch before
//                its latest time and the next ordinal. Rows of one process come in the order of their times, so more
//                is not needed; rows that come late within a batch are looked up in the batch.
//                Stored with each seal:  ordinals = version:1 (1) count:varint (id:varint serial:varint time:8 next:varint)*
// Thread The writer's, until published.
#pragma once

#include <boost/unordered/unordered_flat_map.hpp>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "ei_codec/capture_record.h"
#include "store/incarnations.h"
#include "store/view.h"

namespace scope::store {

struct TailBatch {
  Lsn lsn = 0;
  std::uint64_t seq = 0;
  std::int64_t received_ns = 0;        // cluster time
  std::shared_ptr<const void> buffer;  // holds `message` and what the rows point to
  std::shared_ptr<const NodePool> nodes;
  Bytes message;
  codec::BatchStrings strings;           // the rows' local atoms
  std::vector<StoredRow> rows;           // in arrival order
  std::vector<std::uint32_t> lifecycle;  // rows that lives and names are made from
  std::uint32_t types = 0;
  UnitRange range;
  std::optional<RawTime> cut;  // nothing older will come from this agent; none in the store's own
  std::uint64_t malformed = 0, gaps = 0;
  std::vector<std::byte> gap;  // the payload of the row for what could not be read

  Incarnation incarnation() const { return range.incarnation; }
  // What it takes in memory, roughly.
  std::size_t bytes() const {
    return sizeof(TailBatch) + message.size() + strings.memory() +
           rows.capacity() * (sizeof(StoredRow) + sizeof(std::uint32_t));
  }

  // Made by the first question that needs it, by any thread. REQUIRES that the batch is published.
  std::span<const std::uint32_t> by_id() const;               // places of `rows`
  bool has_trace(std::span<const std::uint64_t> keys) const;  // any of these trace_ids.h keys

 private:
  mutable std::once_flag sorted_, searched_;
  mutable std::vector<std::uint32_t> by_id_;
  mutable std::vector<std::uint64_t> traces_;
};

class OrdinalMemory {
 public:
  std::uint32_t assign(const TailBatch& so_far, LocalPid pid, RawTime time);
  // `counts`: false for a batch that the store made itself; such are not remembered.
  void end_batch(bool counts);
  void clear();
  // No event of this batch should be older, so far as is known: when the batch before ended for each of its processes.
  std::optional<RawTime> earliest() const;

  // The memory as it is after `batch`, encoded; and back.
  static std::vector<std::byte> encode_after(const TailBatch& batch);
  Status decode(Bytes value);

 private:
  struct Last {
    RawTime time;
    std::uint32_t next = 0;
  };
  using Map = boost::unordered_flat_map<std::uint64_t, Last>;
  static std::uint64_t key(LocalPid pid) { return std::uint64_t{pid.serial} << 32 | pid.id; }
  std::uint32_t assign_late(const TailBatch& so_far, LocalPid pid, RawTime time);

  Map before_, now_;
  struct Late {
    std::uint64_t pid;
    std::int64_t time;
    bool operator==(const Late&) const = default;
    friend std::size_t hash_value(const Late& l) {
      return (l.pid * 0x9E3779B97F4A7C15ULL ^ static_cast<std::uint64_t>(l.time)) *
             0xBF58476D1CE4E5B9ULL;
    }
  };
  boost::unordered_flat_map<Late, std::uint32_t> late_;  // only once a row came late in this batch
};

// Is it one of the types that lives and names are made from?
constexpr bool is_lifecycle(codec::EventType type) {
  using enum codec::EventType;
  return type == process_spawn || type == process_exit || type == process_register ||
         type == process_unregister || type == process_alive;
}
constexpr std::uint32_t type_bit(codec::EventType type) {
  return 1U << static_cast<unsigned>(type);
}

struct TailInput {
  Lsn lsn = 0;
  Incarnation incarnation = kNoIncarnation;
  std::uint64_t seq = 0;
  ClusterTime received;
  std::shared_ptr<const void> buffer;
  codec::TermView message;
};

// Decodes a batch; nodes of peers that were never heard of get their incarnations. What of it cannot be read is lost, and
// is a row of type gap, reason `unreadable`: from the batch before, or the batch's cut, to its clock pair; its count is
// known if only single events do not fit. malformed: it is no batch at all; not even a time is known then.
Result<std::shared_ptr<TailBatch>> decode_batch(const TailInput& input,
                                                const codec::HashKey& hash_key,
                                                Incarnations& incarnations,
                                                OrdinalMemory& ordinals);

// What stands for a batch that could not be decoded: no rows, counted as malformed, and its number is used up, so that
// its agent does not send it for ever. The writer tells of a gap beside it.
std::shared_ptr<TailBatch> empty_batch(const TailInput& input);

}  // namespace scope::store
