#include "analysis/aggregate_groups.h"

#include <algorithm>
#include <cmath>
#include <map>

namespace scope::analysis {

using codec::Peer;

// ---- Distribution ---------------------------------------------------------------------------------------------------

void Distribution::add(std::int64_t ns) {
  if (!bins_) {
    bins_ = std::make_unique<Histogram>(std::tuple(Log(1024, 100.0, 1e13)),
                                        boost::histogram::unlimited_storage<>());
  }
  // What is no positive number has no logarithm: it goes where what is too small goes.
  (*bins_)(static_cast<double>(std::max<std::int64_t>(ns, 1)));
  ++count_;
  sum_ += static_cast<double>(ns);
  min_ = std::min(min_, ns);
  max_ = std::max(max_, ns);
}

double Distribution::quantile(double q) const {
  const auto rank = static_cast<double>(count_ - 1) * q;
  double passed = 0;
  const auto& axis = bins_->axis(0);
  for (int i = -1; i <= axis.size(); ++i) {
    passed += static_cast<double>(bins_->at(i));
    if (passed <= rank) continue;
    if (i < 0) return static_cast<double>(min_);
    if (i == axis.size()) return static_cast<double>(max_);
    const double middle = std::sqrt(axis.bin(i).lower() * axis.bin(i).upper());
    return std::clamp(middle, static_cast<double>(min_), static_cast<double>(max_));
  }
  return static_cast<double>(max_);
}

// ---- Groups ---------------------------------------------------------------------------------------------------------

Groups::Groups(const Context& context, const AggregateSpec& spec)
    : spec_(spec), view_(*context.view) {
  const auto infos = view_.incarnations();
  node_of_.assign(infos.size() + 1, 0);
  std::map<std::string_view, std::uint32_t> first;
  for (const auto& info : infos) {
    node_of_[info.number] = first.try_emplace(info.node, info.number).first->second;
  }
  for (const auto& by : spec.by) {
    if (by.key == GroupKey::time) bucket_ns_ = by.bucket_ns;
    if (by.key == GroupKey::pid || by.key == GroupKey::edge) needs_processes_ = true;
  }
}

std::int64_t Groups::bucket(ClusterTime at) const {
  const std::int64_t down = at.ns / bucket_ns_ - (at.ns % bucket_ns_ < 0 ? 1 : 0);
  return down * bucket_ns_;
}

bool Groups::one_bucket(ClusterTime from, ClusterTime until) const {
  return bucket_ns_ == 0 || bucket(from) == bucket(until);
}

void Groups::append(std::string_view text) {
  append_raw(static_cast<std::uint32_t>(text.size()));
  key_ += text;
}

std::uint32_t Groups::find(const Facts& facts) {
  key_.clear();
  for (const auto& by : spec_.by) {
    switch (by.key) {
      case GroupKey::node:
        append_raw(node_of_[facts.process.incarnation]);
        break;
      case GroupKey::mfa:
        append(facts.mfa.module);
        append(facts.mfa.function);
        append_raw(facts.mfa.arity);
        break;
      case GroupKey::module:
        append(facts.mfa.module);
        break;
      case GroupKey::edge: {
        const Peer none, &peer = facts.peer ? *facts.peer : none;
        // A peer on the sender's own node may be told with or without it.
        const auto* own = info_of(view_, facts.process.incarnation);
        const bool here = peer.node.empty() && peer.kind != Peer::Kind::name && own != nullptr;
        append_raw(peer.kind);
        append(here ? std::string_view(own->node) : peer.node);
        append(peer.name);
        append_raw(here && peer.creation == 0 ? own->creation : peer.creation);
        // An alias stands for any process of its VM.
        append_raw(peer.kind == Peer::Kind::alias ? 0 : peer.id);
        append_raw(peer.kind == Peer::Kind::alias ? 0 : peer.serial);
        [[fallthrough]];
      }
      case GroupKey::pid: {
        const auto* info = info_of(view_, facts.process.incarnation);
        append_raw(info ? info->home : facts.process.incarnation);
        append_raw(facts.process.id);
        append_raw(facts.process.serial);
        break;
      }
      case GroupKey::type:
        append_raw(facts.type);
        break;
      case GroupKey::time:
        append_raw(bucket(facts.at));
        break;
    }
  }
  const auto place = places_.find(key_);
  if (place != places_.end()) return place->second;
  if (groups_.size() == kMaxGroups) return kOther;
  groups_.push_back(make(facts));
  const auto at = static_cast<std::uint32_t>(groups_.size() - 1);
  places_.emplace(key_, at);
  return at;
}

Group Groups::make(const Facts& facts) const {
  Group out;
  const auto* info = info_of(view_, facts.process.incarnation);
  if (info != nullptr) out.node = info->node;
  out.module = facts.mfa.module;
  out.function = facts.mfa.function;
  out.arity = facts.mfa.arity;
  out.pid = facts.process;
  if (info != nullptr) out.pid.incarnation = info->home;
  out.type = facts.type;
  if (bucket_ns_ != 0) out.time = ClusterTime{bucket(facts.at)};
  out.sender.process = facts.process;
  if (facts.peer != nullptr) {
    auto texts = std::make_shared<std::vector<std::string>>();
    texts->emplace_back(facts.peer->node);
    texts->emplace_back(facts.peer->name);
    auto& peer = out.sender.record.peer = *facts.peer;
    peer.node = (*texts)[0];
    peer.name = (*texts)[1];
    peer.alias.node = peer.node;
    out.texts = std::move(texts);
  }
  return out;
}

void Groups::count(std::uint32_t group, double weight, std::uint64_t rows) {
  auto& m = measured(group);
  m.rows += rows;
  m.count += static_cast<double>(rows) * weight;
  scaled_ = scaled_ || weight != 1.0;
}

void Groups::finish(Aggregate& out) {
  out.groups = std::move(groups_);
  std::erase_if(out.groups, [](const Group& g) { return g.measured.rows == 0; });
  const auto more = [](const Group& a, const Group& b) {
    return a.measured.count > b.measured.count;
  };
  if (spec_.limit != 0 && out.groups.size() > spec_.limit) {
    std::ranges::sort(out.groups, more);
    out.not_listed = out.groups.size() - spec_.limit;
    out.groups.erase(out.groups.begin() + static_cast<std::ptrdiff_t>(spec_.limit),
                     out.groups.end());
  }
  std::ranges::sort(out.groups, [&](const Group& a, const Group& b) {
    return a.time != b.time ? a.time < b.time : more(a, b);
  });
  out.other = std::move(other_);
  out.scaled = scaled_;
}

}  // namespace scope::analysis
