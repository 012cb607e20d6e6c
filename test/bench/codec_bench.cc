// Figures of the codec (benchmarks: suite codec), one JSON object on stdout. Usage: codec_bench GENSERVER_MIX.etf
//
// The input is what a real node's trace of a GenServer gave (test/golden). Every figure is the median of rounds in which
// all measurements take turns; the time is this thread's CPU time.
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "ei_codec/capture_record.h"
#include "ei_codec/term_print.h"

namespace scope::codec {
namespace {

double cpu_ns() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) * 1e9 + static_cast<double>(t.tv_nsec);
}

// Nanoseconds per call of `work`, over so many calls.
template <typename Work>
double time_of(int calls, Work work) {
  const double start = cpu_ns();
  for (int i = 0; i < calls; ++i) work();
  return (cpu_ns() - start) / calls;
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

struct Count : RecordSink {
  std::uint64_t sum = 0;
  std::vector<TermView> messages;
  bool keep = false;
  void record(const TraceRecord& record) override {
    sum += record.payload.size() + static_cast<std::uint64_t>(record.time.ns);
    if (keep && record.has(TraceRecord::kHashed)) {
      messages.push_back(TermView::unchecked(record.payload.data(), nullptr));
    }
  }
};

int run(const char* path) {
  std::ifstream in(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  const auto message = view_message(std::as_bytes(std::span(text)));
  const auto header = message ? read_batch_header(*message) : std::unexpected(message.error());
  if (!header) {
    std::fprintf(stderr, "%s: %s\n", path, to_string(header.error()).c_str());
    return 1;
  }
  const Bytes encoded = header->events;
  const TermView events = *view_message(encoded);
  const DecodeContext context{
      {}, "shop@golden.example", events.list()->item().element(1).pid()->creation};
  Count sink;
  sink.keep = true;
  BatchStrings strings;
  const DecodeStats stats = decode_records(*header, context, strings, sink);
  sink.keep = false;
  if (stats.malformed > 0 || sink.messages.empty()) {
    std::fprintf(stderr, "%s: does not decode\n", path);
    return 1;
  }
  const auto count = static_cast<double>(stats.records);

  constexpr int kRounds = 15, kCalls = 40;
  std::vector<double> validate_ns, decode_ns, with_hash_ns, hash_ns, print_rate;
  for (int round = 0; round < kRounds; ++round) {
    validate_ns.push_back(time_of(kCalls, [&] { sink.sum += *validate(encoded.subspan(1)); }) /
                          count);
    with_hash_ns.push_back(
        time_of(kCalls, [&] { decode_records(*header, context, strings, sink); }) / count);
    const double hashes = time_of(kCalls, [&] {
      for (const TermView& m : sink.messages) sink.sum += match_hash(m, context.hash_key).value;
    });
    hash_ns.push_back(hashes / static_cast<double>(sink.messages.size()));
    decode_ns.push_back(with_hash_ns.back() - hashes / count);
    std::size_t printed = 0;
    const double print_ns =
        time_of(4, [&] { printed = print(events, Syntax::erlang, 64u << 20).size(); });
    print_rate.push_back(static_cast<double>(printed) * 1e3 / print_ns);
  }
  std::printf(
      "{\"figures\": {\"validate_ns_per_event\": %.1f, \"decode_batch_ns_per_event\": %.1f, "
      "\"decode_batch_with_hash_ns_per_event\": %.1f, \"match_hash_ns\": %.1f, \"print_mb_per_s\": "
      "%.1f, "
      "\"bytes_per_event\": %.1f}}\n",
      median(validate_ns), median(decode_ns), median(with_hash_ns), median(hash_ns),
      median(print_rate), static_cast<double>(encoded.size()) / count);
  return sink.sum == 0;
}

}  // namespace
}  // namespace scope::codec

// bench_codec [--quick] [FILE]: the batch in test/golden by default. It is quick as it is.
int main(int argc, char** argv) {
  const std::string last = argc > 1 ? argv[argc - 1] : "";
  if (!last.empty() && !last.starts_with("--")) return scope::codec::run(last.c_str());
  const char* top = std::getenv("SCOPE_TOP");  // scripts/bench says where the tree is
  return scope::codec::run(
      (std::string(top ? top : ".") + "/test/golden/genserver_mix.etf").c_str());
}
