// cosine_logsumexp on the CPU. The classes are walked in chunks whose tile of dot products stays in a core's cache;
// every worker takes a range of chunks with single-threaded matrix products, so workers meet only at the end of the
// pass. Never a B x C tensor.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <cmath>
#include <limits>
#include <vector>

#include "cpu_bf16_engine.h"
#include "cpu_engine.h"
#include "cpu_step.h"
#include "cpu_tile.h"
#include "huge_pages.h"
#include "operators.h"
#include "problem.h"

namespace facex::cpu {
namespace {

constexpr int64_t kChunk = 256;                      // classes in a chunk
constexpr int64_t kLanes = 256;                      // samples in a block
constexpr int64_t kPartialBytes = int64_t(1) << 28;  // what the workers' partial dx may take together

// How the columns are cut: chunks of `chunk` columns, spread over `workers`.
struct Plan {
  explicit Plan(const Problem& p) {
    const int64_t threads = at::in_parallel_region() ? 1 : at::get_num_threads();
    const int64_t share = (p.columns + threads - 1) / threads;
    chunk = std::min<int64_t>(kChunk, std::max<int64_t>(16, (share + 15) / 16 * 16));
    lanes = std::max<int64_t>(1, std::min(kLanes, p.batch));
    chunks = (p.columns + chunk - 1) / chunk;
    const int64_t partial = std::max<int64_t>(1, p.batch * p.dim * int64_t(p.x.element_size()));
    workers = std::max<int64_t>(1, std::min({threads, chunks, kPartialBytes / partial}));
    grain = std::max<int64_t>(1, (chunks + workers - 1) / workers);
  }
  int64_t chunk, lanes, chunks, workers, grain;

  template <typename Body>
  void run(const Body& body) const {
    if (chunks == 0) return;
    at::parallel_for(0, chunks, grain, [&](int64_t first, int64_t last) {
      const at::AutoDispatchBelowAutograd no_autograd;
      body(first / grain, first, last);
    });
  }
};

template <typename T>
const T* data_or_null(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr<T>() : nullptr;
}

template <typename T>
TileRule<T> tile_rule(const Problem& p, const T* bias, const T* factor, int64_t column, const Block& block) {
  const T* threshold = data_or_null<T>(p.threshold);
  return {.rule = p.rule,
          .scale = T(p.scale),
          .hard_t = p.hard_t.defined() ? *p.hard_t.const_data_ptr<T>() : T(0),
          .threshold = threshold ? threshold + block.begin : nullptr,
          .inverse_norm = factor,
          .bias = bias ? bias + column : nullptr};
}

// One excluded entry that falls into the current tile.
template <typename T>
struct Hit {
  int64_t row, lane, slot;  // slot = position in excluded / excluded_grad
  T dot;
};

// Finds the excluded entries of a tile, keeps their dot products and marks them with -inf.
template <typename T>
void exclude(const Problem& p, int64_t begin, int64_t size, const Block& block, T* tile, std::vector<Hit<T>>& hits) {
  hits.clear();
  if (p.num_excluded == 0) return;
  const int64_t* excluded = p.excluded.const_data_ptr<int64_t>();
  for (int64_t lane = 0; lane < block.size; ++lane) {
    for (int64_t k = 0; k < p.num_excluded; ++k) {
      const int64_t slot = (block.begin + lane) * p.num_excluded + k, row = excluded[slot] - begin;
      if (row >= 0 && row < size) hits.push_back({row, lane, slot, tile[row * block.size + lane]});
    }
  }
  for (const Hit<T>& hit : hits) tile[hit.row * block.size + hit.lane] = -std::numeric_limits<T>::infinity();
}

template <typename Visit>
void for_blocks(const Problem& p, int64_t lanes, const Visit& visit) {
  for (int64_t begin = 0; begin < p.batch; begin += lanes) visit(Block{begin, std::min(lanes, p.batch - begin)});
}

at::Tensor chosen_bias(const Problem& p) {
  return p.bias.defined() && p.subset.defined() ? p.bias.index_select(0, p.subset) : p.bias;
}

template <typename T, typename Engine>
at::Tensor forward(const Problem& p) {
  const Plan plan(p);
  const typename Engine::Shared shared(p, plan.lanes);
  const at::Tensor bias = chosen_bias(p);
  at::Tensor maximum = at::full({plan.workers, p.batch}, -std::numeric_limits<double>::infinity(), p.x.options());
  at::Tensor sum = at::zeros({plan.workers, p.batch}, p.x.options());
  plan.run([&](int64_t worker, int64_t first, int64_t last) {
    Engine engine(p, shared, plan.chunk, plan.lanes);
    std::vector<T> scratch(plan.lanes);
    std::vector<Hit<T>> hits;
    T* top = maximum.mutable_data_ptr<T>() + worker * p.batch;
    T* total = sum.mutable_data_ptr<T>() + worker * p.batch;
    for (int64_t c = first; c < last; ++c) {
      const int64_t begin = c * plan.chunk, size = std::min(plan.chunk, p.columns - begin);
      engine.begin_chunk(begin, size, false);
      for_blocks(p, plan.lanes, [&](const Block& block) {
        T* tile = engine.dots(block);
        exclude(p, begin, size, block, tile, hits);
        const auto rule = tile_rule<T>(p, data_or_null<T>(bias), engine.tile_factor(), begin, block);
        forward_tile(tile, size, block.size, rule, scratch.data(), top + block.begin, total + block.begin);
      });
    }
  });
  return at::logsumexp(maximum + at::log(sum), {0});
}

// Folds the gradients of the excluded entries' raw cosines into a tile of cosine gradients.
template <typename T, typename Engine>
void fold_excluded_grad(const std::vector<Hit<T>>& hits, const T* excluded_grad, const Engine& engine, int64_t lanes,
                        T* tile, T* along) {
  if (excluded_grad == nullptr) return;
  const T* output_factor = engine.output_factor();
  for (const Hit<T>& hit : hits) {
    const T gradient = excluded_grad[hit.slot];
    tile[hit.row * lanes + hit.lane] += gradient * (output_factor ? output_factor[hit.row] : T(1));
    along[hit.row] += gradient * hit.dot * engine.tile_factor()[hit.row];
  }
}

// Turns the sums of gradient * cosine into the factors of the weights that take the part along the class centre out of
// dweight (the gradient through w / |w|), for one block's share; nothing flows along where the length is not free.
template <typename T, typename Engine>
void along_factors(const Engine& engine, int64_t size, T* along) {
  for (int64_t j = 0; j < size; ++j) along[j] *= -engine.free()[j] * engine.inverse()[j] * engine.inverse()[j];
}

// A lane without any column (lse = -inf) gets probabilities of zero: the same as an infinitely large sum.
at::Tensor finite_lse(const at::Tensor& lse) {
  const double huge =
      lse.scalar_type() == at::kDouble ? std::numeric_limits<double>::max() : std::numeric_limits<float>::max();
  return at::where(lse == -std::numeric_limits<double>::infinity(), at::scalar_tensor(huge / 2, lse.options()), lse);
}

template <typename T, typename Engine>
void backward(const Problem& p, const Upstream& up, const GradientSink& sink, at::Tensor& dx, at::Tensor& dbias) {
  const Plan plan(p);
  const typename Engine::Shared shared(p, plan.lanes);
  const at::Tensor bias = chosen_bias(p), lse = finite_lse(up.lse);
  at::Tensor partial = at::zeros({plan.workers, p.batch, p.dim}, p.x.options());
  plan.run([&](int64_t worker, int64_t first, int64_t last) {
    Engine engine(p, shared, plan.chunk, plan.lanes);
    std::vector<T> along(plan.chunk), gradient(sink.step ? plan.chunk * p.dim : 0);
    std::vector<Hit<T>> hits;
    T* own = partial.mutable_data_ptr<T>() + worker * p.batch * p.dim;
    for (int64_t c = first; c < last; ++c) {
      const int64_t begin = c * plan.chunk, size = std::min(plan.chunk, p.columns - begin);
      T* out = sink.step ? gradient.data() : sink.dweight.mutable_data_ptr<T>() + begin * p.dim;
      engine.begin_chunk(begin, size, true);
      for_blocks(p, plan.lanes, [&](const Block& block) {
        T* tile = engine.dots(block);
        exclude(p, begin, size, block, tile, hits);
        std::fill(along.begin(), along.end(), T(0));
        const auto rule = tile_rule<T>(p, data_or_null<T>(bias), engine.tile_factor(), begin, block);
        backward_tile(tile, size, block.size, rule, engine.output_factor(), lse.const_data_ptr<T>() + block.begin,
                      up.grad_neg.const_data_ptr<T>() + block.begin, along.data(),
                      dbias.defined() ? dbias.mutable_data_ptr<T>() + begin : nullptr);
        fold_excluded_grad(hits, data_or_null<T>(up.excluded_grad), engine, block.size, tile, along.data());
        along_factors(engine, size, along.data());
        engine.products(block, own + block.begin * p.dim, out, sink.accumulate || block.begin > 0,
                        p.normalize ? along.data() : nullptr, sink.step == nullptr);
      });
      if (sink.step) step_rows(*sink.step, begin, size, p.dim, gradient.data());
    }
  });
  at::sum_out(dx, partial, {0});
}

struct Backend {
  static at::Tensor forward(const Problem& p) {
    if (p.type() == at::kDouble) return cpu::forward<double, GemmEngine<double>>(p);
    if (use_bf16(p)) return cpu::forward<float, Bf16Engine>(p);
    return cpu::forward<float, GemmEngine<float>>(p);
  }

  static void backward(const Problem& p, const Upstream& up, const GradientSink& sink, at::Tensor& dx,
                       at::Tensor& dbias) {
    if (p.type() == at::kDouble) return cpu::backward<double, GemmEngine<double>>(p, up, sink, dx, dbias);
    if (use_bf16(p)) return cpu::backward<float, Bf16Engine>(p, up, sink, dx, dbias);
    return cpu::backward<float, GemmEngine<float>>(p, up, sink, dx, dbias);
  }

  static at::Tensor empty(at::IntArrayRef shape, const at::TensorOptions& options) {
    return on_huge_pages(at::empty(shape, options));
  }

 private:
  static bool use_bf16(const Problem& p) { return p.compute == Compute::kBf16 && have_bf16_kernels(); }
};

}  // namespace
}  // namespace facex::cpu

TORCH_LIBRARY_IMPL(facex, CPU, m) { facex::Operators<facex::cpu::Backend>::implement(m); }
