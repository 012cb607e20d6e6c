// What the readers of both payloads of a batch share (capture_record.h). For the codec's own sources.
#pragma once

#include "ei_codec/batch_strings.h"
#include "ei_codec/capture_record.h"
#include "ei_codec/payload_memo.h"

namespace scope::codec {

// These read a validated term and answer false if it is no such thing.
bool read_peer_pid(const std::byte* at, const StringTable* strings, const DecodeContext& context,
                   Peer& out);
bool read_peer(const std::byte* at, const StringTable* strings, const DecodeContext& context,
               Peer& out);

// Sets match_hash and its flags from the payload, of which `known` remembers it. REQUIRES that this is the whole message.
void hash_message(TraceRecord& record, const HashKey& key, PayloadMemo::Entry& known);

// Sets kSystemMessage, kSystem and kTimeoutNotMessage by the shape of the message in the payload. REQUIRES that there is one.
void describe_message(TraceRecord& record);

// Counts records on their way to the sink.
class Delivery {
 public:
  Delivery(RecordSink& sink, DecodeStats& stats) : sink_(sink), stats_(stats) {}

  void operator()(const TraceRecord& record) {
    if (stats_.records++ == 0) {
      stats_.oldest = stats_.newest = record.time;
    } else {
      stats_.oldest = std::min(stats_.oldest, record.time);
      stats_.newest = std::max(stats_.newest, record.time);
    }
    sink_.record(record);
  }
  void malformed(std::uint64_t count = 1) { stats_.malformed += count; }
  void unreadable() {
    ++stats_.malformed;
    stats_.unreadable = true;
  }

 private:
  RecordSink& sink_;
  DecodeStats& stats_;
};

// The two payloads.
void read_etf(Bytes events, const DecodeContext& context, Delivery& deliver);
void read_compact(Bytes records, const BatchStrings& strings, const DecodeContext& context,
                  Delivery& deliver);

}  // namespace scope::codec
