// scope export
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <set>

#include "cnode/cli/answer.h"
#include "cnode/cli/arguments.h"
#include "cnode/cli/command.h"
#include "cnode/cli/filter_flags.h"
#include "cnode/export/otlp_batch.h"
#include "cnode/export/otlp_file.h"
#include "cnode/export/otlp_sender.h"

namespace scope::node::cli {
namespace {

class ExportCommand : public Question {
 public:
  std::string_view name() const override { return "export"; }
  std::string_view summary() const override {
    return "causal traces as OpenTelemetry's spans: to a receiver, or into a file";
  }
  std::string_view examples() const override {
    return "export --otlp http://127.0.0.1:4318 --since -1h\n"
           "export --otlp http://127.0.0.1:4318 --protocol http/json --errors\n"
           "export --file traces.json --since 12:00:00 --until 12:05:00\n"
           "export --file traces.binpb --node shop2@localhost --min-duration 50ms";
  }

 protected:
  void add_own_flags(CLI::App& app) override {
    auto* url = app.add_option("--otlp", url_, "to this receiver; without a path: /v1/traces");
    auto* file = app.add_option("--file", file_,
                                "into this file: .json, or .binpb for protobuf (TracesData)");
    url->excludes(file);
    app.add_option("--protocol", protocol_, "how it is sent (default http/protobuf)")
        ->check(CLI::IsMember({"http/protobuf", "http/json"}))
        ->needs(url);
    which_.add_to(app);
    page_.add_range_to(app);
  }

  Status check_own() override {
    RETURN_IF_ERROR(which_.check());
    RETURN_IF_ERROR(page_.check());
    if (url_.empty() && file_.empty())
      return fail(Code::bad_value, "where to: --otlp URL or --file FILE");
    if (url_.empty()) {
      if (!file_.ends_with(".json") && !file_.ends_with(".binpb"))
        return fail(Code::bad_value, "the file's name ends in .json or .binpb", "--file", file_);
      return {};
    }
    auto endpoint = parse_otlp_endpoint(url_);
    if (!endpoint) return fail(Code::bad_value, endpoint.error().message, "--otlp", url_);
    options_.endpoint = *std::move(endpoint);
    options_.json = protocol_ == "http/json";
    options_.timeout = common_.access.timeout;
    return {};
  }

  void write_request(codec::TermBuilder& out) const override {
    out.tuple(2).atom("get_traces");
    Keywords k(out);
    which_.write(k);
    page_.write(k);
    k.key("order").atom("oldest_first");
    k.end();
  }

  std::string render(const codec::TermView&, const Screen&) const override { return {}; }

 public:
  int run() override {
    const auto screen = common_.screen();
    const auto client = connect(screen);
    if (!client) return kExitNoConnection;
    std::optional<OtlpFile> file;
    if (!file_.empty()) {
      auto made = OtlpFile::make(file_, file_.ends_with(".json"));
      if (!made) {
        show(screen, kName, Trouble::of(made.error()));
        return kExitError;
      }
      file.emplace(*std::move(made));
    }
    std::optional<OtlpSender> sender;
    if (!file) sender.emplace(options_);
    int status = read_all(*client, screen, file, sender);
    OtlpCounts counts{.sent = offered_, .why = {}};
    if (sender) counts = sender->finish();
    if (file) {
      const auto written = status == kExitOk ? file->commit() : Status();
      if (!written) {
        show(error_screen(screen), kName, Trouble::of(written.error()));
        status = kExitError;
      }
      if (status != kExitOk) counts = {.dropped = offered_, .why = "the file was not written"};
    }
    summary(screen, counts);
    if (status == kExitOk && (counts.dropped > 0 || failed_ > 0)) status = kExitError;
    return status;
  }

 private:
  static constexpr std::string_view kName = "scope export";
  static constexpr std::size_t kMostMissing = 200;
  static constexpr std::size_t kBatchSpans = 512;  // a larger trace is a batch of its own

  // Errors go to stderr as text: stdout is for the summary.
  static Screen error_screen(Screen screen) {
    screen.json = false;
    return screen;
  }

  // Pages of the list, each trace of a page. Ends early when the receiver is given up or the daemon is gone.
  int read_all(Client& client, const Screen& screen, std::optional<OtlpFile>& file,
               std::optional<OtlpSender>& sender) {
    OtlpBatch batch;
    const auto flush = [&]() -> bool {
      if (batch.spans() == 0) return true;
      offered_ += batch.spans();
      bool well = true;
      if (sender) {
        well = sender->offer(options_.json ? batch.json() : batch.protobuf(), batch.spans());
      } else if (auto written = file->add(batch); !written) {
        show(error_screen(screen), kName, Trouble::of(written.error()));
        well = false;
      }
      batch.clear();
      return well;
    };
    for (;;) {
      codec::TermBuilder request;
      write_request(request);
      const auto reply = client.ask(request);
      if (!reply) {
        flush();
        return no_connection(error_screen(screen), kName, &client, client.daemon(), reply.error());
      }
      const auto value = unwrap(reply->term);
      if (!value) {
        flush();
        show(error_screen(screen), kName, value.error());
        return kExitError;
      }
      if (const auto c = get(*value, "completeness")) {
        for (auto& line : completeness(*c)) {
          // The cursor is what this goes on with; of very many gaps the first ones are told.
          if (line.ends_with("the cursor goes on from there")) continue;
          if (missing_.size() < kMostMissing) missing_.insert(std::move(line));
        }
      }
      for (const auto& listed : get_list(*value, "traces")) {
        const auto id = get(listed, "id");
        if (!id || !add(client, *id, batch)) {
          ++failed_;
          continue;
        }
        ++traces_;
        if (batch.spans() >= kBatchSpans && !flush()) return kExitError;
      }
      auto next = cursor_bytes(cursor_text(*value));
      if (!next || *next == page_.cursor) break;
      page_.cursor = *std::move(next);
    }
    return flush() ? kExitOk : kExitError;
  }

  // False: it cannot be had any more, such as one that retention dropped meanwhile.
  bool add(Client& client, const codec::TermView& id, OtlpBatch& batch) {
    codec::TermBuilder request;
    request.tuple(2).atom("get_trace").term(id);
    const auto reply = client.ask(request);
    const auto value = reply ? unwrap(reply->term) : std::unexpected(Trouble::of(reply.error()));
    if (!value) {
      why_failed_ = value.error().message;
      return false;
    }
    if (const auto added = batch.add(*value); !added) {
      why_failed_ = added.error().message;
      return false;
    }
    return true;
  }

  void summary(const Screen& screen, const OtlpCounts& counts) const {
    if (screen.json) {
      codec::TermBuilder b;
      b.map(8).atom("traces").unsigned_integer(traces_).atom("failed").unsigned_integer(failed_);
      b.atom("spans")
          .unsigned_integer(counts.sent)
          .atom("dropped")
          .unsigned_integer(counts.dropped);
      b.atom("requests").unsigned_integer(counts.requests);
      b.atom("retries").unsigned_integer(counts.retries);
      b.atom("why").binary(std::string_view(counts.why.empty() ? why_failed_ : counts.why));
      b.atom("missing").list(static_cast<std::uint32_t>(missing_.size()));
      for (const auto& line : missing_) b.binary(std::string_view(line));
      b.nil();
      if (const auto view = codec::view(b.bytes())) screen.print_json(*view);
      return;
    }
    std::string out = fmt::format("{} traces, {} spans {}\n", traces_, counts.sent,
                                  file_.empty() ? "sent" : "written");
    if (counts.retries > 0)
      out += fmt::format("{} requests, {} of them again\n", counts.requests, counts.retries);
    if (failed_ > 0) {
      out += paint(Paint::red,
                   fmt::format("{} traces could not be read: {}", failed_, printable(why_failed_)),
                   screen.out) +
             "\n";
    }
    if (counts.dropped > 0) {
      out += paint(Paint::red,
                   fmt::format("{} spans dropped: {}", counts.dropped, printable(counts.why)),
                   screen.out) +
             "\n";
    }
    if (missing_.empty()) {
      out += paint(Paint::dim, "complete", screen.out) + "\n";
    } else {
      out += paint(Paint::yellow, "not complete:", screen.out) + "\n";
      for (const auto& line : missing_)
        out += paint(Paint::yellow, wrap(line, screen.out.width, 2), screen.out) + "\n";
    }
    screen.print(out);
  }

  std::string url_, file_, protocol_;
  OtlpOptions options_;
  TraceFlags which_;
  PageFlags page_;
  std::size_t traces_ = 0, failed_ = 0, offered_ = 0;
  std::string why_failed_;
  std::set<std::string> missing_;
};

}  // namespace

std::unique_ptr<Command> make_export() { return std::make_unique<ExportCommand>(); }

}  // namespace scope::node::cli
