// Elementwise work on a tile of dot products, [rows, lanes]: a row is a class, a lane one sample of the batch.
#pragma once

#include <cstdint>

#include "rule.h"

namespace facex::cpu {

// What turns a dot product into a logit: scale * g(dot * inverse_norm_row) + bias_row.
template <typename T>
struct TileRule {
  Rule rule;
  T scale;
  T hard_t;
  const T* threshold;     // [lanes], null for the plain rule
  const T* inverse_norm;  // [rows]
  const T* bias;          // [rows] or null
};

// 1 / max(|w_row|, floor) of `rows` contiguous weights of `dim` values; 1 where normalize is false. `free` [rows] tells
// whether the length is above the floor, that is, whether a gradient flows through it (1 or 0).
void inverse_norms(const float* weight, int64_t rows, int64_t dim, bool normalize, float* inverse, float* free);
void inverse_norms(const double* weight, int64_t rows, int64_t dim, bool normalize, double* inverse, double* free);

// Takes the tile into the running maximum and sum of exponentials of each lane; -inf marks an excluded entry. The tile
// is used up.
void forward_tile(float* tile, int64_t rows, int64_t lanes, const TileRule<float>& rule, float* scratch, float* maximum,
                  float* sum);
void forward_tile(double* tile, int64_t rows, int64_t lanes, const TileRule<double>& rule, double* scratch,
                  double* maximum, double* sum);

// Replaces each dot product by the gradient of the loss with respect to its cosine (0 where excluded), times
// output_factor[row] where that is given; adds sum_lanes gradient * cosine to along[row] and, if given, sum_lanes of
// the gradient of the logit to dbias[row].
void backward_tile(float* tile, int64_t rows, int64_t lanes, const TileRule<float>& rule, const float* output_factor,
                   const float* lse, const float* grad, float* along, float* dbias);
void backward_tile(double* tile, int64_t rows, int64_t lanes, const TileRule<double>& rule, const double* output_factor,
                   const double* lse, const double* grad, double* along, double* dbias);

// out[row, :] += factor[row] * weight[row, :]
void add_scaled_rows(float* out, const float* weight, int64_t rows, int64_t dim, const float* factor);
void add_scaled_rows(double* out, const double* weight, int64_t rows, int64_t dim, const double* factor);

}  // namespace facex::cpu
