// The functions that a guard of a match specification may call. For match_guard.cc and match_eval.cc.
#pragma once

#include <cstdint>

namespace scope::analysis::match {

// name, least and most arguments. Those of match specifications of OTP 25, and some of newer ones.
#define SCOPE_GUARDS(X)                 \
  X(is_atom, "is_atom", 1, 1)           \
  X(is_float, "is_float", 1, 1)         \
  X(is_integer, "is_integer", 1, 1)     \
  X(is_list, "is_list", 1, 1)           \
  X(is_number, "is_number", 1, 1)       \
  X(is_pid, "is_pid", 1, 1)             \
  X(is_port, "is_port", 1, 1)           \
  X(is_reference, "is_reference", 1, 1) \
  X(is_tuple, "is_tuple", 1, 1)         \
  X(is_map, "is_map", 1, 1)             \
  X(is_binary, "is_binary", 1, 1)       \
  X(is_bitstring, "is_bitstring", 1, 1) \
  X(is_boolean, "is_boolean", 1, 1)     \
  X(is_function, "is_function", 1, 1)   \
  X(is_record, "is_record", 3, 3)       \
  X(is_map_key, "is_map_key", 2, 2)     \
  X(op_and, "and", 1, 255)              \
  X(op_or, "or", 1, 255)                \
  X(op_xor, "xor", 2, 2)                \
  X(op_not, "not", 1, 1)                \
  X(op_andalso, "andalso", 1, 255)      \
  X(op_orelse, "orelse", 1, 255)        \
  X(less, "<", 2, 2)                    \
  X(less_equal, "=<", 2, 2)             \
  X(greater, ">", 2, 2)                 \
  X(greater_equal, ">=", 2, 2)          \
  X(equal, "==", 2, 2)                  \
  X(not_equal, "/=", 2, 2)              \
  X(same, "=:=", 2, 2)                  \
  X(not_same, "=/=", 2, 2)              \
  X(abs, "abs", 1, 1)                   \
  X(element, "element", 2, 2)           \
  X(hd, "hd", 1, 1)                     \
  X(tl, "tl", 1, 1)                     \
  X(length, "length", 1, 1)             \
  X(node, "node", 1, 1)                 \
  X(round, "round", 1, 1)               \
  X(trunc, "trunc", 1, 1)               \
  X(to_float, "float", 1, 1)            \
  X(size, "size", 1, 1)                 \
  X(tuple_size, "tuple_size", 1, 1)     \
  X(byte_size, "byte_size", 1, 1)       \
  X(bit_size, "bit_size", 1, 1)         \
  X(map_size, "map_size", 1, 1)         \
  X(map_get, "map_get", 2, 2)           \
  X(binary_part, "binary_part", 3, 3)   \
  X(plus, "+", 1, 2)                    \
  X(minus, "-", 1, 2)                   \
  X(times, "*", 2, 2)                   \
  X(divide, "/", 2, 2)                  \
  X(div, "div", 2, 2)                   \
  X(rem, "rem", 2, 2)                   \
  X(band, "band", 2, 2)                 \
  X(bor, "bor", 2, 2)                   \
  X(bxor, "bxor", 2, 2)                 \
  X(bnot, "bnot", 1, 1)                 \
  X(bsl, "bsl", 2, 2)                   \
  X(bsr, "bsr", 2, 2)

enum class Op : std::uint8_t {
#define SCOPE_ENUM(id, name, least, most) id,
  SCOPE_GUARDS(SCOPE_ENUM)
#undef SCOPE_ENUM
};

}  // namespace scope::analysis::match
