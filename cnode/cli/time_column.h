// TimeColumn: the column of times of a table or diagram. Plain value, one thread.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "cnode/cli/answer.h"
#include "cnode/cli/table.h"

namespace scope::node::cli {

// The column of times: whole ones, but on a terminal the date and zone go into the title if all rows share them.
class TimeColumn {
 public:
  TimeColumn(std::string_view title, const std::vector<codec::TermView>& rows, std::string_view key,
             const Screen& screen)
      : title_(title), key_(key) {
    if (screen.out.width == 0) return;
    for (const auto& row : rows) {
      const auto whole = when(row, key_, "");
      if (whole.size() < kDate + kTime) continue;
      const auto day = whole.substr(0, kDate - 1) + whole.substr(kDate + kTime);
      if (!day_.empty() && day != day_) {
        day_.clear();
        return;
      }
      day_ = day;
    }
  }
  Column column() const { return {day_.empty() ? title_ : day_}; }
  Cell cell(const codec::TermView& row) const {
    const auto whole = when(row, key_, "");
    return {day_.empty() || whole.size() < kDate + kTime ? whole : whole.substr(kDate, kTime),
            Paint::dim};
  }

 private:
  static constexpr std::size_t kDate = 11, kTime = 15;  // "2024-05-01T", "12:00:00.000000"
  std::string title_, key_, day_;
};

}  // namespace scope::node::cli
