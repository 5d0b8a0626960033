// Records of a mapped .rec file by offset, one at a time or a batch on the thread pool.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "format.h"
#include "jpeg.h"
#include "mapped_file.h"

namespace facex::recordio {

// What went wrong with one item of a batch.
struct Failure {
  int64_t item;
  std::string problem;
};

// Columns of many records' headers, [n] each; label1 is NaN where flag < 2.
struct Headers {
  uint32_t* flag;
  float* label0;
  float* label1;
  uint64_t* id;
  uint64_t* id2;
  int64_t* payload;  // bytes of the payload, -1 where the record is bad
};

// One decoded item: Decoded, and the picture's own size.
struct ImageColumns {
  int8_t* status;
  int32_t* sizes;  // [n, 2]: height, width
};

class Reader {
 public:
  explicit Reader(const std::string& path) : file_(path) {}

  const std::string& path() const { return file_.path(); }
  uint64_t size() const { return file_.size(); }

  // The record at `offset` and the offset behind it. `joined` as in read_record.
  Record record(uint64_t offset, std::vector<uint8_t>& joined) const;

  // Continuation flag and length of the record's parts.
  std::vector<std::pair<uint32_t, uint32_t>> parts(uint64_t offset) const;

  // Offsets of all records from `start` on, in file order.
  std::vector<int64_t> scan(uint64_t start) const;

  // The headers at `offsets`, failures in ascending order of their items.
  std::vector<Failure> headers(const int64_t* offsets, int64_t count, const Headers& out, int threads) const;

  // Pictures at `offsets` into out, uint8 [count, height, width, 3].
  std::vector<Failure> decode(const int64_t* offsets, int64_t count, uint8_t* out, const ImageColumns& columns,
                              const DecodeOptions& options, int threads) const;

 private:
  MappedFile file_;
};

// As Reader::decode, for picture files and for encoded pictures in memory.
std::vector<Failure> decode_files(const std::vector<std::string>& paths, uint8_t* out, const ImageColumns& columns,
                                  const DecodeOptions& options, int threads);
std::vector<Failure> decode_payloads(const std::vector<Bytes>& payloads, uint8_t* out, const ImageColumns& columns,
                                     const DecodeOptions& options, int threads);

}  // namespace facex::recordio
