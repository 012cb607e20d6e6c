// TextSearch: the filter's `text`, a piece of text looked for in an event without building its terms.
//
// Looked at  Inside the payload: atoms, binaries and charlists (of characters up to 255; each by itself; the modules, functions and nodes inside pids
//            and funs too, since they are atoms). Of the event: "module:function/arity". Not numbers, not times, not the
//            pid, nor the name that a message was sent to (the filter's `peer` asks for that).
// Compared   Byte by byte as UTF-8: upper and lower case differ, nothing is normalised.
// Unknown    Not found in an event of which a part was not captured.
// Life       Owns its text. Thread: immutable; any number of threads search at once.
#pragma once

#include <string>
#include <string_view>

#include "analysis/match_spec.h"

namespace scope::analysis {

class TextSearch {
 public:
  static constexpr std::size_t kMaxBytes = 1024;

  // REQUIRES not empty, at most kMaxBytes.
  explicit TextSearch(std::string_view text);

  Verdict matches(const codec::TraceRecord& record) const;
  bool in(const codec::TermView& term) const;
  bool in(const codec::Mfa& mfa) const;

 private:
  bool found_in(std::string_view text) const;

  std::string utf8_;
  std::string latin1_;  // as the VM sends a charlist; empty: it cannot be one
  std::u32string codes_;
  std::string list_;  // the bytes of its characters as items of a LIST_EXT
};

}  // namespace scope::analysis
