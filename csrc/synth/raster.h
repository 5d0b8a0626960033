// Layers of polygons on a sub-sampled grid: the one place where geometry becomes labels and coverage.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

namespace facex::synth {

// Width of the coordinate frame of every polygon: pixels of the 112 px ArcFace template.
constexpr float kFrame = 112.0f;
constexpr int kClasses = 19;              // CelebAMask-HQ numbering
constexpr std::uint8_t kOccluded = 0x80;  // bit of a label byte; the low bits are the class
constexpr std::uint8_t kClassBits = 0x1f;

struct Layer {
  int label;       // class 0..18, or -1: what is underneath keeps its label
  int material;    // Material in shade.h
  unsigned group;  // bits that later layers can be restricted to
  unsigned allow;  // paints only where the group of what is underneath meets these bits; 0: everywhere
  int occlusion;   // 1: occludes the face, 0: does not, -1: as what is underneath
  float rgb[3];    // linear colour
  float p[8];      // material's own
};

// Every output pixel is `factor` x `factor` samples; sample j of pixel i lies at i + (j + 0.5) / factor - 0.5.
class LayerGrid {
 public:
  // Starts anew: every sample belongs to layer 0, class 0. The buffers are kept from picture to picture.
  void reset(int size, int factor);

  // Fills the polygon (even-odd rule), points as x, y pairs in the 112 px frame, with layer `id`.
  void fill(const float* points, int count, int id, const std::vector<Layer>& layers);

  // Majority of the samples of each pixel (the smaller class, and "not occluded", win a tie).
  void labels(std::uint8_t* parsing, std::uint8_t* occlusion) const;

  // Different layers in pixel (x, y) and how many samples each has; returns their number, at most 8.
  int coverage(int x, int y, std::uint8_t* ids, int* counts) const;

  int size() const { return size_; }
  int factor() const { return factor_; }

 private:
  void span(int row, int begin, int end, int id, const std::vector<Layer>& layers);

  // Whether all samples of the pixel whose first sample is *block are equal.
  bool uniform(const std::uint8_t* block) const {
    if (factor_ == 4) {
      std::uint32_t rows[4];
      for (int j = 0; j < 4; ++j) std::memcpy(&rows[j], block + j * width_, 4);
      return rows[0] == block[0] * 0x01010101u && rows[1] == rows[0] && rows[2] == rows[0] && rows[3] == rows[0];
    }
    for (int j = 0; j < factor_; ++j)
      for (int i = 0; i < factor_; ++i)
        if (block[j * width_ + i] != block[0]) return false;
    return true;
  }

  int size_ = 0, factor_ = 0, width_ = 0;
  std::vector<std::uint8_t> ids_, labels_;
  std::vector<std::vector<float>> crossings_;
};

}  // namespace facex::synth
