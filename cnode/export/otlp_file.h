// OtlpFile: batches into a file: one JSON document of TracesData, or its protobuf bytes.
//
// Written beside its place, and moved there by commit(): a file of that name is whole. Without commit() nothing is left.
// One thread. Errors: io, disk_full.
#pragma once

#include <cstdio>
#include <memory>
#include <string>

#include "cnode/export/otlp_batch.h"

namespace scope::node {

class OtlpFile {
 public:
  static Result<OtlpFile> make(std::string path, bool json);
  OtlpFile(OtlpFile&&) noexcept = default;
  ~OtlpFile();

  Status add(const OtlpBatch& batch);
  Status commit();

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  OtlpFile(std::string path, bool json) : path_(std::move(path)), json_(json) {}
  Status write(std::string_view text);

  std::string path_;
  bool json_, first_ = true;
  std::unique_ptr<std::FILE, Close> file_;  // null: moved from, or committed
};

}  // namespace scope::node
