// Tables as ets' for Observer: what was recorded, asked of the daemon as anybody would ask it, and the store's databases.
// Rows are made when a table is opened; at most kMostRows of them.
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "cnode/dist/spawn.h"
#include "cnode/otp/otp_impl.h"

namespace scope::node {
namespace {

using codec::TermBuilder;
using codec::TermView;

constexpr int kMostRows = 500;
constexpr std::size_t kRowsAtOnce = 20;  // a row is up to 64 KB
constexpr std::chrono::seconds kPatience{30};

std::optional<TermView> field(const TermView& map, std::string_view key) {
  const auto pairs = map.map();
  return pairs ? pairs->find(key) : std::nullopt;
}

// {Id, Time, Node, Type, Event}
std::vector<Row> event_rows(const TermView& value) {
  std::vector<Row> rows;
  const auto events = field(value, "events");
  auto list = events ? events->list() : std::nullopt;
  for (; list && !list->done(); list->next()) {
    const TermView event = list->item();
    Row& row = rows.emplace_back();
    row.tuple(5);
    for (const auto* key : {"id", "time", "node", "type"}) {
      const auto part = field(event, key);
      part ? row.term(*part) : row.atom("unknown");
    }
    row.term(event);
  }
  return rows;
}

// Gaps that were recorded, as events; then what the answer itself says is missing: {missing, What}.
std::vector<Row> gap_rows(const TermView& value) {
  auto rows = event_rows(value);
  const auto complete = field(value, "completeness");
  const auto missing = complete ? field(*complete, "missing") : std::nullopt;
  auto list = missing ? missing->list() : std::nullopt;
  for (; list && !list->done(); list->next()) {
    rows.emplace_back().tuple(2).atom("missing").term(list->item());
  }
  return rows;
}

// {Node, State, All}
std::vector<Row> node_rows(const TermView& value) {
  std::vector<Row> rows;
  const auto nodes = field(value, "nodes");
  if (!nodes || !nodes->map()) return rows;
  for (auto it = *nodes->map(); !it.done(); it.next()) {
    const auto state = field(it.value(), "state");
    Row& row = rows.emplace_back();
    row.tuple(3).term(it.key());
    state ? row.term(*state) : row.atom("unknown");
    row.term(it.value());
  }
  return rows;
}

// {Id, Trace}
std::vector<Row> trace_rows(const TermView& value) {
  std::vector<Row> rows;
  const auto traces = field(value, "tracing");
  auto list = traces ? traces->list() : std::nullopt;
  for (; list && !list->done(); list->next()) {
    const auto id = field(list->item(), "id");
    Row& row = rows.emplace_back();
    row.tuple(2);
    id ? row.term(*id) : row.integer(0);
    row.term(list->item());
  }
  return rows;
}

TermBuilder newest(bool gaps) {
  TermBuilder request;
  request.tuple(2).atom("get_events").map(gaps ? 3 : 2).atom("limit").integer(kMostRows);
  request.atom("order").atom("newest_first");
  if (gaps) request.atom("type").atom("gap");
  return request;
}
TermBuilder status() {
  TermBuilder request;
  request.atom("status");
  return request;
}

// {Pid, [[Row], ..]} until all are told, then {Pid, '$end_of_table'}. A link whose queue is full is waited for; a caller that does
// not read for kPatience gets an exit signal with `busy` instead of the end of the table.
Awaitable<void> tell(std::shared_ptr<Otp::Impl> otp, Pid to, Pid self, std::vector<Row> rows) {
  const auto until = std::chrono::steady_clock::now() + kPatience;
  boost::asio::steady_timer timer(otp->io_);
  std::size_t n = 1;
  for (std::size_t at = 0; n > 0; at += n) {
    TermBuilder out;
    out.tuple(2).pid(self.parts());
    n = std::min(kRowsAtOnce, rows.size() - at);
    if (n == 0) {
      out.atom("$end_of_table");
    } else {
      out.list(static_cast<std::uint32_t>(n));
      for (std::size_t i = 0; i < n; ++i) out.list(1).raw(rows[at + i].bytes()).nil();
      out.nil();
    }
    while (!otp->stopped_ && otp->node_.process(self)) {
      const auto told = otp->node_.send(to, out.bytes(), self);
      if (told) break;
      if (told.error().code != Code::busy || std::chrono::steady_clock::now() > until)
        co_return otp->end(self, "busy");
      timer.expires_after(std::chrono::milliseconds(20));
      boost::system::error_code ignored;
      co_await timer.async_wait(boost::asio::redirect_error(boost::asio::use_awaitable, ignored));
    }
  }
  otp->end(self);
}

Row copy_of(const Row& row) {
  Row out;
  out.raw(row.bytes());
  return out;
}

}  // namespace

// Kept from the last look: reading it may wait for a disk.
void Otp::Impl::look_at_databases() {
  TermBuilder request;
  request.tuple(2).atom("store").atom("info");
  sources_.ask(std::move(request), [self = weak_from_this()](TermBuilder reply) {
    const auto here = self.lock();
    if (!here) return;
    boost::asio::post(here->io_, [here, reply = std::move(reply)] {
      const auto term = codec::view(reply.bytes());
      if (here->stopped_ || !term || !term->is_tuple("ok", 2)) return;
      const auto partitions = field(term->element(1), "partitions");
      auto list = partitions ? partitions->list() : std::nullopt;
      here->databases_.clear();
      for (; list && !list->done(); list->next()) {
        const auto number = field(list->item(), "number"), all = field(list->item(), "databases");
        if (!number || !all || !all->map()) continue;
        for (auto it = *all->map(); !it.done(); it.next()) {
          const auto entries = field(it.value(), "entries"), bytes = field(it.value(), "bytes");
          if (!entries || !bytes) continue;
          here->databases_.emplace_back().tuple(4).term(*number).term(it.key()).term(*entries).term(
              *bytes);
        }
      }
    });
  });
}

std::vector<Table> Otp::Impl::tables() {
  std::vector<Table> all;
  const auto sizes = sources_.sizes();
  const auto asked = [&all](std::string name, std::uint64_t size, TermBuilder request, auto read) {
    Table& t = all.emplace_back();
    t.name = std::move(name);
    t.size = size;
    t.request = std::move(request);
    t.read = read;
  };
  asked("scope_nodes", sizes.nodes, status(), node_rows);
  asked("scope_traces", sizes.traces, status(), trace_rows);
  asked("scope_newest_events", sizes.events, newest(false), event_rows);
  asked("scope_drops_and_gaps", sizes.gaps, newest(true), gap_rows);

  Table counters;  // {Name, Value, Severity, Help}
  counters.name = "scope_counters";
  for (std::size_t i = 0; i < kCounterInfo.size(); ++i) {
    const auto& info = kCounterInfo[i];
    static constexpr std::string_view kSeverities[] = {"info", "error", "data_loss"};
    Row& row = counters.rows.emplace_back();
    row.tuple(4).atom(info.name).unsigned_integer(node_.counters().get(static_cast<Counter>(i)));
    row.atom(kSeverities[static_cast<std::size_t>(info.severity)]).binary(info.help);
    counters.memory += row.size();
  }
  counters.size = counters.rows.size();
  all.push_back(std::move(counters));

  std::map<std::string, Table> databases;
  for (const auto& row : databases_) {
    const auto term = *codec::view(row.bytes());
    const std::string name = "scope_store_" + std::string(*term.element(1).atom());
    Table& t = databases[name];
    t.name = name;
    t.size += term.element(2).unsigned_integer().value_or(0);
    t.memory += term.element(3).unsigned_integer().value_or(0);
    t.rows.push_back(copy_of(row));
  }
  for (auto& [name, table] : databases) all.push_back(std::move(table));
  return all;
}

void Otp::Impl::allow_tables() {
  allow("observer_backend", "get_table_list", 2, [this](const RpcRequest& request) -> RpcAnswer {
    const auto type = argument(request, 0).atom();
    if (type != "ets" && type != "mnesia") return rpc_badarg();
    TermBuilder out;
    if (type == "mnesia") {
      out.tuple(2).atom("error").charlist("Mnesia is not running on: " + node_.name());
      return out;
    }
    look_at_databases();  // for the next time
    const auto daemon = node_.whereis("elixir_scope"), store = node_.whereis("scope_store");
    for (const auto& t : tables()) {
      const auto& owner = t.name.starts_with("scope_store_") && store ? store : daemon;
      out.list_cons();
      const auto pair = [&out](std::string_view key) -> TermBuilder& {
        return out.list_cons().tuple(2).atom(key);
      };
      pair("name").atom(t.name);
      pair("id").atom("ignore");
      pair("protection").atom("protected");
      if (owner) pair("owner").pid(owner->parts());
      pair("size").unsigned_integer(t.size);
      pair("reg_name").atom(owner == store ? "scope_store" : "elixir_scope");
      pair("type").atom("ordered_set");
      pair("keypos").integer(1);
      pair("heir").atom("none");
      pair("memory").unsigned_integer(t.memory);
      pair("compressed").boolean(false);
      pair("fixed").boolean(false);
      out.nil();
    }
    out.nil();
    return out;
  });

  allow("observer_backend", "get_table", 3, [this](const RpcRequest& request) -> RpcAnswer {
    const auto parent = argument(request, 0).pid();
    const auto name = argument(request, 1).atom();
    if (!parent || !name || !argument(request, 2).is_atom("ets") || errands_.size() >= 200)
      return rpc_badarg();
    const Pid to(*parent), pid = add(std::make_unique<Errand>(*this));
    node_.link(pid, to);
    const auto finish = [self = weak_from_this(), to, pid](std::vector<Row> rows) {
      const auto here = self.lock();
      if (!here) return;
      boost::asio::post(here->io_, [here, to, pid, rows = std::move(rows)]() mutable {
        if (!here->stopped_) spawn(here->io_, "table", tell(here, to, pid, std::move(rows)));
      });
    };
    for (auto& t : tables()) {
      if (t.name != *name) continue;
      if (t.read == nullptr) {
        finish(std::move(t.rows));
      } else {
        sources_.ask(std::move(t.request), [finish, read = t.read](TermBuilder reply) {
          const auto term = codec::view(reply.bytes());
          finish(term && term->is_tuple("ok", 2) ? read(term->element(1)) : std::vector<Row>{});
        });
      }
      TermBuilder out;
      out.pid(pid.parts());
      return out;
    }
    end(pid);
    return rpc_badarg();  // as ets:info of a table that is not there
  });

  allow("ets", "info", 2, [this](const RpcRequest& request) -> RpcAnswer {
    const auto name = argument(request, 0).atom(), item = argument(request, 1).atom();
    if (!name || !item) return rpc_badarg();
    TermBuilder out;
    for (const auto& t : tables()) {
      if (t.name != *name) continue;
      if (item == "keypos") return std::move(out.integer(1));
      if (item == "size") return std::move(out.unsigned_integer(t.size));
      if (item == "memory") return std::move(out.unsigned_integer(t.memory / 8));
      if (item == "type") return std::move(out.atom("ordered_set"));
      if (item == "protection") return std::move(out.atom("protected"));
      if (item == "name") return std::move(out.atom(t.name));
      return rpc_badarg();
    }
    return std::move(out.atom("undefined"));
  });
}

}  // namespace scope::node
