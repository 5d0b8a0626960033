#include "shade.h"

#include <algorithm>
#include <cmath>

namespace facex::synth {

namespace {

float mix(float a, float b, float t) { return a + (b - a) * t; }

// std::floor is a function call on baseline x86-64; this is three instructions.
int floor_int(float v) {
  const int i = static_cast<int>(v);
  return i - (static_cast<float>(i) > v);
}

// Smooth noise in [-1, 1] over the integer lattice.
float noise(std::uint32_t seed, float x, float y) {
  const int ix = floor_int(x), iy = floor_int(y);
  float tx = x - static_cast<float>(ix), ty = y - static_cast<float>(iy);
  tx = tx * tx * (3.0f - 2.0f * tx);
  ty = ty * ty * (3.0f - 2.0f * ty);
  const float top = mix(lattice(seed, ix, iy), lattice(seed, ix + 1, iy), tx);
  const float bottom = mix(lattice(seed, ix, iy + 1), lattice(seed, ix + 1, iy + 1), tx);
  return 2.0f * mix(top, bottom, ty) - 1.0f;
}

// Normal of an ellipsoid seen from the front, clamped at its rim.
void round_normal(float x, float y, const float* p, float n[3]) {
  n[0] = (x - p[0]) / p[2];
  n[1] = (y - p[1]) / p[3];
  const float rr = n[0] * n[0] + n[1] * n[1];
  if (rr > 0.9f) {
    const float shrink = std::sqrt(0.9f / rr);
    n[0] *= shrink;
    n[1] *= shrink;
  }
  n[2] = std::sqrt(1.0f - std::min(rr, 0.9f));
}

void backdrop(const Scene& scene, float x, float y, float rgb[3]) {
  const float gx = std::clamp((x + 0.5f) / kFrame, 0.0f, 0.9999f) * (scene.backdrop_columns - 1);
  const float gy = std::clamp((y + 0.5f) / kFrame, 0.0f, 0.9999f) * (scene.backdrop_rows - 1);
  const int ix = static_cast<int>(gx), iy = static_cast<int>(gy);
  const float* a = scene.backdrop + 3 * (iy * scene.backdrop_columns + ix);
  const float* b = a + 3 * scene.backdrop_columns;
  for (int c = 0; c < 3; ++c) rgb[c] = mix(mix(a[c], a[c + 3], gx - ix), mix(b[c], b[c + 3], gx - ix), gy - iy);
}

void skin(const Layer& layer, const float* surface, const float* spots, float rgb[3]) {
  for (int c = 0; c < 3; ++c) rgb[c] = layer.rgb[c] * surface[c] * surface[3 + c] * spots[c] + surface[6];
}

void on_skin(const Scene& scene, const Layer& layer, float x, float y, const float* surface, const float* spots,
             float rgb[3]) {
  float base[3];
  skin(scene.layers[scene.skin], surface, spots, base);
  float opacity = layer.p[0], tone = 1.0f;
  if (layer.p[1] > 0.0f) {
    const float strand = noise(scene.seed, (x + layer.p[3] * y) * layer.p[2], y * 0.35f * layer.p[2]);
    opacity = std::clamp(opacity * (1.0f + layer.p[1] * strand), 0.0f, 1.0f);
    tone = 1.0f + 0.3f * layer.p[1] * strand;
  }
  for (int c = 0; c < 3; ++c)
    rgb[c] = mix(base[c], layer.rgb[c] * tone * surface[c] + layer.p[4] * surface[6], opacity);
}

void hair(const Scene& scene, const Layer& layer, float x, float y, float rgb[3]) {
  float n[3], light[3];
  round_normal(x, y, layer.p, n);
  scene.light.diffuse(n, light);
  // Strands run down from the crown: across them the angle changes, along them the radius.
  const float dx = x - layer.p[0], dy = y - (layer.p[1] - layer.p[3]);
  const float radius = std::sqrt(dx * dx + dy * dy);
  const float wave = layer.p[5] * noise(scene.seed + 7u, x * 0.12f, y * 0.12f);
  const float across = std::atan2(dx, dy + 12.0f) * layer.p[4] + wave;
  const float fine = noise(scene.seed + 1u, across, radius * 0.05f + wave);
  const float coarse = noise(scene.seed + 2u, across * 0.27f, radius * 0.03f);
  const float tone = std::max(0.15f, 1.0f + layer.p[6] * (0.6f * fine + 0.6f * coarse));
  const float shine = scene.light.highlight(n) * layer.p[7] * (0.6f + 0.4f * fine);
  for (int c = 0; c < 3; ++c) rgb[c] = layer.rgb[c] * tone * light[c] + shine * (0.3f + layer.rgb[c]);
}

void cloth(const Scene& scene, const Layer& layer, float x, float y, float rgb[3]) {
  const float n[3] = {layer.p[6], layer.p[7],
                      std::sqrt(std::max(0.0f, 1.0f - layer.p[6] * layer.p[6] - layer.p[7] * layer.p[7]))};
  float light[3];
  scene.light.diffuse(n, light);
  const float s = std::sin(layer.p[5]), c = std::cos(layer.p[5]);
  const float u = (c * x + s * y) * layer.p[4], v = (c * y - s * x) * layer.p[4];
  float t = 0.0f;
  const int pattern = static_cast<int>(layer.p[3]);
  if (pattern == 1) t = std::clamp(1.5f * std::sin(6.2831853f * u) + 0.5f, 0.0f, 1.0f);
  if (pattern == 2) t = std::clamp(2.0f * std::sin(6.2831853f * u) * std::sin(6.2831853f * v) + 0.5f, 0.0f, 1.0f);
  if (pattern == 3) t = std::clamp(0.5f + noise(scene.seed + 11u, 4.0f * u, 4.0f * v), 0.0f, 1.0f);
  const float fold = 1.0f + 0.15f * noise(scene.seed + 13u, x * 0.08f, y * 0.05f);
  for (int k = 0; k < 3; ++k) rgb[k] = mix(layer.rgb[k], layer.p[k], t) * light[k] * fold;
}

void rounded(const Scene& scene, const Layer& layer, float x, float y, float rgb[3]) {
  float n[3], light[3];
  round_normal(x, y, layer.p, n);
  scene.light.diffuse(n, light);
  const float top = std::clamp(0.5f - 0.5f * (y - layer.p[1]) / layer.p[3], 0.0f, 1.0f);
  const float tone = 1.0f - layer.p[4] * top;
  const float shine = scene.light.highlight(n) * layer.p[7];
  for (int c = 0; c < 3; ++c) rgb[c] = layer.rgb[c] * tone * light[c] + shine;
}

void eyeball(const Scene& scene, const Layer& layer, float x, float y, const float* surface, float rgb[3]) {
  const float dx = (x - layer.p[0]) / layer.p[2], dy = (y - layer.p[1]) / layer.p[2];
  const float rr = dx * dx + dy * dy;
  float tone = 1.0f - layer.p[3] * std::min(rr, 1.0f) * std::min(rr, 1.0f);
  if (layer.p[4] > 0.0f) tone *= 1.0f + layer.p[4] * noise(scene.seed + 17u, 3.0f * std::atan2(dy, dx), 2.0f * rr);
  for (int c = 0; c < 3; ++c) rgb[c] = layer.rgb[c] * tone * (0.15f + 0.8f * surface[c]);
}

}  // namespace

float lattice(std::uint32_t seed, int x, int y) {
  std::uint32_t h =
      seed * 0x9E3779B1u ^ static_cast<std::uint32_t>(x) * 0x85EBCA77u ^ static_cast<std::uint32_t>(y) * 0xC2B2AE3Du;
  h ^= h >> 15;
  h *= 0x2C1B3C6Du;
  h ^= h >> 12;
  h *= 0x297A2D39u;
  h ^= h >> 15;
  return static_cast<float>(h >> 8) * (1.0f / 16777216.0f);
}

void shade(const Scene& scene, int id, float x, float y, const float* surface, const float* spots, float rgb[3]) {
  const Layer& layer = scene.layers[id];
  switch (layer.material) {
    case kSkin:
      return skin(layer, surface, spots, rgb);
    case kOnSkin:
      return on_skin(scene, layer, x, y, surface, spots, rgb);
    case kHair:
      return hair(scene, layer, x, y, rgb);
    case kCloth:
      return cloth(scene, layer, x, y, rgb);
    case kRound:
      return rounded(scene, layer, x, y, rgb);
    case kEyeball:
      return eyeball(scene, layer, x, y, surface, rgb);
    case kFlat:
      std::copy_n(layer.rgb, 3, rgb);
      return;
    default:
      return backdrop(scene, x, y, rgb);
  }
}

}  // namespace facex::synth
