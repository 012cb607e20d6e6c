#include "cnode/dist/process.h"

namespace scope::node {

void Process::on_down(const Ref&, const Target&, const Message&) {}
void Process::on_exit(const Pid&, const Message&, bool) {}
void Process::on_watcher_gone(const Pid&, const Ref&) {}
void Process::write_state(codec::TermBuilder& out) const { out.map(0); }

}  // namespace scope::node
