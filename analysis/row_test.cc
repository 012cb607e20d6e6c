#include "analysis/row_test.h"

#include <algorithm>

namespace scope::analysis {

bool matches(const MfaSpec& spec, const codec::Mfa& mfa) {
  return spec.module == mfa.module && (spec.function.empty() || spec.function == mfa.function) &&
         (!spec.arity || *spec.arity == mfa.arity);
}

RowTest::RowTest(const Context& context, const ClockModel& clock, const Filter& filter)
    : context_(context), clock_(clock), filter_(filter), types_(filter.types) {
  if (!filter.text.empty()) text_.emplace(filter.text);
}

Status RowTest::prepare(ClusterTime from, ClusterTime until, ScanSpec& spec) {
  if (!filter_.nodes.empty()) {
    ASSIGN_OR_RETURN(spec.incarnations, incarnations_of(*context_.view, filter_.nodes));
  }
  if (filter_.pid) {
    ASSIGN_OR_RETURN(pid_, resolve(context_, clock_, *filter_.pid, from, until, "pid"));
    spec.processes = pid_->ids;
  }
  if (filter_.peer) {
    ASSIGN_OR_RETURN(peer_, resolve(context_, clock_, *filter_.peer, from, until, "peer"));
    peer_matcher_.emplace(context_, clock_, *peer_);
    RETURN_IF_ERROR(peer_matcher_->status());
  }
  spec.types = types_;
  if (filter_.min_duration_ns) {
    durations_.emplace(context_);
    types_ &= kExitTypes;
    spec.types = types_ | kEntryType | kExitTypes;
    spec.on_unit = [this](std::uint32_t unit, const store::Rows& rows) { read(unit, rows); };
  }
  if (filter_.mfa) {
    spec.mfas = {{filter_.mfa->module, filter_.mfa->function, filter_.mfa->arity}};
  } else {
    for (const auto& module : filter_.modules) spec.mfas.push_back({module, {}, {}});
  }
  if (durations_) durations_->ask(spec.mfas);
  spec.text = filter_.text;
  if (filter_.trace_id) spec.traces = {store::trace_key(*filter_.trace_id)};
  spec.payload = filter_.match || text_ || filter_.trace_id;
  return {};
}

void RowTest::read(std::uint32_t unit, const store::Rows& rows) {
  if (durations_) durations_->read(unit, rows);
}

Verdict RowTest::accept(const store::StoredRow& row, Hit& hit) {
  if ((types_ & 1u << static_cast<unsigned>(row.record.type)) == 0) return Verdict::no;
  const auto& mfa = row.record.mfa;
  if (filter_.mfa && !matches(*filter_.mfa, mfa)) return Verdict::no;
  if (!filter_.modules.empty() &&
      std::ranges::find(filter_.modules, mfa.module) == filter_.modules.end()) {
    return Verdict::no;
  }
  if (peer_matcher_ && peer_matcher_->means(row, hit.at.time) != Means::yes) return Verdict::no;
  Verdict verdict = Verdict::yes;
  if (filter_.trace_id && !store::has_trace_id(row.record.payload, *filter_.trace_id)) {
    const bool whole = !row.record.has(codec::TraceRecord::kTruncated) &&
                       !row.record.has(codec::TraceRecord::kRedacted);
    if (whole) return Verdict::no;
    verdict = Verdict::unknown;
  }
  if (filter_.match) {
    if (const Verdict found = filter_.match->matches(row.record); found != Verdict::yes)
      verdict = found;
  }
  if (verdict != Verdict::no && text_) {
    const Verdict found = text_->matches(row.record);
    if (found != Verdict::yes) verdict = found;
  }
  if (verdict != Verdict::no && durations_) {
    hit.duration_ns = durations_->of(row);
    if (!hit.duration_ns || *hit.duration_ns < *filter_.min_duration_ns) return Verdict::no;
  }
  return verdict;
}

bool RowTest::by_scan() const {
  return !peer_matcher_ && !filter_.trace_id && !filter_.match && !text_ && !durations_ &&
         (!filter_.mfa || filter_.modules.empty());
}

Asked RowTest::asked() const {
  Asked asked(filter_.types);
  if (pid_) asked.processes = pid_->ids;
  if (filter_.mfa) asked.function = &*filter_.mfa;
  asked.modules = filter_.modules;
  return asked;
}

std::vector<Incarnation> RowTest::concerned(const ScanSpec& spec) const {
  if (!pid_) return spec.incarnations;
  std::vector<Incarnation> own;
  for (const auto& id : pid_->ids) {
    if (spec.incarnations.empty() ||
        std::ranges::binary_search(spec.incarnations, id.incarnation)) {
      own.push_back(id.incarnation);
    }
  }
  return own;
}

}  // namespace scope::analysis
