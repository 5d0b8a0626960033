// A file mapped into memory for reading.
#pragma once

#include <string>
#include <vector>

#include "format.h"

namespace facex::recordio {

// Read-only, no position of its own: safe for threads and after fork.
class MappedFile {
 public:
  explicit MappedFile(std::string path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  uint64_t size() const { return bytes_.size; }

  // The mapped bytes. Throws when the file has been cut since it was opened: touching lost pages would kill the
  // process.
  Bytes bytes() const;

 private:
  std::string path_;
  int fd_ = -1;
  Bytes bytes_;
};

// The whole of a small file (a picture) into `buffer`; an error has no file name, the caller knows it.
void read_file(const std::string& path, std::vector<uint8_t>& buffer);

}  // namespace facex::recordio
