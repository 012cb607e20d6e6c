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
    app.add_option("--pid", pid_, "that this process took part in: 0.123.0@node, NAME@node, NAME");
    app.add_option("--node,--nodes", nodes_, "that these nodes took part in");
    app.add_option("--mfa", mfa_, "with a call of this function: m:f/a, Mod.f/a, m:f");
    app.add_option("--module,--modules", modules_, "with these behaviours, or calls in them");
    app.add_option("--text", text_, "with this text in a message's name, a module or an error");
    app.add_option("--min-duration", duration_, "that took at least so long: 10ms");
    app.add_flag("--errors,!--no-errors", errors_, "with an error, or without one");
    page_.add_to(app);
  }

  Status check_own() override {
    if (!id_.empty()) {
      auto bytes = cursor_bytes(id_);
      if (!bytes)
        return fail(Code::bad_value, "not an id: give one as `scope traces` shows it", "ID", id_);
      id_ = *std::move(bytes);
    }
    nodes_ = split_commas(nodes_);
    for (auto& n : nodes_) {
      ASSIGN_OR_RETURN(n, parse_node(n));
    }
    for (auto& m : modules_ = split_commas(modules_)) {
      ASSIGN_OR_RETURN(m, parse_atom(m));
    }
    if (!pid_.empty()) {
      ASSIGN_OR_RETURN(process_, parse_process(pid_, nodes_.size() == 1 ? nodes_.front() : ""));
    }
    if (!mfa_.empty()) {
      ASSIGN_OR_RETURN(parsed_mfa_, parse_mfa(mfa_));
    }
    if (!duration_.empty()) {
      ASSIGN_OR_RETURN(min_duration_, parse_duration(duration_));
    }
    return page_.check();
  }

  void write_request(codec::TermBuilder& out) const override {
    if (!id_.empty()) {
      out.tuple(2).atom("get_trace").binary(std::string_view(id_));
      return;
    }
    out.tuple(2).atom("get_traces");
    Keywords k(out);
    if (process_) process_->encode(k.key("pid"));
    k.atoms("node", nodes_);
    k.atoms("module", modules_);
    if (parsed_mfa_) parsed_mfa_->encode(k.key("mfa"));
    if (!text_.empty()) k.key("text").binary(std::string_view(text_));
    if (min_duration_) k.key("min_duration").integer(*min_duration_);
    if (errors_) k.key("errors").boolean(*errors_);
    page_.write(k);
    k.end();
  }

  std::string render(const codec::TermView& value, const Screen& screen) const override {
    return id_.empty() ? render_traces(value, screen) : render_trace(value, screen);
  }

 private:
  std::string id_, pid_, mfa_, text_, duration_;
  std::vector<std::string> nodes_, modules_;
  std::optional<bool> errors_;
  std::optional<ProcessArg> process_;
  std::optional<MfaArg> parsed_mfa_;
  std::optional<std::int64_t> min_duration_;
  PageFlags page_;
};

}  // namespace

std::unique_ptr<Command> make_traces() { return std::make_unique<TracesCommand>(); }

}  // namespace scope::node::cli
