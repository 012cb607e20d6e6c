// Any bytes as the events of a batch: nothing but counting may come of bad ones.
#include <cstdlib>

#include "ei_codec/capture_record.h"
#include "ei_codec/term_builder.h"

using namespace scope::codec;

namespace {
struct Sink : RecordSink {
  void record(const TraceRecord& record) override {
    if (!record.payload.empty() && !validate(record.payload)) std::abort();
  }
};
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  TermBuilder b = TermBuilder::with_version();
  b.tuple(7).atom("batch").integer(1).integer(1).tuple(2).integer(1).integer(2).nil().integer(1);
  b.tuple(3).atom("etf").integer(1).binary(std::as_bytes(std::span(data, size)));
  const auto header = read_batch_header(*view_message(b.bytes()));
  if (!header) std::abort();
  Sink sink;
  decode_records(*header, {{}, "n", 1}, sink);
  return 0;
}
