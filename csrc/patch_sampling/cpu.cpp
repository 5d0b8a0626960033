// sample_patches on the CPU. Each image is turned once into columns of pixels with a border of zeros: then a patch's
// column is one contiguous run, like a column of its tokens, and nothing has to be asked at the border. An image
// belongs to one worker, so the sums of its gradient are always made in the same order.
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <cmath>
#include <vector>

#include "cpu_patch.h"
#include "problem.h"

namespace facex::patches {
namespace {

// An image as [W + 2 m, H + 2 m, C] with a border of m = patch + 1 zeros.
template <typename T>
class Columns {
 public:
  explicit Columns(const Problem& p)
      : p_(p),
        border_(p.patch + 1),
        stride_((p.height() + 2 * border_) * p.channels()),
        values_((p.width() + 2 * border_) * stride_),
        wx_(p.patch),
        wy_(p.column()) {}

  T* data() { return values_.data(); }

  void load(const T* image) {
    walk([image](int64_t at, T& value) { value = image[at]; });
  }

  void store(T* image) {
    walk([image](int64_t at, T& value) { image[at] = value; });
  }

  void clear() { std::fill(values_.begin(), values_.end(), T(0)); }

  // Where the patch of a landmark lies; good until the next call. One that is wholly outside lies in the border; NaN
  // gives weights of NaN.
  Place<T> place(const T* landmark) {
    const int64_t x = start(landmark[0], p_.width()), y = start(landmark[1], p_.height());
    for (int64_t i = 0; i < p_.patch; ++i) {
      wx_[i] = weight(landmark[0], i, p_.width());
      std::fill_n(wy_.begin() + i * p_.channels(), p_.channels(), weight(landmark[1], i, p_.height()));
    }
    return {x * stride_ + y * p_.channels(), stride_, wx_.data(), wy_.data()};
  }

 private:
  // Index of a patch's first pixel, counted in the border too.
  int64_t start(T landmark, int64_t size) const {
    const T whole = std::floor(coordinate(landmark, 0, p_.patch, size));
    if (!(whole >= T(-border_))) return 0;
    return whole > T(size) ? size + border_ : int64_t(whole) + border_;
  }

  T weight(T landmark, int64_t i, int64_t size) const {
    return coordinate(landmark, i, p_.patch, size) - (std::floor(coordinate(landmark, 0, p_.patch, size)) + T(i));
  }

  template <typename Visit>
  void walk(const Visit& visit) {
    const int64_t channels = p_.channels(), height = p_.height(), width = p_.width();
    for (int64_t x = 0; x < width; ++x) {
      T* column = values_.data() + (x + border_) * stride_ + border_ * channels;
      for (int64_t c = 0; c < channels; ++c) {
        for (int64_t y = 0; y < height; ++y) visit((c * height + y) * width + x, column[y * channels + c]);
      }
    }
  }

  const Problem& p_;
  int64_t border_, stride_;
  std::vector<T> values_, wx_, wy_;
};

template <typename T>
void forward(const Problem& p, at::Tensor& tokens) {
  const T *images = p.images.const_data_ptr<T>(), *landmarks = p.landmarks.const_data_ptr<T>();
  T* out = tokens.mutable_data_ptr<T>();
  const int64_t pixels = p.channels() * p.height() * p.width(), count = p.count(), features = p.features();
  at::parallel_for(0, p.batch(), 1, [&](int64_t first, int64_t last) {
    Columns<T> image(p);
    for (int64_t b = first; b < last; ++b) {
      image.load(images + b * pixels);
      for (int64_t n = b * count; n < (b + 1) * count; ++n) {
        read_patch(image.data(), image.place(landmarks + 2 * n), p.patch, p.channels(), out + n * features);
      }
    }
  });
}

template <typename T>
void backward(const Problem& p, const at::Tensor& grad, at::Tensor dimages, at::Tensor dlandmarks) {
  const T *images = p.images.const_data_ptr<T>(), *landmarks = p.landmarks.const_data_ptr<T>();
  const T* upstream = grad.const_data_ptr<T>();
  T* into_images = dimages.defined() ? dimages.mutable_data_ptr<T>() : nullptr;
  T* into_landmarks = dlandmarks.defined() ? dlandmarks.mutable_data_ptr<T>() : nullptr;
  const int64_t pixels = p.channels() * p.height() * p.width(), count = p.count(), features = p.features();
  at::parallel_for(0, p.batch(), 1, [&](int64_t first, int64_t last) {
    Columns<T> image(p), gradient(p);
    for (int64_t b = first; b < last; ++b) {
      if (into_landmarks) image.load(images + b * pixels);
      if (into_images) gradient.clear();
      for (int64_t n = b * count; n < (b + 1) * count; ++n) {
        const Place<T> at = image.place(landmarks + 2 * n);
        const T* g = upstream + n * features;
        if (into_images) add_patch(g, at, p.patch, p.channels(), gradient.data());
        if (into_landmarks) slope_patch(image.data(), g, at, p.patch, p.channels(), into_landmarks + 2 * n);
      }
      if (into_images) gradient.store(into_images + b * pixels);
    }
  });
}

struct CpuBackend {
  static void forward(const Problem& p, at::Tensor& tokens) {
    if (p.images.scalar_type() == at::kDouble) return patches::forward<double>(p, tokens);
    patches::forward<float>(p, tokens);
  }
  static void backward(const Problem& p, const at::Tensor& grad, at::Tensor dimages, at::Tensor dlandmarks) {
    if (p.images.scalar_type() == at::kDouble) return patches::backward<double>(p, grad, dimages, dlandmarks);
    patches::backward<float>(p, grad, dimages, dlandmarks);
  }
};

}  // namespace
}  // namespace facex::patches

TORCH_LIBRARY_IMPL(facex, CPU, m) { facex::patches::Operators<facex::patches::CpuBackend>::implement(m); }
