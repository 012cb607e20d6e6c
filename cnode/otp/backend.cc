// observer_backend: the system's figures, the links as ports, and the processes that Observer and etop spawn here.
#include <fmt/format.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "cnode/dist/spawn.h"
#include "cnode/otp/otp_impl.h"

namespace scope::node {
namespace {

using codec::TermBuilder;
using codec::TermView;
using Clock = std::chrono::steady_clock;

constexpr Millis kStep{1000};

std::uint64_t unsigned_ns(Clock::time_point at) {
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(at.time_since_epoch()).count());
}

struct Pairs {
  TermBuilder out;
  TermBuilder& key(std::string_view name) { return out.list_cons().tuple(2).atom(name); }
  void number(std::string_view name, std::uint64_t n) { key(name).unsigned_integer(n); }
  void text(std::string_view name, std::string_view text) { key(name).charlist(text); }
};

std::uint64_t processors(int which) {
  return static_cast<std::uint64_t>(std::max(1L, ::sysconf(which)));
}
std::uint64_t processors_available() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof set, &set) != 0) return processors(_SC_NPROCESSORS_ONLN);
  return static_cast<std::uint64_t>(CPU_COUNT(&set));
}

// As erlang:system_info({allocator_sizes, _}): [{instance, 0, [{mbcs, [{blocks, _}, {carriers_size, _, _, _}]}]}]
void write_allocator(TermBuilder& out, std::string_view name, std::uint64_t used,
                     std::uint64_t held) {
  const auto three = [&out](std::uint64_t n) {
    out.unsigned_integer(n).unsigned_integer(n).unsigned_integer(n);
  };
  out.list_cons().tuple(2).atom(name).list(1).tuple(3).atom("instance").integer(0);
  out.list(1).tuple(2).atom("mbcs").list(2);
  out.tuple(2).atom("blocks").list(1).tuple(2).atom(name).list(1).tuple(4).atom("size");
  three(used);
  out.nil().nil().tuple(4).atom("carriers_size");
  three(held);
  out.nil().nil().nil();
}

// Any message ends it.
class StatsFetcher : public Errand {
 public:
  using Errand::Errand;
  void on_message(Message) override { otp_.end(pid); }
};

// {stats, 1, Threads, {{input, I}, {output, O}}, Memory} to the parent for as long as `errand` lives.
Awaitable<void> fetch_loop(std::shared_ptr<Otp::Impl> otp, Pid errand, Pid parent, Millis every) {
  // The threads that there are now: Observer draws a line for each and wants no others later.
  auto threads = measure_threads();
  boost::asio::steady_timer timer(otp->io_);
  while (true) {
    // In steps, so that the end of the daemon does not wait for it.
    for (Millis left = every; left > Millis(0); left -= kStep) {
      timer.expires_after(std::min(left, kStep));
      boost::system::error_code ignored;
      co_await timer.async_wait(boost::asio::redirect_error(boost::asio::use_awaitable, ignored));
      if (otp->stopped_ || !otp->node_.process(errand)) co_return;
    }
    for (const auto& now : measure_threads()) {
      for (auto& kept : threads) {
        if (kept.id == now.id) kept.cpu_ns = now.cpu_ns;
      }
    }
    TermBuilder out;
    out.tuple(5).atom("stats").integer(1);
    otp->write_threads(out, threads);
    const auto [in, sent] = otp->io_bytes();
    out.tuple(2).tuple(2).atom("input").unsigned_integer(in);
    out.tuple(2).atom("output").unsigned_integer(sent);
    otp->write_memory(out);
    const auto told = otp->node_.send(parent, out.bytes(), errand);
    if (!told && told.error().code != Code::busy) co_return otp->end(errand);
  }
}

}  // namespace

void Otp::Impl::write_memory(TermBuilder& out) {
  const auto& m = memory();
  std::uint64_t queued = 0;
  for (const auto& p : shown()) queued += p.figures.memory;
  for (const auto& link : node_.links()) queued += link.queue_bytes;
  out.list(8);
  const auto pair = [&out](std::string_view key, std::uint64_t n) {
    out.tuple(2).atom(key).unsigned_integer(n);
  };
  pair("total", m.total);
  pair("processes", m.memory);
  pair("processes_used", std::min(m.memory, m.heap_used + m.mapped_used));
  pair("system", m.total - m.memory);
  pair("atom", 0);  // atoms are texts on the heap: no table of them
  pair("binary", queued);
  pair("code", m.code);
  pair("ets", m.store);
  out.nil();
}

std::pair<std::uint64_t, std::uint64_t> Otp::Impl::io_bytes() const {
  const auto& counters = node_.counters();
  return {counters.get(Counter::bytes_in), counters.get(Counter::bytes_out)};
}

void Otp::Impl::write_threads(TermBuilder& out, const std::vector<ThreadUse>& threads) const {
  const auto total = unsigned_ns(Clock::now());
  std::uint64_t number = 0;
  for (const auto& t : threads) {
    out.list_cons().tuple(3).unsigned_integer(++number);
    out.unsigned_integer(t.cpu_ns).unsigned_integer(total);
  }
  out.nil();
}

// #etop_proc_info{}: pid, memory, reductions, name or initial call, runtime, current function, queue.
void Otp::Impl::write_etop(const Shown& p, TermBuilder& out) const {
  out.tuple(8).atom("etop_proc_info").pid(p.info.pid.parts());
  out.unsigned_integer(p.figures.memory).unsigned_integer(p.figures.work);
  p.info.name.empty() ? (void)write_item(p, "initial_call", out) : void(out.atom(p.info.name));
  out.integer(0);
  (void)write_item(p, "current_function", out);
  out.unsigned_integer(p.figures.queue);
}

std::optional<Pid> Otp::Impl::procs_info(const Pid& collector, bool etop) {
  const auto all = shown();
  Pid pid = add(std::make_unique<Errand>(*this));
  TermBuilder procs;
  for (const auto& p : all) {
    write_etop(p, procs.list_cons());
  }
  procs.nil();
  TermBuilder out;
  if (!etop) {
    out.tuple(3).atom("procs_info").pid(pid.parts()).raw(procs.bytes());
  } else {
    const auto now = std::chrono::duration_cast<std::chrono::microseconds>(
                         std::chrono::system_clock::now().time_since_epoch())
                         .count();
    out.tuple(2).pid(pid.parts()).tuple(9).atom("etop_info");
    out.tuple(3).integer(now / 1'000'000'000'000).integer(now / 1'000'000 % 1'000'000);
    out.integer(now % 1'000'000).unsigned_integer(all.size()).atom("undefined");
    write_threads(out, measure_threads());
    out.unsigned_integer(sources_.sizes().waiting).nil();
    write_memory(out);
    out.raw(procs.bytes());
  }
  // After the caller has been told the pid.
  boost::asio::post(io_,
                    [self = shared_from_this(), pid, collector, term = std::move(out)]() mutable {
                      if (self->stopped_) return;
                      (void)self->node_.send(collector, term.bytes(), pid);
                      self->end(pid);
                    });
  return pid;
}

std::optional<Pid> Otp::Impl::fetch_stats(const Pid& parent, std::int64_t every_ms) {
  Pid pid = add(std::make_unique<StatsFetcher>(*this));
  const auto every = Millis(std::clamp<std::int64_t>(every_ms, 100, 60'000));
  spawn(io_, "fetch_stats", fetch_loop(shared_from_this(), pid, parent, every));
  return pid;
}

void Otp::Impl::allow_backend() {
  allow("observer_backend", "vsn", 0, [](const RpcRequest&) -> RpcAnswer {
    TermBuilder out;
    out.tuple(2).atom("ok").charlist("1.19");  // of runtime_tools: whose forms these are
    return out;
  });
  allow("observer_backend", "sys_info", 0, [this](const RpcRequest&) -> RpcAnswer {
    const auto& m = memory();
    const auto sizes = sources_.sizes();
    const auto threads = measure_threads().size();
    const auto [in, sent] = io_bytes();
    utsname machine{};
    (void)::uname(&machine);
    rlimit files{};
    (void)::getrlimit(RLIMIT_NOFILE, &files);
    Pairs p;
    p.number("uptime", unsigned_ns(Clock::now()) / 1'000'000 - unsigned_ns(since_) / 1'000'000);
    p.number("run_queue", sizes.waiting);
    p.number("io_input", in);
    p.number("io_output", sent);
    p.number("logical_processors", processors(_SC_NPROCESSORS_CONF));
    p.number("logical_processors_online", processors(_SC_NPROCESSORS_ONLN));
    p.number("logical_processors_available", processors_available());
    for (const auto* key : {"schedulers", "schedulers_online", "schedulers_available"})
      p.number(key, threads);
    p.text("otp_release", fmt::format("none: ElixirScope {}", sources_.version));
    p.text("version", sources_.version);
    p.text("system_architecture", fmt::format("{}-{}", machine.machine, machine.sysname));
    p.key("kernel_poll").boolean(true);
    p.key("smp_support").boolean(true);
    p.key("threads").boolean(true);
    p.number("thread_pool_size", threads - std::min<std::size_t>(threads, 1));
    p.number("wordsize_internal", sizeof(void*));
    p.number("wordsize_external", sizeof(void*));
    p.key("alloc_info");
    write_allocator(p.out, "heap", m.heap_used, m.heap_held);
    write_allocator(p.out, "mapped", m.mapped_used, m.mapped_held);
    p.out.nil();
    p.number("process_count", node_.processes().size());
    p.number("port_count", node_.links().size());
    p.number("port_limit", files.rlim_cur);
    p.number("ets_count", tables().size());
    p.number("dist_buf_busy_limit", sources_.link_queue_bytes);
    write_memory(p.out);  // the list's tail
    return std::move(p.out);
  });
  allow("observer_backend", "get_port_list", 0, [this](const RpcRequest&) -> RpcAnswer {
    TermBuilder out;
    const auto owner = node_.whereis("net_kernel");
    for (const auto& link : node_.links()) {
      out.list_cons();
      Pairs port;
      const codec::PortParts id{node_.name(), link.number, node_.creation()};
      port.key("port_id").port(id);
      port.text("name", fmt::format("link to {}", link.node));
      port.key("links").nil();
      port.number("id", link.number);
      if (owner) port.key("connected").pid(owner->parts());
      port.number("input", link.bytes_in);
      port.number("output", link.bytes_out);
      port.key("os_pid").atom("undefined");
      port.key("monitors").nil();
      port.key("monitored_by").nil();
      port.key("parallelism").boolean(false);
      port.key("locking").atom("none");
      port.number("queue_size", link.queue_bytes);
      port.number("memory", link.queue_bytes);
      port.out.nil();
      out.raw(port.out.bytes());
    }
    out.nil();
    return out;
  });
  // Where etop finds the trace port that it had dbg open.
  allow("net_adm", "localhost", 0, [this](const RpcRequest&) -> RpcAnswer {
    TermBuilder out;
    out.charlist(node_.name().substr(node_.name().find('@') + 1));
    return out;
  });
  allow("observer_backend", "get_socket_list", 0, [](const RpcRequest&) -> RpcAnswer {
    TermBuilder out;
    out.nil();  // of the module socket: there are none
    return out;
  });
  allow("observer_backend", "socket_info", 0, [](const RpcRequest&) -> RpcAnswer {
    TermBuilder out;
    out.nil();
    return out;
  });
  allow("erlang", "system_info", 1, [this](const RpcRequest& request) -> RpcAnswer {
    const auto item = argument(request, 0).atom().value_or("");
    TermBuilder out;
    if (item == "wordsize") {
      out.unsigned_integer(sizeof(void*));
    } else if (item == "dirty_cpu_schedulers" || item == "dirty_io_schedulers") {
      out.integer(0);
    } else if (item == "process_count") {
      out.unsigned_integer(node_.processes().size());
    } else if (item == "port_count") {
      out.unsigned_integer(node_.links().size());
    } else if (item == "schedulers" || item == "schedulers_online") {
      out.unsigned_integer(measure_threads().size());
    } else if (item == "version" || item == "otp_release") {
      out.charlist(sources_.version);
    } else {
      return rpc_badarg();
    }
    return out;
  });
  allow("erlang", "memory", 0, [this](const RpcRequest&) -> RpcAnswer {
    TermBuilder out;
    write_memory(out);
    return out;
  });
}

}  // namespace scope::node
