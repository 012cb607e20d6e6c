// Terms for tests, written as they are in Erlang:  tup({atm("ago"), num(5), atm("second")}).
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "ei_codec/base/result.h"
#include "ei_codec/term_builder.h"

namespace scope::test {

using Term = std::function<void(codec::TermBuilder&)>;

inline Term atm(std::string s) {
  return [s](codec::TermBuilder& b) { b.atom(s); };
}
inline Term num(std::int64_t n) {
  return [n](codec::TermBuilder& b) { b.integer(n); };
}
inline Term real(double n) {
  return [n](codec::TermBuilder& b) { b.real(n); };
}
inline Term bin(std::string s) {
  return [s](codec::TermBuilder& b) { b.binary(std::string_view(s)); };
}
inline Term str(std::string s) {
  return [s](codec::TermBuilder& b) { b.charlist(s); };
}
inline Term proc(std::string node, std::uint32_t creation, std::uint32_t id) {
  return [=](codec::TermBuilder& b) { b.pid({node, id, 0, creation}); };
}
inline Term tup(std::vector<Term> items) {
  return [items](codec::TermBuilder& b) {
    b.tuple(static_cast<std::uint32_t>(items.size()));
    for (const auto& item : items) item(b);
  };
}
inline Term lst(std::vector<Term> items) {
  return [items](codec::TermBuilder& b) {
    b.list(static_cast<std::uint32_t>(items.size()));
    for (const auto& item : items) item(b);
    b.nil();
  };
}
using Pairs = std::vector<std::pair<std::string, Term>>;
inline Term kw(const Pairs& pairs) {
  std::vector<Term> items;
  for (const auto& [key, value] : pairs) items.push_back(tup({atm(key), value}));
  return lst(std::move(items));
}
inline Term mp(Pairs pairs) {
  return [pairs](codec::TermBuilder& b) {
    b.map(static_cast<std::uint32_t>(pairs.size()));
    for (const auto& [key, value] : pairs) {
      b.atom(key);
      value(b);
    }
  };
}

// A term made and validated; the view lives as long as this.
struct Made {
  explicit Made(const Term& term) {
    term(builder);
    auto made = codec::view(builder.bytes());
    SCOPE_CHECK(made.has_value());
    view = *made;
  }
  codec::TermBuilder builder;
  codec::TermView view;
};

}  // namespace scope::test
