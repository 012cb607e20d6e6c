// scope traces, scope traces ID
#include <CLI/CLI.hpp>

#include "cnode/cli/answer.h"
#include "cnode/cli/arguments.h"
#include "cnode/cli/command.h"
#include "cnode/cli/filter_flags.h"

namespace scope::node::cli {
namespace {

class TracesCommand : public Question {
 public:
  std::string_view name() const override { return "traces"; }
  std::string_view summary() const override {
    return "what was caused by what, over processes and nodes; or one such tree";
  }
  std::string_view examples() const override {
    return "traces --since -1m\n"
           "traces --min-duration 50ms --node shop2@localhost\n"
           "traces --errors --module Shop.Orders --limit 10\n"
           "traces AAAAAQAAAIsAAAAAeAAAAErpQwwAAAAA     one of them, as a tree of spans\n"
           "traces AAAAAQAAAIsAAAAAeAAAAErpQwwAAAAA --json";
  }

 protected:
  void add_own_flags(CLI::App& app) override {
    app.add_option("id", id_, "of a trace, as the list shows it, or of a span or event in it");
    which_.add_to(app);
    page_.add_to(app);
  }

  Status check_own() override {
    if (!id_.empty()) {
      auto bytes = cursor_bytes(id_);
      if (!bytes)
        return fail(Code::bad_value, "not an id: give one as `scope traces` shows it", "ID", id_);
      id_ = *std::move(bytes);
    }
    RETURN_IF_ERROR(which_.check());
    return page_.check();
  }

  void write_request(codec::TermBuilder& out) const override {
    if (!id_.empty()) {
      out.tuple(2).atom("get_trace").binary(std::string_view(id_));
      return;
    }
    out.tuple(2).atom("get_traces");
    Keywords k(out);
    which_.write(k);
    page_.write(k);
    k.end();
  }

  std::string render(const codec::TermView& value, const Screen& screen) const override {
    return id_.empty() ? render_traces(value, screen) : render_trace(value, screen);
  }

 private:
  std::string id_;
  TraceFlags which_;
  PageFlags page_;
};

}  // namespace

std::unique_ptr<Command> make_traces() { return std::make_unique<TracesCommand>(); }

}  // namespace scope::node::cli
