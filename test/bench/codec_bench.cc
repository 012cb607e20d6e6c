// Figures of the codec (benchmarks: suite codec), one JSON object on stdout. Usage: codec_bench GENSERVER_MIX.etf
//
// The input is what a real node's trace of a GenServer gave (test/golden), and the same events as compact records that
// carry their messages' hashes, as the native tracer sends them. Every figure is the median of rounds in which all
// measurements take turns; the time is this thread's CPU time.
//   decode_batch_ns_per_event    etf, validated and read, without the match hashes; ..._with_hash with them
//   decode_record_ns_per_event   compact, the same: every term of every record is validated, hashes are read
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <vector>

#include "ei_codec/capture_record.h"
#include "ei_codec/term_builder.h"
#include "ei_codec/term_print.h"
#include "test/unit/ei_codec/compact_maker.h"

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
  std::vector<TermView>
      messages;  // each content once: the reader, too, hashes it once (payload_memo.h)
  std::set<std::string> seen;
  bool keep = false;
  void record(const TraceRecord& record) override {
    sum += record.payload.size() + static_cast<std::uint64_t>(record.time.ns);
    if (keep && record.has(TraceRecord::kHashed) &&
        seen.emplace(reinterpret_cast<const char*>(record.payload.data()), record.payload.size())
            .second) {
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
  BatchStrings strings, etf_strings;
  const DecodeStats stats = decode_records(*header, context, strings, sink);
  sink.keep = false;
  if (stats.malformed > 0 || sink.messages.empty()) {
    std::fprintf(stderr, "%s: does not decode\n", path);
    return 1;
  }
  const auto count = static_cast<double>(stats.records);

  struct OnlyEvents : RecordSink {  // the gaps are the header's
    CompactMaker maker;
    explicit OnlyEvents(const DecodeContext& c) : maker(std::string(c.node), c.creation, true) {}
    void record(const TraceRecord& record) override {
      if (CompactMaker::has_form(record)) maker.record(record);
    }
  } events_only(context);
  decode_records(*header, context, strings, events_only);
  TermBuilder compact = TermBuilder::with_version();
  compact.tuple(7).atom("batch").integer(1).integer(1).tuple(2).integer(1).integer(1);
  compact.term(header->gaps).integer(1).tuple(4).atom("compact").integer(1);
  compact.binary(Bytes(events_only.maker.strings())).binary(Bytes(events_only.maker.records()));
  const auto compact_header = read_batch_header(*view_message(compact.bytes()));
  const DecodeStats compact_stats = decode_records(*compact_header, context, strings, sink);
  if (compact_stats.malformed > 0 || compact_stats.records != stats.records) {
    std::fprintf(stderr, "%s: does not decode as compact records\n", path);
    return 1;
  }

  constexpr int kRounds = 15, kCalls = 40;
  std::vector<double> validate_ns, decode_ns, record_ns, with_hash_ns, hash_ns, print_rate;
  for (int round = 0; round < kRounds; ++round) {
    validate_ns.push_back(time_of(kCalls, [&] { sink.sum += *validate(encoded.subspan(1)); }) /
                          count);
    with_hash_ns.push_back(
        time_of(kCalls, [&] { decode_records(*header, context, etf_strings, sink); }) / count);
    record_ns.push_back(
        time_of(kCalls, [&] { decode_records(*compact_header, context, strings, sink); }) / count);
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
      "\"decode_record_ns_per_event\": %.1f, \"record_bytes_per_event\": %.1f, "
      "\"decode_batch_with_hash_ns_per_event\": %.1f, \"match_hash_ns\": %.1f, \"print_mb_per_s\": "
      "%.1f, "
      "\"bytes_per_event\": %.1f}}\n",
      median(validate_ns), median(decode_ns), median(record_ns),
      static_cast<double>(compact_header->events.size() + compact_header->strings.size()) / count,
      median(with_hash_ns), median(hash_ns), median(print_rate),
      static_cast<double>(encoded.size()) / count);
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
