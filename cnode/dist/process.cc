#include "cnode/dist/process.h"

namespace scope::node {

void Process::on_down(const Ref&, const Target&, const Message&) {}
void Process::on_exit(const Pid&, const Message&, bool) {}
void Process::on_watcher_gone(const Pid&, const Ref&) {}

}  // namespace scope::node
