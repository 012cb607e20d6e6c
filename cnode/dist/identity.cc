#include "cnode/dist/identity.h"

#include <fmt/format.h>

#include <algorithm>

namespace scope::node {

Pid::Pid(const codec::PidParts& p)
    : node(p.node), id(p.id), serial(p.serial), creation(p.creation) {}

std::string Pid::to_string() const {
  return node.empty() ? "<none>" : fmt::format("<{}.{}> on {}", id, serial, node);
}

Ref::Ref(const codec::RefParts& p) : node(p.node), creation(p.creation), count(p.count) {
  std::copy_n(p.ids, std::min<std::size_t>(count, ids.size()), ids.begin());
}

codec::RefParts Ref::parts() const {
  codec::RefParts p;
  p.node = node;
  p.creation = creation;
  p.count = count;
  std::copy(ids.begin(), ids.end(), p.ids);
  return p;
}

std::string_view node_of(const Target& target) {
  if (const auto* pid = std::get_if<Pid>(&target)) return pid->node;
  return std::get<NameAt>(target).node;
}

std::string to_string(const Target& target) {
  if (const auto* pid = std::get_if<Pid>(&target)) return pid->to_string();
  const auto& name = std::get<NameAt>(target);
  return fmt::format("{} on {}", name.name, name.node);
}

}  // namespace scope::node

namespace {
std::size_t mix(std::size_t h, std::size_t value) {
  return (h ^ value) * 0x9E3779B97F4A7C15ULL + (h >> 29);
}
}  // namespace

std::size_t std::hash<scope::node::Pid>::operator()(const scope::node::Pid& p) const noexcept {
  return mix(mix(mix(std::hash<std::string>{}(p.node), p.id), p.serial), p.creation);
}

std::size_t std::hash<scope::node::Ref>::operator()(const scope::node::Ref& r) const noexcept {
  std::size_t h = mix(std::hash<std::string>{}(r.node), r.creation);
  for (std::uint32_t id : r.ids) h = mix(h, id);
  return h;
}
