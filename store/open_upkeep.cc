#include "store/open_upkeep.h"

#include <algorithm>

namespace scope::store {
namespace {

constexpr auto kEditWait = std::chrono::seconds(3);

std::vector<Unit> units_of(const View& view, std::uint32_t partition) {
  std::vector<Unit> out;
  for (const auto& unit : view.units()) {
    if (!unit.tail && unit.partition == partition) out.push_back(unit);
  }
  return out;
}

const Partition* find(const View& view, std::uint32_t number) {
  const auto& all = sealed_of(view).partitions;
  const auto it = std::ranges::find(all, number, [](const auto& p) { return p->number(); });
  return it == all.end() ? nullptr : it->get();
}

}  // namespace

Result<Manifest> OpenUpkeep::manifest() const {
  ASSIGN_OR_RETURN(auto found, Manifest::read(options_.path));  // replaced atomically by the writer
  if (!found) return fail(Code::io, options_.path + " has lost its manifest");
  return *std::move(found);
}

Result<std::vector<PartitionReport>> OpenUpkeep::info() const {
  ASSIGN_OR_RETURN(const auto listed, manifest());
  const auto view = writer_.view();
  std::vector<PartitionReport> out;
  for (const auto& p : listed.partitions) {
    auto& report = out.emplace_back();
    report.listed = p;
    report.active = &p == &listed.partitions.back();
    if (report.active) {
      report.hot_batches =
          static_cast<std::uint64_t>(std::ranges::count(view->units(), true, &Unit::tail));
    }
    const auto* partition = find(*view, p.number);
    if (partition == nullptr) {
      report.problem = p.lost ? "it is missing or damaged" : "not shown yet";
      continue;
    }
    const auto units = units_of(*view, p.number);
    report.blocks = units.size();
    for (const auto& unit : units) report.rows += unit.rows;
    if (const auto here = partition->read()) {
      report.bytes = here->file->env.used_bytes();
      report.databases = databases_of(*here);
    } else {
      report.problem = here.error().message;
    }
  }
  return out;
}

std::vector<IncarnationInfo> OpenUpkeep::agents() const {
  std::vector<IncarnationInfo> out;
  const auto view = writer_.view();
  for (const auto& info : view->incarnations()) {
    if (info.agent_id != 0) out.push_back(info);
  }
  return out;
}

// Of what the view shows: batches that come meanwhile are left out, partitions that retention drops meanwhile are read.
Result<VerifyReport> OpenUpkeep::verify(const Progress& progress) const {
  VerifyReport report;
  const auto view = writer_.view();
  ASSIGN_OR_RETURN(const auto listed, manifest());
  for (const auto& p : listed.partitions) {
    if (find(*view, p.number) != nullptr || !p.lost) continue;
    ++report.partitions;
    ++report.damaged;
    report.damages.push_back({p.number, "it is missing or damaged"});
  }
  for (const auto& partition : sealed_of(*view).partitions)
    RETURN_IF_ERROR(
        check_partition(*partition, units_of(*view, partition->number()), progress, report));
  return report;
}

Result<Numbers> OpenUpkeep::edit(Writer::EditRequest request) {
  request.answer = std::make_shared<std::promise<Result<Numbers>>>();
  auto answer = request.answer->get_future();
  RETURN_IF_ERROR(writer_.push(std::move(request), 0));
  if (answer.wait_for(kEditWait) != std::future_status::ready)
    return fail(Code::timeout,
                "the store did not come to it within 3 s; is its disk full or slow?");
  try {
    return answer.get();
  } catch (const std::future_error&) {
    return fail(Code::closed, "the store was closed");
  }
}

Result<Numbers> OpenUpkeep::archive(ClusterTime until, const std::string& to,
                                    const Progress& progress) {
  const auto view = writer_.view();  // keeps the files, should retention drop them meanwhile
  ASSIGN_OR_RETURN(const auto from, manifest());
  ASSIGN_OR_RETURN(const auto moved, copy_out(options_.path, from, until, to, progress));
  if (moved.empty()) return moved;
  return edit({[moved](Manifest& here) -> Result<Numbers> {
                 std::erase_if(here.partitions, [&](const auto& p) {
                   return p.folder.empty() && std::ranges::binary_search(moved, p.number);
                 });
                 return moved;
               },
               {},
               true,
               {}});
}

Result<Numbers> OpenUpkeep::attach(const std::string& archive) {
  ASSIGN_OR_RETURN(const auto here, manifest());
  ASSIGN_OR_RETURN(const auto more, attachable(here, archive));
  std::vector<std::shared_ptr<Partition>> opened;
  for (const auto& p : more) {
    ASSIGN_OR_RETURN(auto partition, open_attached(p.folder, p.number,
                                                   {.map_bytes = options_.map_bytes,
                                                    .writable = false,
                                                    .sync = options_.sync,
                                                    .files = files_}));
    opened.push_back(std::move(partition));
  }
  return edit({[more](Manifest& m) -> Result<Numbers> {
                 Numbers taken;
                 for (const auto& p : more) {
                   take_in(m, p);
                   taken.push_back(p.number);
                 }
                 return taken;
               },
               std::move(opened),
               false,
               {}});
}

Result<Numbers> OpenUpkeep::detach(const std::string& archive) {
  return edit({[archive](Manifest& m) { return forget_attached(m, archive); }, {}, false, {}});
}

Result<Numbers> OpenUpkeep::protect(ClusterTime from, ClusterTime until, bool keep,
                                    std::uint64_t budget) {
  return edit({[=, path = options_.path](Manifest& m) {
                 return mark_protected(m, path, from, until, keep, budget);
               },
               {},
               false,
               {}});
}

}  // namespace scope::store
