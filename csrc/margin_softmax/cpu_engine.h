// The matrix products of one chunk of classes on the CPU, by the GEMM library, in the accumulation type T.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>

#include "cpu_tile.h"
#include "problem.h"

namespace facex::cpu {

// A block of samples: rows [begin, begin + size) of x.
struct Block {
  int64_t begin, size;
};

// The rows of `weight` that a chunk of columns stands for, in the accumulation type: in place where that is what is
// stored, through a buffer where there is a subset or another type.
template <typename T>
class ChunkRows {
 public:
  ChunkRows(const Problem& problem, int64_t chunk)
      : problem_(problem), direct_(!problem.subset.defined() && problem.weight.scalar_type() == problem.type()) {
    if (!direct_) buffer_ = at::empty({chunk, problem.dim}, problem.x.options());
  }

  const T* load(int64_t begin, int64_t size) {
    if (direct_) return problem_.weight.const_data_ptr<T>() + begin * problem_.dim;
    at::Tensor rows = buffer_.narrow(0, 0, size);
    if (!problem_.subset.defined()) {
      rows.copy_(problem_.weight.narrow(0, begin, size));
    } else {
      rows.copy_(problem_.weight.index_select(0, problem_.subset.narrow(0, begin, size)));
    }
    return rows.const_data_ptr<T>();
  }

 private:
  const Problem& problem_;
  bool direct_;
  at::Tensor buffer_;
};

// Exact products. With compute bf16 or fp16 the operands are rounded to it first and multiplied in fp32: the result
// that hardware with these types gives, on hardware without them.
template <typename T>
class GemmEngine {
 public:
  // What all workers share: x, rounded where compute asks for it.
  struct Shared {
    Shared(const Problem& problem, int64_t /*lanes*/) : x(round(problem, problem.x)) {}
    at::Tensor x;
  };

  GemmEngine(const Problem& problem, const Shared& shared, int64_t chunk, int64_t lanes)
      : problem_(problem),
        shared_(shared),
        rows_(problem, chunk),
        tile_(at::empty({chunk * lanes}, problem.x.options())),
        norms_(at::empty({3, chunk}, problem.x.options())) {}

  void begin_chunk(int64_t begin, int64_t size, bool /*backward*/) {
    size_ = size;
    raw_ = rows_.load(begin, size);
    T* norms = norms_.template mutable_data_ptr<T>();
    const int64_t stride = norms_.size(1);
    inverse_ = norms;
    free_ = norms + stride;
    inverse_norms(raw_, size, problem_.dim, problem_.normalize, norms, norms + stride);
    tile_factor_ = inverse_;
    operand_ = at::from_blob(const_cast<T*>(raw_), {size, problem_.dim}, problem_.x.options());
    if (problem_.compute == Compute::kFull) return;
    const at::Tensor inverse = norms_.select(0, 0).narrow(0, 0, size).unsqueeze(1);
    operand_ = round(problem_, operand_ * inverse);
    std::fill_n(norms + 2 * stride, size, T(1));
    tile_factor_ = norms + 2 * stride;
  }

  // tile [size, block.size] = (weight rows) . (x rows)
  T* dots(const Block& block) {
    at::Tensor tile = tile_view(block.size);
    at::mm_out(tile, operand_, shared_.x.narrow(0, block.begin, block.size).t());
    return tile.template mutable_data_ptr<T>();
  }

  // dx [block.size, D] += tile^T . (weight rows) and dweight [size, D] (+)= tile . (x rows) + along[row] * weight[row]
  // (along may be null), where the tile holds gradients of the cosines times output_factor. `stream`: nobody reads
  // dweight soon.
  void products(const Block& block, T* dx, T* dweight, bool keep, const T* along, bool /*stream*/) {
    at::Tensor tile = tile_view(block.size);
    const at::Tensor x = shared_.x.narrow(0, block.begin, block.size);
    at::Tensor dx_rows = at::from_blob(dx, {block.size, problem_.dim}, problem_.x.options());
    at::Tensor out = at::from_blob(dweight, {size_, problem_.dim}, problem_.x.options());
    dx_rows.addmm_(tile.t(), operand_);
    if (!output_factor())
      tile.mul_(norms_.select(0, 0).narrow(0, 0, size_).unsqueeze(1));  // the operand was normalised already
    if (keep) {
      out.addmm_(tile, x);
    } else {
      at::mm_out(out, tile, x);
    }
    if (along) add_scaled_rows(dweight, raw_, size_, problem_.dim, along);
  }

  const T* inverse() const { return inverse_; }          // [size] 1 / |w|
  const T* free() const { return free_; }                // [size] 1 where a gradient flows through the length
  const T* tile_factor() const { return tile_factor_; }  // [size] what turns the tile's dot products into cosines
  // [size] what the gradients in the tile are to be multiplied with before `products`, or null for 1
  const T* output_factor() const { return problem_.compute == Compute::kFull ? inverse_ : nullptr; }

 private:
  static at::Tensor round(const Problem& problem, const at::Tensor& values) {
    if (problem.compute == Compute::kFull) return values;
    return values.to(problem.compute == Compute::kBf16 ? at::kBFloat16 : at::kHalf).to(values.scalar_type());
  }

  at::Tensor tile_view(int64_t lanes) { return tile_.narrow(0, 0, size_ * lanes).view({size_, lanes}); }

  const Problem& problem_;
  const Shared& shared_;
  ChunkRows<T> rows_;
  at::Tensor tile_, norms_, operand_;
  const T *raw_ = nullptr, *inverse_ = nullptr, *free_ = nullptr, *tile_factor_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace facex::cpu
