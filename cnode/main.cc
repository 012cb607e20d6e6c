#include "cnode/cli/cli.h"
#include "cnode/daemon.h"

int main(int argc, char** argv) {
  return scope::node::run_cli(argc, argv, scope::node::run_daemon);
}
