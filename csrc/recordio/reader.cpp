#include "reader.h"

#include <algorithm>
#include <limits>
#include <mutex>

#include "pool.h"

namespace facex::recordio {

namespace {

// Failures of a batch, gathered from many threads.
class Failures {
 public:
  void add(int64_t item, std::string problem) {
    std::lock_guard<std::mutex> lock(mutex_);
    list_.push_back({item, std::move(problem)});
  }
  std::vector<Failure> sorted() {
    std::sort(list_.begin(), list_.end(), [](const Failure& a, const Failure& b) { return a.item < b.item; });
    return std::move(list_);
  }

 private:
  std::mutex mutex_;
  std::vector<Failure> list_;
};

// Joined records of this thread; a big one is not kept.
std::vector<uint8_t>& scratch() {
  static thread_local std::vector<uint8_t> buffer;
  if (buffer.capacity() > (size_t{1} << 24)) std::vector<uint8_t>().swap(buffer);
  return buffer;
}

// Runs work(item) for each item; what it throws is that item's failure, and `on_failure(item)` marks it.
template <typename Work, typename OnFailure>
std::vector<Failure> for_each(int64_t count, int threads, Work work, OnFailure on_failure) {
  Failures failures;
  parallel_for(count, threads, [&](int64_t item) {
    try {
      work(item, failures);
    } catch (const std::exception& error) {
      on_failure(item);
      failures.add(item, error.what());
    }
  });
  return failures.sorted();
}

// Decodes the payload that `get(item)` gives for each item.
template <typename Get>
std::vector<Failure> decode_each(int64_t count, uint8_t* out, const ImageColumns& columns, const DecodeOptions& options,
                                 int threads, Get get) {
  const size_t stride = size_t{3} * static_cast<size_t>(options.height) * static_cast<size_t>(options.width);
  return for_each(
      count, threads,
      [&](int64_t item, Failures& failures) {
        const Bytes payload = get(item);
        if (payload.size == 0) throw RecordError("cannot decode: the payload is empty");
        const DecodeResult result = decode_jpeg(payload, out + stride * static_cast<size_t>(item), options);
        columns.status[item] = static_cast<int8_t>(result.status);
        columns.sizes[2 * item] = result.height;
        columns.sizes[2 * item + 1] = result.width;
        if (!result.problem.empty()) failures.add(item, "cannot decode: " + result.problem);
      },
      [&](int64_t item) {
        columns.status[item] = static_cast<int8_t>(Decoded::kError);
        columns.sizes[2 * item] = columns.sizes[2 * item + 1] = 0;
      });
}

}  // namespace

Record Reader::record(uint64_t offset, std::vector<uint8_t>& joined) const {
  return read_record(file_.bytes(), offset, joined);
}

std::vector<std::pair<uint32_t, uint32_t>> Reader::parts(uint64_t offset) const {
  const Bytes file = file_.bytes();
  const uint64_t end = skip_record(file, offset);
  std::vector<std::pair<uint32_t, uint32_t>> list;
  while (offset < end) {
    const Part part = read_part(file, offset);
    list.emplace_back(part.flag, part.length);
    offset = part.next;
  }
  return list;
}

std::vector<int64_t> Reader::scan(uint64_t start) const {
  const Bytes file = file_.bytes();
  std::vector<int64_t> offsets;
  for (uint64_t offset = start; offset < file.size;) {
    const uint64_t next = skip_record(file, offset);
    offsets.push_back(static_cast<int64_t>(offset));
    offset = next;
  }
  return offsets;
}

std::vector<Failure> Reader::headers(const int64_t* offsets, int64_t count, const Headers& out, int threads) const {
  // A chunk an item: one header is too little work for a trip to the pool.
  constexpr int64_t kChunk = 1024;
  const Bytes file = file_.bytes();
  Failures failures;
  parallel_for((count + kChunk - 1) / kChunk, threads, [&](int64_t chunk) {
    for (int64_t i = chunk * kChunk; i < std::min(count, (chunk + 1) * kChunk); ++i) {
      out.flag[i] = 0;
      out.id[i] = out.id2[i] = 0;
      out.label0[i] = out.label1[i] = std::numeric_limits<float>::quiet_NaN();
      out.payload[i] = -1;
      try {
        const Record record = read_record(file, static_cast<uint64_t>(offsets[i]), scratch());
        const ImageRecord image = parse_image_record(record.bytes);
        out.flag[i] = image.flag;
        out.label0[i] = image.first_label();
        if (image.flag > 1) out.label1[i] = load_f32(image.labels.data + 4);
        out.id[i] = image.id;
        out.id2[i] = image.id2;
        out.payload[i] = static_cast<int64_t>(image.payload.size);
      } catch (const std::exception& error) {
        failures.add(i, error.what());
      }
    }
  });
  return failures.sorted();
}

std::vector<Failure> Reader::decode(const int64_t* offsets, int64_t count, uint8_t* out, const ImageColumns& columns,
                                    const DecodeOptions& options, int threads) const {
  return decode_each(count, out, columns, options, threads, [&](int64_t item) {
    const Record record = read_record(file_.bytes(), static_cast<uint64_t>(offsets[item]), scratch());
    return parse_image_record(record.bytes).payload;
  });
}

std::vector<Failure> decode_files(const std::vector<std::string>& paths, uint8_t* out, const ImageColumns& columns,
                                  const DecodeOptions& options, int threads) {
  return decode_each(static_cast<int64_t>(paths.size()), out, columns, options, threads, [&](int64_t item) {
    // Copied, not mapped: a picture file is small, and may change under our feet.
    std::vector<uint8_t>& buffer = scratch();
    read_file(paths[static_cast<size_t>(item)], buffer);
    return Bytes{buffer.data(), buffer.size()};
  });
}

std::vector<Failure> decode_payloads(const std::vector<Bytes>& payloads, uint8_t* out, const ImageColumns& columns,
                                     const DecodeOptions& options, int threads) {
  return decode_each(static_cast<int64_t>(payloads.size()), out, columns, options, threads,
                     [&](int64_t item) { return payloads[static_cast<size_t>(item)]; });
}

}  // namespace facex::recordio
