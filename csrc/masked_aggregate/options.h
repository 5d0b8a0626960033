// The choices of mask_aggregate, z = arith(y, m) (+ extra) (+ y) with m = act(a), that kernels are compiled for.
#pragma once

#include <string_view>
#include <type_traits>

namespace facex::mask {

enum class Activation : int { kSigmoid = 0, kTanh = 1 };

// How the mask m meets the features y.
enum class Arith : int { kAdd = 0, kSub = 1, kMul = 2, kDiv = 3 };

struct Options {
  // Checks the names and numbers of the schema; ValueError for others.
  Options(std::string_view activation, std::string_view arith, bool skip, double div_eps);

  Activation activation;
  Arith arith;
  bool skip;
  double div_eps;  // for div: m is replaced by sign(m) max(|m|, div_eps)
};

// Whether the gradients of y and a depend on y.
constexpr bool needs_features(Arith arith) { return arith == Arith::kMul || arith == Arith::kDiv; }

// Calls visit(activation, arith) with both as compile-time constants.
template <typename Visit>
void with_options(const Options& options, const Visit& visit) {
  const auto with_activation = [&](auto activation) {
    switch (options.arith) {
      case Arith::kAdd:
        return visit(activation, std::integral_constant<Arith, Arith::kAdd>());
      case Arith::kSub:
        return visit(activation, std::integral_constant<Arith, Arith::kSub>());
      case Arith::kMul:
        return visit(activation, std::integral_constant<Arith, Arith::kMul>());
      case Arith::kDiv:
        return visit(activation, std::integral_constant<Arith, Arith::kDiv>());
    }
  };
  if (options.activation == Activation::kSigmoid) {
    with_activation(std::integral_constant<Activation, Activation::kSigmoid>());
  } else {
    with_activation(std::integral_constant<Activation, Activation::kTanh>());
  }
}

}  // namespace facex::mask
