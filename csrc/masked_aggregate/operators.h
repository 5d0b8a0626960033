// The operators' entry points, the same for every device: check the arguments, make the outputs, call the backend.
#pragma once

#include <ATen/ATen.h>
#include <torch/library.h>

#include <tuple>

#include "problem.h"

namespace facex::mask {

// `Backend` has static functions
//   at::Tensor prepared(at::Tensor)          a fresh output, made ready for a pass that writes all of it
//   void forward(const Forward&), backward(const Backward&), folded(const Folded&)
template <typename Backend>
struct Operators {
  static at::Tensor mask_aggregate(const at::Tensor& y, const at::Tensor& a, const Maybe& extra,
                                   std::string_view activation, std::string_view arith, bool skip, double div_eps) {
    const Forward problem(y, a, extra, Options(activation, arith, skip, div_eps), output(y));
    if (problem.z.numel() > 0) Backend::forward(problem);
    return problem.z;
  }

  static std::tuple<at::Tensor, at::Tensor> mask_aggregate_backward(const at::Tensor& grad, const Maybe& y,
                                                                    const at::Tensor& a, std::string_view activation,
                                                                    std::string_view arith, bool skip, double div_eps,
                                                                    bool need_y, bool need_a) {
    const at::Tensor nothing = at::empty({0}, a.options());
    if (!need_y && !need_a) return {nothing, at::empty({0}, a.options())};
    const at::Tensor dy = need_y ? output(a) : at::Tensor(), da = need_a ? output(a) : at::Tensor();
    const Backward problem(grad, y, a, Options(activation, arith, skip, div_eps), dy, da);
    if (a.numel() > 0) Backend::backward(problem);
    return {need_y ? dy : nothing, need_a ? da : nothing};
  }

  static at::Tensor mask_aggregate_folded(const at::Tensor& y, const at::Tensor& h, const at::Tensor& t,
                                          const at::Tensor& scale, const at::Tensor& shift, const at::Tensor& slope,
                                          const Maybe& extra, std::string_view activation, std::string_view arith,
                                          bool skip, double div_eps) {
    const bool last = y.dim() == 4 && y.is_contiguous(at::MemoryFormat::ChannelsLast);
    const auto format = last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
    at::Tensor z = Backend::prepared(at::empty(y.sizes(), y.options().memory_format(format)));
    const Folded problem(y, h, t, scale, shift, slope, extra, Options(activation, arith, skip, div_eps), z);
    if (z.numel() > 0) Backend::folded(problem);
    return z;
  }

  static void implement(torch::Library& m) {
    m.impl("mask_aggregate", &mask_aggregate);
    m.impl("mask_aggregate_backward", &mask_aggregate_backward);
    m.impl("mask_aggregate_folded", &mask_aggregate_folded);
  }

 private:
  static at::Tensor output(const at::Tensor& like) { return Backend::prepared(at::empty_like(like)); }
};

}  // namespace facex::mask
