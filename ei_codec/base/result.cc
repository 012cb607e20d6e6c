#include "ei_codec/base/result.h"

namespace scope {

std::string_view code_name(Code code) {
  switch (code) {
#define SCOPE_CASE(name, number, text) \
  case Code::name:                     \
    return #name;
    SCOPE_ERROR_CODES(SCOPE_CASE)
#undef SCOPE_CASE
  }
  return "internal";
}

std::string_view code_text(Code code) {
  switch (code) {
#define SCOPE_CASE(name, number, text) \
  case Code::name:                     \
    return text;
    SCOPE_ERROR_CODES(SCOPE_CASE)
#undef SCOPE_CASE
  }
  return "";
}

std::string to_string(const Error& error) {
  std::string out(code_name(error.code));
  if (!error.message.empty()) out += ": " + error.message;
  if (!error.field.empty()) {
    out += " (" + error.field;
    if (!error.got.empty()) out += ": " + error.got;
    out += ")";
  }
  return out;
}

}  // namespace scope
