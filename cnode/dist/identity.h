// Pids, references and {Name, Node} as owned values. Any thread. views() of one live as long as it
// does.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <variant>

#include "ei_codec/term_builder.h"
#include "ei_codec/term_view.h"

namespace scope::node {

struct Pid {
  std::string node;  // empty: no pid
  std::uint32_t id = 0, serial = 0, creation = 0;

  Pid() = default;
  explicit Pid(const codec::PidParts& p);
  codec::PidParts parts() const { return {node, id, serial, creation}; }
  explicit operator bool() const { return !node.empty(); }
  bool operator==(const Pid&) const = default;
  std::string to_string() const;  // "<id.serial> on node", for logs
};

// A reference: of a monitor, a request, or an alias.
struct Ref {
  std::string node;  // empty: no reference
  std::uint32_t creation = 0;
  std::uint32_t count = 0;  // words used, 1..5
  std::array<std::uint32_t, 5> ids{};

  Ref() = default;
  explicit Ref(const codec::RefParts& p);
  codec::RefParts parts() const;
  explicit operator bool() const { return !node.empty(); }
  bool operator==(const Ref&) const = default;
};

// A registered name on a node: {Name, Node}.
struct NameAt {
  std::string name, node;
  bool operator==(const NameAt&) const = default;
};

// What can be monitored, and what a 'DOWN' says is down.
using Target = std::variant<Pid, NameAt>;
std::string_view node_of(const Target& target);
std::string to_string(const Target& target);

}  // namespace scope::node

template <>
struct std::hash<scope::node::Pid> {
  std::size_t operator()(const scope::node::Pid& p) const noexcept;
};
template <>
struct std::hash<scope::node::Ref> {
  std::size_t operator()(const scope::node::Ref& r) const noexcept;
};
