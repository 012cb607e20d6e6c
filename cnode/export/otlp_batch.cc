#include "cnode/export/otlp_batch.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <set>
#include <vector>

#include "cnode/export/otlp_json.h"
#include "cnode/export/trace_service.pb.h"
#include "cnode/version.h"
#include "ei_codec/base/ids.h"
#include "ei_codec/map_fields.h"
#include "ei_codec/term_print.h"
#include "ei_codec/term_tags.h"

namespace scope::node {
namespace {

using codec::get;
using codec::get_flag;
using codec::get_integer;
using codec::get_list;
using codec::TermView;
using opentelemetry::proto::common::v1::AnyValue;
using opentelemetry::proto::common::v1::KeyValue;
using opentelemetry::proto::trace::v1::ScopeSpans;
using opentelemetry::proto::trace::v1::Span;
using opentelemetry::proto::trace::v1::Status_StatusCode_STATUS_CODE_ERROR;
using Attributes = google::protobuf::RepeatedPtrField<KeyValue>;

std::string clean(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    if (out.size() >= kMaxText) return out + "…";
    const auto c = codec::etf::decode_utf8(text);
    codec::etf::append_utf8(out, c.length == 0 ? 0xFFFD : c.value);
    text.remove_prefix(std::max<std::size_t>(1, c.length));
  }
  return out;
}

std::string text_of(const TermView& map, std::string_view key) {
  const auto value = get(map, key);
  return value ? clean(value->text(kMaxText + 1).value_or("")) : "";
}

AnyValue& add(Attributes& out, std::string_view key) {
  auto* pair = out.Add();
  pair->set_key(std::string(key));
  return *pair->mutable_value();
}
void add_text(Attributes& out, std::string_view key, std::string text) {
  if (!text.empty()) add(out, key).set_string_value(std::move(text));
}
void add_integer(Attributes& out, std::string_view key, const TermView& map,
                 std::string_view from) {
  if (const auto n = get_integer(map, from)) add(out, key).set_int_value(*n);
}
void add_texts(Attributes& out, std::string_view key, const std::set<std::string>& texts) {
  if (texts.empty()) return;
  auto* array = add(out, key).mutable_array_value();
  for (const auto& text : texts) array->add_values()->set_string_value(text);
}
void add_term(Attributes& out, std::string_view key, const TermView& map, std::string_view from) {
  if (const auto term = get(map, from))
    add_text(out, key, clean(codec::print(*term, codec::Syntax::erlang, kMaxText)));
}

std::optional<codec::Bytes> event_id(const TermView& term) {
  const auto bytes = term.binary();
  return bytes && bytes->size() == EventId::kBytes ? bytes : std::nullopt;
}
std::optional<codec::Bytes> event_id(const TermView& map, std::string_view key) {
  const auto term = get(map, key);
  return term ? event_id(*term) : std::nullopt;
}

std::string big_endian(std::initializer_list<std::uint64_t> words) {
  std::string out;
  bool zero = true;
  for (const auto word : words) {
    for (int shift = 56; shift >= 0; shift -= 8) out += static_cast<char>(word >> shift & 0xFF);
    zero = zero && word == 0;
  }
  if (zero) out.back() = 1;
  return out;
}
std::string trace_id(codec::Bytes root) {
  const auto hash = XXH3_128bits(root.data(), root.size());
  return big_endian({hash.high64, hash.low64});
}
std::string span_id(codec::Bytes event) {
  return big_endian({XXH3_64bits(event.data(), event.size())});
}

Span::SpanKind kind_of(std::string_view kind) {
  if (kind == "call") return Span::SPAN_KIND_CLIENT;
  if (kind == "handle") return Span::SPAN_KIND_SERVER;
  if (kind == "cast" || kind == "info") return Span::SPAN_KIND_CONSUMER;
  return Span::SPAN_KIND_INTERNAL;
}

std::uint64_t nanos(std::int64_t ns) {
  return static_cast<std::uint64_t>(std::max<std::int64_t>(0, ns));
}

Span::Link& add_link(Span& span, codec::Bytes to) {
  auto& link = *span.add_links();
  link.set_trace_id(span.trace_id());
  link.set_span_id(span_id(to));
  return link;
}

// Empty: no such digits.
std::string unhex(std::string_view digits) {
  std::string out;
  for (std::size_t i = 0; i + 1 < digits.size(); i += 2) {
    std::uint8_t byte = 0;
    const char* const end = digits.data() + i + 2;
    if (std::from_chars(digits.data() + i, end, byte, 16).ptr != end) return {};
    out += static_cast<char>(byte);
  }
  return out;
}

// What a traceparent in the span's message said, if there was one.
struct Context {
  std::string trace, parent;  // bytes
};
std::optional<Context> context_of(const TermView& item) {
  const auto context = get(item, "context");
  if (!context || !context->map()) return std::nullopt;
  const auto trace = unhex(text_of(*context, "trace_id")),
             parent = unhex(text_of(*context, "parent_id"));
  if (trace.size() != 16 || parent.size() != 8) return std::nullopt;
  return Context{trace, parent};
}

// `theirs`: the trace is exported under the id that its messages gave it.
Result<Span> span_of(const TermView& item, const std::string& trace, bool theirs) {
  const auto id = event_id(item, "id");
  const auto start = get_integer(item, "start");
  const auto parent = get(item, "parent");
  if (!id || !start || !parent || (!event_id(*parent) && !parent->is_atom("none")))
    return fail(Code::malformed, "a span without id, parent or start");
  Span span;
  span.set_trace_id(trace);
  span.set_span_id(span_id(*id));
  if (const auto context = context_of(item)) {
    if (theirs && parent->is_atom("none")) {
      span.set_parent_span_id(context->parent);
    } else {
      auto& link = *span.add_links();
      link.set_trace_id(context->trace);
      link.set_span_id(context->parent);
      add_text(*link.mutable_attributes(), "scope.link", "traceparent");
    }
  }
  const auto kind = text_of(item, "kind"), certainty = text_of(item, "certainty");
  if (const auto cause = event_id(*parent)) {
    if (certainty == "exact" || certainty == "unique") {
      span.set_parent_span_id(span_id(*cause));
    } else {
      auto& link = add_link(span, *cause);
      add_text(*link.mutable_attributes(), "scope.link", "cause");
      add_text(*link.mutable_attributes(), "scope.certainty", certainty);
      add_integer(*link.mutable_attributes(), "scope.candidates", item, "candidates");
    }
  }
  const auto name = text_of(item, "name");
  span.set_name(name.empty() ? kind : name);
  span.set_kind(kind_of(kind));
  const auto stop = get_integer(item, "stop");
  span.set_start_time_unix_nano(nanos(*start));
  span.set_end_time_unix_nano(nanos(std::max(*start, stop.value_or(*start))));
  auto& out = *span.mutable_attributes();
  add_text(out, "scope.kind", kind);
  add_text(out, "scope.certainty", certainty);
  add_integer(out, "scope.candidates", item, "candidates");
  if (const auto origin = text_of(item, "origin"); origin != "none")
    add_text(out, "scope.origin", origin);
  add_term(out, "scope.pid", item, "pid");
  add_term(out, "scope.sender", item, "sender");
  add_text(out, "scope.module", text_of(item, "module"));
  add_text(out, "scope.id", codec::base64url(*id));
  add_integer(out, "scope.start_error_ns", item, "start_error");
  add_integer(out, "scope.stop_error_ns", item, "stop_error");
  add_integer(out, "scope.queue_ns", item, "queue_ns");
  add_integer(out, "scope.queue_error_ns", item, "queue_error");
  add_integer(out, "scope.service_ns", item, "service_ns");
  add(out, "scope.critical").set_bool_value(get_flag(item, "critical"));
  if (!stop) add(out, "scope.open").set_bool_value(true);
  if (const auto error = text_of(item, "error"); !error.empty() && error != "none") {
    span.mutable_status()->set_code(Status_StatusCode_STATUS_CODE_ERROR);
    span.mutable_status()->set_message(error);
  }
  return span;
}

// On the root: what the trace may lack.
void add_completeness(Span& root, const TermView& trace) {
  auto& out = *root.mutable_attributes();
  const auto completeness = get(trace, "completeness");
  add(out, "scope.complete").set_bool_value(completeness && get_flag(*completeness, "complete"));
  std::set<std::string> missing, cut;
  if (completeness) {
    for (const auto& item : get_list(*completeness, "missing"))
      missing.insert(text_of(item, "kind"));
  }
  for (const auto& why : get_list(trace, "cut")) cut.insert(clean(why.text().value_or("")));
  add_texts(out, "scope.missing", missing);
  add_texts(out, "scope.cut", cut);
}

}  // namespace

struct OtlpBatch::Impl {
  opentelemetry::proto::collector::trace::v1::ExportTraceServiceRequest request;
  std::map<std::string, ScopeSpans*> of_node;
  std::size_t spans = 0;

  ScopeSpans& spans_of(const std::string& node) {
    auto& found = of_node[node];
    if (found != nullptr) return *found;
    auto* resource = request.add_resource_spans();
    auto& out = *resource->mutable_resource()->mutable_attributes();
    const auto name = node.substr(0, node.find('@'));
    add_text(out, "service.name", name.empty() ? "unknown_service" : name);
    add_text(out, "service.instance.id", node);
    add_text(out, "telemetry.sdk.name", "elixir_scope");
    add_text(out, "telemetry.sdk.language", "erlang");
    found = resource->add_scope_spans();
    found->mutable_scope()->set_name("elixir_scope");
    found->mutable_scope()->set_version(kVersion);
    return *found;
  }
};

OtlpBatch::OtlpBatch() : impl_(std::make_unique<Impl>()) {}
OtlpBatch::~OtlpBatch() = default;
OtlpBatch::OtlpBatch(OtlpBatch&&) noexcept = default;
OtlpBatch& OtlpBatch::operator=(OtlpBatch&&) noexcept = default;

std::size_t OtlpBatch::spans() const { return impl_->spans; }
void OtlpBatch::clear() { impl_ = std::make_unique<Impl>(); }
std::string OtlpBatch::protobuf() const { return impl_->request.SerializeAsString(); }
std::string OtlpBatch::json() const { return otlp_json(impl_->request); }

Status OtlpBatch::add(const TermView& trace) {
  const auto id = event_id(trace, "id");
  if (!id) return fail(Code::malformed, "a trace without an id");
  // One traceparent in all of its messages: it is a part of that trace.
  std::set<std::string> named;
  for (const auto& item : get_list(trace, "spans")) {
    if (auto context = context_of(item)) named.insert(std::move(context->trace));
  }
  const bool theirs = named.size() == 1;
  const auto trace_bytes = theirs ? *named.begin() : trace_id(*id);
  std::vector<Span> spans;
  std::vector<std::string> nodes;
  std::map<std::string, std::size_t> places;  // by span id
  for (const auto& item : get_list(trace, "spans")) {
    Span span;
    ASSIGN_OR_RETURN(span, span_of(item, trace_bytes, theirs));
    places.emplace(span.span_id(), spans.size());
    spans.push_back(std::move(span));
    nodes.push_back(text_of(item, "node"));
  }
  if (spans.empty()) return fail(Code::malformed, "a trace without spans");
  add_completeness(spans.front(), trace);
  for (const auto& link : get_list(trace, "links")) {
    if (link.arity() != 3u || !event_id(link.element(0)) || !event_id(link.element(1))) continue;
    // The later one of both points at what it came from.
    const auto to = places.find(span_id(*event_id(link.element(1))));
    if (to == places.end()) continue;
    auto& added = add_link(spans[to->second], *event_id(link.element(0)));
    add_text(*added.mutable_attributes(), "scope.link", clean(link.element(2).text().value_or("")));
  }
  for (std::size_t i = 0; i < spans.size(); ++i)
    *impl_->spans_of(nodes[i]).add_spans() = std::move(spans[i]);
  impl_->spans += spans.size();
  return {};
}

}  // namespace scope::node
