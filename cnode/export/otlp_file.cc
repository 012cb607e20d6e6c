#include "cnode/export/otlp_file.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>

namespace scope::node {
namespace {

std::unexpected<Error> failed(const char* what, const std::string& path) {
  const int error = errno;
  return fail(error == ENOSPC || error == EDQUOT ? Code::disk_full : Code::io,
              fmt::format("{} {}: {}", what, path, std::strerror(error)));
}

std::string partial(const std::string& path) { return path + ".partial"; }

// What OtlpBatch::json() begins and ends with.
constexpr std::string_view kBegin = R"({"resourceSpans":[)", kEnd = "]}";

}  // namespace

Result<OtlpFile> OtlpFile::make(std::string path, bool json) {
  OtlpFile out(std::move(path), json);
  out.file_.reset(std::fopen(partial(out.path_).c_str(), "wbe"));
  if (!out.file_) return failed("open", partial(out.path_));
  if (json) RETURN_IF_ERROR(out.write(kBegin));
  return out;
}

OtlpFile::~OtlpFile() {
  if (file_) std::remove(partial(path_).c_str());
}

Status OtlpFile::write(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), file_.get()) != text.size())
    return failed("write", partial(path_));
  return {};
}

Status OtlpFile::add(const OtlpBatch& batch) {
  if (!json_) return write(batch.protobuf());
  const auto whole = batch.json();
  std::string_view inside = whole;
  SCOPE_CHECK(inside.starts_with(kBegin) && inside.ends_with(kEnd));
  inside.remove_prefix(kBegin.size());
  inside.remove_suffix(kEnd.size());
  if (!first_) RETURN_IF_ERROR(write(","));
  first_ = false;
  return write(inside);
}

Status OtlpFile::commit() {
  if (json_) RETURN_IF_ERROR(write(std::string(kEnd) + "\n"));
  if (std::fflush(file_.get()) != 0) return failed("write", partial(path_));
  if (std::rename(partial(path_).c_str(), path_.c_str()) != 0) return failed("rename", path_);
  file_.reset();
  return {};
}

}  // namespace scope::node
