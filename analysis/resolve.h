// From how a caller names a process or a node to what is stored (model.md, Identity).
//
// A pid term names its VM by creation and works for dead nodes and earlier incarnations. A text or a name resolves to the
// process that had it at `until`, else to the only one that had it between `from` and `until`; several are
// ambiguous_process, with the list in the message.
// Thread: pure functions over an immutable view.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "analysis/clock_model.h"
#include "analysis/query.h"

namespace scope::analysis {

// One process, under every incarnation (agent) of its VM.
struct Process {
  std::vector<ProcessId> ids;  // ascending
  std::string node;
  std::uint32_t creation = 0, id = 0, serial = 0;

  bool holds(const ProcessId& process) const;
  bool operator==(const Process& other) const { return ids == other.ids; }
};

// Errors: unknown_node, no_such_process, ambiguous_process. `field` is named in them.
Result<Process> resolve(const Context& context, const ClockModel& clock, const ProcessSpec& spec,
                        ClusterTime from, ClusterTime until, std::string_view field);

// The process of a stored id, or of a pid as an event tells it. nullopt: its VM was never heard of.
Process process_of(const store::View& view, const ProcessId& id);
std::optional<Process> process_of(const store::View& view, std::string_view node,
                                  std::uint32_t creation, std::uint32_t id, std::uint32_t serial);

const store::IncarnationInfo* info_of(const store::View& view, Incarnation incarnation);

// All incarnations of these nodes, ascending. Errors: unknown_node.
Result<std::vector<Incarnation>> incarnations_of(const store::View& view,
                                                 std::span<const std::string> nodes);

// Was anything of this process recorded? Reads directories only.
Result<bool> recorded(const Context& context, const Process& process);

// <0.ID.SERIAL>
std::string pid_text(std::uint32_t id, std::uint32_t serial);

// Does this destination or peer mean the process, as far as the stored names tell? An alias means any process of its
// creator's VM ("perhaps"): the caller looks for its fetch.
enum class Means : std::uint8_t { no, perhaps, yes };
class PeerMatcher {
 public:
  PeerMatcher(const Context& context, const ClockModel& clock, const Process& process);
  Means means(const store::StoredRow& row, ClusterTime at) const;
  const Status& status() const { return status_; }

 private:
  struct Spell {
    std::string name;
    ClusterTime from, until;
  };
  const store::View& view_;
  const Process& process_;
  std::vector<Spell> spells_;
  Status status_;
};

}  // namespace scope::analysis
