// OTLP's JSON: protobuf's mapping, but ids in hexadecimal and enums as numbers; 64-bit integers as text. Pure.
#pragma once

#include <string>

namespace opentelemetry::proto::collector::trace::v1 {
class ExportTraceServiceRequest;
}

namespace scope::node {

std::string otlp_json(
    const opentelemetry::proto::collector::trace::v1::ExportTraceServiceRequest& request);

}  // namespace scope::node
