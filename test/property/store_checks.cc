// What is asked of the store in a run, and what the model says to it.
#include "analysis/aggregate.h"
#include "analysis/event_scan.h"
#include "analysis/get_events.h"
#include "analysis/message_flow.h"
#include "analysis/state_at.h"
#include "analysis/state_history.h"
#include "analysis/text_search.h"
#include "test/property/store_run.h"

namespace scope::test {
namespace {

using analysis::ClockModel;
using codec::EventType;
using store::StoredRow;

std::string text_of(const Result<analysis::MessageFlow>& flow) {
  if (!flow) return fmt::format("error {}", static_cast<int>(flow.error().code));
  std::string out;
  const auto point = [](const std::optional<analysis::FlowPoint>& p) {
    return p ? fmt::format("{}.{}@{}#{}", p->id.process.incarnation, p->id.process.id,
                           p->id.time.ns, p->id.ordinal)
             : std::string("-");
  };
  for (const auto& m : flow->messages)
    out += fmt::format("{} {} -> {} {} {} {}\n", m.a_to_b, to_text(m.send.row), point(m.fetch),
                       point(m.take), static_cast<int>(m.matched), m.candidates);
  return out;
}
std::string text_of(const Result<analysis::StateHistory>& history) {
  if (!history) return fmt::format("error {}", static_cast<int>(history.error().code));
  std::string out;
  for (const auto& t : history->transitions)
    out +=
        fmt::format("{} <- {} {} {}\n", to_text(t.state.row), t.cause ? to_text(t.cause->row) : "-",
                    t.sender ? t.sender->id : 0, static_cast<int>(t.certainty));
  return out;
}
// By function.
std::string text_of(const Result<analysis::Aggregate>& a) {
  if (!a) return fmt::format("error {}", static_cast<int>(a.error().code));
  std::vector<std::string> out;
  for (const auto& g : a->groups) {
    const auto& v = g.measured.values;
    out.push_back(fmt::format("{}:{}/{} | {} {} {} {}", g.module, g.function, g.arity,
                              g.measured.rows, v.count(), v.count() ? v.min() : 0,
                              v.count() ? v.max() : 0));
  }
  std::ranges::sort(out);
  return fmt::format("{}\n", fmt::join(out, "\n"));
}
std::string text_of(const Result<analysis::EventsPage>& page) {
  if (!page) return fmt::format("error {}", static_cast<int>(page.error().code));
  std::string out;
  for (const auto& e : page->events) out += to_text(e.row) + "\n";
  return out;
}

bool holds_trace(store::Bytes payload, const store::TraceId& id) {
  const std::string_view text(reinterpret_cast<const char*>(payload.data()), payload.size());
  std::string digits;
  for (const auto byte : id) digits += fmt::format("{:02x}", byte);
  return text.find(digits) != text.npos;
}

// The first line in which two texts differ.
std::string difference(const std::string& a, const std::string& b) {
  std::size_t begin = 0, i = 0;
  for (; i < a.size() && i < b.size() && a[i] == b[i]; ++i) {
    if (a[i] == '\n') begin = i + 1;
  }
  const auto line = [begin](const std::string& s) {
    return begin < s.size() ? s.substr(begin, s.find('\n', begin) - begin) : std::string("(end)");
  };
  return fmt::format("got      {}\nexpected {}", line(a), line(b));
}
void same(std::string_view what, const std::string& got, const std::string& expected) {
  if (got != expected) RC_FAIL(fmt::format("{}\n{}", what, difference(got, expected)));
}
std::string joined(const std::vector<std::string>& list) {
  return fmt::format("{}", fmt::join(list, "\n"));
}

}  // namespace

void Run::check_rows(const store::View& view, std::mt19937& random) {
  store::RowFilter f;
  same("all rows", joined(rows_of(view, f)), joined(model_.texts(f)));
  const ProcessId p = some_process(random);
  const store::MfaPattern mfa{
      random() % 2 ? "shop" : "Elixir.Stock", random() % 2 ? "rare" : "", {}};
  const auto row = some_row(random);
  const std::uint64_t hash = row ? row->record.match_hash : 1;
  const store::TimeRange range{numbers_[random() % kAgents],
                               {row ? row->record.time.ns - (1 << 28) : 0},
                               {row ? row->record.time.ns + (1 << 28) : 0}};
  const std::string_view word = kWords[random() % 5];
  store::Selection s;
  if (random() % 2) s.rows.processes = {&p, 1};
  if (random() % 2) s.rows.types = static_cast<std::uint32_t>(random());
  if (random() % 4 == 0) s.rows.mfas = {&mfa, 1};
  if (random() % 4 == 0) s.rows.match_hashes = {&hash, 1};
  if (random() % 4 == 0) s.times = {&range, 1};
  if (random() % 3 == 0) s.texts = {&word, 1};
  const auto trace = *store::read_trace_id(trace_id(random() % 4));
  const auto trace_key = store::trace_key(trace);
  if (random() % 3 == 0) s.rows.traces = {&trace_key, 1};
  f = s.rows;
  if (random() % 3 == 0) {
    f.processes = {};
    f.incarnations = {&range.incarnation, 1};
    f.from = range.from;
    f.until = range.until;
  } else if (random() % 3 == 0) {
    f.times = {&range, 1};
  }
  f.traces = {};  // rows without the id may come
  same("rows by filter", joined(rows_of(view, f)), joined(model_.texts(f)));
  f = s.rows;
  f.newest_only = true;
  f.payload = false;
  // Per unit: of each process the newest of its rows there; and those that are chosen by their keys.
  auto by_key = s.rows;
  by_key.choose = [](const store::RowKey& key) {
    const bool even = (key.id.time.ns >> kTickBits) % 2 == 0;
    return even && key.type != EventType::message_fetch ? store::Choice::make
                                                        : store::Choice::leave;
  };
  std::vector<std::string> got, want, chosen, want_chosen;
  for (const auto& unit : view.units()) {
    const auto rows = view.read(unit, f);
    if (!rows) RC_FAIL(to_string(rows.error()));
    for (const auto& r : rows->rows) got.push_back(to_text(r));
    const auto all = view.read(unit, s.rows);
    const auto some = view.read(unit, by_key);
    RC_ASSERT(all.has_value() && some.has_value());
    for (const auto& r : some->rows) chosen.push_back(to_text(r));
    for (std::size_t i = 0; i < all->rows.size(); ++i) {
      const auto& one = all->rows[i];
      if (by_key.choose({one.id(), one.record.type, one.record.flags}) == store::Choice::make)
        want_chosen.push_back(to_text(one));
      if (i + 1 < all->rows.size() && all->rows[i + 1].process == all->rows[i].process) continue;
      auto r = all->rows[i];
      r.record.payload = {};
      want.push_back(to_text(r));
    }
  }
  same("newest rows by filter", joined(got), joined(want));
  same("rows by their keys", joined(chosen), joined(want_chosen));

  const auto found = view.candidates(s);
  const auto units = view.units();
  const auto wanted = model_.rows([&](const ModelRow& r) {
    if (!StoreModel::wants(s.rows, r.row)) return false;
    if (!s.times.empty() && (r.row.process.incarnation != range.incarnation ||
                             r.row.record.time < range.from || r.row.record.time > range.until))
      return false;
    // Looked for in another way than the store does.
    if (!s.rows.traces.empty() && !holds_trace(r.row.record.payload, trace)) return false;
    return s.texts.empty() ||
           std::string_view(reinterpret_cast<const char*>(r.row.record.payload.data()),
                            r.row.record.payload.size())
                   .find(word) != std::string_view::npos;
  });
  for (const auto* r : wanted) {
    // Several blocks may share an LSN: one of them must be a candidate and hold it.
    bool held = false;
    for (const auto i : found.units) {
      if (units[i].first > r->lsn || units[i].last < r->lsn) continue;
      store::RowFilter one;
      one.processes = {&r->row.process, 1};
      one.traces = s.rows.traces;
      const auto rows = view.read(units[i], one);
      RC_ASSERT(rows.has_value());
      held |= std::ranges::any_of(rows->rows, [&](const auto& x) { return x.id() == r->row.id(); });
    }
    if (!held) RC_FAIL("no candidate holds " + r->text);
  }
}

void Run::check_sums(const store::View& view, std::mt19937& random) {
  const auto row = some_row(random);
  if (!row) return;
  const auto n = row->process.incarnation;
  const store::TimeRange range{n, {row->record.time.ns - 3'000'000'000}, {row->record.time.ns}};
  const store::MfaPattern mfa{"shop", random() % 2 ? "call" : "", {}};
  store::RollupSpec spec;
  if (random() % 2) spec.times = {&range, 1};
  if (random() % 3 == 0) spec.mfas = {&mfa, 1};
  if (random() % 3 == 0) spec.types = static_cast<std::uint32_t>(random());
  if (random() % 3 == 0) spec.incarnations = {&n, 1};
  spec.by_second = random() % 2;
  std::map<std::string, std::uint64_t> got, want;
  const auto key = [&](Incarnation i, std::int64_t second, EventType type, const codec::Mfa& f) {
    return fmt::format("{} {} {} {}:{}/{}", i, spec.by_second ? second : 0, static_cast<int>(type),
                       f.module, f.function, f.arity);
  };
  const auto floor_second = [](std::int64_t ns) {
    return ns / 1'000'000'000 - (ns % 1'000'000'000 < 0);
  };
  for (const auto* r : model_.rows([](const ModelRow&) { return true; })) {
    const auto& rec = r->row.record;
    const auto second = floor_second(rec.time.ns);
    if ((spec.types >> static_cast<unsigned>(rec.type) & 1U) == 0) continue;
    if (!spec.mfas.empty() && !mfa.matches(rec.mfa)) continue;
    if (!spec.incarnations.empty() && r->row.process.incarnation != n) continue;
    if (!spec.times.empty() &&
        (r->row.process.incarnation != n || second * 1'000'000'000 < range.from.ns ||
         second * 1'000'000'000 + 999'999'999 > range.until.ns))
      continue;
    ++want[key(r->row.process.incarnation, second, rec.type, rec.mfa)];
  }
  const auto info = view.rollup(spec, [&](const store::RollupCell& c) {
    got[key(c.incarnation, c.second, c.type, c.mfa)] += c.rows;
  });
  RC_ASSERT(info.has_value() && info->missing.empty());
  const auto lines = [](const auto& map) {
    std::string out;
    for (const auto& [k, v] : map) out += fmt::format("{} = {}\n", k, v);
    return out;
  };
  same("rollup", lines(got), lines(want));

  got.clear();
  want.clear();
  const ProcessId sender = row->process;
  const bool one = random() % 2;
  const auto edge = [](const ProcessId& p, const codec::Peer& to) {
    return fmt::format("{}.{} -> {} {} {} {}.{}", p.incarnation, p.id, static_cast<int>(to.kind),
                       to.node, to.name, to.creation, to.id);
  };
  for (const auto* r : model_.rows([&](const ModelRow& x) {
         return x.row.record.type == EventType::message_send && (!one || x.row.process == sender);
       }))
    ++want[edge(r->row.process, r->row.record.peer)];
  const auto edges =
      view.edges(one ? std::span(&sender, 1) : std::span<const ProcessId>{},
                 [&](const store::EdgeCell& c) { got[edge(c.sender, c.receiver)] += c.rows; });
  RC_ASSERT(edges.has_value() && edges->missing.empty());
  same("edges", lines(got), lines(want));
}

analysis::Filter Run::some_filter(const ClockModel& clock, std::mt19937& random) const {
  analysis::Filter f;
  f.order = random() % 2 ? analysis::Order::newest_first : analysis::Order::oldest_first;
  if (random() % 2) f.pid = some_pid(random);
  if (random() % 2) f.types = static_cast<std::uint32_t>(random());
  if (random() % 3 == 0) f.mfa = analysis::MfaSpec{"shop", random() % 2 ? "rare" : "", {}};
  if (random() % 4 == 0) f.modules = {"Elixir.Stock", "gen_server"};
  if (random() % 4 == 0) f.nodes = {random() % 2 ? "a@host" : "b@host"};
  if (random() % 3 == 0) f.text = kWords[random() % 5];
  if (random() % 4 == 0) f.trace_id = store::read_trace_id(trace_id(random() % 4));
  const auto row = some_row(random);
  if (row && random() % 2) {
    const auto at = clock.cluster(row->process.incarnation, row->record.time).time.ns;
    f.since = ClusterTime{at - static_cast<std::int64_t>(random() % 3'000'000'000U)};
    if (random() % 2) f.until = ClusterTime{at};
  }
  return f;
}

// By pages, while more arrives: what it was when the walk began.
void Run::check_walk(std::mt19937& random) {
  auto view = store_->snapshot();
  const ClockModel clock(*view);
  auto filter = some_filter(clock, random);
  filter.limit = 1 + static_cast<std::uint32_t>(random() % 60);
  const analysis::TextSearch search(filter.text.empty() ? "x" : filter.text);
  const auto upper = model_.last_lsn();
  struct Keyed {
    ClusterTime at;
    const ModelRow* row;
  };
  std::vector<Keyed> wanted;
  for (const auto* r : model_.rows([&](const ModelRow& x) {
         const auto& rec = x.row.record;
         const auto& m = makers_[static_cast<std::size_t>(
             std::ranges::find(numbers_, x.row.process.incarnation) - numbers_)];
         const auto* pid = filter.pid ? &std::get<analysis::PidSpec>(*filter.pid) : nullptr;
         const auto at = clock.cluster(x.row.process.incarnation, rec.time).time;
         const auto since = filter.since ? std::get<ClusterTime>(*filter.since) : at;
         const auto until = filter.until ? std::get<ClusterTime>(*filter.until) : at;
         if (filter.trace_id && !holds_trace(rec.payload, *filter.trace_id)) return false;
         return x.lsn <= upper && (filter.types >> static_cast<unsigned>(rec.type) & 1U) != 0 &&
                (!pid || (pid->node == m.node() && pid->id == x.row.process.id &&
                          pid->serial == x.row.process.serial)) &&
                (!filter.mfa ||
                 store::MfaPattern{filter.mfa->module, filter.mfa->function, {}}.matches(
                     rec.mfa)) &&
                (filter.modules.empty() ||
                 std::ranges::find(filter.modules, rec.mfa.module) != filter.modules.end()) &&
                (filter.nodes.empty() || filter.nodes.front() == m.node()) && at >= since &&
                at <= until &&
                (filter.text.empty() || search.matches(rec) == analysis::Verdict::yes);
       }))
    wanted.push_back({clock.cluster(r->row.process.incarnation, r->row.record.time).time, r});
  std::ranges::sort(wanted, [&](const Keyed& a, const Keyed& b) {
    const auto x = std::pair(a.at, a.row->row.id()), y = std::pair(b.at, b.row->row.id());
    return filter.order == analysis::Order::newest_first ? y < x : x < y;
  });
  std::string got, want;
  std::vector<std::pair<EventId, std::string>> given;
  for (const auto& k : wanted) want += k.row->text + "\n";
  for (int pages = 0;; ++pages) {
    const auto page = analysis::get_events(context(view), filter);
    if (!page && wanted.empty()) return;  // of that process nothing was recorded
    if (!page) RC_FAIL(to_string(page.error()));
    RC_ASSERT(page->completeness.corrupt_blocks == 0U);
    for (const auto& e : page->events) given.emplace_back(e.row.id(), to_text(e.row));
    if (page->next.empty()) break;
    filter.cursor = page->next;
    if (pages < 3) {
      const auto node = static_cast<std::uint8_t>(random() % kAgents);
      apply({random() % 2 ? Op::batch : Op::late, node, 30, static_cast<std::uint32_t>(random())});
      if (random() % 3 == 0) apply({Op::clock, node, 0, static_cast<std::uint32_t>(random())});
      if (random() % 2) flush();
      view = store_->snapshot();
    }
  }
  // A row that came later may be shown, once it shares a block with rows that were there: blocks do not say which batch a row
  // came with.
  std::map<EventId, store::Lsn> came;
  for (const auto& r : model_.all()) came[r.row.id()] = r.lsn;
  for (const auto& [id, text] : given) {
    if (came.at(id) <= upper) got += text + "\n";
  }
  same("get_events by pages", got, want);
}

// Page by page: the best by their keys, and the best of all rows, made and looked at. Some with no time left.
void Run::check_scan(const std::shared_ptr<const store::View>& view, std::mt19937& random) {
  const ClockModel clock(*view);
  const auto row = some_row(random);
  if (!row) return;
  analysis::ScanSpec spec;
  if (random() % 2) spec.processes = {row->process};
  if (random() % 3 == 0) spec.incarnations = {numbers_[random() % kAgents]};
  if (random() % 3 == 0) spec.types = static_cast<std::uint32_t>(random());
  if (random() % 4 == 0) spec.mfas = {{"shop", random() % 2 ? "rare" : "", {}}};
  if (random() % 6 == 0) spec.match_hashes = {row->record.match_hash};
  const auto at = clock.cluster(row->process.incarnation, row->record.time).time;
  if (random() % 3 == 0)
    spec.since = ClusterTime{at.ns - static_cast<std::int64_t>(random() % 3'000'000'000U)};
  if (random() % 3 == 0) spec.until = at;
  if (random() % 2) spec.order = analysis::Order::oldest_first;
  spec.limit = 1 + random() % 20;
  auto by_rows = spec;
  by_rows.accept = [](const StoredRow&, analysis::Hit&) { return true; };
  auto asked = context(view);
  if (random() % 4 == 0) asked.budget.deadline = std::chrono::steady_clock::now();
  const auto page = [](const analysis::ScanResult& r) {
    std::string out = fmt::format("{} units {} cut {}", r.units_read, r.corrupt_blocks, r.cut);
    for (const auto& h : r.hits)
      out += fmt::format("\n{} {} {}.{}.{} {} {} in {}: {} {}", h.at.time.ns, h.at.error_ns,
                         h.id.process.incarnation, h.id.process.id, h.id.process.serial,
                         h.id.time.ns, h.id.ordinal, h.unit, static_cast<int>(h.type), h.flags);
    return out;
  };
  for (int pages = 0; pages < 20; ++pages) {
    const auto got = analysis::scan(asked, clock, spec);
    const auto want = analysis::scan(asked, clock, by_rows);
    same("the best by their keys", page(got), page(want));
    RC_ASSERT(got.resume.has_value() == want.resume.has_value());
    if (!got.resume) break;
    RC_ASSERT(got.resume->time == want.resume->time && got.resume->id == want.resume->id);
    spec.after = by_rows.after = got.resume;
  }
}

void Run::check_state(const std::shared_ptr<const store::View>& view, std::mt19937& random) {
  const ClockModel clock(*view);
  const auto pid = some_pid(random);
  const auto row = some_row(random);
  if (!row) return;
  const auto at = clock.cluster(row->process.incarnation, row->record.time).time;
  const auto state = analysis::state_at(context(view), pid, at);
  const ModelRow* newest = nullptr;
  std::pair<ClusterTime, EventId> newest_key;
  bool exited = false;
  for (const auto* r : model_.rows([&](const ModelRow& x) {
         return x.row.process.id == pid.id &&
                (x.row.process.incarnation != numbers_[2]) == (pid.creation == 7);
       })) {
    const auto time = clock.cluster(r->row.process.incarnation, r->row.record.time).time;
    if (time > at) continue;
    exited |= r->row.record.type == EventType::process_exit;
    if (r->row.record.type != EventType::state_change) continue;
    const auto key = std::pair(time, r->row.id());
    if (newest != nullptr && key < newest_key) continue;
    newest = r;
    newest_key = key;
  }
  if (state) {
    same("state_at", to_text(state->state.row), newest ? newest->text : "none");
  } else if (newest != nullptr && !exited && !dropped_) {
    RC_FAIL(
        fmt::format("state_at says {}, and there is {}", to_string(state.error()), newest->text));
  }
}

void Run::check_counts(const std::shared_ptr<const store::View>& view, std::mt19937& random) {
  const ClockModel clock(*view);
  analysis::AggregateSpec spec;
  spec.filter.types = random() % 2 ? ~0U : static_cast<std::uint32_t>(random());
  const auto row = some_row(random);
  if (row && random() % 3 != 0) {
    const auto at = clock.cluster(row->process.incarnation, row->record.time).time.ns;
    spec.filter.since = ClusterTime{at - static_cast<std::int64_t>(random() % 5'000'000'000U)};
    spec.filter.until = ClusterTime{at};
  }
  const bool node = random() % 2, pid = random() % 3 == 0, mfa = random() % 2;
  const std::int64_t bucket = random() % 3 == 0 ? 2'000'000'000 : 0;
  if (node) spec.by.push_back({analysis::GroupKey::node, 0});
  if (pid) spec.by.push_back({analysis::GroupKey::pid, 0});
  if (mfa) spec.by.push_back({analysis::GroupKey::mfa, 0});
  spec.by.push_back({analysis::GroupKey::type, 0});
  if (bucket) spec.by.push_back({analysis::GroupKey::time, bucket});
  std::map<std::string, std::uint64_t> got, want;
  const auto key = [&](std::string_view n, const ProcessId& p, const codec::Mfa& f, EventType t,
                       std::int64_t at) {
    return fmt::format("{} {}.{} {}:{}/{} {} {}", node ? n : "", pid ? p.incarnation : 0,
                       pid ? p.id : 0, mfa ? f.module : "", mfa ? f.function : "",
                       mfa ? f.arity : 0, static_cast<int>(t), at);
  };
  for (const auto* r : model_.rows([](const ModelRow&) { return true; })) {
    const auto& rec = r->row.record;
    const auto at = clock.cluster(r->row.process.incarnation, rec.time).time;
    if ((spec.filter.types >> static_cast<unsigned>(rec.type) & 1U) == 0 ||
        (spec.filter.since && at < std::get<ClusterTime>(*spec.filter.since)) ||
        (spec.filter.until && at > std::get<ClusterTime>(*spec.filter.until)))
      continue;
    auto home = r->row.process;
    if (home.incarnation == numbers_[1]) home.incarnation = numbers_[0];
    ++want[key(r->row.process.incarnation == numbers_[2] ? "b@host" : "a@host", home, rec.mfa,
               rec.type, bucket ? at.ns / bucket * bucket : 0)];
  }
  const auto found = analysis::aggregate(context(view), spec);
  if (!found) RC_FAIL(to_string(found.error()));
  RC_ASSERT(!found->other && found->not_listed == 0U);
  for (const auto& g : found->groups)
    got[key(g.node, g.pid, {g.module, g.function, g.arity}, g.type, bucket ? g.time.ns : 0)] +=
        g.measured.rows;
  const auto lines = [](const auto& map) {
    std::string out;
    for (const auto& [k, v] : map) out += fmt::format("{} = {}\n", k, v);
    return out;
  };
  same("counts", lines(got), lines(want));
}

// What is derived from rows in ways that have tests of their own: the same as from a store that did nothing but receive.
void Run::check_calm(const std::shared_ptr<const store::View>& view, std::mt19937& random) {
  const auto calm = calm_->snapshot();
  const auto mine = context(view), its = context(calm);
  const ProcessId p = some_process(random);
  std::shared_ptr<const void> owner;
  const auto lives = [&](const store::View& v) {
    const auto found = v.lives(p, owner);
    if (!found) return to_string(found.error());
    std::string out;
    const auto time = [](const std::optional<RawTime>& t) {
      return t ? std::to_string(t->ns) : "-";
    };
    for (const auto& l : *found)
      out += fmt::format("{}.{} {} {} {} {}:{} {}\n", l.process.incarnation, l.process.id,
                         time(l.spawned), time(l.exited), time(l.seen_alive), l.initial_call.module,
                         l.initial_call.function, l.parent ? l.parent->id : 0);
    return out;
  };
  const auto spells = [](const Result<std::vector<store::NameSpell>>& found) {
    if (!found) return to_string(found.error());
    std::string out;
    for (const auto& s : *found)
      out += fmt::format("{} {}.{} {}..{}\n", s.name, s.process.incarnation, s.process.id,
                         s.from.ns, s.until ? std::to_string(s.until->ns) : "");
    return out;
  };
  if (!disordered_) {
    same("lives", lives(*view), lives(*calm));
    same("names", spells(view->names_of(p, owner)), spells(calm->names_of(p, owner)));
    same("holders", spells(view->name_spells("", "stock", owner)),
         spells(calm->name_spells("", "stock", owner)));
  }

  const ClockModel clock(*view);
  const auto pid = some_pid(random), other = some_pid(random);
  analysis::Filter range;
  range.limit = 300;
  const auto row = some_row(random);
  if (row && random() % 2)
    range.since = clock.cluster(row->process.incarnation, row->record.time).time;
  same("history", text_of(analysis::state_history(mine, pid, range)),
       text_of(analysis::state_history(its, pid, range)));
  if (disordered_) return;
  same("flow", text_of(analysis::message_flow(mine, pid, other, range)),
       text_of(analysis::message_flow(its, pid, other, range)));
  auto filter = some_filter(clock, random);
  filter.limit = 500;
  filter.peer = other;
  same("peer", text_of(analysis::get_events(mine, filter)),
       text_of(analysis::get_events(its, filter)));
  // Calls here rarely nest.
  analysis::AggregateSpec calls;
  calls.filter.since = range.since;
  if (random() % 2) calls.filter.modules = {"shop"};
  if (random() % 3 == 0) calls.filter.mfa = analysis::MfaSpec{"shop", "call", 1};
  calls.by = {{analysis::GroupKey::mfa, 0}};
  calls.value = analysis::ValueOf::duration;
  same("durations", text_of(analysis::aggregate(mine, calls)),
       text_of(analysis::aggregate(its, calls)));
  calls.filter.min_duration_ns = 5LL << kTickBits;
  calls.filter.limit = 500;
  const auto long_calls = analysis::get_events(mine, calls.filter);
  same("long calls", text_of(long_calls), text_of(analysis::get_events(its, calls.filter)));
  // Both ask about the same calls.
  const auto counted = analysis::aggregate(mine, calls);
  RC_ASSERT(long_calls.has_value() && counted.has_value());
  std::uint64_t rows = 0;
  for (const auto& g : counted->groups) rows += g.measured.rows;
  RC_ASSERT(rows == long_calls->events.size() || !long_calls->next.empty());
  analysis::AggregateSpec spec;
  spec.filter.since = range.since;
  spec.filter.types = 1U << static_cast<unsigned>(EventType::message_take);
  spec.by = {{analysis::GroupKey::mfa, 0}};
  spec.value = analysis::ValueOf::queue_time;
  same("queue time", text_of(analysis::aggregate(mine, spec)),
       text_of(analysis::aggregate(its, spec)));
}

void Run::check(std::uint32_t seed) {
  std::mt19937 random(seed);
  if (seed % 2) flush();  // else some of it may not even be received yet: then wait for that alone
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while ((store_->snapshot()->upper() < model_.last_lsn() ||
          calm_->snapshot()->upper() < model_.last_lsn()) &&
         std::chrono::steady_clock::now() < deadline)
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  const auto view = store_->snapshot();
  RC_ASSERT(view->upper() == model_.last_lsn());
  check_rows(*view, random);
  check_sums(*view, random);
  check_state(view, random);
  check_counts(view, random);
  for (const auto n : numbers_) {
    // A retained or archived store keeps its agents' cuts.
    RC_ASSERT(view->complete_until(n) == model_.cut(n));
  }
  if (!dropped_) {
    const auto text = [](std::span<const store::ClockVersion> list) {
      std::string out;
      for (const auto& v : list)
        out += fmt::format("{} {} {}\n", v.incarnation, v.raw_at.ns, v.offset_ns);
      return out;
    };
    auto sorted = clocks_;
    std::ranges::sort(sorted, {}, [](const auto& v) { return std::pair(v.incarnation, v.raw_at); });
    flush();
    same("clocks", text(store_->snapshot()->clocks()), text(sorted));
  }
  if (model_.whole()) check_calm(store_->snapshot(), random);
  for (int i = 0; i < 4; ++i) check_scan(store_->snapshot(), random);
  check_walk(random);
  const auto stats = store_->stats();
  RC_ASSERT(stats.malformed == 0U);
  RC_ASSERT(stats.corrupt_blocks == 0U);
  RC_ASSERT(stats.corrupt_indexes == 0U);
}

}  // namespace scope::test
