// Stochastic rounding to bfloat16 by random bits that are a pure function of (key, class, dimension): the same on every
// device and any number of ranks.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define FACEX_EVERYWHERE __host__ __device__ __forceinline__
#else
#define FACEX_EVERYWHERE inline __attribute__((always_inline))
#endif

namespace facex {

// splitmix64's finaliser over key + class, upper half.
FACEX_EVERYWHERE uint32_t row_key(uint64_t key, uint64_t row) {
  uint64_t z = key + row * 0x9E3779B97F4A7C15ull;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return static_cast<uint32_t>((z ^ (z >> 31)) >> 32);
}

// 16 random bits of one element (murmur3's 32-bit finaliser).
FACEX_EVERYWHERE uint32_t random_bits(uint32_t key, uint32_t column) {
  uint32_t z = key + column * 0x9E3779B9u;
  z = (z ^ (z >> 16)) * 0x85EBCA6Bu;
  z = (z ^ (z >> 13)) * 0xC2B2AE35u;
  return (z ^ (z >> 16)) & 0xFFFFu;
}

// The bits of a float, rounded up in magnitude with a probability equal to the part that bfloat16 drops.
FACEX_EVERYWHERE uint16_t round_to_bf16(uint32_t bits, uint32_t random) {
  const uint32_t special = (bits & 0x7F800000u) == 0x7F800000u;  // an infinity stays one, a NaN stays a NaN
  const uint32_t nan = special & ((bits & 0x007FFFFFu) != 0);
  return static_cast<uint16_t>(((bits + (special ? 0u : random)) >> 16) | (nan << 6));
}

}  // namespace facex
