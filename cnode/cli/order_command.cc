// scope order
#include <CLI/CLI.hpp>

#include "cnode/cli/answer.h"
#include "cnode/cli/command.h"

namespace scope::node::cli {
namespace {

class OrderCommand : public Question {
 public:
  std::string_view name() const override { return "order"; }
  std::string_view summary() const override {
    return "which of two events came first, and how that is known";
  }
  std::string_view examples() const override {
    return "order AAAAAQAAAIsAAAAAeAAAAErpQwwAAAAA AAAAAgAAAJMAAAAAeAAAAErpRDwAAAAA\n"
           "events --limit 2 --json     ids of events: id, $binary; scope traces shows those of "
           "spans";
  }

 protected:
  void add_own_flags(CLI::App& app) override {
    app.add_option("a", a_, "the id of an event")->required();
    app.add_option("b", b_, "of the other")->required();
  }
  Status check_own() override {
    for (auto* id : {&a_, &b_}) {
      auto bytes = cursor_bytes(*id);
      if (!bytes)
        return fail(Code::bad_value, "not an id: give one as `scope traces` shows it", "ID", *id);
      *id = *std::move(bytes);
    }
    return {};
  }
  void write_request(codec::TermBuilder& out) const override {
    out.tuple(3).atom("get_order").binary(std::string_view(a_)).binary(std::string_view(b_));
  }
  std::string render(const codec::TermView& value, const Screen& screen) const override {
    return render_order(value, screen);
  }

 private:
  std::string a_, b_;
};

}  // namespace

std::unique_ptr<Command> make_order() { return std::make_unique<OrderCommand>(); }

}  // namespace scope::node::cli
