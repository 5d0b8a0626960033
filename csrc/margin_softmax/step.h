// The optimizer step that cosine_logsumexp_step takes on the class rows inside the backward pass, so that their
// gradient is never stored. The arithmetic is that of facex/ops/step.py.
#pragma once

#include <ATen/ATen.h>

#include <string_view>

#include "problem.h"

namespace facex {

enum class Optimizer : int { kSgd = 0, kAdamW = 1 };

// Numbers of one step. `momentum` is SGD's, or AdamW's first decay.
struct StepNumbers {
  double lr, weight_decay, momentum, beta2, eps, correction1, correction2;
  bool nesterov;
};

// A step of all weights: the rows, their moments (undefined where there are none), and how to move them.
struct WeightStep {
  WeightStep(const Problem& problem, const at::Tensor& weight, at::TensorList moments, std::string_view optimizer,
             const StepNumbers& numbers, int64_t rounding_key, int64_t first_class);

  bool first_in_bf16() const { return first.defined() && first.scalar_type() == at::kBFloat16; }

  at::Tensor weight;  // [C, D] accumulation type, changed in place
  at::Tensor first;   // [C, D] SGD's momentum or AdamW's first moment: accumulation type, or bf16 (rounded at random)
  at::Tensor second;  // [C, D] AdamW's second moment, accumulation type
  Optimizer optimizer;
  StepNumbers numbers;
  uint64_t rounding_key;
  int64_t first_class;  // number of row 0 among the classes of all ranks
};

// Where the gradient of the weights goes: written or added to `dweight`, or into a step, chunk by chunk.
struct GradientSink {
  at::Tensor dweight;
  bool accumulate = false;
  const WeightStep* step = nullptr;
};

}  // namespace facex
