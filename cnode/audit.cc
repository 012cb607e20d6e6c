#include "cnode/audit.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <boost/asio/post.hpp>

#include "cnode/agents/signal.h"
#include "cnode/dist/spawn.h"
#include "cnode/service/parse.h"
#include "cnode/service/reply.h"
#include "store/audit_log.h"

namespace scope::node {
namespace {

using namespace std::chrono_literals;
using codec::TermBuilder;

constexpr std::size_t kMostOptions = 8u << 10;  // bytes; larger ones are kept as text, cut
constexpr std::size_t kMostNodes = 60;          // whose outcome is kept, the failed ones first
constexpr auto kDiskTimeout = 2s;

}  // namespace

// One entry, as it is written now. On the io thread but for `write`.
struct Audit::Note {
  std::string action, by, via;
  std::vector<std::byte> options;  // one encoded term
  std::vector<std::uint64_t> traces;
  std::optional<Error> error;
  bool pending = true;
  std::vector<NodeOutcome> nodes;
  ClusterTime at;
  std::uint64_t number = 0;      // the disk thread's: its first write gave it
  std::optional<Status> stored;  // what came of the last write that is done
  std::shared_ptr<Signal> changed;

  void set_options(TermBuilder term) {
    if (term.size() > kMostOptions) {
      const auto text = printed(*codec::view(term.bytes()));
      term.clear();
      term.binary(std::string_view(text));
    }
    const auto bytes = term.bytes();
    options.assign(bytes.begin(), bytes.end());
  }

  std::vector<std::byte> encode() const {
    MapWriter map;
    map.key("action").atom(action);
    map.key("by").binary(std::string_view(by));
    map.key("via").atom(via);
    map.key("options").raw(options);
    auto& ids = map.key("traces").list(static_cast<std::uint32_t>(traces.size()));
    for (const auto id : traces) ids.unsigned_integer(id);
    ids.nil();
    auto& outcome = map.key("outcome");
    if (error) {
      outcome.tuple(2).atom("error");
      write_error(outcome, *error);
    } else {
      outcome.atom(pending ? "pending" : "ok");
    }
    std::vector<const NodeOutcome*> told;
    for (const bool failed : {true, false}) {
      for (const auto& n : nodes) {
        if (told.size() < kMostNodes && n.error.has_value() == failed) told.push_back(&n);
      }
    }
    MapWriter per_node;
    for (const auto* n : told) {
      auto& out = per_node.key(n->node);
      n->error ? out.tuple(2).atom("error").atom(code_name(n->error->code)) : out.atom("ok");
    }
    per_node.write(map.key("nodes"));
    TermBuilder out;
    map.write(out);
    const auto bytes = out.bytes();
    return {bytes.begin(), bytes.end()};
  }
};

namespace {

std::string via_of(std::string_view by) {
  const auto at = by.find(" on ");
  const bool command =
      at != std::string_view::npos && by.substr(at + 4).starts_with(kCommandLinePrefix);
  return command ? "command_line" : "node";
}

}  // namespace

Audit::Audit(boost::asio::io_context& io, store::TraceStore& store, Controls& inner,
             std::shared_ptr<Counters> counters)
    : io_(io),
      store_(store),
      inner_(inner),
      counters_(std::move(counters)),
      disk_(std::make_unique<boost::asio::thread_pool>(1)) {}

Audit::~Audit() { close(); }

void Audit::close() { disk_->join(); }

Audit::Shared Audit::make(std::string_view action, std::string by) const {
  auto note = std::make_shared<Note>();
  note->action = action;
  note->via = via_of(by);
  note->by = std::move(by);
  note->at = store_.now();
  note->changed = std::make_shared<Signal>(io_);
  return note;
}

void Audit::write(const Shared& note) {
  if (waiting_ >= kMostWaiting) {
    counters_->add(Counter::audit_lost);
    note->stored = fail(Code::busy, "the audit log waits for the disk");
    return;
  }
  ++waiting_;
  boost::asio::post(*disk_, [this, note, term = note->encode(), at = note->at] {
    Status status;
    if (note->number != 0) {
      status = store_.audit().replace(note->number, term);
    } else if (auto number = store_.audit().append(at, term)) {
      note->number = *number;
    } else {
      status = std::unexpected(std::move(number).error());
    }
    if (!status) {
      counters_->add(Counter::audit_lost);
      spdlog::warn("the audit log lacks an entry: {}", to_string(status.error()));
    }
    boost::asio::post(io_, [this, note, status = std::move(status)] {
      --waiting_;
      note->stored = status;
      note->changed->notify();
    });
  });
}

void Audit::start(TraceSpec spec, std::string by, Reply<StartOutcome> reply) {
  spawn(io_, "an audited start", start_noted(std::move(spec), std::move(by), std::move(reply)));
}

Awaitable<void> Audit::start_noted(TraceSpec spec, std::string by, Reply<StartOutcome> reply) {
  const auto note = make("start", by);
  TermBuilder options;
  encode(options, spec);
  note->set_options(std::move(options));
  write(note);
  const auto until = std::chrono::steady_clock::now() + kDiskTimeout;
  while (!note->stored && std::chrono::steady_clock::now() < until) {
    co_await note->changed->wait_for(100ms);
  }
  if (!note->stored || !*note->stored) {
    const std::string why = note->stored ? note->stored->error().message : "the disk is too slow";
    note->error = Error{Code::refused, "nothing is traced that cannot be noted: " + why, {}, {}};
    write(note);
    reply(std::unexpected(*note->error));
    co_return;
  }
  inner_.start(std::move(spec), std::move(by),
               [this, note, reply = std::move(reply)](Result<StartOutcome> result) mutable {
                 note->pending = false;
                 if (result) {
                   note->traces = {result->id};
                   note->nodes = result->nodes;
                 } else {
                   note->error = result.error();
                 }
                 write(note);
                 reply(std::move(result));
               });
}

void Audit::stop(std::optional<std::uint64_t> id, std::string by, Reply<StopOutcome> reply) {
  const auto note = make("stop", by);
  TermBuilder options;
  id ? options.unsigned_integer(*id) : options.atom("all");
  note->set_options(std::move(options));
  write(note);
  inner_.stop(id, std::move(by),
              [this, note, reply = std::move(reply)](Result<StopOutcome> result) mutable {
                note->pending = false;
                if (result) {
                  note->traces = result->ids;
                  note->nodes = result->nodes;
                } else {
                  note->error = result.error();
                }
                write(note);
                reply(std::move(result));
              });
}

void Audit::update_config(std::vector<std::string> path, codec::TermView value, std::string by,
                          Reply<std::monostate> reply) {
  const auto note = make("update_config", by);
  TermBuilder options;
  options.tuple(2).binary(std::string_view(fmt::format("{}", fmt::join(path, ".")))).term(value);
  note->set_options(std::move(options));
  inner_.update_config(
      std::move(path), value, std::move(by),
      [this, note, reply = std::move(reply)](Result<std::monostate> result) mutable {
        note->pending = false;
        if (!result) note->error = result.error();
        write(note);
        reply(std::move(result));
      });
}

void Audit::note(std::string_view action, std::string_view why, std::vector<std::uint64_t> traces,
                 std::string_view node) {
  const auto note = make(action, "the daemon");
  note->via = "daemon";
  TermBuilder options;
  options.binary(why);
  note->set_options(std::move(options));
  note->traces = std::move(traces);
  note->pending = false;
  if (!node.empty()) note->nodes.push_back({std::string(node), std::nullopt});
  write(note);
}

}  // namespace scope::node
