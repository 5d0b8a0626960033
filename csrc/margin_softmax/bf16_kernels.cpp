#include "bf16_kernels.h"

#include <algorithm>
#include <bit>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__)
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12's own headers: undefined vectors on purpose
#endif
#include <immintrin.h>
#define FACEX_BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))
#endif

namespace facex::cpu {

#ifdef FACEX_BF16

namespace {

constexpr int64_t kRows = 6;  // rows of a register block: 6 x 4 vectors of sums, 4 of the right operand, 1 of the left

FACEX_BF16 inline __mmask16 tail_mask(int64_t count) {
  return count >= 16 ? __mmask16(0xffff) : __mmask16((1u << std::max<int64_t>(count, 0)) - 1);
}

// One register block: `R` rows by `V` vectors of 16 columns.
template <int R, int V>
FACEX_BF16 void block(const Left& left, const uint16_t* right, int64_t pairs, float* out, int64_t out_stride,
                      int64_t columns, bool keep, const float* addend, const float* addend_factor, bool stream) {
  __m512 sums[R][V];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sums[r][v] = _mm512_setzero_ps();
  }
  const uint16_t* a = left.data;
  const uint16_t* b = right;
  for (int64_t t = 0; t < pairs; ++t, a += left.pair_stride, b += 2 * kPanel) {
    __m512i columns_of_b[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) columns_of_b[v] = _mm512_loadu_si512(b + 32 * v);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      int32_t pair;
      std::memcpy(&pair, a + r * left.row_stride, sizeof(pair));
      const __m512i spread = _mm512_set1_epi32(pair);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v)
        sums[r][v] = _mm512_dpbf16_ps(sums[r][v], (__m512bh)spread, (__m512bh)columns_of_b[v]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
    float* row = out + r * out_stride;
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const __mmask16 mask = tail_mask(columns - 16 * v);
      __m512 value = sums[r][v];
      if (keep) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, row + 16 * v));
      if (addend) {
        const __m512 other = _mm512_maskz_loadu_ps(mask, addend + r * out_stride + 16 * v);
        value = _mm512_fmadd_ps(_mm512_set1_ps(addend_factor[r]), other, value);
      }
      if (stream) {
        _mm512_stream_ps(row + 16 * v, value);
      } else {
        _mm512_mask_storeu_ps(row + 16 * v, mask, value);
      }
    }
  }
}

template <int R>
FACEX_BF16 void block_rows(int vectors, const Left& left, const uint16_t* right, int64_t pairs, float* out,
                           int64_t out_stride, int64_t columns, bool keep, const float* addend,
                           const float* addend_factor, bool stream) {
  switch (vectors) {
    case 1:
      return block<R, 1>(left, right, pairs, out, out_stride, columns, keep, addend, addend_factor, stream);
    case 2:
      return block<R, 2>(left, right, pairs, out, out_stride, columns, keep, addend, addend_factor, stream);
    case 3:
      return block<R, 3>(left, right, pairs, out, out_stride, columns, keep, addend, addend_factor, stream);
    default:
      return block<R, 4>(left, right, pairs, out, out_stride, columns, keep, addend, addend_factor, stream);
  }
}

FACEX_BF16 inline __m512 load_scaled(const float* values, __mmask16 mask, float factor) {
  return _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, values), _mm512_set1_ps(factor));
}

FACEX_BF16 inline __m256i to_bf16(__m512 values) { return (__m256i)_mm512_cvtneps_pbh(values); }

// (a0, b0, a1, b1, ...) of two vectors in bf16.
FACEX_BF16 inline __m512i interleave(__m256i a, __m256i b) {
  return _mm512_or_si512(_mm512_cvtepu16_epi32(a), _mm512_slli_epi32(_mm512_cvtepu16_epi32(b), 16));
}

uint16_t round_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t((bits >> 16) | 0x40);
  return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

}  // namespace

bool have_bf16_kernels() {
  static const bool have = __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
                           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  return have;
}

FACEX_BF16 void product(const Left& left, const uint16_t* right, int64_t pairs, float* out, int64_t out_stride,
                        int64_t rows, int64_t columns, bool keep, const float* addend, const float* addend_factor,
                        bool stream) {
  stream =
      stream && !keep && columns % kPanel == 0 && out_stride % 16 == 0 && reinterpret_cast<uintptr_t>(out) % 64 == 0;
  for (int64_t i = 0; i < rows; i += kRows) {
    const int64_t r = std::min(kRows, rows - i);
    const Left here{left.data + i * left.row_stride, left.row_stride, left.pair_stride};
    for (int64_t j = 0; j < columns; j += kPanel) {
      const uint16_t* panel = right + j * 2 * pairs;
      const int vectors = int((std::min(kPanel, columns - j) + 15) / 16);
      float* o = out + i * out_stride + j;
      const float* e = addend ? addend + i * out_stride + j : nullptr;
      const float* f = addend ? addend_factor + i : nullptr;
      switch (r) {
        case 6:
          block_rows<6>(vectors, here, panel, pairs, o, out_stride, columns - j, keep, e, f, stream);
          break;
        case 5:
          block_rows<5>(vectors, here, panel, pairs, o, out_stride, columns - j, keep, e, f, stream);
          break;
        case 4:
          block_rows<4>(vectors, here, panel, pairs, o, out_stride, columns - j, keep, e, f, stream);
          break;
        case 3:
          block_rows<3>(vectors, here, panel, pairs, o, out_stride, columns - j, keep, e, f, stream);
          break;
        case 2:
          block_rows<2>(vectors, here, panel, pairs, o, out_stride, columns - j, keep, e, f, stream);
          break;
        default:
          block_rows<1>(vectors, here, panel, pairs, o, out_stride, columns - j, keep, e, f, stream);
          break;
      }
    }
  }
  if (stream) _mm_sfence();
}

FACEX_BF16 void pack_rows(const float* values, int64_t rows, int64_t dim, const float* factor, uint16_t* plain,
                          int64_t plain_stride, uint16_t* packed) {
  const int64_t pairs = (rows + 1) / 2, padded = (dim + kPanel - 1) / kPanel * kPanel;
  for (int64_t t = 0; t < pairs; ++t) {
    const int64_t first = 2 * t, second = first + 1;
    const bool two = second < rows;
    const float first_factor = factor ? factor[first] : 1.0f,
                second_factor = two ? (factor ? factor[second] : 1.0f) : 0.0f;
    for (int64_t d = 0; d < padded; d += 16) {
      const __mmask16 mask = tail_mask(dim - d);
      const __m256i a = to_bf16(load_scaled(values + first * dim + d, mask, first_factor));
      const __m256i b =
          two ? to_bf16(load_scaled(values + second * dim + d, mask, second_factor)) : _mm256_setzero_si256();
      if (plain) {
        const __mmask16 keep = tail_mask(plain_stride - d);
        _mm256_mask_storeu_epi16(plain + first * plain_stride + d, keep, a);
        if (two) _mm256_mask_storeu_epi16(plain + second * plain_stride + d, keep, b);
      }
      if (packed)
        _mm512_storeu_si512(packed + (d / kPanel * kPanel * pairs + t * kPanel + d % kPanel) * 2, interleave(a, b));
    }
  }
}

void pack_transposed(const float* values, int64_t rows, int64_t dim, uint16_t* packed) {
  const int64_t pairs = (dim + 1) / 2;
  std::fill_n(packed, packed_size(dim, rows), uint16_t(0));
  for (int64_t i = 0; i < rows; ++i) {
    uint16_t* panel = packed + i / kPanel * kPanel * pairs * 2 + i % kPanel * 2;
    for (int64_t d = 0; d < dim; ++d) panel[d / 2 * kPanel * 2 + d % 2] = round_bf16(values[i * dim + d]);
  }
}

FACEX_BF16 void pack_gradients(const float* tile, int64_t rows, int64_t lanes, const float* factor, uint16_t* plain,
                               int64_t plain_stride, uint16_t* pairs) {
  for (int64_t j = 0; j < rows; j += 2) {
    const bool two = j + 1 < rows;
    const float second_factor = two ? factor[j + 1] : 0.0f;
    for (int64_t i = 0; i < lanes; i += 16) {
      const __mmask16 mask = tail_mask(lanes - i), keep = tail_mask(plain_stride - i);
      const __m512 a = _mm512_maskz_loadu_ps(mask, tile + j * lanes + i);
      const __m512 b = two ? _mm512_maskz_loadu_ps(mask, tile + (j + 1) * lanes + i) : _mm512_setzero_ps();
      _mm256_mask_storeu_epi16(plain + j * plain_stride + i, keep,
                               to_bf16(_mm512_mul_ps(a, _mm512_set1_ps(factor[j]))));
      if (two)
        _mm256_mask_storeu_epi16(plain + (j + 1) * plain_stride + i, keep,
                                 to_bf16(_mm512_mul_ps(b, _mm512_set1_ps(second_factor))));
      _mm512_mask_storeu_epi32(pairs + (j / 2 * lanes + i) * 2, mask, interleave(to_bf16(a), to_bf16(b)));
    }
  }
}

#else  // no such instructions on this architecture

bool have_bf16_kernels() { return false; }
void product(const Left&, const uint16_t*, int64_t, float*, int64_t, int64_t, int64_t, bool, const float*, const float*,
             bool) {}
void pack_rows(const float*, int64_t, int64_t, const float*, uint16_t*, int64_t, uint16_t*) {}
void pack_transposed(const float*, int64_t, int64_t, uint16_t*) {}
void pack_gradients(const float*, int64_t, int64_t, const float*, uint16_t*, int64_t, uint16_t*) {}

#endif

}  // namespace facex::cpu
