// The optimizer step of a chunk of class rows on the CPU.
#pragma once

#include <cstdint>

#include "step.h"

namespace facex::cpu {

// Moves `rows` rows of weights, whose gradient [rows, dim] is given, and their moments; `begin` is the first row's
// place in step.weight.
void step_rows(const WeightStep& step, int64_t begin, int64_t rows, int64_t dim, const float* gradient);
void step_rows(const WeightStep& step, int64_t begin, int64_t rows, int64_t dim, const double* gradient);

}  // namespace facex::cpu
