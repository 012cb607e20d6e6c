// The table of requests: what `hello` lists, what unknown requests are compared with, and how each is answered.
//
// Thread: the table is constant. run() is called on a pool thread, each with its own Env.
#pragma once

#include <chrono>
#include <cstdint>
#include <span>
#include <string_view>

#include "analysis/query.h"
#include "cnode/service/service.h"
#include "cnode/service/store_request.h"

namespace scope::node {

// upkeep: what looks after the store's files, one after the other.
enum class Lane : std::uint8_t { points, scans, upkeep, control };

struct Env {
  analysis::Context context;
  store::TraceStore& store;
  const ServiceOptions& options;
  std::chrono::steady_clock::time_point received;
  StoreJobs& jobs;
};

struct RequestDef {
  std::string_view name;
  std::uint32_t arity;  // of the tuple, the name counted; 1: the bare atom
  Lane lane;
  // Writes the value of {ok, Value}. Null: control (service.cc passes it to Controls), or a later version (not available).
  Status (*run)(const codec::TermView& request, Env& env, codec::TermBuilder& out);
  bool available;
  std::string_view usage;
};

std::span<const RequestDef> requests();

// The request's definition. Errors: bad_request (not a request at all, or the wrong arity), not_available (of a later
// version, or unknown: the hint names the nearest).
Result<const RequestDef*> find_request(const codec::TermView& request);

// What the daemon and the store know together.
void write_status(codec::TermBuilder& out, const StatusInfo& info, store::TraceStore& store,
                  const ServiceOptions& options);

}  // namespace scope::node
