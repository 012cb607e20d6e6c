#include "analysis/text_search.h"

#include <fmt/format.h>
#include <string.h>

namespace scope::analysis {
namespace {

using codec::TermKind;
using codec::TermView;

bool contains(std::string_view in, std::string_view what) {
  return !what.empty() && in.size() >= what.size() &&
         memmem(in.data(), in.size(), what.data(), what.size()) != nullptr;
}

std::string_view text_of(codec::Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// The next code point of UTF-8, or of a byte that is none.
std::uint32_t decode(std::string_view text, std::size_t& at) {
  const auto byte = [&](std::size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u;
  };
  const unsigned first = byte(at);
  const unsigned more = first >= 0xF0 ? 3 : first >= 0xE0 ? 2 : first >= 0xC0 ? 1 : 0;
  std::uint32_t code = more == 3   ? first & 7
                       : more == 2 ? first & 15
                       : more == 1 ? first & 31
                                   : first;
  for (unsigned i = 1; i <= more; ++i) {
    if ((byte(at + i) & 0xC0) != 0x80) return ++at, first;
    code = code << 6 | (byte(at + i) & 0x3F);
  }
  at += more + 1;
  return code;
}

}  // namespace

TextSearch::TextSearch(std::string_view text) : utf8_(text) {
  bool latin1 = true;
  for (std::size_t at = 0; at < text.size();) {
    const auto code = decode(text, at);
    latin1 = latin1 && code < 256;
    latin1_ += static_cast<char>(code);
  }
  if (!latin1) latin1_.clear();
}

bool TextSearch::found_in(std::string_view text) const { return contains(text, utf8_); }

bool TextSearch::in(const TermView& term) const {
  switch (term.kind()) {
    case TermKind::atom:
      return found_in(*term.atom());
    case TermKind::binary:
    case TermKind::bitstring:
      return found_in(text_of(term.bitstring()->bytes));
    case TermKind::string:
      return contains(text_of(term.bytes()).substr(3), latin1_);
    case TermKind::tuple:
      for (auto it = *term.elements(); !it.done(); it.next()) {
        if (in(it.item())) return true;
      }
      return false;
    case TermKind::map:
      for (auto it = *term.map(); !it.done(); it.next()) {
        if (in(it.key()) || in(it.value())) return true;
      }
      return false;
    case TermKind::list: {
      auto it = *term.list();
      for (; !it.done(); it.next()) {
        if (in(it.item())) return true;
      }
      const auto tail = it.tail();
      return tail && in(*tail);
    }
    case TermKind::pid:
      return found_in(term.pid()->node);
    case TermKind::port:
      return found_in(term.port()->node);
    case TermKind::reference:
      return found_in(term.reference()->node);
    case TermKind::export_fun: {
      const auto fun = *term.export_fun();
      return found_in(fun.module) || found_in(fun.function);
    }
    case TermKind::fun: {
      if (found_in(term.fun()->module)) return true;
      for (auto it = term.fun_environment(); !it.done(); it.next()) {
        if (in(it.item())) return true;
      }
      return false;
    }
    case TermKind::record: {
      const auto record = *term.record();
      if (found_in(record.module) || found_in(record.name)) return true;
      for (auto it = record.names; !it.done(); it.next()) {
        if (in(it.item())) return true;
      }
      for (auto it = record.values; !it.done(); it.next()) {
        if (in(it.item())) return true;
      }
      return false;
    }
    default:
      return false;
  }
}

bool TextSearch::in(const codec::Mfa& mfa) const {
  if (!mfa) return false;
  if (found_in(mfa.module) || found_in(mfa.function)) return true;
  return utf8_.find_first_of(":/") != utf8_.npos &&
         found_in(fmt::format("{}:{}/{}", mfa.module, mfa.function, mfa.arity));
}

Verdict TextSearch::matches(const codec::TraceRecord& record) const {
  if (in(record.mfa)) return Verdict::yes;
  if (record.payload.empty()) {
    // Arguments or a message that were not captured; what has none by its nature lacks nothing.
    return has_subject(record.type) ? Verdict::unknown : Verdict::no;
  }
  // The bytes as they lie there can only say no: what they hold may also stand across terms, or in a number.
  const auto bytes = text_of(record.payload);
  const bool perhaps =
      record.strings != nullptr || contains(bytes, utf8_) || contains(bytes, latin1_);
  if (perhaps && in(record.term())) return Verdict::yes;
  const bool whole =
      !record.has(codec::TraceRecord::kTruncated) && !record.has(codec::TraceRecord::kRedacted);
  return whole ? Verdict::no : Verdict::unknown;
}

}  // namespace scope::analysis
