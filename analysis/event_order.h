// get_order: which of two events came first, and how that is known (model.md, Order).
//
// process   Events of one process stand in its own order.
// messages  Happens-before: a chain of sends and their arrivals (matched `exact` or `unique`: an ambiguous match proves
//           nothing), spawns (the parent's spawn before the child's events), ends (an exit before its 'DOWN' or 'EXIT')
//           and spawn replies, each step in one process's own order. Looked for from the later event backwards, through
//           the processes that led to it, and only among rows that can lie between the two.
// time      Else their corrected times, where the bounds do not overlap. Where they do not, a chain the other way is not
//           looked for: it would contradict the clocks.
// concurrent  The bounds overlap, and of each event everything that led to it since the other one's time is recorded, and
//           leads elsewhere. Where anything is missing there (doubts), the order is unknown: a chain may run through it.
//           What no event tells of (tables, ports, shared terms) is not looked at.
// Bounds    kOrderRows rows, kOrderRounds steps between processes, the context's budget. Thread: pure.
#pragma once

#include <vector>

#include "analysis/causality.h"
#include "analysis/query.h"

namespace scope::analysis {

inline constexpr std::size_t kOrderRows = 100'000;
inline constexpr unsigned kOrderRounds = 64;

enum class EventOrder : std::uint8_t { before, after, concurrent, same, unknown };
std::string_view name(EventOrder order);
enum class OrderWhy : std::uint8_t { none, process, messages, time };
std::string_view name(OrderWhy why);

// What may hide a chain.
enum class OrderDoubt : std::uint8_t {
  ambiguous,  // a message there was matched to several
  untraced,   // a message came, or a process began, and who sent or spawned was not recorded
  signal,     // a link, a timer, an exit signal or a port, of which no event tells who caused it
  search,     // rows, steps or time ran out
  not_final,  // a node may still send what it recorded before
  clock,      // a node's clock was never measured
};
inline constexpr unsigned kOrderDoubts = 6;
std::string_view name(OrderDoubt doubt);

struct OrderAnswer {
  EventOrder order = EventOrder::unknown;  // of the first event to the second
  OrderWhy why = OrderWhy::none;
  EdgeCertainty certainty = EdgeCertainty::exact;  // of `messages`: the least sure edge of the path
  std::vector<EventId> path;  // of `messages`: from the earlier event to the later one
  Corrected a, b;
  std::uint32_t doubts = 0;  // bits 1 << OrderDoubt
  Completeness completeness;
};

// Errors: not_recorded (one of them is not in the store).
Result<OrderAnswer> get_order(const Context& context, const EventId& a, const EventId& b);

}  // namespace scope::analysis
