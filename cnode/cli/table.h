// Table: rows of text under titles, aligned, and no wider than the terminal.
//
// Columns that hold nothing are left out. If a line would be wider than the terminal, the flexible columns give way, the
// widest first; what is cut off ends in an ellipsis. Without a terminal nothing is cut. Cells must be printable().
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "cnode/cli/terminal.h"

namespace scope::node::cli {

struct Cell {
  std::string text;
  Paint paint = Paint::none;

  Cell() = default;
  Cell(std::string t, Paint p = Paint::none)
      : text(std::move(t)), paint(p) {}                              // NOLINT: so a row reads well
  Cell(const char* t, Paint p = Paint::none) : text(t), paint(p) {}  // NOLINT
};

struct Column {
  std::string title;
  bool right = false;     // numbers
  bool flexible = false;  // may be cut
};

class Table {
 public:
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

  void add(std::vector<Cell> row) { rows_.push_back(std::move(row)); }  // missing cells are empty
  bool empty() const { return rows_.empty(); }

  // Lines, each ended by a newline and without trailing blanks; nothing if there are no rows.
  std::string render(const Terminal& terminal, bool titles = true) const;

 private:
  std::vector<int> widths(int limit) const;

  std::vector<Column> columns_;
  std::vector<std::vector<Cell>> rows_;
};

}  // namespace scope::node::cli
