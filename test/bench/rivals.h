// What the store is compared with: the same events, kept in three plain ways, each made as good as its way allows.
//
//   row_lmdb   LMDB, a row an event (fixed header and payload), five index tables: process, process and type, state, function,
//              match hash; appended keys, one transaction for 10,000 events
//   sqlite     WAL, synchronous=FULL, one table, the same five indexes, prepared statements, 10,000 events a transaction
//   etf_file   each event's term behind its size, as ttb writes a trace file; written in 1 MB pieces, fdatasync every 10,000
//
// They get decoded events, functions as numbers: what our store does for itself is not counted against them. Each add() ends
// on disk. Errors end the bench. One thread.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "ei_codec/term_view.h"
#include "ei_codec/trace_event.h"

namespace scope::test {

struct RivalEvent {
  std::uint32_t node = 0, function = 0;  // function: 0 none
  codec::TraceRecord record;
  codec::Bytes term;  // the event as the agent sent it
};

class Rival {
 public:
  virtual ~Rival() = default;
  virtual const char* name() const = 0;
  virtual void add(std::span<const RivalEvent> events) = 0;
  virtual double bytes() const = 0;
  // The newest state at or before that time: its size, 0 if there is none.
  virtual std::size_t state_at(std::uint32_t node, std::uint32_t pid, std::int64_t time) = 0;
  virtual std::uint64_t count(std::uint32_t function) = 0;
};

inline constexpr std::size_t kRivalCommit = 10'000;

std::unique_ptr<Rival> make_row_lmdb(const std::string& folder);
std::unique_ptr<Rival> make_sqlite(const std::string& folder);  // null: not built with it
// `nodes`: their names by number, to tell whose pid a term is of.
std::unique_ptr<Rival> make_etf_file(const std::string& folder, std::vector<std::string> nodes);

}  // namespace scope::test
