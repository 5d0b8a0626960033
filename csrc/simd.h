// What loops written for the compiler's vectoriser share. On x86-64 a function marked FACEX_CLONES is compiled for
// several instruction sets and the right one is chosen when the library is loaded, so that one build runs everywhere.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FACEX_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define FACEX_CLONES
#endif
#define FACEX_INLINE inline __attribute__((always_inline))

namespace facex::simd {

// exp(v) for v <= 88, to about 1 ulp (Cephes' polynomial on [-ln2/2, ln2/2]); 0 below -87, NaN stays NaN.
FACEX_INLINE float exponential(float v) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer held in the low bits
  const float shifted = v * 1.44269504088896341f + kRound;
  const float n = shifted - kRound;
  const float r = (v - n * 0.693359375f) + n * 2.12194440e-4f;
  float q = 1.9875691500e-4f;
  q = q * r + 1.3981999507e-3f;
  q = q * r + 8.3334519073e-3f;
  q = q * r + 4.1665795894e-2f;
  q = q * r + 1.6666665459e-1f;
  q = q * r + 5.0000001201e-1f;
  q = q * r * r + r + 1.0f;
  const float power = std::bit_cast<float>((std::bit_cast<int32_t>(shifted) << 23) + 0x3f800000);
  return v < -87.0f ? 0.0f : q * power;
}
FACEX_INLINE double exponential(double v) { return std::exp(v); }

}  // namespace facex::simd
