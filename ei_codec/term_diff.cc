#include "ei_codec/term_diff.h"

#include <algorithm>
#include <optional>

#include "ei_codec/map_index.h"

namespace scope::codec {
namespace {

class Differ {
 public:
  Differ(TermDiff& out, const DiffLimits& limits) : out_(out), limits_(limits) {}

  void terms(const TermView& a, const TermView& b);

 private:
  void maps(const MapView& a, const MapView& b);
  void tuples(ListView a, ListView b);
  bool records(const TermView& a, const TermView& b);  // false: to be taken as one value
  bool lists(const TermView& a, const TermView& b);    // false: to be taken as one value
  void descend(PathStep step, const TermView& a, const TermView& b) {
    path_.push_back(step);
    terms(a, b);
    path_.pop_back();
  }
  bool full() {
    const std::size_t n = out_.added.size() + out_.removed.size() + out_.changed.size();
    if (n >= limits_.max_entries) out_.cut = true;
    return n >= limits_.max_entries;
  }
  void one_sided(std::vector<TermDiff::Entry>& side, PathStep step, const TermView& value) {
    if (full()) return;
    side.push_back({path_, value});
    side.back().path.push_back(step);
  }

  TermDiff& out_;
  const DiffLimits& limits_;
  std::vector<PathStep> path_;
};

std::optional<std::string_view> tag(const TermView& tuple) {
  return *tuple.arity() > 0 ? tuple.element(0).atom() : std::nullopt;
}

// The items of a list that is proper, no string and not too long.
std::optional<std::vector<TermView>> items(const TermView& term) {
  std::vector<TermView> out;
  if (term.kind() == TermKind::string) return std::nullopt;
  auto it = term.list();
  if (!it) return std::nullopt;
  for (; !it->done(); it->next()) {
    if (out.size() == kMaxDiffList) return std::nullopt;
    out.push_back(it->item());
  }
  if (it->tail()) return std::nullopt;
  return out;
}

void Differ::terms(const TermView& a, const TermView& b) {
  if (out_.cut && full()) return;
  if (path_.size() < limits_.max_depth) {
    const TermKind kind = a.kind();
    if (kind == TermKind::map && b.kind() == kind) return maps(*a.map(), *b.map());
    if (kind == TermKind::tuple && b.kind() == kind && a.arity() == b.arity()) {
      const auto old_tag = tag(a), new_tag = tag(b);
      if (!old_tag || !new_tag || old_tag == new_tag) return tuples(*a.elements(), *b.elements());
    }
    if (lists(a, b) || records(a, b)) return;
  }
  if (!equal(a, b) && !full()) out_.changed.push_back({path_, a, b});
}

void Differ::maps(const MapView& a, const MapView& b) {
  const MapIndex old_pairs(a), new_pairs(b);
  for (MapView it = a; !it.done(); it.next()) {
    const TermView key = it.key();
    if (const auto other = new_pairs.find(key)) {
      descend(key, it.value(), *other);
    } else {
      one_sided(out_.removed, key, it.value());
    }
  }
  for (MapView it = b; !it.done(); it.next()) {
    if (!old_pairs.find(it.key())) one_sided(out_.added, it.key(), it.value());
  }
}

void Differ::tuples(ListView a, ListView b) {
  for (std::uint32_t i = 0; !a.done(); a.next(), b.next(), ++i) descend(i, a.item(), b.item());
}

bool Differ::records(const TermView& a, const TermView& b) {
  const auto was = a.record(), is = b.record();
  if (!was || !is || was->module != is->module || was->name != is->name) return false;
  auto p = was->names, q = is->names;
  for (; !p.done() && !q.done(); p.next(), q.next()) {
    if (p.item().atom() != q.item().atom()) return false;
  }
  if (p.done() != q.done()) return false;
  auto name = was->names, x = was->values, y = is->values;
  for (; !name.done(); name.next(), x.next(), y.next()) {
    descend(name.item(), x.item(), y.item());
  }
  return true;
}

bool Differ::lists(const TermView& a, const TermView& b) {
  const auto old_items = items(a);
  if (!old_items) return false;
  const auto new_items = items(b);
  if (!new_items) return false;
  const std::size_t shorter = std::min(old_items->size(), new_items->size());
  std::size_t front = 0, back = 0;
  while (front < shorter && equal((*old_items)[front], (*new_items)[front])) ++front;
  while (back < shorter - front &&
         equal(old_items->end()[-1 - static_cast<std::ptrdiff_t>(back)],
               new_items->end()[-1 - static_cast<std::ptrdiff_t>(back)])) {
    ++back;
  }
  for (std::size_t i = front; i < std::max(old_items->size(), new_items->size()) - back; ++i) {
    const auto index = static_cast<std::uint32_t>(i);
    const bool in_old = i < old_items->size() - back, in_new = i < new_items->size() - back;
    if (in_old && in_new) {
      descend(index, (*old_items)[i], (*new_items)[i]);
    } else if (in_new) {
      one_sided(out_.added, index, (*new_items)[i]);
    } else {
      one_sided(out_.removed, index, (*old_items)[i]);
    }
  }
  return true;
}

void write_path(const std::vector<PathStep>& path, TermBuilder& out) {
  out.list(static_cast<std::uint32_t>(path.size()));
  for (const PathStep& step : path) {
    if (const auto* index = std::get_if<std::uint32_t>(&step)) {
      out.integer(*index);
    } else {
      out.term(std::get<TermView>(step));
    }
  }
  out.nil();
}

void write_entries(std::string_view name, const std::vector<TermDiff::Entry>& entries,
                   TermBuilder& out) {
  out.atom(name).list(static_cast<std::uint32_t>(entries.size()));
  for (const auto& entry : entries) {
    out.tuple(2);
    write_path(entry.path, out);
    out.term(entry.value);
  }
  out.nil();
}

}  // namespace

TermDiff diff(const TermView& old_term, const TermView& new_term, const DiffLimits& limits) {
  TermDiff out;
  Differ(out, limits).terms(old_term, new_term);
  return out;
}

void write_diff(const TermDiff& diff, TermBuilder& out) {
  out.map(diff.cut ? 4 : 3);
  write_entries("added", diff.added, out);
  write_entries("removed", diff.removed, out);
  out.atom("changed").list(static_cast<std::uint32_t>(diff.changed.size()));
  for (const auto& change : diff.changed) {
    out.tuple(3);
    write_path(change.path, out);
    out.term(change.old_value).term(change.new_value);
  }
  out.nil();
  if (diff.cut) out.atom("cut").boolean(true);
}

}  // namespace scope::codec
