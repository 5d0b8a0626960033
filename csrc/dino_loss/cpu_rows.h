// Loops over a piece of one row of logits, vectorised.
#pragma once

#include <cstdint>

namespace facex::dino {

// A logsumexp that is made piece by piece: maximum and sum of exp(value - maximum).
template <typename T>
struct Running {
  T maximum, sum;
};

// out = (in - center) * factor; `center` may be null.
void scaled(const float* in, const float* center, float factor, int64_t n, float* out);
void scaled(const double* in, const double* center, double factor, int64_t n, double* out);

// Takes the values into the running logsumexp.
void take(const float* values, int64_t n, Running<float>& running);
void take(const double* values, int64_t n, Running<double>& running);

// out = exp(values - lse)
void probabilities(const float* values, float lse, int64_t n, float* out);
void probabilities(const double* values, double lse, int64_t n, double* out);

float dot(const float* a, const float* b, int64_t n);
double dot(const double* a, const double* b, int64_t n);

// out = factor * (partners * exp(values - lse) - q)
void gradient(const float* values, const float* q, float lse, float partners, float factor, int64_t n, float* out);
void gradient(const double* values, const double* q, double lse, double partners, double factor, int64_t n,
              double* out);

}  // namespace facex::dino
