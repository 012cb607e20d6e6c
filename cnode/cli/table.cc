#include "cnode/cli/table.h"

#include <algorithm>
#include <numeric>

namespace scope::node::cli {
namespace {
constexpr int kGap = 2, kLeast = 8;
}

// 0 for a column that is left out.
std::vector<int> Table::widths(int limit) const {
  std::vector<int> w(columns_.size(), 0);
  for (const auto& row : rows_) {
    for (std::size_t i = 0; i < std::min(row.size(), w.size()); ++i) {
      w[i] = std::max(w[i], display_width(row[i].text));
    }
  }
  for (std::size_t i = 0; i < w.size(); ++i) {
    if (w[i] > 0) w[i] = std::max(w[i], display_width(columns_[i].title));
  }
  if (limit <= 0) return w;
  const auto shown = static_cast<int>(std::ranges::count_if(w, [](int x) { return x > 0; }));
  int excess = std::accumulate(w.begin(), w.end(), kGap * (shown - 1)) - limit;
  while (excess > 0) {
    std::size_t widest = w.size();
    int next = 0;  // the second widest: the widest gives down to it, then both give
    for (std::size_t i = 0; i < w.size(); ++i) {
      if (!columns_[i].flexible || w[i] <= std::max(kLeast, display_width(columns_[i].title)))
        continue;
      if (widest == w.size() || w[i] > w[widest]) {
        if (widest != w.size()) next = w[widest];
        widest = i;
      } else {
        next = std::max(next, w[i]);
      }
    }
    if (widest == w.size()) break;
    const int floor =
        std::max({kLeast, display_width(columns_[widest].title), std::min(next, w[widest] - 1)});
    const int give = std::min(excess, w[widest] - floor);
    w[widest] -= give;
    excess -= give;
  }
  return w;
}

std::string Table::render(const Terminal& terminal, bool titles) const {
  if (rows_.empty()) return {};
  const auto w = widths(terminal.width);
  std::string out;
  auto line = [&](auto&& cell_at) {
    std::string pending;  // blanks are written only when something follows
    for (std::size_t i = 0; i < columns_.size(); ++i) {
      if (w[i] == 0) continue;
      const Cell& cell = cell_at(i);
      const std::string text = fit(cell.text, w[i]);
      const std::string pad(static_cast<std::size_t>(std::max(0, w[i] - display_width(text))), ' ');
      if (columns_[i].right) pending += pad;
      if (!text.empty()) {
        out += pending + paint(cell.paint, text, terminal);
        pending.clear();
      }
      if (!columns_[i].right) pending += pad;
      pending.append(kGap, ' ');
    }
    out += '\n';
  };
  static const Cell kEmpty;
  if (titles) {
    std::vector<Cell> head;
    for (const auto& c : columns_) head.emplace_back(c.title, Paint::bold);
    line([&](std::size_t i) -> const Cell& { return head[i]; });
  }
  for (const auto& row : rows_) {
    line([&](std::size_t i) -> const Cell& { return i < row.size() ? row[i] : kEmpty; });
  }
  return out;
}

}  // namespace scope::node::cli
