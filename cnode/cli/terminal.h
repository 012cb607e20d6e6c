// Text for people: what a terminal can show, and how wide it is there.
//
// Everything that came from a node passes printable() before it is shown: control characters could move the cursor,
// change the title or hide text. Plain functions; any thread.
#pragma once

#include <string>
#include <string_view>

namespace scope::node::cli {

struct Terminal {
  bool color = false;
  int width = 0;  // columns; 0: not a terminal, lines may be as long as they like
};

// Of a file descriptor. Colour: on a terminal, unless `no_color`, NO_COLOR is set or TERM is dumb. $COLUMNS outweighs the
// terminal's own width.
Terminal terminal_of(int fd, bool no_color);

enum class Paint { none, bold, dim, red, green, yellow, cyan };
std::string paint(Paint paint, std::string_view text, const Terminal& terminal);

// Control characters, broken UTF-8 and what turns the direction of text, as \x{1B}.
std::string printable(std::string_view text);
// Columns that a printable text takes: wide characters count as two, combining ones as none.
int display_width(std::string_view text);
// At most `width` columns; what is cut ends in an ellipsis.
std::string fit(std::string_view text, int width);
// Broken between words (or anywhere, if a word is too long) into lines of at most `width` columns; 0: never.
std::string wrap(std::string_view text, int width, int indent = 0);

}  // namespace scope::node::cli
