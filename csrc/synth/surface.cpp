#include "surface.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "raster.h"

namespace facex::synth {

void Light::diffuse(const float n[3], float rgb[3]) const {
  const float up = 0.5f - 0.5f * n[1];
  const float cosine = n[0] * direction[0] + n[1] * direction[1] + n[2] * direction[2];
  const float lit = std::max(0.0f, (cosine + wrap) / (1.0f + wrap));
  for (int c = 0; c < 3; ++c) rgb[c] = ground[c] + (sky[c] - ground[c]) * up + key[c] * lit;
}

float Light::highlight(const float n[3]) const {
  float h[3] = {direction[0], direction[1], direction[2] + 1.0f};
  const float length = std::sqrt(h[0] * h[0] + h[1] * h[1] + h[2] * h[2]) + 1e-6f;
  const float cosine = (n[0] * h[0] + n[1] * h[1] + n[2] * h[2]) / length;
  return cosine > 0.3f ? specular * std::pow(cosine, gloss) : 0.0f;
}

namespace {

using Vertex = std::array<float, 3 + kSurfaceChannels>;  // x, y in output pixels, z, channels

std::vector<Vertex> light_vertices(const float* vertices, const float* albedo, int rows, int columns,
                                   const Light& light, int size) {
  std::vector<Vertex> out(static_cast<std::size_t>(rows) * columns);
  const float scale = static_cast<float>(size) / kFrame;
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < columns; ++c) {
      const int r0 = std::max(r - 1, 0), r1 = std::min(r + 1, rows - 1);
      const int c0 = std::max(c - 1, 0), c1 = std::min(c + 1, columns - 1);
      float du[3], dv[3];
      for (int k = 0; k < 3; ++k) {
        du[k] = vertices[3 * (r * columns + c1) + k] - vertices[3 * (r * columns + c0) + k];
        dv[k] = vertices[3 * (r1 * columns + c) + k] - vertices[3 * (r0 * columns + c) + k];
      }
      float n[3] = {du[1] * dv[2] - du[2] * dv[1], du[2] * dv[0] - du[0] * dv[2], du[0] * dv[1] - du[1] * dv[0]};
      const float length = std::sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2]);
      for (float& value : n) value /= std::max(length, 1e-6f);
      if (length < 1e-6f) n[2] = 1.0f;  // the poles of the grid
      const float* v = vertices + 3 * (r * columns + c);
      Vertex& o = out[static_cast<std::size_t>(r) * columns + c];
      o[0] = (v[0] + 0.5f) * scale - 0.5f;
      o[1] = (v[1] + 0.5f) * scale - 0.5f;
      o[2] = v[2];
      light.diffuse(n, &o[3]);
      for (int k = 0; k < 3; ++k) o[6 + k] = albedo[3 * (r * columns + c) + k];
      o[9] = light.highlight(n);
    }
  }
  return out;
}

void draw_triangle(const Vertex& a, const Vertex& b, const Vertex& c, int size, float* map, float* depth) {
  const float area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]);
  if (std::fabs(area) < 1e-6f) return;
  const int x0 = std::max(0, static_cast<int>(std::ceil(std::min({a[0], b[0], c[0]}))));
  const int x1 = std::min(size - 1, static_cast<int>(std::floor(std::max({a[0], b[0], c[0]}))));
  const int y0 = std::max(0, static_cast<int>(std::ceil(std::min({a[1], b[1], c[1]}))));
  const int y1 = std::min(size - 1, static_cast<int>(std::floor(std::max({a[1], b[1], c[1]}))));
  const float inverse = 1.0f / area;
  for (int y = y0; y <= y1; ++y) {
    const float py = static_cast<float>(y) - a[1];
    for (int x = x0; x <= x1; ++x) {
      const float px = static_cast<float>(x) - a[0];
      const float wb = (px * (c[1] - a[1]) - py * (c[0] - a[0])) * inverse;
      const float wc = ((b[0] - a[0]) * py - (b[1] - a[1]) * px) * inverse;
      const float wa = 1.0f - wb - wc;
      if (wa < -1e-4f || wb < -1e-4f || wc < -1e-4f) continue;
      const float z = wa * a[2] + wb * b[2] + wc * c[2];
      const std::size_t at = static_cast<std::size_t>(y) * size + x;
      if (z <= depth[at]) continue;
      depth[at] = z;
      float* out = map + at * kSurfaceChannels;
      for (int k = 0; k < kSurfaceChannels; ++k) out[k] = wa * a[3 + k] + wb * b[3 + k] + wc * c[3 + k];
    }
  }
}

// Copies along the row outwards from the drawn pixels, then whole rows up and down.
void extend(std::vector<float>& map, const std::vector<float>& depth, int size) {
  constexpr float kEmpty = std::numeric_limits<float>::lowest();
  const std::size_t stride = static_cast<std::size_t>(size) * kSurfaceChannels;
  int first_row = -1, last_row = -1;
  for (int y = 0; y < size; ++y) {
    const float* z = depth.data() + static_cast<std::size_t>(y) * size;
    float* row = map.data() + y * stride;
    int known = -1;
    for (int x = 0; x < size; ++x) {
      if (z[x] != kEmpty) {
        if (known < 0)
          for (int i = 0; i < x; ++i)
            std::copy_n(row + x * kSurfaceChannels, kSurfaceChannels, row + i * kSurfaceChannels);
        known = x;
      } else if (known >= 0) {
        std::copy_n(row + known * kSurfaceChannels, kSurfaceChannels, row + x * kSurfaceChannels);
      }
    }
    if (known >= 0) {
      if (first_row < 0) first_row = y;
      last_row = y;
    } else if (last_row >= 0) {
      std::copy_n(map.data() + last_row * stride, stride, row);
    }
  }
  for (int y = 0; y < first_row; ++y) std::copy_n(map.data() + first_row * stride, stride, map.data() + y * stride);
}

}  // namespace

void draw_surface(const float* vertices, const float* albedo, int rows, int columns, const Light& light, int size,
                  std::vector<float>& map, std::vector<float>& depth) {
  const auto lit = light_vertices(vertices, albedo, rows, columns, light, size);
  const std::size_t pixels = static_cast<std::size_t>(size) * size;
  map.assign(pixels * kSurfaceChannels, 0.5f);
  depth.assign(pixels, std::numeric_limits<float>::lowest());
  for (int r = 0; r + 1 < rows; ++r) {
    for (int c = 0; c + 1 < columns; ++c) {
      const Vertex* a = &lit[static_cast<std::size_t>(r) * columns + c];
      draw_triangle(a[0], a[1], a[columns], size, map.data(), depth.data());
      draw_triangle(a[1], a[columns + 1], a[columns], size, map.data(), depth.data());
    }
  }
  extend(map, depth, size);
}

}  // namespace facex::synth
