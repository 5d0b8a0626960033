#include "picture.h"

#include <algorithm>
#include <cmath>

namespace facex::synth {

namespace {

// Calls act(pixel index, weight) for the pixels that a splat reaches (to 2.5 standard deviations).
template <class Act>
void spread(const Splat& splat, int size, Act act) {
  const float scale = static_cast<float>(size) / kFrame;
  const float c = std::cos(splat.angle), s = std::sin(splat.angle);
  const float reach_x = 2.5f * std::sqrt(splat.rx * splat.rx * c * c + splat.ry * splat.ry * s * s);
  const float reach_y = 2.5f * std::sqrt(splat.rx * splat.rx * s * s + splat.ry * splat.ry * c * c);
  const auto pixel = [scale](float v) { return (v + 0.5f) * scale - 0.5f; };
  const int x0 = std::max(0, static_cast<int>(std::ceil(pixel(splat.x - reach_x))));
  const int x1 = std::min(size - 1, static_cast<int>(std::floor(pixel(splat.x + reach_x))));
  const int y0 = std::max(0, static_cast<int>(std::ceil(pixel(splat.y - reach_y))));
  const int y1 = std::min(size - 1, static_cast<int>(std::floor(pixel(splat.y + reach_y))));
  for (int y = y0; y <= y1; ++y) {
    for (int x = x0; x <= x1; ++x) {
      const float dx = (static_cast<float>(x) + 0.5f) / scale - 0.5f - splat.x;
      const float dy = (static_cast<float>(y) + 0.5f) / scale - 0.5f - splat.y;
      const float u = (c * dx + s * dy) / splat.rx, v = (c * dy - s * dx) / splat.ry;
      const float rr = (u * u + v * v) * (1.0f / 6.25f);
      if (rr >= 1.0f) continue;
      const float w = (1.0f - rr) * (1.0f - rr);
      act(static_cast<std::size_t>(y) * size + x, w * w);  // close to a Gaussian, and zero at its rim
    }
  }
}

// Along rows (`horizontal`) or columns. Both add shifted lines, so that the inner loops are contiguous.
void blur(std::vector<float>& image, std::vector<float>& out, int size, float sigma, bool horizontal) {
  if (sigma < 0.2f) return;
  const int radius = std::max(1, static_cast<int>(std::ceil(2.5f * sigma)));
  std::vector<float> kernel(2 * radius + 1);
  float total = 0.0f;
  for (int k = -radius; k <= radius; ++k) total += kernel[k + radius] = std::exp(-0.5f * k * k / (sigma * sigma));
  for (float& value : kernel) value /= total;
  const std::ptrdiff_t stride = static_cast<std::ptrdiff_t>(size) * 3;
  std::vector<float> padded(stride + 6 * radius);
  out.assign(image.size(), 0.0f);
  for (int y = 0; y < size; ++y) {
    float* row = out.data() + y * stride;
    if (horizontal) {
      const float* in = image.data() + y * stride;
      for (int i = 0; i < radius; ++i) {
        std::copy_n(in, 3, padded.data() + 3 * i);
        std::copy_n(in + stride - 3, 3, padded.data() + stride + 3 * (radius + i));
      }
      std::copy_n(in, stride, padded.data() + 3 * radius);
    }
    for (int k = -radius; k <= radius; ++k) {
      const float w = kernel[k + radius];
      const float* in =
          horizontal ? padded.data() + 3 * (k + radius) : image.data() + std::clamp(y + k, 0, size - 1) * stride;
      for (std::ptrdiff_t i = 0; i < stride; ++i) row[i] += w * in[i];
    }
  }
  image.swap(out);
}

// Three nearly normal numbers, mean 0, deviation 1, for a pixel: each adds up three 7-bit pieces of one hash.
void grain(std::uint32_t seed, std::uint32_t index, float out[3]) {
  std::uint64_t h = (static_cast<std::uint64_t>(seed) << 32 | index) * 0x9E3779B97F4A7C15ull;
  h ^= h >> 32;
  h *= 0xD6E8FEB86659FD93ull;
  h ^= h >> 32;
  for (int c = 0; c < 3; ++c, h >>= 21) {
    const int sum = static_cast<int>((h & 127u) + ((h >> 7) & 127u) + ((h >> 14) & 127u));
    out[c] = (static_cast<float>(sum) - 190.5f) * (1.0f / 64.0f);
  }
}

void compose(const Scene& scene, Workspace& work) {
  const LayerGrid& grid = work.grid;
  const int size = grid.size();
  const float scale = kFrame / static_cast<float>(size);
  const float share = 1.0f / static_cast<float>(grid.factor() * grid.factor());
  work.image.resize(static_cast<std::size_t>(size) * size * 3);
  for (int y = 0; y < size; ++y) {
    for (int x = 0; x < size; ++x) {
      const std::size_t at = static_cast<std::size_t>(y) * size + x;
      const float fx = (static_cast<float>(x) + 0.5f) * scale - 0.5f,
                  fy = (static_cast<float>(y) + 0.5f) * scale - 0.5f;
      std::uint8_t ids[8];
      int counts[8];
      const int found = grid.coverage(x, y, ids, counts);
      float* out = &work.image[at * 3];
      const float *surface = &work.surface[at * kSurfaceChannels], *spots = &work.spots[at * 3];
      if (found == 1) {
        shade(scene, ids[0], fx, fy, surface, spots, out);
        continue;
      }
      float sum[3] = {};
      for (int k = 0; k < found; ++k) {
        float rgb[3];
        shade(scene, ids[k], fx, fy, surface, spots, rgb);
        for (int c = 0; c < 3; ++c) sum[c] += rgb[c] * static_cast<float>(counts[k]);
      }
      for (int c = 0; c < 3; ++c) out[c] = sum[c] * share;
    }
  }
}

}  // namespace

void take_picture(const Scene& scene, const std::vector<Splat>& splats, const Camera& camera, Workspace& work,
                  std::uint8_t* out) {
  const int size = work.grid.size();
  auto& spots = work.spots;
  auto& image = work.image;
  spots.assign(static_cast<std::size_t>(size) * size * 3, 1.0f);
  for (const Splat& splat : splats)
    if (splat.target == 0.0f)
      spread(splat, size, [&](std::size_t at, float w) {
        for (int c = 0; c < 3; ++c) spots[at * 3 + c] *= 1.0f + w * (splat.rgb[c] - 1.0f);
      });
  compose(scene, work);
  for (const Splat& splat : splats) {
    if (splat.target == 1.0f)
      spread(splat, size, [&](std::size_t at, float w) {
        for (int c = 0; c < 3; ++c) image[at * 3 + c] *= 1.0f + w * (splat.rgb[c] - 1.0f);
      });
    if (splat.target == 2.0f)
      spread(splat, size, [&](std::size_t at, float w) {
        for (int c = 0; c < 3; ++c) image[at * 3 + c] += w * splat.rgb[c];
      });
  }
  const float steps = static_cast<float>(camera.tone_size - 1) * 0.5f, last = 2.0f * steps;
  for (std::size_t at = 0; at < image.size(); at += 3) {
    float v[3];
    for (int c = 0; c < 3; ++c) v[c] = image[at + c] * camera.gain[c];
    const float grey = 0.3f * v[0] + 0.6f * v[1] + 0.1f * v[2];
    for (int c = 0; c < 3; ++c) {
      const float linear = grey + (v[c] - grey) * camera.saturation;
      image[at + c] = camera.tone[static_cast<int>(std::min(std::max(0.0f, linear * steps), last))];  // NaN: 0
    }
  }
  const float scale = static_cast<float>(size) / kFrame;
  blur(image, work.copy, size, camera.blur[0] * scale, true);
  blur(image, work.copy, size, camera.blur[1] * scale, false);
  for (std::size_t at = 0; at < image.size(); at += 3) {
    float speck[3];
    grain(scene.seed, static_cast<std::uint32_t>(at), speck);
    for (int c = 0; c < 3; ++c)
      out[at + c] = static_cast<std::uint8_t>(
          static_cast<int>(std::min(std::max(0.0f, image[at + c] + camera.noise * speck[c] + 0.5f), 255.0f)));
  }
}

}  // namespace facex::synth
