// The matrix products of one chunk of classes with bfloat16 operands and fp32 sums (AVX512-BF16). The interface of
// GemmEngine.
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <new>
#include <vector>

#include "bf16_kernels.h"
#include "cpu_engine.h"
#include "cpu_tile.h"
#include "problem.h"

namespace facex::cpu {

// A block of memory that starts on a cache line.
template <typename T>
class Aligned {
 public:
  explicit Aligned(int64_t size)
      : data_(static_cast<T*>(::operator new(sizeof(T) * (size + 64), std::align_val_t{64}))) {
    std::fill_n(data_.get(), size + 64, T(0));
  }
  T* get() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* data) const { ::operator delete(data, std::align_val_t{64}); }
  };
  std::unique_ptr<T, Free> data_;
};

class Bf16Engine {
 public:
  // x in bf16, packed once for all workers: for each block of samples [D, lanes] (for dots) and [lanes, D] (for
  // dweight).
  struct Shared {
    Shared(const Problem& problem, int64_t lanes) : lanes(lanes) {
      const float* x = problem.x.const_data_ptr<float>();
      for (int64_t begin = 0; begin < problem.batch; begin += lanes) {
        const int64_t size = std::min(lanes, problem.batch - begin);
        transposed.emplace_back(packed_size(problem.dim, size));
        rows.emplace_back(packed_size(size, problem.dim));
        pack_transposed(x + begin * problem.dim, size, problem.dim, transposed.back().get());
        pack_rows(x + begin * problem.dim, size, problem.dim, nullptr, nullptr, 0, rows.back().get());
      }
    }
    int64_t lanes;
    std::vector<Aligned<uint16_t>> transposed, rows;
  };

  Bf16Engine(const Problem& problem, const Shared& shared, int64_t chunk, int64_t lanes)
      : problem_(problem),
        shared_(shared),
        rows_(problem, chunk),
        row_stride_((problem.dim + 1) / 2 * 2),
        lane_stride_((lanes + 1) / 2 * 2),
        norms_(3 * chunk),
        chunk_(chunk),
        plain_(chunk * row_stride_),
        packed_(packed_size(chunk, problem.dim)),
        tile_(chunk * lanes),
        gradients_(chunk * lane_stride_),
        gradient_pairs_((chunk + 1) / 2 * 2 * lanes) {
    std::fill_n(norms_.get() + 2 * chunk, chunk, 1.0f);
  }

  void begin_chunk(int64_t begin, int64_t size, bool backward) {
    size_ = size;
    raw_ = rows_.load(begin, size);
    inverse_norms(raw_, size, problem_.dim, problem_.normalize, norms_.get(), norms_.get() + chunk_);
    pack_rows(raw_, size, problem_.dim, norms_.get(), plain_.get(), row_stride_, backward ? packed_.get() : nullptr);
  }

  float* dots(const Block& block) {
    const uint16_t* right = shared_.transposed[block.begin / shared_.lanes].get();
    product({plain_.get(), row_stride_, 2}, right, row_stride_ / 2, tile_.get(), block.size, size_, block.size, false,
            nullptr, nullptr, false);
    return tile_.get();
  }

  // See GemmEngine; the tile holds gradients of the cosines.
  void products(const Block& block, float* dx, float* dweight, bool keep, const float* along, bool stream) {
    const int64_t stride = (block.size + 1) / 2 * 2, dim = problem_.dim;
    pack_gradients(tile_.get(), size_, block.size, inverse(), gradients_.get(), stride, gradient_pairs_.get());
    product({gradient_pairs_.get(), 2, 2 * block.size}, packed_.get(), (size_ + 1) / 2, dx, dim, block.size, dim, true,
            nullptr, nullptr, false);
    product({gradients_.get(), stride, 2}, shared_.rows[block.begin / shared_.lanes].get(), stride / 2, dweight, dim,
            size_, dim, keep, along ? raw_ : nullptr, along, stream);
  }

  const float* inverse() const { return norms_.get(); }
  const float* free() const { return norms_.get() + chunk_; }
  const float* tile_factor() const { return norms_.get() + 2 * chunk_; }
  const float* output_factor() const { return nullptr; }

 private:
  const Problem& problem_;
  const Shared& shared_;
  ChunkRows<float> rows_;
  int64_t row_stride_, lane_stride_;
  Aligned<float> norms_;  // [3, chunk]: 1 / |w|, whether free, ones
  int64_t chunk_;
  Aligned<uint16_t> plain_, packed_;
  Aligned<float> tile_;
  Aligned<uint16_t> gradients_, gradient_pairs_;
  const float* raw_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace facex::cpu
