#include "analysis/trace_outward.h"

#include <algorithm>
#include <tuple>

#include "analysis/causal_trace.h"
#include "analysis/resolve.h"

namespace scope::analysis {
namespace {

using codec::EventType;
using codec::TraceRecord;

constexpr int kRounds = 4;
constexpr std::uint32_t kTypes = bit(EventType::message_send) | bit(EventType::message_fetch) |
                                 bit(EventType::message_take) | bit(EventType::process_spawn) |
                                 bit(EventType::process_exit);
constexpr std::uint32_t kTokens = bit(EventType::seq_send) | bit(EventType::seq_receive);

}  // namespace

std::vector<std::uint32_t> roots_of(const std::vector<Span>& spans) {
  std::vector<std::uint32_t> roots(spans.size(), kNoSpan), path;
  for (std::uint32_t i = 0; i < spans.size(); ++i) {
    auto at = i;
    path.clear();
    while (roots[at] == kNoSpan && spans[at].parent != kNoSpan) {
      path.push_back(at);
      at = spans[at].parent;
    }
    const auto root = roots[at] == kNoSpan ? at : roots[at];
    roots[at] = root;
    for (const auto p : path) roots[p] = root;
  }
  return roots;
}

Outward::Outward(const Context& context, const ClockModel& clock)
    : context_(context), clock_(clock), receivers_(context, clock) {}

std::unique_ptr<Causality> Outward::read(const ScanSpec& spec, const EventId& id) {
  possible_ = possible_ && extend(spec);
  if (!possible_) return nullptr;
  guess(id);
  std::size_t worked = 0;  // rows
  for (int round = 0; round < kRounds && !too_many() && worked < rows_.size(); ++round) {
    worked += wanted_;
    auto causality = work_out(spec);
    if (!causality) break;
    const auto found = judge(*causality, id);
    if (found == Found::whole) return causality;
    if (found == Found::no) break;
  }
  possible_ = false;
  return nullptr;
}

// Unit by unit: within one a process's rows follow each other. Their order as a whole does not matter here.
bool Outward::extend(ScanSpec spec) {
  if (read_until_) spec.since = ClusterTime{read_until_->ns + 1};
  read_until_ = spec.until;
  spec.types = kTypes | kTokens;
  spec.payload = false;
  spec.order = Order::oldest_first;
  const auto plan = make_plan(context_, clock_, spec);
  spec.types = kTypes;
  const auto filter = row_filter(spec, plan);
  for (const auto& unit : plan.units) {
    if (rows_.size() > kMaxRows || context_.budget.spent()) return false;
    const auto& from = context_.view->units()[unit.unit];
    if ((from.types & kTokens) != 0) return false;
    const auto rows = context_.view->read(from, filter);
    if (!rows) return false;
    ProcessId process;
    Chain* own = nullptr;
    for (const auto& row : rows->rows) {
      const auto at = clock_.cluster(row.process.incarnation, row.record.time);
      if (at.time < *spec.since || at.time > *spec.until) continue;
      if (own == nullptr || row.process != process) {
        process = row.process;
        own = &by_process_[receivers_.home(process)];
      }
      append(row, at, unit.unit, *own);
    }
  }
  wanted_ = 0;
  for (const auto& p : processes_) wanted_ += by_process_.find(p)->second.rows;
  return rows_.size() <= kMaxRows;
}

void Outward::append(const store::StoredRow& from, const Corrected& at, std::uint32_t unit,
                     Chain& own) {
  const auto place = static_cast<std::uint32_t>(rows_.size());
  const auto& record = from.record;
  auto& row = rows_.emplace_back();
  row.at = at;
  row.id = from.id();
  row.process = receivers_.home(from.process);
  row.hash = record.has(TraceRecord::kHashed) ? record.match_hash : 0;
  row.unit = unit;
  row.type = record.type;
  row.flags = record.flags;
  if (row.type == EventType::message_send) row.to = receivers_.destination(from, at.time);
  if (row.type == EventType::process_spawn) {
    row.to.process = receivers_.other_end(from);
    spawns_.push_back(place);
  }
  const auto link = [&](Chain& chain, std::uint32_t Row::* next) {
    (chain.first == kNone ? chain.first : rows_[chain.last].*next) = place;
    chain.last = place;
    ++chain.rows;
  };
  own.takes |= row.type == EventType::message_take;
  link(own, &Row::next_of_process);
  if (row.type != EventType::message_send && !row.arrives()) return;
  last_message_ = std::max(last_message_, at.time);
  if (row.hash != 0) link(by_hash_[row.hash], &Row::next_of_hash);
}

template <typename Each>
void Outward::of_process(const ProcessId& process, Each each) const {
  const auto chain = by_process_.find(process);
  if (chain == by_process_.end()) return;
  for (auto i = chain->second.first; i != kNone; i = rows_[i].next_of_process) each(i);
}

template <typename Each>
void Outward::of_hash(std::uint64_t hash, Each each) const {
  const auto chain = by_hash_.find(hash);
  if (hash == 0 || chain == by_hash_.end()) return;
  for (auto i = chain->second.first; i != kNone; i = rows_[i].next_of_hash) each(i);
}

// The row with which the process began what it was at.
std::uint32_t Outward::begun(const ProcessId& process, ClusterTime at) const {
  const auto own = by_process_.find(process);
  if (own == by_process_.end()) return kNone;
  auto out = kNone;
  of_process(process, [&](std::uint32_t i) {
    const auto& row = rows_[i];
    const bool begins =
        row.type == (own->second.takes ? EventType::message_take : EventType::message_fetch) ||
        (row.type == EventType::process_spawn && (row.flags & TraceRecord::kChildSide) != 0);
    if (begins && row.at.time <= at) out = i;
  });
  return out;
}

// The send or spawn that this taking, fetch or spawning came from.
std::uint32_t Outward::cause(std::uint32_t begun) const {
  const auto& row = rows_[begun];
  auto out = kNone;
  if (row.type == EventType::process_spawn) {
    of_process(row.to.process, [&](std::uint32_t i) {
      if (rows_[i].at.time <= row.at.time) out = i;
    });
    return out;
  }
  of_hash(row.hash, [&](std::uint32_t i) {
    if (!rows_[i].sent_to(row.process) || rows_[i].at.time > row.at.time) return;
    if (out == kNone || rows_[out].at.time <= rows_[i].at.time) out = i;
  });
  return out;
}

void Outward::guess(const EventId& id) {
  auto process = receivers_.home(id.process);
  auto at = clock_.cluster(id.process.incarnation, id.time).time;
  boost::unordered_flat_set<std::uint32_t> seen;
  while (true) {
    include(process);
    const auto first = begun(process, at);
    if (first == kNone || !seen.insert(first).second) break;
    const auto by = cause(first);
    if (by == kNone) {
      at = rows_[first].at.time;
      break;
    }
    process = rows_[by].process;
    at = rows_[by].at.time;
  }
  struct Visit {
    ProcessId process;
    ClusterTime from;
  };
  std::vector<Visit> visits{{process, at}};
  seen.clear();
  while (!visits.empty() && !too_many()) {
    const auto visit = visits.back();
    visits.pop_back();
    include(visit.process);
    bool over = false;
    of_process(visit.process, [&](std::uint32_t i) {
      const auto& row = rows_[i];
      over |= row.type == EventType::message_take && row.at.time > visit.from;
      if (over || row.at.time < visit.from) return;
      if (row.type == EventType::process_spawn && (row.flags & TraceRecord::kChildSide) == 0 &&
          seen.insert(i).second)
        visits.push_back({row.to.process, row.at.time});
      if (row.type != EventType::message_send) return;
      hashes_.insert(row.hash);
      of_hash(row.hash, [&](std::uint32_t a) {
        const auto& arrival = rows_[a];
        if (!arrival.arrives() || !row.sent_to(arrival.process)) return;
        const bool begins = arrival.type == EventType::message_take ||
                            !by_process_.find(arrival.process)->second.takes;
        include(arrival.process);
        if (begins && seen.insert(a).second) visits.push_back({arrival.process, arrival.at.time});
      });
    });
  }
}

void Outward::include(const ProcessId& process) {
  const auto own = by_process_.find(process);
  if (own == by_process_.end() || !processes_.insert(process).second) return;
  wanted_ += own->second.rows;
}

// To read all rows costs less than twice as much then.
bool Outward::too_many() const { return wanted_ * 10 > rows_.size() * 6; }

std::unique_ptr<Causality> Outward::work_out(const ScanSpec& spec) {
  ScanSpec own = spec;
  for (const auto& info : context_.view->incarnations()) {
    for (const auto& p : processes_) {
      if (p.incarnation == info.home) own.processes.push_back({info.number, p.id, p.serial});
    }
  }
  if (own.processes.empty()) return nullptr;  // would be all
  std::ranges::sort(own.processes);
  std::vector<std::uint32_t> others;
  for (const auto hash : hashes_) {
    of_hash(hash, [&](std::uint32_t i) {
      if (!processes_.contains(rows_[i].process)) others.push_back(i);
    });
  }
  for (const auto i : spawns_) {
    if (processes_.contains(rows_[i].to.process) && !processes_.contains(rows_[i].process))
      others.push_back(i);
  }
  if (others.size() > rows_.size() / 4) return nullptr;
  std::ranges::sort(others, {}, [&](auto i) { return std::tie(rows_[i].at.time, rows_[i].id); });
  std::vector<Hit> hits;
  for (const auto i : others) {
    const auto& row = rows_[i];
    hits.push_back({row.at, row.id, row.unit, row.type, row.flags, row.hash, {}});
  }
  const auto loaded = load(context_, hits, SIZE_MAX);
  if (loaded.events.size() != hits.size()) return nullptr;

  auto out = std::make_unique<Causality>(context_, clock_);
  std::size_t next = 0;
  const auto add_others = [&](const RowStream::Item* before) {
    for (; next < hits.size(); ++next) {
      const auto& other = hits[next];
      if (before != nullptr &&
          std::tuple(before->at.time, before->row->id()) < std::tuple(other.at.time, other.id))
        return;
      const RowStream::Item item{&loaded.events[next].row, other.at, other.unit, {}};
      if (other.type == EventType::process_spawn) {
        out->add(item);
      } else {
        out->add_message(item);
      }
    }
  };
  RowStream rows(context_, clock_, std::move(own));
  for (RowStream::Item item; rows.next(item);) {
    add_others(&item);
    out->add(item);
  }
  add_others(nullptr);
  if (rows.cut() || rows.corrupt_blocks() != 0) return nullptr;
  out->advance(last_message_);
  out->finish();
  return out;
}

Outward::Found Outward::judge(const Causality& causality, const EventId& id) {
  const auto& spans = causality.spans();
  const auto span = causality.span_of(id);
  if (span == kNoSpan) return Found::no;
  const auto roots = roots_of(spans);
  const auto root = roots[span];
  if (spans[root].root == RootKind::system) return Found::no;
  const auto inside = [&](std::uint32_t s) { return s != kNoSpan && roots[s] == root; };

  bool sure = true, whole = true;
  std::vector<ProcessId> needed;
  const auto need = [&](const ProcessId& p) {
    if (by_process_.contains(p) && !processes_.contains(p)) needed.push_back(p);
  };
  const auto need_content = [&](std::uint64_t hash) {
    sure &= hash != 0 && !causality.narrowed(hash);
    whole &= !hashes_.insert(hash).second;
  };
  boost::unordered_flat_set<ProcessId, std::hash<ProcessId>> parties;
  for (std::uint32_t s = 0; s < spans.size(); ++s) {
    if (inside(s)) parties.insert(receivers_.home(spans[s].process));
  }
  // A span of a spawn may name its child as the parent's row does.
  for (const auto i : spawns_) {
    if (inside(causality.span_of(rows_[i].id)))
      parties.insert({rows_[i].process, rows_[i].to.process});
  }
  for (const auto& p : parties) {
    need(p);
    of_process(p, [&](std::uint32_t i) {
      const auto& row = rows_[i];
      sure &= row.type != EventType::process_exit;
      if (row.type != EventType::message_send || row.to.kind == Destination::Kind::nobody ||
          (row.flags & TraceRecord::kDeadReceiver) != 0 || !inside(causality.span_of(row.id)))
        return;
      need_content(row.hash);
      of_hash(row.hash, [&](std::uint32_t a) {
        if (rows_[a].arrives() && row.sent_to(rows_[a].process)) need(rows_[a].process);
      });
    });
  }
  of_process(receivers_.home(spans[root].process), [&](std::uint32_t i) {
    const auto& row = rows_[i];
    if (row.id != spans[root].id || !row.arrives() || spans[root].root == RootKind::timer ||
        spans[root].root == RootKind::port)
      return;
    need_content(row.hash);
    of_hash(row.hash, [&](std::uint32_t s) {
      if (rows_[s].sent_to(row.process)) need(rows_[s].process);
    });
  });
  for (const auto& p : needed) include(p);
  if (!sure) return Found::no;
  return whole && needed.empty() ? Found::whole : Found::lacking;
}

}  // namespace scope::analysis
