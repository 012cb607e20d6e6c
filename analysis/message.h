// A message event as matching sees it: whose it is, for whom it was meant, and which identity it carries.
//
// Identity   What a message says of itself that no other message says: of a '$gen_call' its reference, of a reply the
//            reference it answers (bare, or as [alias | Ref]): gen_server, gen_statem, Task and everything that follows
//            their protocol. Of messages of the runtime system ('DOWN', 'EXIT', timers, ports) what they tell about.
// Receivers  Resolves destinations: pids; names by their owner at that time; aliases, and names whose owner was not
//            recorded, only to their VM.
// Home       Processes are compared under the home incarnation of their VM: several agents of one VM saw one process.
// Thread     One object per question, one thread.
#pragma once

#include <array>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "analysis/clock_model.h"
#include "analysis/query.h"

namespace scope::analysis {

struct Identity {
  enum class Kind : std::uint8_t {
    none,
    request,  // {'$gen_call', {Pid, Tag}, _}
    reply,    // {Tag, _}
    down,  // {'DOWN', Ref, _, Pid, _}: `ref` is the monitor's, `process` who died (none: the connection was lost)
    exit,  // {'EXIT', Pid, _}: `process`, likewise
    spawned,  // {spawn_reply, Ref, ok, Pid}: `process` is the child
    timer,    // {timeout, Ref, _}, a gen_statem's {timeout, Type, _}, timeout
    port,     // ports and sockets
  };
  using Ref = std::array<std::uint64_t, 2>;  // a 128-bit hash of the reference

  Kind kind = Kind::none;
  Ref ref{};
  ProcessId process;  // home; none where its VM was never heard of

  bool of_reference() const { return kind == Kind::request || kind == Kind::reply; }
};

struct Destination {
  enum class Kind : std::uint8_t {
    nobody,   // a port, a dead name, a VM that was never heard of
    process,  // `process`
    vm,       // some process of the VM `process.incarnation`
  };
  Kind kind = Kind::nobody;
  ProcessId process;
};

struct Message {
  codec::EventType type{};  // message_send, message_fetch, message_take
  std::uint16_t flags = 0;
  std::uint64_t hash = 0;  // 0: none was made
  EventId id;
  Corrected at;
  ProcessId process;  // whose event it is; home
  Destination to;     // of a send
  Identity identity;
  std::optional<RawTime>
      follows;  // of a send, where clock_pairs reads it: the row of its process before it

  bool has(codec::TraceRecord::Flag flag) const { return (flags & flag) != 0; }
};

class Receivers {
 public:
  Receivers(const Context& context, const ClockModel& clock);

  ProcessId home(ProcessId process) const;
  // kNoIncarnation: never heard of.
  ProcessId home(const codec::PidParts& pid) const;
  Destination destination(const store::StoredRow& send, ClusterTime at);
  // REQUIRES a row of a spawn, link or unlink. The child, or of the child's own row the parent; whom it is linked to; none: never
  // heard of.
  ProcessId other_end(const store::StoredRow& row) const;
  // REQUIRES a row of a send, fetch or take.
  Message message(const store::StoredRow& row, Corrected at);

 private:
  struct Owner {
    ProcessId process;
    std::int64_t from, until;  // cluster time; margins of the clock's error
  };
  Destination owner(std::string_view node, std::string_view name, ClusterTime at);
  Incarnation vm(std::string_view node, std::uint32_t creation) const;
  Incarnation vm_at(std::string_view node, ClusterTime at) const;

  const store::View& view_;
  const ClockModel& clock_;
  std::vector<Incarnation> homes_;
  std::map<std::pair<std::string, std::string>, std::vector<Owner>, std::less<>> owners_;
};

// What the message says of itself; `type` tells a sent {'EXIT', ..} from the VM's own.
Identity identity_of(const store::StoredRow& row, const Receivers& receivers);

}  // namespace scope::analysis
