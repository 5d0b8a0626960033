// The choices of cosine_logsumexp that kernels are compiled for.
#pragma once

namespace facex {

// What a negative's cosine c becomes before it is scaled.
enum class Rule : int {
  kPlain = 0,      // c
  kClamp = 1,      // c limited to [-threshold_i, threshold_i] (1 unless given), no gradient outside
  kZeroAbove = 2,  // 0 (and no gradient) where c > threshold_i: insightface's inter-class filter
  kHard = 3,       // c (t + c) where c > threshold_i: CurricularFace
};

// Operands of the matrix products; sums, logits and the running maximum are fp32 (fp64 for fp64 inputs) in every case.
enum class Compute : int { kFull = 0, kBf16 = 1, kFp16 = 2 };

// Weights shorter than this are divided by it (torch.nn.functional.normalize), and get no gradient through the length.
constexpr double kNormFloor = 1e-12;

}  // namespace facex
