// Screen: how this run writes: for people (tables, colour, Erlang's or Elixir's syntax) or for programs (JSON).
//
// Answers go to stdout, errors and remarks to stderr. Plain value, one thread.
#pragma once

#include <string>
#include <string_view>

#include "cnode/cli/terminal.h"
#include "ei_codec/base/result.h"
#include "ei_codec/term_print.h"
#include "ei_codec/term_view.h"

namespace scope::node::cli {

struct Screen {
  Terminal out, err;
  bool json = false;
  codec::Syntax syntax = codec::Syntax::erlang;

  // A term in the chosen syntax, fit to be shown; at most about `max_bytes`.
  std::string term(const codec::TermView& term, std::size_t max_bytes = 4096) const;
  std::string mfa(const codec::TermView& mfa)
      const;  // lists:map/2 or :lists.map/2; terms that are no MFA as they are

  void print(std::string_view text) const;             // to stdout
  void print_json(const codec::TermView& term) const;  // one line, whole
  void remark(std::string_view text) const;            // to stderr, dim
};

// An answer of the form {error, {Code, #{field, got, hint}}}, or one of our own errors.
struct Trouble {
  std::string code, message, field, got;
  std::string next;  // what to do about it; may be empty

  static Trouble of(const Error& error);
};
// To stderr; as {"error": {...}} to stdout when `screen` is for programs.
void show(const Screen& screen, std::string_view command, const Trouble& trouble);

}  // namespace scope::node::cli
