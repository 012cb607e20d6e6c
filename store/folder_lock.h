// One process at a time has the store's folder: an flock on its file `lock`, released when the process ends however it ends.
// Errors io; owned_by: another process has it.
#pragma once

#include <string>
#include <utility>

#include "ei_codec/base/result.h"

namespace scope::store {

class FolderLock {
 public:
  static Result<FolderLock> take(const std::string& folder);
  FolderLock() = default;
  FolderLock(FolderLock&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FolderLock& operator=(FolderLock&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~FolderLock();

 private:
  int fd_ = -1;
};

}  // namespace scope::store
