#include "mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace facex::recordio {

MappedFile::MappedFile(std::string path) : path_(std::move(path)) {
  fd_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // O_NONBLOCK: a pipe must not hang the open
  if (fd_ < 0) throw RecordError(path_ + ": cannot open: " + std::strerror(errno));
  struct stat info;
  if (::fstat(fd_, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd_);
    throw RecordError(path_ + ": not a regular file");
  }
  if (info.st_size == 0) return;
  void* map = ::mmap(nullptr, static_cast<size_t>(info.st_size), PROT_READ, MAP_SHARED, fd_, 0);
  if (map == MAP_FAILED) {
    const std::string why = std::strerror(errno);
    ::close(fd_);
    throw RecordError(path_ + ": cannot map: " + why);
  }
  bytes_ = {static_cast<const uint8_t*>(map), static_cast<uint64_t>(info.st_size)};
}

MappedFile::~MappedFile() {
  if (bytes_.data != nullptr) ::munmap(const_cast<uint8_t*>(bytes_.data), static_cast<size_t>(bytes_.size));
  if (fd_ >= 0) ::close(fd_);
}

Bytes MappedFile::bytes() const {
  struct stat info;
  if (::fstat(fd_, &info) != 0 || static_cast<uint64_t>(info.st_size) < bytes_.size)
    throw RecordError("truncated while open: the file had " + std::to_string(bytes_.size) + " bytes and has " +
                      std::to_string(info.st_size) + " now");
  return bytes_;
}

void read_file(const std::string& path, std::vector<uint8_t>& buffer) {
  constexpr uint64_t kLimit = uint64_t{1} << 28;
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) throw RecordError(std::string("cannot open: ") + std::strerror(errno));
  struct Close {
    int fd;
    ~Close() { ::close(fd); }
  } close{fd};
  struct stat info;
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) throw RecordError("not a regular file");
  if (static_cast<uint64_t>(info.st_size) > kLimit) throw RecordError("a picture file of more than 256 MiB");
  buffer.resize(static_cast<size_t>(info.st_size));
  size_t filled = 0;
  while (filled < buffer.size()) {
    const ssize_t got = ::read(fd, buffer.data() + filled, buffer.size() - filled);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw RecordError(std::string("cannot read: ") + std::strerror(errno));
    if (got == 0) break;
    filled += static_cast<size_t>(got);
  }
  buffer.resize(filled);
}

}  // namespace facex::recordio
