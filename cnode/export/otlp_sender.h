// OtlpSender: posts batches to an OTLP receiver over HTTP, from a thread of its own.
//
// Queue    At most `queue` batches wait; offer() waits for room: what it is given stays in the store meanwhile.
// Retries  No connection, no answer within `timeout`, and 429, 502, 503, 504 are tried again, `tries` times in all, after
//          waits that double from `first_wait` to `most_wait` (each up to a quarter longer or shorter by chance), or as long
//          as Retry-After says, up to kMostRetryAfter. When they are used up the sender gives up: that batch and all
//          later ones are dropped. Another refusal (4xx, 5xx) drops its batch alone.
// Counts   Every span offered ends as sent or dropped; a receiver's partial success counts what it refused as dropped.
// Life     The thread ends in finish() or the destructor, after what is queued: at worst each try of one batch.
// Thread   offer() and finish() from one. Timeouts hold for connecting, writing and reading, not for looking up a name.
// Errors   In Counts::why: the newest reason why something was dropped.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>

#include "ei_codec/base/result.h"

namespace scope::node {

inline constexpr std::chrono::seconds kMostRetryAfter{30};

struct OtlpEndpoint {
  std::string host, port, target;
};
// "http://host:4318" (then /v1/traces) or with a path, which is taken as it is. Errors: bad_value.
Result<OtlpEndpoint> parse_otlp_endpoint(std::string_view url);

struct OtlpOptions {
  OtlpEndpoint endpoint;
  bool json = false;
  std::chrono::milliseconds timeout{10'000}, first_wait{500}, most_wait{8'000};
  int tries = 6;
  std::size_t queue = 8;
};

struct OtlpCounts {
  std::size_t sent = 0, dropped = 0, requests = 0, retries = 0;  // the first two in spans
  std::string why;
};

class OtlpSender {
 public:
  explicit OtlpSender(OtlpOptions options);
  ~OtlpSender();

  // False: it has given up; the batch is counted as dropped.
  bool offer(std::string body, std::size_t spans);
  // Waits until everything was sent or dropped.
  OtlpCounts finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace scope::node
