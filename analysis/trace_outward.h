// Outward: one trace out of the rows of those who took part in it, where these give what all rows of its range give.
//
// How    All messages, spawns and exits of the range are read without their payloads (a fifth of what a row costs
//        else). Who took part is guessed from these: backwards from the event by what was taken, and the sends of
//        the same hash, then forwards by what was sent until the next taking. Causality gets all rows of these processes,
//        and of others the messages of the contents in question and the spawns from or of one of these. Then, of the trace
//        that comes out, what follows is looked at; what is missing is added, and it is done again, at most kRounds times.
//
// Why    What a process was at is known by its own rows and the spawning of it alone. Nothing else can change the trace if
//        - every process with a span in it is among those whose rows are there; so is whoever an arrival of a content is
//          of that the trace sent (else a child would lack), whoever sent what its root took (else the root would have a
//          parent), and both ends of each of its spawns;
//        - of each content that the trace sent, and of what its root took, all rows are there. Messages are matched among
//          those of the same content (a hash of 64 bits; a reference is part of it), aliases' too, at times that depend on
//          the clock alone (Causality::advance). So these are matched as they are among all; and a message of another
//          content is not the trace's, however it is matched here.
//        Where that does not hold the answer is null, and all rows must be read:
//        - equal messages were told apart by others of the same processes (MessageMatcher, step 3), whose contents would be in
//          question, too; a message without a hash;
//        - one that has a span in the trace ended, or a 'DOWN' or 'EXIT' began the root: who was told of an end, and of whose,
//          stands in payloads alone; tokens (causality.h), which match by what stands in payloads, too;
//        - what took part is most of the range; a block is damaged; there are more than kMaxRows.
// Life   Refers to context and clock. Thread: one.
#pragma once

#include <boost/unordered/unordered_flat_map.hpp>
#include <boost/unordered/unordered_flat_set.hpp>
#include <memory>
#include <optional>
#include <vector>

#include "analysis/causality.h"

namespace scope::analysis {

// The root of each span. REQUIRES that they have no circles.
std::vector<std::uint32_t> roots_of(const std::vector<Span>& spans);

class Outward {
 public:
  Outward(const Context& context, const ClockModel& clock);

  // Causality, finished, in which the trace of `id` is what it is in that of all rows; null: it cannot be told.
  // REQUIRES that only spec.until differs from the call before, and is later.
  std::unique_ptr<Causality> read(const ScanSpec& spec, const EventId& id);

 private:
  static constexpr std::uint32_t kNone = UINT32_MAX;
  struct Row {  // a message, spawn or exit
    Corrected at;
    EventId id;
    ProcessId process;  // home
    Destination to;     // of a send; of a spawn the process at its other end
    std::uint64_t hash = 0;
    std::uint32_t unit = 0;
    std::uint32_t next_of_process = kNone, next_of_hash = kNone;
    codec::EventType type{};
    std::uint16_t flags = 0;

    bool arrives() const {
      return type == codec::EventType::message_fetch || type == codec::EventType::message_take;
    }
    bool sent_to(const ProcessId& p) const {
      return type == codec::EventType::message_send &&
             (to.kind == Destination::Kind::process
                  ? to.process == p
                  : to.kind == Destination::Kind::vm && to.process.incarnation == p.incarnation);
    }
  };
  struct Chain {
    std::uint32_t first = kNone, last = kNone, rows = 0;
    bool takes = false;
  };

  bool extend(ScanSpec spec);  // false: not all can be read
  void append(const store::StoredRow& row, const Corrected& at, std::uint32_t unit, Chain& own);
  void guess(const EventId& id);
  std::uint32_t cause(std::uint32_t row) const;  // kNone: none is known
  std::uint32_t begun(const ProcessId& process, ClusterTime at) const;
  void include(const ProcessId& process);
  bool too_many() const;
  std::unique_ptr<Causality> work_out(const ScanSpec& spec);
  enum class Found : std::uint8_t { whole, lacking, no };
  Found judge(const Causality& causality, const EventId& id);  // adds what is missing

  template <typename Each>  // each(place of a row)
  void of_process(const ProcessId& process, Each each) const;
  template <typename Each>
  void of_hash(std::uint64_t hash, Each each) const;

  const Context& context_;
  const ClockModel& clock_;
  Receivers receivers_;
  bool possible_ = true;
  std::optional<ClusterTime> read_until_;
  ClusterTime last_message_;
  std::vector<Row> rows_;
  std::vector<std::uint32_t> spawns_;
  boost::unordered_flat_map<ProcessId, Chain, std::hash<ProcessId>> by_process_;
  boost::unordered_flat_map<std::uint64_t, Chain> by_hash_;
  boost::unordered_flat_set<ProcessId, std::hash<ProcessId>> processes_;  // whose rows all count
  std::size_t wanted_ = 0;                                                // rows of these
  boost::unordered_flat_set<std::uint64_t> hashes_;                       // likewise
};

}  // namespace scope::analysis
