#include "cnode/service/reply.h"

#include <limits>
#include <string>
#include <unordered_set>

#include "analysis/resolve.h"
#include "ei_codec/capture_record.h"

namespace scope::node {
namespace {

using codec::EventType;
using codec::TermBuilder;
using codec::TermView;
using codec::TraceRecord;

std::optional<TermView> payload(const TraceRecord& record) {
  if (record.payload.empty()) return std::nullopt;
  return record.term();  // validated at ingest; a block's checksum guards it since
}

void term_or_unknown(TermBuilder& out, const std::optional<TermView>& term) {
  term ? void(out.term(*term)) : unknown(out);
}

void write_gap(MapWriter& out, const analysis::ClockModel& clock, const store::StoredRow& row) {
  const auto term = payload(row.record);
  const auto gap = term ? codec::read_gap(*term) : std::nullopt;
  if (!gap) return;
  write_time(out, "from", "from_error", clock.cluster(row.process.incarnation, gap->from));
  write_time(out, "until", "until_error", clock.cluster(row.process.incarnation, gap->until));
  gap->count ? void(out.key("dropped").unsigned_integer(*gap->count)) : unknown(out.key("dropped"));
  text_or_unknown(out.key("reason"), gap->reason);
  if (gap->figures) out.key("figures").term(*gap->figures);
}

void write_by_type(MapWriter& out, const store::View& view, const analysis::ClockModel& clock,
                   const analysis::Event& event) {
  const auto& row = event.row;
  const auto& record = row.record;
  const auto term = [&](std::string_view key) { write_payload(out.key(key), record); };
  const auto mfa = [&] { write_mfa(out.key("mfa"), record.mfa); };
  const auto behaviour = [&] { text_or_unknown(out.key("behaviour"), record.mfa.module); };
  const auto message = [&] {
    term("message");
    if (record.has(TraceRecord::kSystem) || record.has(TraceRecord::kTimeoutNotMessage)) {
      out.key("origin").atom("system");
    }
  };
  switch (record.type) {
    case EventType::function_entry:
      mfa();
      term("args");
      break;
    case EventType::function_exit:
      mfa();
      term("result");
      break;
    case EventType::function_exception: {
      mfa();
      const auto pair = payload(record);
      const bool whole = pair && pair->arity() == 2u;
      term_or_unknown(out.key("class"), whole ? std::optional(pair->element(0)) : std::nullopt);
      term_or_unknown(out.key("reason"), whole ? std::optional(pair->element(1)) : pair);
      break;
    }
    case EventType::message_send:
      write_peer(out.key("to"), view, row);
      message();
      if (record.has(TraceRecord::kDeadReceiver)) out.key("dead_receiver").boolean(true);
      break;
    case EventType::message_fetch:
      message();
      if (record.has(TraceRecord::kTimeoutNotMessage)) out.key("timeout").boolean(true);
      break;
    case EventType::message_take:
      message();
      behaviour();
      break;
    case EventType::seq_send:
    case EventType::seq_receive: {
      const auto seq = codec::read_seq(record);
      write_peer(out.key(record.type == EventType::seq_send ? "to" : "from"), view, row);
      term_or_unknown(out.key("message"), seq ? std::optional(seq->message) : std::nullopt);
      term_or_unknown(out.key("label"), seq ? std::optional(seq->label) : std::nullopt);
      auto& serial = out.key("serial");
      seq ? void(serial.tuple(2).unsigned_integer(seq->previous).unsigned_integer(seq->current))
          : unknown(serial);
      break;
    }
    case EventType::state_change:
      term("state");
      behaviour();
      unknown(out.key("callback"));
      if (record.has(TraceRecord::kEndState)) out.key("final").boolean(true);
      break;
    case EventType::process_spawn: {
      const bool child_side = record.has(TraceRecord::kChildSide);
      write_peer(out.key(child_side ? "parent" : "child"), view, row);
      write_process(out.key(child_side ? "child" : "parent"), view, row.process);
      mfa();
      term("args");
      break;
    }
    case EventType::process_alive: {
      const auto facts = payload(record);
      const auto map = facts ? facts->map() : std::nullopt;
      write_peer(out.key("parent"), view, row);
      mfa();
      for (const std::string_view key : {"name", "label", "links"}) {
        term_or_unknown(out.key(key), map ? map->find(key) : std::nullopt);
      }
      break;
    }
    case EventType::process_exit:
      term("reason");
      break;
    case EventType::process_link:
    case EventType::process_unlink:
      write_peer(out.key("peer"), view, row);
      break;
    case EventType::process_register:
    case EventType::process_unregister:
      term("name");
      break;
    case EventType::code_load:
      text_or_unknown(out.key("module"), record.mfa.module);
      term("vsn");
      break;
    case EventType::node_up:
    case EventType::node_down:
      term("peer");  // `node` is the node that saw it, as in every event
      break;
    case EventType::gap:
      write_gap(out, clock, row);
      break;
    case EventType::telemetry:
    case EventType::log:
    case EventType::vm_sample:
      term("metadata");
      break;
  }
}

}  // namespace

void unknown(TermBuilder& out) { out.atom("unknown"); }

void text_or_unknown(TermBuilder& out, std::string_view atom) {
  out.atom(atom.empty() ? "unknown" : atom);
}

void error_ns(TermBuilder& out, std::int64_t error) {
  error == analysis::kUnknownError ? unknown(out) : void(out.integer(error));
}

void write_time(MapWriter& out, std::string_view key, std::string_view error_key,
                const analysis::Corrected& at) {
  out.key(key).integer(at.time.ns);
  error_ns(out.key(error_key), at.error_ns);
}

void write_process(TermBuilder& out, const analysis::Process& process) {
  out.pid({process.node, process.id, process.serial, process.creation});
}

void write_process(TermBuilder& out, const store::View& view, const ProcessId& process) {
  const auto* info = analysis::info_of(view, process.incarnation);
  if (info == nullptr || (process.id == 0 && process.serial == 0)) return void(out.atom("none"));
  out.pid({info->node, process.id, process.serial, info->creation});
}

void write_peer(TermBuilder& out, const store::View& view, const store::StoredRow& row) {
  const auto& peer = row.record.peer;
  const auto* own = analysis::info_of(view, row.process.incarnation);
  std::string_view node = peer.node;
  std::uint32_t creation = peer.creation;
  if (node.empty() && own != nullptr) {
    node = own->node;
    if (creation == 0) creation = own->creation;
  }
  using Kind = codec::Peer::Kind;
  switch (peer.kind) {
    case Kind::none:
      return unknown(out);
    case Kind::pid:
      return void(out.pid({node, peer.id, peer.serial, creation}));
    case Kind::name:
      return void(out.atom(peer.name));
    case Kind::remote_name:
      return void(out.tuple(2).atom(peer.name).atom(node));
    case Kind::alias:
      return void(out.reference(peer.alias));
    case Kind::port:
      return void(out.port({node, std::uint64_t{peer.serial} << 32 | peer.id, creation}));
  }
}

void write_mfa(TermBuilder& out, const codec::Mfa& mfa) {
  if (!mfa) return unknown(out);
  out.tuple(3).atom(mfa.module).atom(mfa.function).integer(mfa.arity);
}

void write_payload(TermBuilder& out, const TraceRecord& record) {
  term_or_unknown(out, payload(record));
}

void write_event(TermBuilder& out, const store::View& view, const analysis::ClockModel& clock,
                 const analysis::Event& event) {
  MapWriter map;
  const auto& row = event.row;
  map.key("id").event_id(row.id());
  const auto* info = analysis::info_of(view, row.process.incarnation);
  text_or_unknown(map.key("node"), info ? info->node : "");
  write_process(map.key("pid"), view, row.process);
  map.key("type").atom(codec::event_type_name(row.record.type));
  write_time(map, "time", "time_error", event.at);
  write_by_type(map, view, clock, event);
  if (row.record.has(TraceRecord::kTruncated)) {
    map.key("truncated").unsigned_integer(row.record.original_bytes);
  }
  if (row.record.has(TraceRecord::kRedacted)) map.key("redacted").boolean(true);
  if (row.record.has(TraceRecord::kInferred)) map.key("inferred").boolean(true);
  if (event.duration_ns) map.key("duration_ns").integer(*event.duration_ns);
  map.write(out);
}

void write_completeness(TermBuilder& out, const analysis::Completeness& c) {
  if (c.complete()) return void(out.map(1).atom("complete").boolean(true));
  out.map(2).atom("complete").boolean(false).atom("missing");
  const auto item = [&](std::string_view kind, auto fill) {
    MapWriter map;
    map.key("kind").atom(kind);
    fill(map);
    map.write(out.list_cons());
  };
  for (const auto& gap : c.gaps) {
    item("gap", [&](MapWriter& m) {
      text_or_unknown(m.key("node"), gap.node);
      m.key("from").integer(gap.from.ns);
      m.key("until").integer(gap.until.ns);
      gap.dropped ? void(m.key("dropped").unsigned_integer(*gap.dropped))
                  : unknown(m.key("dropped"));
      text_or_unknown(m.key("reason"), gap.reason);
    });
  }
  const auto count = [&](std::string_view kind, std::uint64_t n) {
    if (n > 0) item(kind, [&](MapWriter& m) { m.key("count").unsigned_integer(n); });
  };
  count("more_gaps", c.gaps_not_listed);
  for (const auto& n : c.not_traced) {
    item("not_traced", [&](MapWriter& m) {
      m.key("node").atom(n.node);
      text_or_unknown(m.key("reason"), n.reason);
      n.since ? void(m.key("since").integer(n.since->ns)) : unknown(m.key("since"));
    });
  }
  for (const auto& s : c.sampled) {
    item("sampled", [&](MapWriter& m) {
      m.key("node").atom(s.node);
      m.key("rate").real(s.rate);
      if (s.receivers) m.key("by").atom("receivers");
    });
  }
  count("truncated", c.truncated);
  count("redacted", c.redacted);
  if (c.undecided > 0 || c.undecided_at_least) {
    item("undecided", [&](MapWriter& m) {
      m.key("count").unsigned_integer(c.undecided);
      m.key("at_least").boolean(c.undecided_at_least);
    });
  }
  if (c.retention)
    item("retention", [&](MapWriter& m) { m.key("until").integer(c.retention->ns); });
  count("corrupt_blocks", c.corrupt_blocks);
  if (c.deadline_cut) item("deadline", [](MapWriter&) {});
  if (c.size_cut) item("size", [](MapWriter&) {});
  out.nil();
}

void write_explain(TermBuilder& out, const analysis::Explain& e) {
  MapWriter map;
  auto& plan = map.key("plan").list(static_cast<std::uint32_t>(e.plan.size()));
  for (const auto& step : e.plan) {
    MapWriter item;
    item.key("index").atom(step.index);
    item.key("before").integer(step.before);
    item.key("after").integer(step.after);
    item.write(plan);
  }
  plan.nil();
  map.key("units").integer(e.units);
  map.key("candidates").integer(e.candidates);
  map.key("blocks_read").unsigned_integer(e.blocks_read);
  map.key("tail_read").unsigned_integer(e.tail_read);
  map.key("rows_read").unsigned_integer(e.rows_read);
  map.key("rollup_cells").unsigned_integer(e.rollup_cells);
  auto& steps = map.key("steps").list(static_cast<std::uint32_t>(e.steps.size()));
  for (const auto& step : e.steps) steps.tuple(2).atom(step.name).integer(step.ns);
  steps.nil();
  map.write(out);
}

void write_cursor(TermBuilder& out, std::string_view cursor) {
  cursor.empty() ? out.atom("none") : out.binary(cursor);
}

void write_error(TermBuilder& out, const Error& error) {
  out.tuple(2).atom(code_name(error.code)).map(3);
  out.atom("field").atom(error.field.empty() ? "none" : error.field);
  out.atom("got");
  error.got.empty() ? out.atom("none") : out.binary(std::string_view(error.got));
  out.atom("hint").binary(error.message.empty() ? code_text(error.code)
                                                : std::string_view(error.message));
}

std::size_t count_atoms(codec::Bytes term, std::size_t limit) {
  // A preorder walk needs no stack: each term's own bytes are stepped over, its children come next.
  std::unordered_set<std::string_view> seen;
  const auto* p = reinterpret_cast<const unsigned char*>(term.data());
  const auto* const end = p + term.size();
  const auto be = [](const unsigned char* at, int bytes) {
    std::size_t n = 0;
    for (int i = 0; i < bytes; ++i) n = n << 8 | at[i];
    return n;
  };
  while (p < end && seen.size() <= limit) {
    switch (*p) {
      case 119:
      case 115:  // SMALL_ATOM_UTF8, SMALL_ATOM
        seen.emplace(reinterpret_cast<const char*>(p + 2), p[1]);
        p += 2 + p[1];
        break;
      case 118:
      case 100:  // ATOM_UTF8, ATOM
        seen.emplace(reinterpret_cast<const char*>(p + 3), be(p + 1, 2));
        p += 3 + be(p + 1, 2);
        break;
      case 97:
        p += 2;
        break;  // SMALL_INTEGER
      case 98:
        p += 5;
        break;  // INTEGER
      case 70:
        p += 9;
        break;  // NEW_FLOAT
      case 99:
        p += 32;
        break;  // FLOAT
      case 104:
        p += 2;
        break;  // SMALL_TUPLE
      case 105:
      case 108:
      case 116:
        p += 5;
        break;  // LARGE_TUPLE, LIST, MAP
      case 106:
      case 113:
        p += 1;
        break;  // NIL, EXPORT (three terms follow)
      case 107:
        p += 3 + be(p + 1, 2);
        break;  // STRING
      case 109:
        p += 5 + be(p + 1, 4);
        break;  // BINARY
      case 77:
        p += 6 + be(p + 1, 4);
        break;  // BIT_BINARY
      case 110:
        p += 3 + p[1];
        break;  // SMALL_BIG
      case 111:
        p += 6 + be(p + 1, 4);
        break;  // LARGE_BIG
      case 112:
        p += 30;
        break;  // NEW_FUN: module, old index, old uniq, pid, free variables follow
      // Identifiers begin with their node's atom; their numbers come after it.
      case 88:
      case 103:
      case 89:
      case 102:
      case 120:
      case 101:
      case 90:
      case 114: {
        const unsigned tag = *p;
        std::size_t words = 0;
        ++p;
        if (tag == 90 || tag == 114) {
          words = be(p, 2);
          p += 2;
        }
        const std::size_t width = *p == 119 || *p == 115 ? 1 : 2;
        const std::size_t length = be(p + 1, static_cast<int>(width));
        seen.emplace(reinterpret_cast<const char*>(p + 1 + width), length);
        p += 1 + width + length;
        switch (tag) {
          case 88:
            p += 12;
            break;
          case 103:
            p += 9;
            break;
          case 89:
            p += 8;
            break;
          case 102:
          case 101:
            p += 5;
            break;
          case 120:
            p += 12;
            break;
          case 90:
            p += 4 + 4 * words;
            break;
          default:
            p += 1 + 4 * words;
            break;
        }
        break;
      }
      default:
        return limit + 1;  // not ours to send
    }
  }
  return seen.size();
}

}  // namespace scope::node
