#include "mesh.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "simd.h"

namespace facex::occluders {

namespace {

typedef float Color __attribute__((vector_size(16)));  // r, g, b, alpha

struct Corner {
  float x, y, z, u, v, light;
};

// What is interpolated over a triangle: value at the origin and slopes.
struct Ramp {
  float at, dx, dy;
};

// Samples of the pixels inside a box of the picture; colours are multiplied by alpha, 0..1.
struct Samples {
  int left, top, width, height;  // in samples
  std::vector<float> depth;
  std::vector<Color> color;

  void reset(int x0, int y0, int x1, int y1) {
    left = x0, top = y0, width = x1 - x0, height = y1 - y0;
    const std::size_t count = static_cast<std::size_t>(width) * height;
    depth.assign(count, -std::numeric_limits<float>::infinity());
    color.assign(count, Color{});
  }
};

// Unit normals [vertex_count, 3]: the sum of the triangles' around each vertex, weighted by their areas.
void vertex_normals(const Mesh& mesh, std::vector<float>& normals) {
  normals.assign(3 * static_cast<std::size_t>(mesh.vertex_count), 0.0f);
  for (int t = 0; t < mesh.triangle_count; ++t) {
    const std::int32_t* index = mesh.triangles + 3 * t;
    const float *a = mesh.vertices + 3 * index[0], *b = mesh.vertices + 3 * index[1], *c = mesh.vertices + 3 * index[2];
    const float p[3] = {b[0] - a[0], b[1] - a[1], b[2] - a[2]}, q[3] = {c[0] - a[0], c[1] - a[1], c[2] - a[2]};
    const float n[3] = {p[1] * q[2] - p[2] * q[1], p[2] * q[0] - p[0] * q[2], p[0] * q[1] - p[1] * q[0]};
    for (int k = 0; k < 3; ++k)
      for (int i = 0; i < 3; ++i) normals[3 * index[k] + i] += n[i];
  }
  for (int v = 0; v < mesh.vertex_count; ++v) {
    float* n = normals.data() + 3 * v;
    const float length = std::sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2]);
    for (int i = 0; i < 3; ++i) n[i] /= std::max(length, 1e-12f);
  }
}

float lit(const Lamp& lamp, const float* n, float x, float y) {
  const float facing = n[0] * lamp.direction[0] + n[1] * lamp.direction[1] + n[2] * lamp.direction[2];
  const float plane = std::clamp(lamp.plane[0] + lamp.plane[1] * x + lamp.plane[2] * y, kPlaneLow, kPlaneHigh);
  return (lamp.ambient + lamp.diffuse * std::max(facing, 0.0f)) * plane;
}

// Bilinear, edges repeated; (u, v) in texels whose centres are at halves.
FACEX_INLINE Color sample(const Texture& texture, float u, float v) {
  const float x = std::clamp(u - 0.5f, 0.0f, static_cast<float>(texture.width - 1));
  const float y = std::clamp(v - 0.5f, 0.0f, static_cast<float>(texture.height - 1));
  const int x0 = static_cast<int>(x), y0 = static_cast<int>(y);
  const int right = x0 + 1 < texture.width ? 4 : 0, down = y0 + 1 < texture.height ? 4 * texture.width : 0;
  const float* p = texture.rgba + 4 * (static_cast<std::size_t>(y0) * texture.width + x0);
  const auto at = [p](int offset) {
    Color c;
    std::memcpy(&c, p + offset, sizeof(c));
    return c;
  };
  const float fx = x - static_cast<float>(x0), fy = y - static_cast<float>(y0);
  const Color upper = at(0) + fx * (at(right) - at(0)), lower = at(down) + fx * (at(down + right) - at(down));
  return upper + fy * (lower - upper);
}

FACEX_INLINE Ramp ramp(const Corner* p, float inverse, float Corner::* value) {
  const float a = p[0].*value, b = p[1].*value - a, c = p[2].*value - a;
  const float dx = (b * (p[2].y - p[0].y) - c * (p[1].y - p[0].y)) * inverse;
  const float dy = (c * (p[1].x - p[0].x) - b * (p[2].x - p[0].x)) * inverse;
  return {a - dx * p[0].x - dy * p[0].y, dx, dy};
}

// x at height y of the edge from a to b, which is not level.
struct Edge {
  float x, y, slope;
  Edge(const Corner& a, const Corner& b) : x(a.x), y(a.y), slope(b.y > a.y ? (b.x - a.x) / (b.y - a.y) : 0.0f) {}
  float operator()(float at) const { return x + (at - y) * slope; }
};

FACEX_INLINE int ceil_int(float v) {
  return static_cast<int>(v) + (static_cast<float>(static_cast<int>(v)) < v);
}  // v >= 0

// Corners in sample coordinates. Samples on an edge that two triangles share belong to both: the depth decides.
FACEX_CLONES void draw_triangle(const Corner* p, const Texture& texture, Color tint, Samples& s) {
  const float area = (p[1].x - p[0].x) * (p[2].y - p[0].y) - (p[2].x - p[0].x) * (p[1].y - p[0].y);
  if (!(area > 1e-6f)) return;
  const Corner *top = p, *middle = p + 1, *low = p + 2;
  if (middle->y < top->y) std::swap(middle, top);
  if (low->y < middle->y) std::swap(low, middle);
  if (middle->y < top->y) std::swap(middle, top);
  const float y_end = static_cast<float>(s.top + s.height - 1), x_end = static_cast<float>(s.left + s.width - 1);
  if (!(low->y >= static_cast<float>(s.top)) || !(top->y <= y_end)) return;
  const float inverse = 1.0f / area;
  const Ramp z = ramp(p, inverse, &Corner::z), light = ramp(p, inverse, &Corner::light);
  const Ramp u = ramp(p, inverse, &Corner::u), v = ramp(p, inverse, &Corner::v);
  const Edge whole(*top, *low), upper(*top, *middle), lower(*middle, *low);
  const int first = ceil_int(std::max(top->y, static_cast<float>(s.top)));
  const int last = static_cast<int>(std::min(low->y, y_end));
  for (int row = first; row <= last; ++row) {
    const float y = static_cast<float>(row);
    float from = whole(y), to = y < middle->y ? upper(y) : lower(y);
    if (from > to) std::swap(from, to);
    if (!(from <= x_end) || !(to >= static_cast<float>(s.left))) continue;
    const int begin = ceil_int(std::max(from, static_cast<float>(s.left)));
    const int end = static_cast<int>(std::min(to, x_end));
    const std::size_t line = static_cast<std::size_t>(row - s.top) * s.width - s.left;
    for (int column = begin; column <= end; ++column) {
      const float x = static_cast<float>(column);
      const auto value = [x, y](const Ramp& r) { return r.at + r.dx * x + r.dy * y; };
      const float depth = value(z);
      if (depth <= s.depth[line + column]) continue;
      Color color = sample(texture, value(u), value(v));
      if (color[3] < 1.0f / 255) continue;
      const float alpha = color[3], shade = value(light);
      color = color * shade * tint;
      for (int c = 0; c < 3; ++c) color[c] = std::min(color[c], 1.0f);
      color *= alpha;
      color[3] = alpha;
      s.depth[line + column] = depth;
      s.color[line + column] = color;
    }
  }
}

// Averages the samples of each pixel and blends them over the picture.
FACEX_CLONES void resolve(const Samples& s, int samples, std::uint8_t* image, int channels, std::uint8_t* mask,
                          int width) {
  const float share = 1.0f / static_cast<float>(samples * samples);
  for (int y = 0; y < s.height; y += samples) {
    for (int x = 0; x < s.width; x += samples) {
      Color sum = {};
      for (int j = 0; j < samples; ++j)
        for (int i = 0; i < samples; ++i) sum += s.color[static_cast<std::size_t>(y + j) * s.width + x + i];
      if (sum[3] == 0.0f) continue;
      sum *= share;
      const std::size_t at = static_cast<std::size_t>((s.top + y) / samples) * width + (s.left + x) / samples;
      if (sum[3] >= 0.5f) mask[at] = 255;
      if (channels == 1) sum[0] = 0.299f * sum[0] + 0.587f * sum[1] + 0.114f * sum[2];
      for (int c = 0; c < channels; ++c) {
        std::uint8_t& pixel = image[channels * at + c];
        const float mixed = 255.0f * sum[c] + static_cast<float>(pixel) * (1.0f - sum[3]) + 0.5f;
        pixel = static_cast<std::uint8_t>(std::clamp(mixed, 0.0f, 255.0f));
      }
    }
  }
}

}  // namespace

void render_mesh(std::uint8_t* image, int channels, std::uint8_t* mask, int height, int width, const Mesh& mesh,
                 const Texture& texture, const Lamp& lamp, int samples) {
  static thread_local std::vector<float> normals;
  static thread_local std::vector<Corner> corners;
  static thread_local Samples grid;
  vertex_normals(mesh, normals);
  corners.resize(mesh.vertex_count);
  const float scale = static_cast<float>(samples), limit = 2.0f * scale * static_cast<float>(std::max(width, height));
  float low[2] = {limit, limit}, high[2] = {-limit, -limit};
  for (int i = 0; i < mesh.vertex_count; ++i) {
    const float* p = mesh.vertices + 3 * i;
    const float x = (p[0] + 0.5f) * scale - 0.5f, y = (p[1] + 0.5f) * scale - 0.5f;
    corners[i] = {x,
                  y,
                  p[2],
                  mesh.uv[2 * i] * texture.width,
                  mesh.uv[2 * i + 1] * texture.height,
                  lit(lamp, normals.data() + 3 * i, p[0], p[1])};
    low[0] = std::min(low[0], x), low[1] = std::min(low[1], y);
    high[0] = std::max(high[0], x), high[1] = std::max(high[1], y);
  }
  // The box in whole pixels.
  const auto floor_pixel = [&](float v, int size) {
    return std::clamp(static_cast<int>(std::floor(v / scale)), 0, size);
  };
  const int x0 = floor_pixel(low[0], width), y0 = floor_pixel(low[1], height);
  const int x1 = floor_pixel(high[0] + scale, width), y1 = floor_pixel(high[1] + scale, height);
  if (x0 >= x1 || y0 >= y1) return;
  grid.reset(x0 * samples, y0 * samples, x1 * samples, y1 * samples);
  const Color tint = {lamp.tint[0], lamp.tint[1], lamp.tint[2], 1.0f};
  for (int t = 0; t < mesh.triangle_count; ++t) {
    const std::int32_t* index = mesh.triangles + 3 * t;
    const Corner p[3] = {corners[index[0]], corners[index[1]], corners[index[2]]};
    draw_triangle(p, texture, tint, grid);
  }
  resolve(grid, samples, image, channels, mask, width);
}

}  // namespace facex::occluders
