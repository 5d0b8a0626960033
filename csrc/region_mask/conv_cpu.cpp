// region_conv on the CPU. The weight is turned into a table with a row of all outputs for each (tap, region); an output
// pixel is the sum of the rows that its taps name, and the weight's gradient adds the pixel's gradient to them. Runs of
// pixels of one region are dealt with together.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "conv_problem.h"
#include "simd.h"

namespace facex::region_conv {
namespace {

constexpr int64_t kLanes = 16;  // a row is padded to a multiple of this
constexpr int64_t kWide = 64;   // outputs that are summed in registers at a time
constexpr int64_t kTile = 16;   // pixels that are turned back into planes at a time

int64_t padded(int64_t outputs) { return (outputs + kLanes - 1) / kLanes * kLanes; }

// A piece of a row as the compiler's vector type: a row's sums then stay in registers, which it does not manage for an
// array. Rows lie at any multiple of their elements.
template <typename T>
struct Vector {
  static constexpr int64_t kSize = 64 / sizeof(T);
  typedef T Type __attribute__((vector_size(64), aligned(alignof(T)), may_alias));
};

// sum[l] = sum_i table[offsets[i] + l] for the lanes l of a row.
template <int64_t L, typename T>
FACEX_INLINE void gather_lanes(const T* table, const int64_t* offsets, int64_t taps, T* sum) {
  using V = typename Vector<T>::Type;
  constexpr int64_t kParts = L / Vector<T>::kSize;
  V lanes[kParts] = {};
  for (int64_t i = 0; i < taps; ++i) {
    const V* row = reinterpret_cast<const V*>(table + offsets[i]);
#pragma GCC unroll 8
    for (int64_t l = 0; l < kParts; ++l) lanes[l] += row[l];
  }
#pragma GCC unroll 8
  for (int64_t l = 0; l < kParts; ++l) reinterpret_cast<V*>(sum)[l] = lanes[l];
}

template <typename T>
FACEX_INLINE void gather_of(const T* table, const int64_t* offsets, int64_t taps, int64_t width, T* sum) {
  int64_t l = 0;
  for (; l + kWide <= width; l += kWide) gather_lanes<kWide>(table + l, offsets, taps, sum + l);
  for (; l < width; l += kLanes) gather_lanes<kLanes>(table + l, offsets, taps, sum + l);
}

// into[l] += sum of n rows of `grad`.
template <int64_t L, typename T>
FACEX_INLINE void add_lanes(const T* grad, int64_t stride, int64_t n, T* into) {
  using V = typename Vector<T>::Type;
  constexpr int64_t kParts = L / Vector<T>::kSize;
  V lanes[kParts] = {};
  for (int64_t i = 0; i < n; ++i) {
    const V* row = reinterpret_cast<const V*>(grad + i * stride);
#pragma GCC unroll 8
    for (int64_t l = 0; l < kParts; ++l) lanes[l] += row[l];
  }
#pragma GCC unroll 8
  for (int64_t l = 0; l < kParts; ++l) reinterpret_cast<V*>(into)[l] += lanes[l];
}

template <typename T>
FACEX_INLINE void add_of(const T* grad, int64_t width, int64_t n, T* into) {
  int64_t l = 0;
  for (; l + kWide <= width; l += kWide) add_lanes<kWide>(grad + l, width, n, into + l);
  for (; l < width; l += kLanes) add_lanes<kLanes>(grad + l, width, n, into + l);
}

FACEX_CLONES void gather(const float* table, const int64_t* offsets, int64_t taps, int64_t width, float* sum) {
  gather_of(table, offsets, taps, width, sum);
}
FACEX_CLONES void gather(const double* table, const int64_t* offsets, int64_t taps, int64_t width, double* sum) {
  gather_of(table, offsets, taps, width, sum);
}
FACEX_CLONES void add_run(const float* grad, int64_t width, int64_t n, float* into) { add_of(grad, width, n, into); }
FACEX_CLONES void add_run(const double* grad, int64_t width, int64_t n, double* into) { add_of(grad, width, n, into); }

void check_regions(const Conv& c) {
  if (c.regions.numel() == 0) return;
  const int64_t largest = c.regions.max().item<uint8_t>();
  TORCH_CHECK_VALUE(largest < c.count, "the label map names region ", largest, ", but there are ", c.count, " regions");
}

// The table's rows, [(tap, region), width], and behind them the sums over each kernel row's taps, [(kernel row,
// region), width]: most pixels lie where a whole kernel row meets one region.
at::Tensor table_of(const Conv& c, const at::Tensor& weight) {
  const at::Tensor taps = at::constant_pad_nd(weight.permute({2, 3, 1, 0}), {0, padded(c.outputs) - c.outputs});
  return at::cat({taps.flatten(0, 2), taps.sum(1).flatten(0, 1)}).contiguous();
}

// How many pixels of a line, from each on, are of its region.
void count_runs(const uint8_t* line, int64_t n, int64_t* runs) {
  for (int64_t x = n - 1; x >= 0; --x) runs[x] = x + 1 < n && line[x + 1] == line[x] ? runs[x + 1] + 1 : 1;
}

// One row of output pixels of an image.
class Row {
 public:
  Row(const Conv& c, int64_t image, int64_t row)
      : c_(c),
        map_(c.regions.const_data_ptr<uint8_t>() + image * c.height() * c.width()),
        top_(row * c.stride - c.padding),
        first_(std::max<int64_t>(0, -top_)),
        last_(std::min(c.kernel_h, c.height() - top_)),
        width_(padded(c.outputs)),
        runs_(c.kernel_h * c.width()) {
    for (int64_t i = first_; i < last_; ++i) {
      count_runs(map_ + (top_ + i) * c.width(), c.width(), runs_.data() + i * c.width());
    }
  }

  // Where the table's rows begin that the output pixel in a column sums; their number.
  int64_t sources(int64_t column, int64_t* offsets) const {
    const int64_t left = column * c_.stride - c_.padding, taps = c_.kernel_h * c_.kernel_w;
    const int64_t start = std::max<int64_t>(0, -left), stop = std::min(c_.kernel_w, c_.width() - left);
    int64_t n = 0;
    for (int64_t i = first_; i < last_; ++i) {
      const uint8_t* line = map_ + (top_ + i) * c_.width();
      if (stop - start == c_.kernel_w && runs_[i * c_.width() + left] >= c_.kernel_w) {
        offsets[n++] = ((taps + i) * c_.count + line[left]) * width_;
        continue;
      }
      for (int64_t j = start; j < stop; ++j) {
        offsets[n++] = ((i * c_.kernel_w + j) * c_.count + line[left + j]) * width_;
      }
    }
    return n;
  }

 private:
  const Conv& c_;
  const uint8_t* map_;
  int64_t top_, first_, last_, width_;
  std::vector<int64_t> runs_;
};

template <typename T>
void forward_row(const Conv& c, const T* table, int64_t image, int64_t row, T* out) {
  const int64_t width = padded(c.outputs), plane = c.rows * c.columns;
  const Row source(c, image, row);
  std::vector<int64_t> offsets(c.kernel_h * c.kernel_w);
  std::vector<T> tile(kTile * width);
  for (int64_t first = 0; first < c.columns; first += kTile) {
    const int64_t n = std::min(kTile, c.columns - first);
    for (int64_t i = 0; i < n; ++i) {
      gather(table, offsets.data(), source.sources(first + i, offsets.data()), width, tile.data() + i * width);
    }
    for (int64_t o = 0; o < c.outputs; ++o) {
      T* to = out + (image * c.outputs + o) * plane + row * c.columns + first;
      for (int64_t i = 0; i < n; ++i) to[i] = tile[i * width + o];
    }
  }
}

at::Tensor region_conv(const at::Tensor& regions, const at::Tensor& weight, int64_t stride, int64_t padding) {
  const Conv c(regions, weight.sizes(), stride, padding);
  check_regions(c);
  at::Tensor out = at::empty({c.batch(), c.outputs, c.rows, c.columns}, weight.options());
  const at::Tensor table = table_of(c, weight);
  AT_DISPATCH_FLOATING_TYPES(weight.scalar_type(), "facex_region_conv", [&] {
    at::parallel_for(0, c.batch() * c.rows, 1, [&](int64_t first, int64_t last) {
      for (int64_t item = first; item < last; ++item) {
        forward_row<scalar_t>(c, table.const_data_ptr<scalar_t>(), item / c.rows, item % c.rows,
                              out.mutable_data_ptr<scalar_t>());
      }
    });
  });
  return out;
}

// One image's share of the table's rows of one kernel row [kw, K, width]: for each tap, runs of pixels whose tap falls
// into one region are summed before they are added.
template <typename T>
void backward_image(const Conv& c, const T* grad, int64_t image, int64_t i, T* rows) {
  const int64_t width = padded(c.outputs);
  const uint8_t* map = c.regions.const_data_ptr<uint8_t>() + image * c.height() * c.width();
  for (int64_t row = 0; row < c.rows; ++row) {
    const int64_t y = row * c.stride + i - c.padding;
    if (y < 0 || y >= c.height()) continue;
    const T* from = grad + (image * c.rows + row) * c.columns * width;
    for (int64_t j = 0; j < c.kernel_w; ++j) {
      const int64_t line = y * c.width() + j - c.padding;  // where column 0's tap lies, maybe outside
      // the columns whose tap lies inside the map
      int64_t column = std::max<int64_t>(0, (c.padding - j + c.stride - 1) / c.stride);
      const int64_t reach = c.width() - 1 + c.padding - j;
      const int64_t stop = reach < 0 ? 0 : std::min(c.columns, reach / c.stride + 1);
      while (column < stop) {
        const int64_t start = column;
        const uint8_t region = map[line + column * c.stride];
        while (column < stop && map[line + column * c.stride] == region) ++column;
        add_run(from + start * width, width, column - start, rows + (j * c.count + region) * width);
      }
    }
  }
}

// A worker owns kernel rows, so the sums are made in the same order with any number of threads; images are added up in
// double.
at::Tensor region_conv_backward(const at::Tensor& grad, const at::Tensor& regions, at::IntArrayRef weight,
                                int64_t stride, int64_t padding) {
  const Conv c(regions, weight, stride, padding);
  TORCH_CHECK(grad.sizes() == at::IntArrayRef({c.batch(), c.outputs, c.rows, c.columns}),
              "region_conv_backward: gradient of another shape than the output: ", grad.sizes());
  check_regions(c);
  const int64_t width = padded(c.outputs);
  const at::Tensor pixels = at::constant_pad_nd(grad.permute({0, 2, 3, 1}), {0, width - c.outputs}).contiguous();
  at::Tensor sums = at::zeros({c.kernel_h, c.kernel_w, c.count, width}, grad.options().dtype(at::kDouble));
  const int64_t size = c.kernel_w * c.count * width;
  AT_DISPATCH_FLOATING_TYPES(grad.scalar_type(), "facex_region_conv_backward", [&] {
    at::parallel_for(0, c.kernel_h, 1, [&](int64_t first, int64_t last) {
      std::vector<scalar_t> rows(size);
      for (int64_t i = first; i < last; ++i) {
        double* total = sums.mutable_data_ptr<double>() + i * size;
        for (int64_t image = 0; image < c.batch(); ++image) {
          std::fill(rows.begin(), rows.end(), scalar_t(0));
          backward_image<scalar_t>(c, pixels.const_data_ptr<scalar_t>(), image, i, rows.data());
          for (int64_t e = 0; e < size; ++e) total[e] += double(rows[e]);
        }
      }
    });
  });
  return sums.narrow(3, 0, c.outputs).permute({3, 2, 0, 1}).to(grad.scalar_type()).contiguous();
}

}  // namespace
}  // namespace facex::region_conv

TORCH_LIBRARY_IMPL(facex, CPU, m) {
  m.impl("region_conv", &facex::region_conv::region_conv);
  m.impl("region_conv_backward", &facex::region_conv::region_conv_backward);
}
