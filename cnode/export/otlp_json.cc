#include "cnode/export/otlp_json.h"

#include <fmt/format.h>

#include <boost/json/src.hpp>
#include <charconv>

#include "cnode/export/otlp_batch.h"
#include "cnode/export/trace_service.pb.h"

namespace scope::node {
namespace {

using boost::json::array;
using boost::json::object;
using boost::json::value;
namespace common = opentelemetry::proto::common::v1;
using opentelemetry::proto::trace::v1::Span;

std::string hex(std::string_view bytes) {
  std::string out;
  for (const char c : bytes) out += fmt::format("{:02x}", static_cast<unsigned char>(c));
  return out;
}

value any(const common::AnyValue& from) {
  switch (from.value_case()) {
    case common::AnyValue::kStringValue:
      return object{{"stringValue", from.string_value()}};
    case common::AnyValue::kBoolValue:
      return object{{"boolValue", from.bool_value()}};
    case common::AnyValue::kIntValue:
      return object{{"intValue", std::to_string(from.int_value())}};
    case common::AnyValue::kDoubleValue:
      return object{{"doubleValue", from.double_value()}};
    case common::AnyValue::kArrayValue: {
      array values;
      for (const auto& v : from.array_value().values()) values.push_back(any(v));
      return object{{"arrayValue", object{{"values", std::move(values)}}}};
    }
    default:  // lists of pairs and bytes: otlp_batch.cc makes none
      return object{};
  }
}

array attributes(const google::protobuf::RepeatedPtrField<common::KeyValue>& from) {
  array out;
  for (const auto& pair : from)
    out.push_back(object{{"key", pair.key()}, {"value", any(pair.value())}});
  return out;
}

object span(const Span& from) {
  object out{{"traceId", hex(from.trace_id())}, {"spanId", hex(from.span_id())}};
  if (!from.parent_span_id().empty()) out["parentSpanId"] = hex(from.parent_span_id());
  out["name"] = from.name();
  out["kind"] = static_cast<int>(from.kind());
  out["startTimeUnixNano"] = std::to_string(from.start_time_unix_nano());
  out["endTimeUnixNano"] = std::to_string(from.end_time_unix_nano());
  out["attributes"] = attributes(from.attributes());
  array links;
  for (const auto& link : from.links()) {
    links.push_back(object{{"traceId", hex(link.trace_id())},
                           {"spanId", hex(link.span_id())},
                           {"attributes", attributes(link.attributes())}});
  }
  if (!links.empty()) out["links"] = std::move(links);
  if (from.has_status()) {
    out["status"] = object{{"message", from.status().message()},
                           {"code", static_cast<int>(from.status().code())}};
  }
  return out;
}

}  // namespace

std::string otlp_json(
    const opentelemetry::proto::collector::trace::v1::ExportTraceServiceRequest& request) {
  array resources;
  for (const auto& resource : request.resource_spans()) {
    array scopes;
    for (const auto& scope : resource.scope_spans()) {
      array spans;
      for (const auto& s : scope.spans()) spans.push_back(span(s));
      scopes.push_back(object{
          {"scope", object{{"name", scope.scope().name()}, {"version", scope.scope().version()}}},
          {"spans", std::move(spans)}});
    }
    resources.push_back(
        object{{"resource", object{{"attributes", attributes(resource.resource().attributes())}}},
               {"scopeSpans", std::move(scopes)}});
  }
  return boost::json::serialize(object{{"resourceSpans", std::move(resources)}});
}

OtlpAnswer read_otlp_answer(std::string_view body, bool json) {
  OtlpAnswer out;
  if (!json) {
    opentelemetry::proto::collector::trace::v1::ExportTraceServiceResponse answer;
    if (!answer.ParseFromArray(body.data(), static_cast<int>(body.size()))) return out;
    out.rejected = answer.partial_success().rejected_spans();
    out.why = answer.partial_success().error_message();
    return out;
  }
  boost::json::error_code error;
  const auto parsed = boost::json::parse(body, error);
  const auto* top = error ? nullptr : parsed.if_object();
  const auto* partial = top != nullptr ? top->if_contains("partialSuccess") : nullptr;
  if (partial == nullptr || !partial->is_object()) return out;
  const auto& said = partial->get_object();
  if (const auto* n = said.if_contains("rejectedSpans")) {  // a text, or as some write it a number
    if (n->is_int64()) out.rejected = n->get_int64();
    if (const auto* text = n->if_string())
      std::from_chars(text->data(), text->data() + text->size(), out.rejected);
  }
  if (const auto* why = said.if_contains("errorMessage"); why != nullptr && why->is_string())
    out.why = std::string(why->get_string());
  return out;
}

}  // namespace scope::node
