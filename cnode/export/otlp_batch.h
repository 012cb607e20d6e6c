// OtlpBatch: causal traces as OTLP (OpenTelemetry Protocol) spans, as protobuf and as JSON.
//
// In     Answers to get_trace (api.md).
// Out    One ExportTraceServiceRequest, which has the bytes of a TracesData. Protobuf of several batches, one after the other,
//        is one message that holds them all (its only field is repeated).
// Ids    Of our event ids, so that the same trace exported twice has the same: trace id = XXH3-128 of the root's 24 bytes,
//        span id = XXH3-64 of the span's, big-endian; 0, which OTLP forbids, becomes 1.
// Edges  `exact` and `unique` are parents. `inferred` and `ambiguous` are links of the span to its likely cause, with the
//        certainty: the span then has no parent, and its trace several roots. So are our links (reply, timer).
// Kinds  call CLIENT, handle SERVER, cast and info CONSUMER, others INTERNAL. No PRODUCER: a sending is no span of ours.
// Times  Cluster time; errors as attributes. An unknown end is the start, with scope.open.
// Text   What is not UTF-8 becomes U+FFFD; at most kMaxText bytes, then an ellipsis.
// Life   Owns what it holds; the answers may go. One thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "ei_codec/base/result.h"
#include "ei_codec/term_view.h"

namespace scope::node {

inline constexpr std::size_t kMaxText = 4096;

class OtlpBatch {
 public:
  OtlpBatch();
  ~OtlpBatch();
  OtlpBatch(OtlpBatch&&) noexcept;
  OtlpBatch& operator=(OtlpBatch&&) noexcept;

  // All of the trace's spans, or none. Errors: malformed (not in the shape of a get_trace answer).
  Status add(const codec::TermView& trace);
  std::size_t spans() const;
  void clear();

  std::string protobuf() const;
  std::string json() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// An answer to such a request: how many spans it refused, and why. What cannot be read refuses none.
struct OtlpAnswer {
  std::int64_t rejected = 0;
  std::string why;
};
OtlpAnswer read_otlp_answer(std::string_view body, bool json);

}  // namespace scope::node
