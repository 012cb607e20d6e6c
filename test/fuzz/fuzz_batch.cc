// Any bytes as the events of a batch: nothing but counting may come of bad ones.
#include <cstdlib>

#include "ei_codec/capture_record.h"
#include "ei_codec/term_builder.h"

using namespace scope::codec;

namespace {
struct Sink : RecordSink {
  void record(const TraceRecord& record) override {
    if (record.payload.empty()) return;
    if (!view(record.payload, {.local_atoms = record.strings != nullptr}, record.strings)) {
      std::abort();
    }
    TermBuilder copy;
    copy.term(record.term());
    if (!validate(copy.bytes())) std::abort();
  }
};

void decode(const TermBuilder& message) {
  const auto header = read_batch_header(*view_message(message.bytes()));
  if (!header) std::abort();
  Sink sink;
  BatchStrings strings;
  decode_records(*header, {{}, "n", 1}, strings, sink);
}

TermBuilder head() {
  TermBuilder b = TermBuilder::with_version();
  b.tuple(7).atom("batch").integer(1).integer(1).tuple(2).integer(1).integer(2).nil().integer(1);
  return b;
}
}  // namespace

// As an etf payload, and as a compact one, whose first two bytes say how long Strings is.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  TermBuilder etf = head();
  etf.tuple(3).atom("etf").integer(1).binary(bytes);
  decode(etf);
  if (size < 2) return 0;
  const std::size_t strings = std::min(size - 2, std::size_t{data[0]} | std::size_t{data[1]} << 8);
  TermBuilder compact = head();
  compact.tuple(4).atom("compact").integer(1);
  compact.binary(bytes.subspan(2, strings)).binary(bytes.subspan(2 + strings));
  decode(compact);
  return 0;
}
