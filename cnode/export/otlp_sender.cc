#include "cnode/export/otlp_sender.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <charconv>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <random>
#include <thread>

#include "cnode/dist/awaitable.h"
#include "cnode/export/otlp_batch.h"
#include "cnode/version.h"

namespace scope::node {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;

constexpr auto kTuple = asio::as_tuple(asio::use_awaitable);
constexpr std::size_t kMostAnswer = 64 << 10;

struct Reply {
  int status = 0;  // 0: none
  std::string why, body;
  bool json = false;
  std::optional<std::chrono::seconds> retry_after;
};

bool worth_trying_again(int status) {
  return status == 0 || status == 429 || status == 502 || status == 503 || status == 504;
}

// One request, on the connection that is there or a new one.
Awaitable<Reply> post(beast::tcp_stream& stream, const OtlpOptions& options,
                      const std::string& body) {
  const auto& to = options.endpoint;
  const auto failed = [](std::string_view doing, const beast::error_code& error) {
    Reply out;
    out.why = fmt::format("{}: {}", doing, error.message());
    return out;
  };
  if (!stream.socket().is_open()) {
    asio::ip::tcp::resolver resolver(stream.get_executor());
    auto [no_name, found] = co_await resolver.async_resolve(to.host, to.port, kTuple);
    if (no_name) co_return failed("looking up " + to.host, no_name);
    stream.expires_after(options.timeout);
    auto [refused, endpoint] = co_await stream.async_connect(found, kTuple);
    if (refused) co_return failed(fmt::format("connecting to {}:{}", to.host, to.port), refused);
  }
  http::request<http::span_body<const char>> request(http::verb::post, to.target, 11);
  request.set(http::field::host, fmt::format("{}:{}", to.host, to.port));
  request.set(http::field::user_agent, fmt::format("elixir_scope/{}", kVersion));
  request.set(http::field::content_type,
              options.json ? "application/json" : "application/x-protobuf");
  request.body() = {body.data(), body.size()};
  request.prepare_payload();
  stream.expires_after(options.timeout);
  auto [not_written, written] = co_await http::async_write(stream, request, kTuple);
  if (not_written) co_return failed("sending", not_written);
  beast::flat_buffer buffer;
  http::response_parser<http::string_body> parser;
  parser.body_limit(kMostAnswer);
  auto [not_read, read] = co_await http::async_read(stream, buffer, parser, kTuple);
  if (not_read) co_return failed("waiting for the answer", not_read);
  const auto& answer = parser.get();
  Reply out;
  out.status = static_cast<int>(answer.result_int());
  out.why = fmt::format("the receiver answered {} {}", out.status,
                        std::string_view(answer.reason().data(), answer.reason().size()));
  out.body = answer.body();
  const auto type = answer[http::field::content_type];
  out.json = std::string_view(type.data(), type.size()).starts_with("application/json");
  const auto wait = answer[http::field::retry_after];
  unsigned seconds = 0;  // a date instead is passed over
  const auto parsed = std::from_chars(wait.data(), wait.data() + wait.size(), seconds);
  if (!wait.empty() && parsed.ec == std::errc() && parsed.ptr == wait.data() + wait.size())
    out.retry_after = std::chrono::seconds(seconds);
  if (!answer.keep_alive()) stream.close();
  co_return out;
}

}  // namespace

Result<OtlpEndpoint> parse_otlp_endpoint(std::string_view url) {
  constexpr std::string_view kScheme = "http://";
  const auto wrong = [&](std::string_view why) {
    return fail(Code::bad_value, fmt::format("{}, such as http://127.0.0.1:4318", why), {},
                std::string(url));
  };
  if (url.starts_with("https://"))
    return wrong("https is not spoken here: give the http address of a collector nearby");
  if (!url.starts_with(kScheme)) return wrong("an http address");
  if (std::ranges::any_of(url, [](char c) { return c <= ' ' || c >= 0x7F; }))
    return wrong("an address without blanks or control characters");
  const auto rest = url.substr(kScheme.size());
  const auto slash = std::min(rest.find('/'), rest.size());
  auto host = rest.substr(0, slash);
  OtlpEndpoint out;
  out.target = slash + 1 >= rest.size() ? "/v1/traces" : rest.substr(slash);
  out.port = "4318";
  if (const auto bracket = host.find(']'); host.starts_with('[') && bracket != host.npos) {
    out.host = host.substr(1, bracket - 1);
    host.remove_prefix(bracket + 1);
  } else {
    out.host = host.substr(0, host.find(':'));
    host.remove_prefix(out.host.size());
  }
  if (host.starts_with(':')) {
    out.port = host.substr(1);
    std::uint16_t port = 0;
    const auto [end, error] =
        std::from_chars(out.port.data(), out.port.data() + out.port.size(), port);
    if (error != std::errc() || end != out.port.data() + out.port.size() || port == 0)
      return wrong("the port is a number up to 65535");
  } else if (!host.empty()) {
    return wrong("an address of host, port and path");
  }
  if (out.host.empty() || out.host.contains('@'))
    return wrong("an address with a host and no user");
  return out;
}

struct OtlpSender::Impl {
  struct Batch {
    std::string body;
    std::size_t spans = 0;
  };

  explicit Impl(OtlpOptions o) : options(std::move(o)), thread([this] { run(); }) {}

  void close() {
    {
      const std::lock_guard lock(mutex);
      closed = true;
    }
    changed.notify_all();
    if (thread.joinable()) thread.join();
  }

  void run() {
    for (;;) {
      Batch batch;
      {
        std::unique_lock lock(mutex);
        changed.wait(lock, [this] { return closed || !queue.empty(); });
        if (queue.empty()) return;
        batch = std::move(queue.front());
        queue.pop_front();
      }
      changed.notify_all();
      send(batch);
    }
  }

  // Counts the batch, as sent or dropped.
  void send(const Batch& batch) {
    auto wait = options.first_wait;
    for (int tried = 1;; ++tried) {
      {
        const std::lock_guard lock(mutex);
        if (given_up) {
          counts.dropped += batch.spans;
          return;
        }
      }
      const auto reply = once(batch.body);
      const bool last = tried >= options.tries;
      if (account(batch, reply, last)) return;
      auto pause = std::chrono::duration_cast<std::chrono::milliseconds>(
          wait * std::uniform_real_distribution<>(0.75, 1.25)(random));
      if (reply.retry_after) pause = std::min(*reply.retry_after, kMostRetryAfter);
      wait = std::min(2 * wait, options.most_wait);
      std::this_thread::sleep_for(pause);
    }
  }

  // True: that was it; false: to be tried again.
  bool account(const Batch& batch, const Reply& reply, bool last) {
    const std::lock_guard lock(mutex);
    ++counts.requests;
    if (reply.status >= 200 && reply.status < 300) {
      const auto answer = read_otlp_answer(reply.body, reply.json);
      const auto refused = static_cast<std::size_t>(
          std::clamp<std::int64_t>(answer.rejected, 0, static_cast<std::int64_t>(batch.spans)));
      counts.sent += batch.spans - refused;
      counts.dropped += refused;
      if (refused > 0) counts.why = "the receiver refused some: " + answer.why;
      return true;
    }
    if (worth_trying_again(reply.status) && !last) {
      ++counts.retries;
      return false;
    }
    counts.why = reply.why;
    counts.dropped += batch.spans;
    given_up = worth_trying_again(reply.status);
    changed.notify_all();
    return true;
  }

  Reply once(const std::string& body) {
    std::optional<Reply> reply;
    asio::co_spawn(io, post(stream, options, body),
                   [&](const std::exception_ptr& escaped, Reply r) {
                     if (escaped) r.why = "the request failed";
                     reply = std::move(r);
                   });
    io.restart();
    io.run();
    if (!reply || reply->status == 0) stream.close();
    return reply.value_or(Reply{});
  }

  OtlpOptions options;
  asio::io_context io{1};
  beast::tcp_stream stream{io};
  std::mt19937 random{std::random_device{}()};

  std::mutex mutex;  // what follows
  std::condition_variable changed;
  std::deque<Batch> queue;
  bool closed = false, given_up = false;
  OtlpCounts counts;

  std::thread thread;  // the last: begins when all else is there
};

OtlpSender::OtlpSender(OtlpOptions options) : impl_(std::make_unique<Impl>(std::move(options))) {}
OtlpSender::~OtlpSender() { impl_->close(); }

bool OtlpSender::offer(std::string body, std::size_t spans) {
  std::unique_lock lock(impl_->mutex);
  impl_->changed.wait(
      lock, [this] { return impl_->given_up || impl_->queue.size() < impl_->options.queue; });
  if (impl_->given_up) {
    impl_->counts.dropped += spans;
    return false;
  }
  impl_->queue.push_back({std::move(body), spans});
  lock.unlock();
  impl_->changed.notify_all();
  return true;
}

OtlpCounts OtlpSender::finish() {
  impl_->close();
  return impl_->counts;
}

}  // namespace scope::node
