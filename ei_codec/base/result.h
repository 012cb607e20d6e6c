// Result and Error: how every part of ElixirScope says that something went wrong.
//
// Error carries a code from the one table below (the same codes that callers on BEAM nodes see, api.md), a message
// that says what, where and what to do next, and optionally which field of a request was wrong.
// Exceptions of libraries become Errors at the wrapper; they never cross a coroutine's edge.
// Bytes from a peer never reach SCOPE_CHECK: that is for our own bugs.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <expected>
#include <string>
#include <string_view>
#include <utility>

namespace scope {

// name, text for the documentation. The numbers are stable: they are stored and sent. Append only.
#define SCOPE_ERROR_CODES(X)                                                                   \
  X(internal, 1, "a fault in ElixirScope itself; please report it with the daemon's log")      \
  X(bad_request, 2, "the request's shape is wrong")                                            \
  X(unknown_key, 3, "an option or filter key that does not exist; the hint names the nearest") \
  X(bad_value, 4, "a value of the wrong type or out of range")                                 \
  X(not_available, 5, "a request of a later version or of a part that is not here")            \
  X(no_such_process, 6, "no process of that pid or name was recorded")                         \
  X(ambiguous_process, 7, "several processes match; the error lists them")                     \
  X(unknown_node, 8, "no node of that name was seen")                                          \
  X(time_in_future, 9, "the time asked for has not come yet")                                  \
  X(not_recorded, 10, "nothing was recorded for that process at that time")                    \
  X(bad_cursor, 11, "the cursor is not one of ours, or belongs to another filter")             \
  X(deadline, 12, "the deadline passed before anything could be answered")                     \
  X(busy, 13, "too many requests wait; try again")                                             \
  X(too_many_atoms, 14,                                                                        \
    "the answer would intern over 5,000 atoms in the caller; narrow the filter")               \
  X(too_large, 15, "larger than its limit")                                                    \
  X(owned_by, 16, "another recorder or tracing tool owns this")                                \
  X(refused, 17, "not allowed, with the reason")                                               \
  X(node_down, 18, "the node is not connected")                                                \
  X(timeout, 19, "a peer did not answer in time")                                              \
  X(malformed, 20, "bytes that break the format or protocol")                                  \
  X(auth_failed, 21, "wrong cookie or name: the peer refused the handshake")                   \
  X(io, 22, "a system call failed")                                                            \
  X(disk_full, 23, "no room on the disk")                                                      \
  X(corrupt, 24, "stored bytes fail their checksum")                                           \
  X(closed, 25, "the object was closed")                                                       \
  X(no_such_trace, 26, "no trace with that id is active")                                      \
  X(over_budget, 27, "it would cost more than the node's budget allows")

enum class Code : int {
#define SCOPE_ENUM(name, number, text) name = number,
  SCOPE_ERROR_CODES(SCOPE_ENUM)
#undef SCOPE_ENUM
};

// The code's name as callers see it, for example "bad_value". Never null.
std::string_view code_name(Code code);
// The code's one-line explanation, for documentation and hints.
std::string_view code_text(Code code);

struct [[nodiscard]] Error {
  Code code = Code::internal;
  std::string message;  // what, where, what to do next
  std::string field;    // which option or key, if one is to blame
  std::string got;      // what was given there, printed and bounded
};

template <typename T>
using Result = std::expected<T, Error>;
using Status = Result<void>;

inline std::unexpected<Error> fail(Code code, std::string message, std::string field = {},
                                   std::string got = {}) {
  return std::unexpected<Error>(Error{code, std::move(message), std::move(field), std::move(got)});
}

// "code: message (field: got)" for logs and terminals.
std::string to_string(const Error& error);

[[noreturn]] inline void check_failed(const char* what, const char* file, int line) {
  std::fprintf(stderr, "%s:%d: CHECK failed: %s\n", file, line, what);
  std::abort();
}

}  // namespace scope

#define SCOPE_CHECK(condition) \
  ((condition) ? void(0) : ::scope::check_failed(#condition, __FILE__, __LINE__))

#define SCOPE_CONCAT_(a, b) a##b
#define SCOPE_CONCAT(a, b) SCOPE_CONCAT_(a, b)

#define RETURN_IF_ERROR(expression)                                               \
  do {                                                                            \
    auto scope_status_ = (expression);                                            \
    if (!scope_status_) return std::unexpected(std::move(scope_status_).error()); \
  } while (0)

#define ASSIGN_OR_RETURN(target, expression) \
  ASSIGN_OR_RETURN_(SCOPE_CONCAT(scope_result_, __LINE__), target, expression)
#define ASSIGN_OR_RETURN_(result, target, expression)             \
  auto result = (expression);                                     \
  if (!result) return std::unexpected(std::move(result).error()); \
  target = std::move(*result)

// The same for coroutines.
#define CO_RETURN_IF_ERROR(expression)                                               \
  do {                                                                               \
    auto scope_status_ = (expression);                                               \
    if (!scope_status_) co_return std::unexpected(std::move(scope_status_).error()); \
  } while (0)

#define CO_ASSIGN_OR_RETURN(target, expression) \
  CO_ASSIGN_OR_RETURN_(SCOPE_CONCAT(scope_result_, __LINE__), target, expression)
#define CO_ASSIGN_OR_RETURN_(result, target, expression)             \
  auto result = (expression);                                        \
  if (!result) co_return std::unexpected(std::move(result).error()); \
  target = std::move(*result)
