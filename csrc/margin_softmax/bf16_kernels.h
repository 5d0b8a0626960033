// Matrix products of bfloat16 operands with fp32 results on x86 with AVX512-BF16 (vdpbf16ps), and the packing that they
// want. Written by hand because PyTorch's CPU products of bf16 operands round their results to bf16, which at scale 64
// is a logit error of 0.1.
#pragma once

#include <cstdint>

namespace facex::cpu {

// Whether this processor has the instructions; nothing else below may be called otherwise.
bool have_bf16_kernels();

constexpr int64_t kPanel = 64;  // columns of a packed right-hand operand that lie together

// Numbers of bf16 values in a right-hand operand [depth, columns] packed as panels [columns / 64][depth / 2][64][2],
// zero padded.
inline int64_t packed_size(int64_t depth, int64_t columns) {
  return (columns + kPanel - 1) / kPanel * kPanel * ((depth + 1) / 2 * 2);
}

// Left-hand operand: the pair (row i, depth 2t and 2t + 1) lies at data + i * row_stride + t * pair_stride.
struct Left {
  const uint16_t* data;
  int64_t row_stride, pair_stride;
};

// out [rows, columns] = left . right (+ out where keep) + addend_factor[row] * addend[row, :], all of them with
// `out_stride`; right is packed; addend may be null. The depth is a number of pairs. Where nothing is kept and rows are
// aligned, stores bypass the cache.
void product(const Left& left, const uint16_t* right, int64_t pairs, float* out, int64_t out_stride, int64_t rows,
             int64_t columns, bool keep, const float* addend, const float* addend_factor, bool stream);

// Rows [rows, dim] times factor[row] (null: 1) in bf16, twice: `plain` [rows, plain_stride] (zero padded to it; may be
// null), and `packed` as the right-hand operand [rows, dim] (may be null).
void pack_rows(const float* values, int64_t rows, int64_t dim, const float* factor, uint16_t* plain,
               int64_t plain_stride, uint16_t* packed);

// values [rows, dim] in bf16 as the right-hand operand [dim, rows] (the transpose).
void pack_transposed(const float* values, int64_t rows, int64_t dim, uint16_t* packed);

// A tile of gradients [rows, lanes]: `plain` [rows, plain_stride] = tile * factor[row], and `pairs` [rows /
// 2][lanes][2] = tile, with rows padded to even by zeros.
void pack_gradients(const float* tile, int64_t rows, int64_t lanes, const float* factor, uint16_t* plain,
                    int64_t plain_stride, uint16_t* pairs);

}  // namespace facex::cpu
