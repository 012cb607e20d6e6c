// Processes, functions and names as people type them, as Erlang and Elixir spell them or as this program prints them.
// Plain values, any thread. Nothing needs quoting in a shell: 0.123.0@shop1@localhost, Shop.Stock@shop1@localhost,
// Shop.Stock.take/2, gen_server:call/3.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ei_codec/base/result.h"
#include "ei_codec/term_builder.h"

namespace scope::node::cli {

// An atom: stock, :stock, 'my stock', :"my stock", Shop.Stock (Elixir's alias: 'Elixir.Shop.Stock').
Result<std::string> parse_atom(std::string_view text);

struct ProcessArg {
  std::string name;                  // empty: it is a pid
  std::uint32_t id = 0, serial = 0;  // of a pid
  std::string node;                  // empty: any
  bool operator==(const ProcessArg&) const = default;

  // "<0.123.0>" | {"<0.123.0>", Node} | Name | {Name, Node}, texts as binaries.
  void encode(codec::TermBuilder& out) const;
};

// A pid: <0.123.0>, 0.123.0, #PID<0.123.0>, with @node behind it or with `node` given, or as this program prints them,
// <shop@host.123.0>; or a registered name: NAME, NAME@node or {NAME, node}. A node in the text wins over `node`.
Result<ProcessArg> parse_process(std::string_view text, std::string_view node = {});

struct MfaArg {
  std::string module, function;  // function empty: any
  std::optional<std::uint8_t> arity;
  bool operator==(const MfaArg&) const = default;

  void encode(codec::TermBuilder& out) const;  // {M, F, A} | {M, F} | {M, '_', '_'}
};

// m:f/a, m:f, m, :m.f/a, Mod.Sub.f/a, Mod.Sub
Result<MfaArg> parse_mfa(std::string_view text);

// A node's name: name@host.
Result<std::string> parse_node(std::string_view text);

// "a,b,c" and repeated flags: one list.
std::vector<std::string> split_commas(const std::vector<std::string>& given);

}  // namespace scope::node::cli
