#include "raster.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace facex::synth {

namespace {

// For 0 <= v < 2^31; std::ceil is a function call on baseline x86-64.
int ceil_int(float v) {
  const int i = static_cast<int>(v);
  return i + (static_cast<float>(i) < v);
}

}  // namespace

void LayerGrid::reset(int size, int factor) {
  size_ = size;
  factor_ = factor;
  width_ = size * factor;
  ids_.assign(static_cast<std::size_t>(width_) * width_, 0);
  labels_.assign(static_cast<std::size_t>(width_) * width_, 0);
  crossings_.resize(width_);
}

void LayerGrid::fill(const float* points, int count, int id, const std::vector<Layer>& layers) {
  if (count < 3) return;
  const float scale = static_cast<float>(width_) / kFrame;
  int top = width_, bottom = -1;
  for (int i = 0; i < count; ++i) {
    const float* a = points + 2 * i;
    const float* b = points + 2 * ((i + 1) % count);
    // Sample centres are at integers; the frame has pixel centres at integers too, hence the two half pixels.
    float ax = (a[0] + 0.5f) * scale - 0.5f, ay = (a[1] + 0.5f) * scale - 0.5f;
    float bx = (b[0] + 0.5f) * scale - 0.5f, by = (b[1] + 0.5f) * scale - 0.5f;
    if (ay == by) continue;
    if (ay > by) {
      std::swap(ax, bx);
      std::swap(ay, by);
    }
    if (!(by >= 0.0f) || !(ay < static_cast<float>(width_))) continue;
    const int first = ay <= 0.0f ? 0 : ceil_int(ay);
    const int last = by >= static_cast<float>(width_) ? width_ - 1 : ceil_int(by) - 1;
    const float slope = (bx - ax) / (by - ay);
    for (int y = first; y <= last; ++y) crossings_[y].push_back(ax + (static_cast<float>(y) - ay) * slope);
    top = std::min(top, first);
    bottom = std::max(bottom, last);
  }
  for (int y = top; y <= bottom; ++y) {
    auto& xs = crossings_[y];
    if (xs.size() == 2) {
      if (xs[0] > xs[1]) std::swap(xs[0], xs[1]);
    } else {
      std::sort(xs.begin(), xs.end());
    }
    for (std::size_t i = 0; i + 1 < xs.size(); i += 2) {
      const float limit = static_cast<float>(width_);
      const int begin = ceil_int(std::clamp(xs[i], 0.0f, limit));
      const int end = ceil_int(std::clamp(xs[i + 1], 0.0f, limit));
      if (begin < end) span(y, begin, end, id, layers);
    }
    xs.clear();
  }
}

void LayerGrid::span(int row, int begin, int end, int id, const std::vector<Layer>& layers) {
  const Layer& layer = layers[id];
  std::uint8_t* ids = ids_.data() + static_cast<std::size_t>(row) * width_;
  std::uint8_t* labels = labels_.data() + static_cast<std::size_t>(row) * width_;
  if (layer.allow == 0 && layer.label >= 0 && layer.occlusion >= 0) {
    std::memset(ids + begin, id, end - begin);
    std::memset(labels + begin, layer.label | (layer.occlusion ? kOccluded : 0), end - begin);
    return;
  }
  for (int x = begin; x < end; ++x) {
    if (layer.allow != 0 && (layers[ids[x]].group & layer.allow) == 0) continue;
    ids[x] = static_cast<std::uint8_t>(id);
    std::uint8_t value = labels[x];
    if (layer.label >= 0) value = static_cast<std::uint8_t>((value & kOccluded) | layer.label);
    if (layer.occlusion >= 0)
      value = static_cast<std::uint8_t>((value & kClassBits) | (layer.occlusion ? kOccluded : 0));
    labels[x] = value;
  }
}

void LayerGrid::labels(std::uint8_t* parsing, std::uint8_t* occlusion) const {
  for (int y = 0; y < size_; ++y) {
    for (int x = 0; x < size_; ++x) {
      const std::uint8_t* block = labels_.data() + (static_cast<std::size_t>(y) * factor_) * width_ + x * factor_;
      const std::uint8_t first = block[0];
      std::uint8_t label = first & kClassBits;
      bool occluded = (first & kOccluded) != 0;
      if (!uniform(block)) {
        int counts[kClassBits + 1] = {}, covered = 0;
        for (int j = 0; j < factor_; ++j)
          for (int i = 0; i < factor_; ++i) {
            ++counts[block[j * width_ + i] & kClassBits];
            covered += block[j * width_ + i] >> 7;
          }
        label = static_cast<std::uint8_t>(std::max_element(counts, counts + kClasses) - counts);
        occluded = 2 * covered > factor_ * factor_;
      }
      parsing[y * size_ + x] = label;
      occlusion[y * size_ + x] = occluded ? 255 : 0;
    }
  }
}

int LayerGrid::coverage(int x, int y, std::uint8_t* ids, int* counts) const {
  const std::uint8_t* block = ids_.data() + (static_cast<std::size_t>(y) * factor_) * width_ + x * factor_;
  int found = 1;
  ids[0] = block[0];
  if (uniform(block)) {
    counts[0] = factor_ * factor_;
    return 1;
  }
  counts[0] = 0;
  for (int j = 0; j < factor_; ++j) {
    for (int i = 0; i < factor_; ++i) {
      const std::uint8_t id = block[j * width_ + i];
      int k = 0;
      while (k < found && ids[k] != id) ++k;
      if (k == found) {
        if (found == 8) continue;  // more than eight layers in a pixel: the rest weighs nothing
        ids[found] = id;
        counts[found++] = 0;
      }
      ++counts[k];
    }
  }
  return found;
}

}  // namespace facex::synth
