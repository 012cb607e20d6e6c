#include "cnode/service/store_request.h"

#include <fmt/format.h>

#include "cnode/service/parse.h"
#include "cnode/service/reply.h"

namespace scope::node {
namespace {

using codec::TermBuilder;
using codec::TermView;

constexpr auto kKeepResult = std::chrono::seconds(30);

Result<std::string> read_folder(const TermView& value) {
  std::string folder;
  ASSIGN_OR_RETURN(folder, read_name(value, "folder"));
  if (!folder.starts_with('/') || folder.find('\0') != folder.npos)
    return bad_value("folder", value, "must be an absolute path, of the machine of the daemon");
  return folder;
}

std::string state_of(const store::PartitionReport& r) {
  std::string out = r.active ? "active" : "";
  const auto add = [&out](std::string_view word) {
    out += fmt::format("{}{}", out.empty() ? "" : ", ", word);
  };
  if (r.listed.keep) add("protected");
  if (!r.listed.folder.empty()) add("attached: " + r.listed.folder);
  if (!r.problem.empty()) add(r.problem);
  return out;
}

// nullopt for what was not looked at: neither how many edges nor whether they can be read.
void write_edges(TermBuilder& out, const store::EdgeReport& r) {
  MapWriter map;
  map.key("slices").unsigned_integer(r.slices);
  map.key("bytes").unsigned_integer(r.bytes);
  map.key("edges").unsigned_integer(r.edges);
  map.key("from").integer(analysis::slice_start(r.first).ns);
  map.key("until").integer(analysis::slice_start(r.slices == 0 ? r.first : r.last + 1).ns);
  map.write(out);
}

// From the slices' states alone.
Result<store::EdgeReport> summary(const store::EdgeStore& edges) {
  store::EdgeReport out;
  out.bytes = edges.bytes();
  ASSIGN_OR_RETURN(const auto states, edges.states());
  for (const auto& s : states) {
    if (out.slices++ == 0) out.first = s.slice;
    out.last = s.slice;
    out.edges += s.edges;
  }
  return out;
}

Status write_info(const store::Upkeep& upkeep, const Derived& derived, TermBuilder& out) {
  ASSIGN_OR_RETURN(const auto manifest, upkeep.manifest());
  ASSIGN_OR_RETURN(const auto all, upkeep.info());
  MapWriter map;
  map.key("store_id").unsigned_integer(manifest.store_id);
  auto& list = map.key("partitions");
  for (const auto& r : all) {
    MapWriter item;
    item.key("number").unsigned_integer(r.listed.number);
    item.key("bytes").unsigned_integer(r.bytes);
    item.key("blocks").unsigned_integer(r.blocks);
    item.key("events").unsigned_integer(r.rows);
    item.key("batches").unsigned_integer(r.hot_batches);
    MapWriter databases;
    for (const auto& d : r.databases) {
      MapWriter size;
      size.key("entries").unsigned_integer(d.entries);
      size.key("bytes").unsigned_integer(d.bytes);
      size.write(databases.key(d.name));
    }
    databases.write(item.key("databases"));
    item.key("from").integer(r.listed.made_ns);
    item.key("until").integer(r.listed.closed_ns);
    item.key("protected").boolean(r.listed.keep);
    item.key("damaged").boolean(!r.problem.empty());
    item.key("state").binary(std::string_view(state_of(r)));
    item.write(list.list_cons());
  }
  list.nil();
  auto& agents = map.key("agents");
  for (const auto& a : upkeep.agents()) {
    MapWriter item;
    item.key("node").atom(a.node);
    item.key("creation").unsigned_integer(a.creation);
    item.key("batches").unsigned_integer(a.last_committed_seq);
    item.write(agents.list_cons());
  }
  agents.nil();
  if (derived.edges != nullptr) {
    ASSIGN_OR_RETURN(const auto edges, summary(*derived.edges));
    write_edges(map.key("edges"), edges);
  }
  map.write(out);
  return {};
}

// Edges that are damaged are no loss: they are derived again.
void write_report(const store::VerifyReport& r, const std::optional<store::EdgeReport>& edges,
                  TermBuilder& out) {
  MapWriter map;
  map.key("done").boolean(true);
  map.key("partitions").unsigned_integer(r.partitions);
  map.key("blocks").unsigned_integer(r.blocks);
  map.key("events").unsigned_integer(r.rows);
  map.key("indexes").unsigned_integer(r.indexes);
  map.key("batches").unsigned_integer(r.hot_batches);
  map.key("damaged").unsigned_integer(r.damaged);
  if (edges) {
    map.key("edges").unsigned_integer(edges->edges);
    map.key("edges_damaged").unsigned_integer(edges->damaged);
  }
  auto& found = map.key("found");
  for (const auto& d : r.damages) {
    MapWriter item;
    item.key("partition").unsigned_integer(d.partition);
    item.key("what").binary(std::string_view(d.what));
    item.write(found.list_cons());
  }
  found.nil();
  map.write(out);
}

Status write_rebuilt(const EdgesRebuilt& r, TermBuilder& out) {
  MapWriter map;
  map.key("done").boolean(true);
  map.key("slices").unsigned_integer(r.slices);
  map.key("rows").unsigned_integer(r.rows);
  map.key("edges").unsigned_integer(r.edges);
  map.key("bytes").unsigned_integer(r.bytes);
  map.key("waiting").unsigned_integer(r.progress.waiting);
  if (r.progress.until) {
    map.key("until").integer(r.progress.until->ns);
  } else {
    unknown(map.key("until"));
  }
  map.write(out);
  return {};
}

}  // namespace

Result<StoreVerb> read_store_verb(const TermView& verb, ClusterTime now) {
  using enum StoreVerb::Kind;
  StoreVerb out;
  const bool tuple = verb.arity().value_or(0) > 0;
  const auto name = (tuple ? verb.element(0) : verb).atom().value_or("");
  const auto size = tuple ? *verb.arity() : 1;
  if (name == "info" && size == 1) return out;
  if ((name == "verify" || name == "rebuild") && size == 1) {
    out.kind = name == "verify" ? verify : rebuild;
  } else if (name == "archive" && size == 3) {
    out.kind = archive;
    ASSIGN_OR_RETURN(out.folder, read_folder(verb.element(1)));
    ASSIGN_OR_RETURN(out.until, read_cluster_time(verb.element(2), "until", now));
  } else if ((name == "attach" || name == "detach") && size == 2) {
    out.kind = name == "attach" ? attach : detach;
    ASSIGN_OR_RETURN(out.folder, read_folder(verb.element(1)));
  } else if ((name == "protect" && (size == 3 || size == 4)) ||
             (name == "unprotect" && size == 3)) {
    out.kind = protect;
    out.keep = name == "protect";
    ASSIGN_OR_RETURN(out.from, read_cluster_time(verb.element(1), "since", now));
    ASSIGN_OR_RETURN(out.until, read_cluster_time(verb.element(2), "until", now));
    if (size == 4) {
      std::int64_t bytes = 0;
      ASSIGN_OR_RETURN(bytes, read_integer(verb.element(3), "budget", 0, INT64_MAX));
      out.budget = static_cast<std::uint64_t>(bytes);
    }
  } else {
    return bad_value(
        "store", verb,
        "must be info, verify, rebuild, {archive, Folder, Until}, {attach, Folder}, {detach, "
        "Folder}, {protect, Since, Until} or {unprotect, Since, Until}");
  }
  return out;
}

void write_store_verb(TermBuilder& out, const StoreVerb& verb) {
  using enum StoreVerb::Kind;
  out.tuple(2).atom("store");
  switch (verb.kind) {
    case info:
      out.atom("info");
      return;
    case verify:
    case rebuild:
      out.atom(verb.kind == verify ? "verify" : "rebuild");
      return;
    case archive:
      out.tuple(3).atom("archive").binary(std::string_view(verb.folder)).integer(verb.until.ns);
      return;
    case attach:
    case detach:
      out.tuple(2).atom(verb.kind == attach ? "attach" : "detach");
      out.binary(std::string_view(verb.folder));
      return;
    case protect:
      out.tuple(verb.keep ? 4 : 3).atom(verb.keep ? "protect" : "unprotect");
      out.integer(verb.from.ns).integer(verb.until.ns);
      if (verb.keep) out.unsigned_integer(verb.budget);
  }
}

Status run_store_verb(store::Upkeep& upkeep, const Derived& derived, const StoreVerb& verb,
                      const store::Progress& progress, TermBuilder& out) {
  using enum StoreVerb::Kind;
  if (verb.kind == info) return write_info(upkeep, derived, out);
  if (verb.kind == verify) {
    ASSIGN_OR_RETURN(const auto report, upkeep.verify(progress));
    std::optional<store::EdgeReport> edges;
    if (derived.edges != nullptr) {
      ASSIGN_OR_RETURN(edges, derived.edges->check());
    }
    write_report(report, edges, out);
    return {};
  }
  if (verb.kind == rebuild) {
    if (derived.deriver == nullptr)
      return fail(Code::not_available, "edges of messages are not kept here; status says why",
                  "store");
    ASSIGN_OR_RETURN(const auto report, derived.deriver->rebuild(progress));
    return write_rebuilt(report, out);
  }
  const auto done = verb.kind == archive  ? upkeep.archive(verb.until, verb.folder, progress)
                    : verb.kind == attach ? upkeep.attach(verb.folder)
                    : verb.kind == detach
                        ? upkeep.detach(verb.folder)
                        : upkeep.protect(verb.from, verb.until, verb.keep, verb.budget);
  if (!done) return std::unexpected(done.error());
  MapWriter map;
  map.key("done").boolean(true);
  auto& list = map.key("partitions").list(static_cast<std::uint32_t>(done->size()));
  for (const auto n : *done) list.unsigned_integer(n);
  list.nil();
  map.write(out);
  return {};
}

Derived StoreJobs::derived() const {
  if (!deriver_) return {};
  return {deriver_->kept().get(), deriver_.get()};
}

Status StoreJobs::run(const StoreVerb& verb, Clock::time_point deadline, TermBuilder& out) {
  if (!verb.is_long()) return run_store_verb(upkeep_, derived(), verb, {}, out);
  TermBuilder request;
  write_store_verb(request, verb);
  const std::string key(reinterpret_cast<const char*>(request.bytes().data()), request.size());
  std::unique_lock lock(mutex_);
  if (stop_) return fail(Code::closed, "the daemon is stopping");
  if (done_ && (key != running_ || Clock::now() > done_at_ + kKeepResult)) running_.clear();
  if (!running_.empty() && key != running_)
    return fail(Code::busy,
                "the store is being verified, archived or rebuilt already; wait for that", "store");
  if (running_.empty()) {
    if (thread_.joinable()) thread_.join();  // it is done
    running_ = key;
    done_ = false;
    partition_ = 0;
    thread_ = std::thread([this, verb] {
      TermBuilder value;
      const store::Progress progress{[this](std::uint32_t n) { partition_ = n; }, &stop_};
      Status result;
      try {
        result = run_store_verb(upkeep_, derived(), verb, progress, value);
      } catch (const std::exception& e) {
        result = fail(Code::internal, e.what());
      }
      const std::lock_guard done(mutex_);
      result_ = std::move(result);
      value_ = std::move(value);
      done_at_ = Clock::now();
      done_ = true;
      finished_.notify_all();
    });
  }
  if (!finished_.wait_until(lock, deadline, [this] { return done_; })) {
    MapWriter map;
    map.key("done").boolean(false);
    map.key("partition").unsigned_integer(partition_);
    map.write(out);
    return {};
  }
  running_.clear();
  if (result_) out.raw(value_.bytes());
  return result_;
}

void StoreJobs::stop() {
  std::thread last;
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    last.swap(thread_);
  }
  if (last.joinable()) last.join();
}

}  // namespace scope::node
