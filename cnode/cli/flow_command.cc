// scope flow
#include <CLI/CLI.hpp>

#include "cnode/cli/answer.h"
#include "cnode/cli/arguments.h"
#include "cnode/cli/command.h"
#include "cnode/cli/filter_flags.h"

namespace scope::node::cli {
namespace {

class FlowCommand : public Question {
 public:
  std::string_view name() const override { return "flow"; }
  std::string_view summary() const override {
    return "the messages between two processes, both ways";
  }
  std::string_view examples() const override {
    return "flow front@shop1@localhost stock@shop2@localhost --since -30s\n"
           "flow front@shop1@localhost stock@shop2@localhost --diagram\n"
           "flow front@shop1@localhost stock@shop2@localhost --mermaid >flow.mmd\n"
           "flow 0.123.0@shop1@localhost 0.97.0@shop2@localhost --order oldest";
  }

 protected:
  void add_own_flags(CLI::App& app) override {
    app.add_option("a", a_, "one process: 0.123.0@node, NAME@node, NAME")->required();
    app.add_option("b", b_, "the other")->required();
    auto* diagram = app.add_flag("--diagram", diagram_, "as a sequence diagram");
    app.add_flag("--mermaid", mermaid_, "as the source of one, for Mermaid")->excludes(diagram);
    page_.add_to(app);
  }
  Status check_own() override {
    ASSIGN_OR_RETURN(first_, parse_process(a_));
    ASSIGN_OR_RETURN(second_, parse_process(b_));
    if (common_.json && (diagram_ || mermaid_))
      return fail(Code::bad_value, "--json has no diagrams: give one of the two", "--json");
    return page_.check();
  }
  void write_request(codec::TermBuilder& out) const override {
    out.tuple(4).atom("get_message_flow");
    first_.encode(out);
    second_.encode(out);
    Keywords k(out);
    page_.write(k);
    k.end();
  }
  std::string render(const codec::TermView& value, const Screen& screen) const override {
    if (diagram_) return render_flow_diagram(value, screen);
    return mermaid_ ? render_flow_mermaid(value, screen) : render_flow(value, screen);
  }

 private:
  std::string a_, b_;
  ProcessArg first_, second_;
  PageFlags page_;
  bool diagram_ = false, mermaid_ = false;
};

}  // namespace

std::unique_ptr<Command> make_flow() { return std::make_unique<FlowCommand>(); }

}  // namespace scope::node::cli
