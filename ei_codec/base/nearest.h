// "Did you mean": the nearest of a few known words, by edit distance. For error messages only.
#pragma once

#include <span>
#include <string_view>

namespace scope {

// The candidate within a third of the word's length (at least 2 edits), nearest first; empty when none is.
std::string_view nearest(std::string_view word, std::span<const std::string_view> candidates);

}  // namespace scope
