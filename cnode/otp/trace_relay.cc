// The tracer that dbg starts on another node before it traces there, and waits for without a limit (dbg:tracer/3, dbg:n/1): the
// process dbg:do_relay, to which it is linked. etop lives from one, too, unless it is OTP 25's with tracing off. Nothing can be
// traced here, and dbg:p says so (`undef`, 0 matched): the relay tells that it has started, and has nothing to hand on.
//
//   do_relay(Parent, To), since OTP 28 do_relay(Session, Parent, To):  Parent ! {started, Tracer} | {started, Tracer, Session}
//   To = Pid | {port, Fun}; Fun = dbg:trace_port(ip, {Port, Queue}), whose environment holds both
//
// To a trace port somebody connects (etop, on the host that net_adm:localhost names): it is listened on, where the node listens,
// and silent. One connection, the newest; what it says is not read. All of it ends with whoever is linked.
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>

#include "cnode/otp/otp_impl.h"

namespace scope::node {

namespace asio = boost::asio;
using asio::ip::tcp;
using codec::TermBuilder;
using codec::TermView;

namespace {

struct TracePort : std::enable_shared_from_this<TracePort> {
  explicit TracePort(asio::io_context& io) : acceptor(io), reader(io) {}

  bool listen(const std::string& address, std::uint16_t port) {
    boost::system::error_code ec;
    const auto ip = asio::ip::make_address(address, ec);
    if (!ec) acceptor.open(ip.is_v6() ? tcp::v6() : tcp::v4(), ec);
    if (!ec) acceptor.set_option(tcp::acceptor::reuse_address(true), ec);
    if (!ec) acceptor.bind({ip, port}, ec);
    if (!ec) acceptor.listen(1, ec);
    if (!ec) accept();
    return !ec;
  }
  void accept() {
    acceptor.async_accept([self = shared_from_this()](boost::system::error_code ec, tcp::socket s) {
      if (ec || !self->acceptor.is_open()) return;
      self->reader = std::move(s);
      self->accept();
    });
  }
  void close() {
    boost::system::error_code ignored;
    acceptor.close(ignored);
    reader.close(ignored);
  }

  tcp::acceptor acceptor;
  tcp::socket reader;
};

class TraceRelay : public Errand {
 public:
  TraceRelay(Otp::Impl& otp, std::shared_ptr<TracePort> port)
      : Errand(otp), port_(std::move(port)) {}
  ~TraceRelay() override {
    if (port_) port_->close();
  }

 private:
  std::shared_ptr<TracePort> port_;  // null: it would hand on to a process
};

// The port of a fun of dbg:trace_port(ip, _): the last of its environment (OTP 25 and 27; the queue's length stands before it).
std::optional<std::uint16_t> port_of(const TermView& to) {
  if (!to.is_tuple("port", 2)) return std::nullopt;
  const TermView made = to.element(1);
  if (!made.fun() || made.fun()->module != "dbg") return std::nullopt;
  std::optional<std::uint64_t> port;
  for (auto it = made.fun_environment(); !it.done(); it.next()) port = it.item().unsigned_integer();
  if (!port || *port == 0 || *port > 65535) return std::nullopt;
  return static_cast<std::uint16_t>(*port);
}

}  // namespace

std::optional<Pid> Otp::Impl::trace_relay(const Pid& parent, const TermView& to, bool session) {
  std::shared_ptr<TracePort> port;
  if (!to.pid()) {
    const auto number = port_of(to);
    if (!number) return std::nullopt;
    port = std::make_shared<TracePort>(io_);
    if (!port->listen(sources_.listen_address, *number)) return std::nullopt;
  }
  Pid pid = add(std::make_unique<TraceRelay>(*this, std::move(port)));
  TermBuilder out;
  out.tuple(session ? 3 : 2).atom("started").pid(pid.parts());
  if (session) out.atom("undefined");
  // After the caller has been told the pid.
  asio::post(io_, [self = shared_from_this(), pid, parent, term = std::move(out)]() mutable {
    if (!self->stopped_) (void)self->node_.send(parent, term.bytes(), pid);
  });
  return pid;
}

}  // namespace scope::node
