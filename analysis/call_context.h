// The trace context of others that the arguments of a called function carry: a traceparent in a binary, or, of
// opentelemetry_api's own functions (otel_*), a span in its terms: {span_ctx, TraceId, SpanId, ..}, ids as integers
// (its opentelemetry.hrl), itself or as a value of its contexts, which are maps. A process's dictionary, where that API keeps its
// context, is not looked into: those functions that write it there (otel_ctx:attach/1, set_value/3; otel_tracer:set_current_span)
// have it as an argument. Thread: pure.
#pragma once

#include <optional>

#include "ei_codec/trace_event.h"
#include "store/trace_ids.h"

namespace scope::analysis {

std::optional<store::TraceContext> context_in_call(const codec::TraceRecord& record);

}  // namespace scope::analysis
