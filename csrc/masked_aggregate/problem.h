// What the CPU and CUDA kernels of mask_aggregate share: arguments checked and laid out so that they are walked flat.
#pragma once

#include <ATen/ATen.h>

#include <optional>

#include "options.h"

namespace facex::mask {

using Maybe = std::optional<at::Tensor>;

// The type of the arithmetic: double for double, otherwise float.
inline at::ScalarType compute_type(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// The tensor itself where its elements lie as those of `pattern`, a dense tensor of its shape; otherwise a copy that
// does.
at::Tensor laid_out_as(const at::Tensor& tensor, const at::Tensor& pattern);

// Checks that `other` (named `name`) has the shape, type and device of `first` (named `first_name`).
void check_alike(const at::Tensor& other, const char* name, const at::Tensor& first, const char* first_name);

struct Forward {
  Forward(const at::Tensor& y, const at::Tensor& a, const Maybe& extra, Options options, at::Tensor out);

  Options options;
  at::Tensor y, a, extra, z;  // the same dense layout; extra may be undefined
};

struct Backward {
  Backward(const at::Tensor& grad, const Maybe& y, const at::Tensor& a, Options options, at::Tensor dy, at::Tensor da);

  Options options;
  at::Tensor grad, y, a, dy, da;  // the same dense layout; y (for add and sub), dy and da may be undefined
};

// z from the batch norm's input h and the residual t: a = PReLU(scale_c h + shift_c + t).
struct Folded {
  Folded(const at::Tensor& y, const at::Tensor& h, const at::Tensor& t, const at::Tensor& scale,
         const at::Tensor& shift, const at::Tensor& slope, const Maybe& extra, Options options, at::Tensor out);

  // The channel of flat element i is i / run % channels.
  Options options;
  at::Tensor y, h, t, extra, z;    // the same dense layout, NCHW or channels last
  at::Tensor scale, shift, slope;  // [C] in the compute type
  int64_t channels, run;
};

}  // namespace facex::mask
