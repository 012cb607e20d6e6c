// diff(): what changed between two terms, by path, in the shape of api.md:
//   #{added => [{Path, Value}], removed => [{Path, Value}], changed => [{Path, Old, New}]}
// with `cut => true` added if a limit left something out.
//
// Path      The keys of maps and the indexes of tuples and lists from the root, indexes counted from 0; [] is the root.
// Maps      by key. Tuples of one size by index, unless both begin with atoms and those differ. Lists: what both ends
//           have in common is left alone; of the rest, items at the same place are compared, and what one side has more
//           is added (index in the new list) or removed (index in the old one). Strings, improper lists and everything
//           else are one value.
// Bounds    No more than max_entries entries, max_depth keys in a path, and lists of kMaxDiffList items: a difference
//           that lies deeper, or in longer lists, is one `changed` at the place where the limit was met.
// Threads   Any. The result holds views into both terms.
#pragma once

#include <cstdint>
#include <variant>
#include <vector>

#include "ei_codec/term_builder.h"
#include "ei_codec/term_view.h"

namespace scope::codec {

struct DiffLimits {
  std::size_t max_entries = 1000;
  std::size_t max_depth = 32;
};
inline constexpr std::size_t kMaxDiffList = 10'000;

using PathStep = std::variant<TermView, std::uint32_t>;

struct TermDiff {
  struct Entry {
    std::vector<PathStep> path;
    TermView value;
  };
  struct Change {
    std::vector<PathStep> path;
    TermView old_value, new_value;
  };
  std::vector<Entry> added, removed;
  std::vector<Change> changed;
  bool cut = false;

  bool empty() const { return added.empty() && removed.empty() && changed.empty() && !cut; }
};

TermDiff diff(const TermView& old_term, const TermView& new_term, const DiffLimits& limits = {});

void write_diff(const TermDiff& diff, TermBuilder& out);

}  // namespace scope::codec
