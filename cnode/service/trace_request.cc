#include "cnode/service/trace_request.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "analysis/causal_trace.h"
#include "analysis/event_order.h"
#include "analysis/resolve.h"
#include "cnode/service/parse.h"
#include "cnode/service/reply.h"

namespace scope::node {
namespace {

// As in a traceparent.
std::string hex(std::span<const std::uint8_t> id) {
  return fmt::format("{:02x}", fmt::join(id, ""));
}

using analysis::Span;
using codec::TermBuilder;
using codec::TermView;

void number(TermBuilder& out, const std::optional<std::int64_t>& n) {
  n ? void(out.integer(*n)) : unknown(out);
}

// What a span is, where, and why it began if nothing recorded caused it.
void write_what(MapWriter& out, const store::View& view, const Span& span) {
  write_process(out.key("pid"), view, span.process);
  const auto* info = analysis::info_of(view, span.process.incarnation);
  text_or_unknown(out.key("node"), info != nullptr ? std::string_view(info->node) : "");
  out.key("kind").atom(analysis::name(span.kind));
  if (span.name.empty()) {
    unknown(out.key("name"));
  } else {
    out.key("name").binary(std::string_view(span.name));
  }
  text_or_unknown(out.key("module"), span.module);
  out.key("origin").atom(analysis::name(span.root));
  if (span.sender) write_process(out.key("sender"), view, *span.sender);
}

void write_span(TermBuilder& out, const store::View& view, const analysis::Trace& trace,
                const analysis::TraceSpan& item) {
  const Span& span = item.span;
  MapWriter map;
  map.key("id").event_id(span.id);
  if (span.parent == analysis::kNoSpan) {
    map.key("parent").atom("none");
  } else {
    map.key("parent").event_id(trace.spans[span.parent].span.id);
  }
  map.key("depth").integer(item.depth);
  write_what(map, view, span);
  write_time(map, "start", "start_error", span.start);
  if (span.stop) {
    write_time(map, "stop", "stop_error", *span.stop);
  } else {
    unknown(map.key("stop"));
    unknown(map.key("stop_error"));
  }
  number(map.key("queue_ns"), span.queue_ns);
  span.queue_ns ? error_ns(map.key("queue_error"), span.queue_error_ns)
                : unknown(map.key("queue_error"));
  number(map.key("service_ns"), item.service_ns);
  if (span.error.empty()) {
    map.key("error").atom("none");
  } else {
    map.key("error").binary(std::string_view(span.error));
  }
  map.key("critical").boolean(item.critical);
  map.key("certainty").atom(analysis::name(span.certainty));
  map.key("candidates").integer(span.candidates);
  if (span.token.empty()) {
    map.key("token").atom("none");
  } else {
    map.key("token").binary(std::string_view(span.token));
  }
  if (span.context) {
    MapWriter context;
    context.key("trace_id").binary(std::string_view(hex(span.context->trace)));
    context.key("parent_id").binary(std::string_view(hex(span.context->span)));
    context.write(map.key("context"));
  } else {
    map.key("context").atom("none");
  }
  if (span.differs) {
    MapWriter differs;
    differs.key("cause").event_id(span.differs->cause);
    differs.key("certainty").atom(analysis::name(span.differs->certainty));
    differs.write(map.key("differs"));
  } else {
    map.key("differs").atom("none");
  }
  auto& events = map.key("events").list(static_cast<std::uint32_t>(span.events.size()));
  for (const auto& id : span.events) events.event_id(id);
  events.nil();
  map.write(out);
}

Result<EventId> read_event_id(const TermView& value, std::string_view field) {
  const auto given = value.binary();
  if (!given || given->size() != EventId::kBytes) {
    return bad_value(field, value,
                     "must be the id of a trace, a span or an event: 24 bytes, unchanged");
  }
  std::array<std::byte, EventId::kBytes> bytes;
  std::ranges::copy(*given, bytes.begin());
  return EventId::from_bytes(bytes);
}

}  // namespace

Status run_get_traces(const TermView& request, Env& env, TermBuilder& out) {
  FilterRequest wanted;
  ASSIGN_OR_RETURN(wanted, read_filter(request.element(1), Of::traces));
  if (wanted.deadline) env.context.budget.deadline = env.received + *wanted.deadline;
  analysis::TraceList list;
  ASSIGN_OR_RETURN(list, analysis::get_traces(env.context, wanted.filter, wanted.errors));
  const auto& view = *env.context.view;
  MapWriter map;
  auto& traces = map.key("traces").list(static_cast<std::uint32_t>(list.traces.size()));
  for (const auto& t : list.traces) {
    MapWriter item, root;
    item.key("id").event_id(t.root.id);
    write_what(root, view, t.root);
    root.write(item.key("root"));
    write_time(item, "start", "start_error", t.root.start);
    number(item.key("duration_ns"), t.duration_ns);
    item.key("spans").integer(t.spans);
    auto& nodes = item.key("nodes").list(static_cast<std::uint32_t>(t.nodes.size()));
    for (const auto& node : t.nodes) nodes.atom(node);
    nodes.nil();
    item.key("errors").integer(t.errors);
    item.key("tokens").integer(t.tokens);
    item.key("differs").integer(t.differs);
    item.key("certainty").atom(analysis::name(t.certainty));
    item.write(traces);
  }
  traces.nil();
  write_cursor(map.key("next"), list.next);
  write_completeness(map.key("completeness"), list.completeness);
  map.write(out);
  return {};
}

Status run_get_trace(const TermView& request, Env& env, TermBuilder& out) {
  EventId id;
  ASSIGN_OR_RETURN(id, read_event_id(request.element(1), "id"));
  analysis::Trace trace;
  ASSIGN_OR_RETURN(trace, analysis::get_trace(env.context, id));
  const auto& view = *env.context.view;
  MapWriter map;
  map.key("id").event_id(trace.spans.front().span.id);
  auto& spans = map.key("spans").list(static_cast<std::uint32_t>(trace.spans.size()));
  for (const auto& span : trace.spans) write_span(spans, view, trace, span);
  spans.nil();
  auto& links = map.key("links").list(static_cast<std::uint32_t>(trace.links.size()));
  for (const auto& link : trace.links) {
    links.tuple(3)
        .event_id(trace.spans[link.from].span.id)
        .event_id(trace.spans[link.to].span.id)
        .atom(link.why);
  }
  links.nil();
  auto& cut = map.key("cut").list(static_cast<std::uint32_t>(trace.cut.size()));
  for (const auto why : trace.cut) cut.atom(analysis::name(why));
  cut.nil();
  write_completeness(map.key("completeness"), trace.completeness);
  map.write(out);
  return {};
}

Status run_get_order(const TermView& request, Env& env, TermBuilder& out) {
  EventId a, b;
  ASSIGN_OR_RETURN(a, read_event_id(request.element(1), "id_a"));
  ASSIGN_OR_RETURN(b, read_event_id(request.element(2), "id_b"));
  analysis::OrderAnswer answer;
  ASSIGN_OR_RETURN(answer, analysis::get_order(env.context, a, b));
  MapWriter map;
  map.key("order").atom(analysis::name(answer.order));
  map.key("why").atom(analysis::name(answer.why));
  if (answer.why == analysis::OrderWhy::messages) {
    map.key("certainty").atom(analysis::name(answer.certainty));
  } else {
    unknown(map.key("certainty"));
  }
  auto& path = map.key("path").list(static_cast<std::uint32_t>(answer.path.size()));
  for (const auto& id : answer.path) path.event_id(id);
  path.nil();
  auto& doubts = map.key("doubts");
  for (unsigned d = 0; d < analysis::kOrderDoubts; ++d) {
    if (answer.doubts >> d & 1) {
      doubts.list_cons().atom(analysis::name(static_cast<analysis::OrderDoubt>(d)));
    }
  }
  doubts.nil();
  write_time(map, "time_a", "time_a_error", answer.a);
  write_time(map, "time_b", "time_b_error", answer.b);
  write_completeness(map.key("completeness"), answer.completeness);
  map.write(out);
  return {};
}

}  // namespace scope::node
