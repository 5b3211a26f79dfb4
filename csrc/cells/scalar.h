// float and double as value types for the mathematics of cells/, on the host and in CUDA device code.
//
// The cells have no include guard and look these names up from where they are included, so either include them in
// namespace rnnk::scalar, or in a namespace that says `using namespace rnnk::scalar`:
//
//   #include "cells/scalar.h"
//   namespace rnnk::cuda {
//   using namespace rnnk::scalar;
//   #include "cells/activations.h"
//   #include "cells/lstm.h"
//   }
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#ifndef RNNK_FN
#ifdef __CUDACC__
#define RNNK_FN __host__ __device__ __forceinline__
#else
#define RNNK_FN inline __attribute__((always_inline))
#endif
#endif

namespace rnnk::scalar {

template <class T>
using scalar_of = T;

RNNK_FN float fma(float a, float b, float c) { return ::fmaf(a, b, c); }
RNNK_FN double fma(double a, double b, double c) { return ::fma(a, b, c); }
RNNK_FN float abs(float a) { return ::fabsf(a); }
RNNK_FN double abs(double a) { return ::fabs(a); }
RNNK_FN float copysign(float magnitude, float sign) { return ::copysignf(magnitude, sign); }
RNNK_FN double copysign(double magnitude, double sign) { return ::copysign(magnitude, sign); }

template <class T> RNNK_FN T select(bool mask, T a, T b) { return mask ? a : b; }
template <class T> RNNK_FN T recip(T a) { return T(1) / a; }
template <class T> RNNK_FN T quotient(T a, T b) { return a / b; }
template <class T> RNNK_FN T at_most(T limit, T x) { return limit < x ? limit : x; }
template <class T> RNNK_FN T at_least(T limit, T x) { return x < limit ? limit : x; }

// n = factor * x rounded to an integer, power = 2^n, for |n| within the exponent; the trick and its bits are those of cpu/simd.h.
template <class T>
RNNK_FN void round_to_power(T x, double factor, T& n, T& power) {
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  constexpr int mantissa = std::numeric_limits<T>::digits - 1;
  constexpr int bias = std::numeric_limits<T>::max_exponent - 1;
  constexpr T magic = T(1.5) * T(Bits(1) << mantissa) + T(bias);
  const T shifted = fma(x, T(factor), magic);
  n = shifted - magic;
  Bits bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits <<= mantissa;
  std::memcpy(&power, &bits, sizeof bits);
}

}  // namespace rnnk::scalar
