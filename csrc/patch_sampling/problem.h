// The checked arguments of sample_patches.
#pragma once

#include <ATen/ATen.h>

#ifdef __CUDACC__
#define FACEX_HOST_DEVICE __host__ __device__
#else
#define FACEX_HOST_DEVICE
#endif

namespace facex::patches {

// Where pixel i of a patch stands along an axis of `size` pixels: landmark + i - patch / 2 - 1 / 2, by way of the
// normalised grid of -1..1, so that it is rounded as torch's grid_sample rounds it.
template <typename T>
FACEX_HOST_DEVICE inline T coordinate(T landmark, int64_t i, int64_t patch, int64_t size) {
  const T half = T(size) / 2;
  const T grid = (landmark + (T(i) - T(patch) / 2)) / half - T(1);
  return (grid + T(1)) * half - T(0.5);
}

// Images [B, C, H, W] and landmarks [B, N, 2] of one floating type, contiguous, and the side of a patch.
struct Problem {
  Problem(const at::Tensor& images_, const at::Tensor& landmarks_, int64_t patch_)
      : images(images_.contiguous()), landmarks(landmarks_.contiguous()), patch(patch_) {
    TORCH_CHECK(
        images.dim() == 4 && landmarks.dim() == 3 && landmarks.size(2) == 2 && landmarks.size(0) == images.size(0),
        "sample_patches: images [B, C, H, W] and landmarks [B, N, 2] are wanted, got ", images_.sizes(), " and ",
        landmarks_.sizes());
    TORCH_CHECK(images.scalar_type() == landmarks.scalar_type() &&
                    (images.scalar_type() == at::kFloat || images.scalar_type() == at::kDouble),
                "sample_patches: images and landmarks are both float32 or both float64, got ", images_.scalar_type(),
                " and ", landmarks_.scalar_type());
    TORCH_CHECK(images.device() == landmarks.device(), "sample_patches: images and landmarks on one device");
    TORCH_CHECK(patch >= 1 && channels() >= 1, "sample_patches: patches of at least one pixel and one channel");
  }

  int64_t batch() const { return images.size(0); }
  int64_t channels() const { return images.size(1); }
  int64_t height() const { return images.size(2); }
  int64_t width() const { return images.size(3); }
  int64_t count() const { return landmarks.size(1); }              // landmarks of an image
  int64_t column() const { return patch * channels(); }            // numbers of a patch at one x
  int64_t features() const { return patch * patch * channels(); }  // numbers of a patch

  at::Tensor images, landmarks;
  int64_t patch;
};

// What both backends register; `Backend` has forward(problem, tokens) and backward(problem, grad, dimages, dlandmarks),
// whose outputs hold zeros, and are undefined where no gradient is wanted.
template <typename Backend>
struct Operators {
  static at::Tensor sample_patches(const at::Tensor& images, const at::Tensor& landmarks, int64_t patch_size) {
    const Problem p(images, landmarks, patch_size);
    at::Tensor tokens = at::empty({p.batch(), p.count(), p.features()}, p.images.options());
    if (tokens.numel() > 0) Backend::forward(p, tokens);
    return tokens;
  }

  static std::tuple<at::Tensor, at::Tensor> sample_patches_backward(const at::Tensor& grad, const at::Tensor& images,
                                                                    const at::Tensor& landmarks, int64_t patch_size,
                                                                    bool image_grad, bool landmark_grad) {
    const Problem p(images, landmarks, patch_size);
    TORCH_CHECK(grad.sizes() == at::IntArrayRef({p.batch(), p.count(), p.features()}) &&
                    grad.scalar_type() == p.images.scalar_type(),
                "sample_patches_backward: gradient of another shape or type than the tokens: ", grad.sizes());
    at::Tensor dimages = image_grad ? at::zeros_like(p.images) : at::empty({0}, p.images.options());
    at::Tensor dlandmarks = landmark_grad ? at::zeros_like(p.landmarks) : at::empty({0}, p.images.options());
    if (grad.numel() > 0 && (image_grad || landmark_grad)) {
      Backend::backward(p, grad.contiguous(), image_grad ? dimages : at::Tensor(),
                        landmark_grad ? dlandmarks : at::Tensor());
    }
    return {dimages, dlandmarks};
  }

  static void implement(torch::Library& m) {
    m.impl("sample_patches", &sample_patches);
    m.impl("sample_patches_backward", &sample_patches_backward);
  }
};

}  // namespace facex::patches
