#include "store/folder_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

namespace scope::store {

FolderLock::~FolderLock() {
  if (fd_ >= 0) ::close(fd_);
}

Result<FolderLock> FolderLock::take(const std::string& folder) {
  FolderLock lock;
  lock.fd_ = ::open((folder + "/lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock.fd_ < 0) return fail(Code::io, folder + ": no lock file can be made here");
  if (::flock(lock.fd_, LOCK_EX | LOCK_NB) != 0)
    return fail(Code::owned_by, folder + " is in use by another daemon");
  return lock;
}

}  // namespace scope::store
