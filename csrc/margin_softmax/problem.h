// What the CPU and CUDA kernels of cosine_logsumexp share: the arguments, checked once.
#pragma once

#include <ATen/ATen.h>

#include <optional>
#include <string_view>

#include "rule.h"

namespace facex {

// The arguments in the order of the schema.
struct Arguments {
  const at::Tensor& x;
  const at::Tensor& weight;
  const std::optional<at::Tensor>& excluded;
  const std::optional<at::Tensor>& threshold;
  const std::optional<at::Tensor>& hard_t;
  const std::optional<at::Tensor>& bias;
  const std::optional<at::Tensor>& subset;
  double scale;
  std::string_view rule;
  bool normalize;
  std::string_view compute_dtype;
};

// The same, contiguous, in the accumulation type, and checked. Undefined tensors stand for what was not given.
struct Problem {
  explicit Problem(const Arguments& arguments);

  at::Tensor x;          // [B, D] accumulation type
  at::Tensor weight;     // [C, D] as given, contiguous
  at::Tensor excluded;   // [B, K] int64, -1 = none
  at::Tensor threshold;  // [B]; ones where clamp was given none
  at::Tensor hard_t;     // [1]
  at::Tensor bias;       // [C]
  at::Tensor subset;     // [S] int64 rows of weight
  double scale;
  Rule rule;
  bool normalize;
  Compute compute;
  int64_t batch, dim, columns, num_excluded;  // columns = S or C

  at::ScalarType type() const { return x.scalar_type(); }
};

// Checks and converts what only the backward pass takes: lse, grad_neg [B] and excluded_grad [B, K] (may be undefined).
struct Upstream {
  Upstream(const Problem& problem, const at::Tensor& lse, const at::Tensor& grad_neg,
           const std::optional<at::Tensor>& excluded_grad);

  at::Tensor lse, grad_neg, excluded_grad;
};

// Checks the buffer that the weight's gradient is added to: [columns, D], contiguous, accumulation type.
void check_gradient_buffer(const Problem& problem, const at::Tensor& dweight);

}  // namespace facex
