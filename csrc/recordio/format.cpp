#include "format.h"

#include <cstdio>

namespace facex::recordio {

namespace {

std::string hex(uint32_t value) {
  char text[16];
  std::snprintf(text, sizeof text, "0x%08x", value);
  return text;
}

std::string at(uint64_t offset) { return " at offset " + std::to_string(offset); }

void check_flag(const Part& part, uint64_t offset, bool inside) {
  const bool good = inside ? part.flag == kMiddle || part.flag == kLast : part.flag == kWhole || part.flag == kFirst;
  if (good) return;
  throw RecordError("bad continuation flag " + std::to_string(part.flag) + at(offset) +
                    (inside ? ": a middle or last part of the record should be here"
                            : ": a record should start here (wrong index, or a damaged file)"));
}

}  // namespace

Part read_part(Bytes file, uint64_t offset) {
  if (offset >= file.size)
    throw RecordError("index past end of file: offset " + std::to_string(offset) + ", the file has " +
                      std::to_string(file.size) + " bytes");
  const uint64_t left = file.size - offset;
  // The magic is looked at first, so that another kind of file is called that and not a truncated one.
  if (left >= 4 && load_u32(file.data + offset) != kMagic)
    throw RecordError("bad magic " + hex(load_u32(file.data + offset)) + at(offset) +
                      " (no record starts here, or this is not a RecordIO file)");
  if (left < kPartHeader)
    throw RecordError("truncated: " + std::to_string(left) + " bytes left" + at(offset) +
                      " where the 8 bytes of a part header should be");
  const uint32_t word = load_u32(file.data + offset + 4);
  Part part;
  part.flag = word >> 29;
  part.length = word & 0x1fffffffu;
  const uint64_t padded = (uint64_t{part.length} + 3) / 4 * 4;
  if (padded > left - kPartHeader)
    throw RecordError("truncated: a part of " + std::to_string(part.length) + " bytes" + at(offset) +
                      " runs past the end of the file (" + std::to_string(file.size) + " bytes)");
  part.data = {file.data + offset + kPartHeader, part.length};
  part.next = offset + kPartHeader + padded;
  return part;
}

namespace {

// Walks the parts behind the first one; `visit` sees each. Returns the offset behind the record.
template <typename Visit>
uint64_t walk_rest(Bytes file, uint64_t start, const Part& first, Visit visit) {
  uint64_t offset = first.next, total = first.length;
  for (uint32_t flag = first.flag; flag != kLast;) {
    if (offset >= file.size)
      throw RecordError("truncated: the file ends inside the record of several parts" + at(start));
    const Part part = read_part(file, offset);
    check_flag(part, offset, /*inside=*/true);
    total += 4 + uint64_t{part.length};
    if (total >= kRecordLimit) throw RecordError("record" + at(start) + " is longer than 2^29 bytes");
    visit(part);
    flag = part.flag;
    offset = part.next;
  }
  return offset;
}

}  // namespace

Record read_record(Bytes file, uint64_t offset, std::vector<uint8_t>& joined) {
  const Part first = read_part(file, offset);
  check_flag(first, offset, /*inside=*/false);
  if (first.flag == kWhole) return {first.data, first.next};
  // The whole chain is checked before anything is copied: a damaged one costs no memory.
  uint64_t total = first.length;
  walk_rest(file, offset, first, [&](const Part& part) { total += 4 + uint64_t{part.length}; });
  static const uint8_t magic[4] = {0x0a, 0x23, 0xd7, 0xce};
  joined.clear();
  joined.reserve(total);
  joined.insert(joined.end(), first.data.data, first.data.data + first.data.size);
  const uint64_t next = walk_rest(file, offset, first, [&](const Part& part) {
    joined.insert(joined.end(), magic, magic + 4);
    joined.insert(joined.end(), part.data.data, part.data.data + part.data.size);
  });
  return {{joined.data(), joined.size()}, next};
}

uint64_t skip_record(Bytes file, uint64_t offset) {
  const Part first = read_part(file, offset);
  check_flag(first, offset, /*inside=*/false);
  return first.flag == kWhole ? first.next : walk_rest(file, offset, first, [](const Part&) {});
}

ImageRecord parse_image_record(Bytes record) {
  if (record.size < kImageHeader)
    throw RecordError("record shorter than its 24-byte header: " + std::to_string(record.size) + " bytes");
  ImageRecord image;
  image.flag = load_u32(record.data);
  image.label = load_f32(record.data + 4);
  image.id = load_u64(record.data + 8);
  image.id2 = load_u64(record.data + 16);
  const uint64_t labels = 4 * uint64_t{image.flag};  // 64 bits: flag may be 0xffffffff
  if (labels > record.size - kImageHeader)
    throw RecordError("label runs past the record: flag says " + std::to_string(image.flag) +
                      " labels, the record has " + std::to_string(record.size) + " bytes");
  image.labels = {record.data + kImageHeader, labels};
  image.payload = {record.data + kImageHeader + labels, record.size - kImageHeader - labels};
  return image;
}

}  // namespace facex::recordio
