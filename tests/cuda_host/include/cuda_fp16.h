// CUDA's half precision: storage and conversions only, by the names that exist whatever __CUDA_NO_HALF_CONVERSIONS__ and the like
// say (torch sets them).
#pragma once
#include <cstdint>
#include <cstring>

struct alignas(2) __half {
  uint16_t bits;
};

inline float __half2float(__half h) {
  const uint32_t sign = uint32_t(h.bits & 0x8000) << 16, magnitude = h.bits & 0x7fff;
  uint32_t bits = sign;
  float result;
  if (magnitude >= 0x7c00) {
    bits |= 0x7f800000 | (magnitude & 0x3ff) << 13;
  } else {
    const uint32_t scaled = magnitude << 13;  // the value times 2^-112, denormals included
    std::memcpy(&result, &scaled, 4);
    result *= 0x1p112f;
    uint32_t exact;
    std::memcpy(&exact, &result, 4);
    bits |= exact;
  }
  std::memcpy(&result, &bits, 4);
  return result;
}

// To the nearest, ties to even.
inline __half __float2half_rn(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  const uint16_t sign = uint16_t(bits >> 16 & 0x8000);
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return {0x7fff};
  if (bits >= 0x477ff000) return {uint16_t(sign | 0x7c00)};  // 65520 and more
  if (bits < 0x38800000) {                                   // a denormal: its unit is 2^-24, that of a float near 0.5
    float magnitude, shifted;
    std::memcpy(&magnitude, &bits, 4);
    shifted = magnitude + 0.5f;
    std::memcpy(&bits, &shifted, 4);
    return {uint16_t(sign | (bits - 0x3f000000))};
  }
  bits += 0xfff + (bits >> 13 & 1);
  return {uint16_t(sign | ((bits - 0x38000000) >> 13))};
}
inline __half __float2half(float x) { return __float2half_rn(x); }
inline uint16_t __half_as_ushort(__half h) { return h.bits; }
inline __half __ushort_as_half(uint16_t bits) { return {bits}; }

struct alignas(4) __half2 {
  __half x, y;
};
inline __half2 __floats2half2_rn(float x, float y) { return {__float2half_rn(x), __float2half_rn(y)}; }
inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
inline __half __low2half(__half2 h) { return h.x; }
inline __half __high2half(__half2 h) { return h.y; }
inline float __low2float(__half2 h) { return __half2float(h.x); }
inline float __high2float(__half2 h) { return __half2float(h.y); }
