// The bytes of a RecordIO file (dmlc): parts, records of several parts, and the image record's IRHeader.
// Everything here works on memory that is already there, checks before it looks, and throws RecordError.
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

namespace facex::recordio {

// A malformed file. Arrives in Python as facex.errors.RecordError.
class RecordError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Bytes {
  const uint8_t* data = nullptr;
  uint64_t size = 0;
};

constexpr uint32_t kMagic = 0xced7230a;
constexpr uint64_t kPartHeader = 8;
constexpr uint64_t kRecordLimit = uint64_t{1} << 29;  // MXNet refuses to write longer records
constexpr uint64_t kImageHeader = 24;

// Continuation flags of a part.
enum : uint32_t { kWhole = 0, kFirst = 1, kMiddle = 2, kLast = 3 };

inline uint32_t load_u32(const uint8_t* p) {
  return uint32_t{p[0]} | uint32_t{p[1]} << 8 | uint32_t{p[2]} << 16 | uint32_t{p[3]} << 24;
}

inline uint64_t load_u64(const uint8_t* p) { return uint64_t{load_u32(p)} | uint64_t{load_u32(p + 4)} << 32; }

inline float load_f32(const uint8_t* p) {
  const uint32_t bits = load_u32(p);
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

struct Part {
  uint32_t flag;    // continuation flag, 0..7
  uint32_t length;  // bytes of data
  Bytes data;
  uint64_t next;  // offset of the part behind this one
};

// The part at `offset`, its header and extent checked against the file.
Part read_part(Bytes file, uint64_t offset);

struct Record {
  Bytes bytes;    // into the file, or into the caller's buffer for a record of several parts
  uint64_t next;  // offset of the record behind this one
};

// The record that starts at `offset`; a record of several parts is joined in `joined`.
Record read_record(Bytes file, uint64_t offset, std::vector<uint8_t>& joined);

// As read_record without the bytes: the offset behind the record.
uint64_t skip_record(Bytes file, uint64_t offset);

// struct IfQQ, then `flag` float labels, then the payload.
struct ImageRecord {
  uint32_t flag;
  float label;  // the header's own label: the label when flag is 0
  uint64_t id;
  uint64_t id2;
  Bytes labels;  // 4 * flag bytes
  Bytes payload;

  float first_label() const { return flag == 0 ? label : load_f32(labels.data); }
};

ImageRecord parse_image_record(Bytes record);

}  // namespace facex::recordio
