// The state behind Otp. Internal to cnode/otp: otp.cc (life, the allow-list), process_info.cc (processes as erlang,
// proc_lib and supervisor tell of them), backend.cc (observer_backend: figures, ports, etop), trace_relay.cc (dbg's), tables.cc, appmon.cc.
#pragma once

#include <boost/asio/io_context.hpp>
#include <chrono>
#include <map>

#include "cnode/otp/measure.h"
#include "cnode/otp/otp.h"

namespace scope::node {

inline constexpr std::string_view kApplication = "elixir_scope", kSupervisor = "elixir_scope_sup";

// A part, as a process: it is there to be looked at.
class PartProcess : public Process {
 public:
  PartProcess(Node& node, OtpPart part) : part_(std::move(part)), node_(node) {}
  void on_message(Message message) override;
  void write_state(codec::TermBuilder& out) const override;
  PartFigures figures() const { return part_.figures ? part_.figures() : PartFigures{}; }

 protected:
  virtual void answer(const codec::TermView& request, codec::TermBuilder& out);

 private:
  OtpPart part_;
  Node& node_;
};

// A process that does one thing for a remote caller and ends with `normal`. Owned by Otp::Impl until then.
class Errand : public Process {
 public:
  explicit Errand(Otp::Impl& otp) : otp_(otp) {}
  void on_message(Message) override {}
  // Another's exit ends it, as it would a process that does not trap exits; so does an exit signal.
  void on_exit(const Pid& from, const Message& reason, bool linked) override;
  Pid pid;

 protected:
  Otp::Impl& otp_;
};

// How a process is shown.
struct Shown {
  ProcessInfo info;
  std::string name;  // of the process, or what it is
  PartFigures figures;
};

using Row = codec::TermBuilder;  // a tuple
struct Table {
  std::string name;
  std::uint64_t size = 0, memory = 0;
  std::vector<Row> rows;       // of one that is kept
  codec::TermBuilder request;  // of one that is asked for
  std::vector<Row> (*read)(const codec::TermView& value) = nullptr;
};

class Otp::Impl : public std::enable_shared_from_this<Otp::Impl> {
 public:
  Impl(boost::asio::io_context& io, Node& node, OtpSources sources);
  void start();
  void stop();

  // otp.cc
  void allow(std::string module, std::string function, std::uint32_t arity,
             std::function<RpcAnswer(const RpcRequest&)> handler) {
    node_.rpc().allow(std::move(module), std::move(function), arity, std::move(handler));
  }
  Pid add(std::unique_ptr<Errand> errand);
  void end(const Pid& errand, std::string_view reason = "normal");  // posted; a literal
  std::optional<Pid> on_spawn(const SpawnRequest& request);
  const MemoryUse& memory();

  // process_info.cc
  void allow_processes();
  std::vector<Shown> shown();
  std::optional<Shown> shown(const Pid& pid);
  Shown show(ProcessInfo info);
  // The item's value; false: there is no such item.
  bool write_item(const Shown& p, std::string_view item, codec::TermBuilder& out) const;

  // backend.cc
  void allow_backend();
  void write_memory(codec::TermBuilder& out);  // [{total, N}, ..]
  void write_threads(codec::TermBuilder& out, const std::vector<ThreadUse>& threads) const;
  void write_etop(const Shown& p, codec::TermBuilder& out) const;
  std::pair<std::uint64_t, std::uint64_t> io_bytes() const;  // of all links since the start
  std::optional<Pid> procs_info(const Pid& collector, bool etop);
  std::optional<Pid> fetch_stats(const Pid& parent, std::int64_t every_ms);

  // trace_relay.cc
  std::optional<Pid> trace_relay(const Pid& parent, const codec::TermView& to, bool session);

  // tables.cc
  void allow_tables();
  void look_at_databases();
  std::vector<Table> tables();

  // appmon.cc
  void allow_applications();

  boost::asio::io_context& io_;
  Node& node_;
  OtpSources sources_;
  std::map<std::string, std::unique_ptr<PartProcess>> parts_;
  std::map<std::string, Pid, std::less<>> part_pids_;
  std::vector<std::unique_ptr<Errand>> errands_;
  std::vector<Row> databases_;  // {Partition, Name, Entries, Bytes}, as of the last look
  MemoryUse memory_;
  std::chrono::steady_clock::time_point memory_at_;
  const std::chrono::steady_clock::time_point since_ = std::chrono::steady_clock::now();
  bool stopped_ = false;
  Pid supervisor_;
};

inline codec::TermView argument(const RpcRequest& request, unsigned index) {
  auto it = *request.args.list();
  for (; index > 0; --index) it.next();
  return it.item();
}

}  // namespace scope::node
