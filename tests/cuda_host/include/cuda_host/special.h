// The special-function unit of csrc/cuda/ptx.cuh on the host: wrong by as much as a card's may be.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

namespace rnnk::cuda::ptx {

inline float flush(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.f, x) : x; }

// Up to so many ulps from y, by the bits of x.
inline float approximately(float y, float x, unsigned ulps) {
  if (!std::isnormal(y)) return flush(y);
  uint32_t result, random;
  std::memcpy(&result, &y, 4), std::memcpy(&random, &x, 4);
  result += random % (2 * ulps + 1) - ulps;
  std::memcpy(&y, &result, 4);
  return flush(y);
}

inline float recip_approx(float x) {
  const float y = 1 / flush(x);
  int exponent;
  return std::frexp(x, &exponent) == 0.5f ? flush(y) : approximately(y, x, 1);
}
inline float exp2_approx(float x) { return approximately(std::exp2(flush(x)), x, 2); }

}  // namespace rnnk::cuda::ptx
