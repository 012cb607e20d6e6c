// Encoding answers: the maps of api.md. What is not known is the atom unknown, never left out.
//
// MapWriter  a map whose size is not known beforehand: key() then one term, at the end write().
// Errors     {error, {Code, #{field, got, hint}}}.
// Thread     Plain objects, one thread each.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "analysis/explain.h"
#include "analysis/get_events.h"
#include "analysis/query.h"
#include "analysis/state_at.h"
#include "ei_codec/term_builder.h"

namespace scope::node {

class MapWriter {
 public:
  // The caller writes exactly one term into what this returns.
  codec::TermBuilder& key(std::string_view name) {
    ++pairs_;
    return body_.atom(name);
  }
  bool empty() const { return pairs_ == 0; }
  // `more`: pairs that the caller writes into `out` afterwards.
  void write(codec::TermBuilder& out, std::uint32_t more = 0) {
    out.map(pairs_ + more);
    if (pairs_ > 0) out.raw(body_.bytes());
    body_.clear();
    pairs_ = 0;
  }

 private:
  codec::TermBuilder body_;
  std::uint32_t pairs_ = 0;
};

inline constexpr std::size_t kMaxAtoms = 5000;

void unknown(codec::TermBuilder& out);
void text_or_unknown(codec::TermBuilder& out, std::string_view atom);
void error_ns(codec::TermBuilder& out, std::int64_t error);  // unknown where it is
// key => time, key_error => error
void write_time(MapWriter& out, std::string_view key, std::string_view error_key,
                const analysis::Corrected& at);

void write_process(codec::TermBuilder& out, const analysis::Process& process);
void write_process(codec::TermBuilder& out, const store::View& view, const ProcessId& process);
void write_peer(codec::TermBuilder& out, const store::View& view, const store::StoredRow& row);
void write_mfa(codec::TermBuilder& out, const codec::Mfa& mfa);
// The captured term, or unknown.
void write_payload(codec::TermBuilder& out, const codec::TraceRecord& record);
void write_event(codec::TermBuilder& out, const store::View& view,
                 const analysis::ClockModel& clock, const analysis::Event& event);
void write_completeness(codec::TermBuilder& out, const analysis::Completeness& completeness);
void write_explain(codec::TermBuilder& out, const analysis::Explain& explain);
void write_cursor(codec::TermBuilder& out, std::string_view cursor);  // none when empty

void write_error(codec::TermBuilder& out, const Error& error);  // {Code, #{..}}

// How many distinct atoms the encoded term holds, counting up to `limit` + 1.
std::size_t count_atoms(codec::Bytes term, std::size_t limit = kMaxAtoms);

}  // namespace scope::node
