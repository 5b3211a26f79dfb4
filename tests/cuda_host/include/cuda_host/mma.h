// The matrix instructions of csrc/cuda/ptx.cuh on the host, with the card's fragment layouts. A warp's last lane does the work for all.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "scheduler.h"

namespace rnnk::cuda::ptx {

inline void load_matrices(uint32_t (&r)[4], const void* row, cuda_host::Location at = cuda_host::Location::here()) {
  struct Mine {
    const void* row;
    uint32_t* r;
  } mine{row, r};
  cuda_host::own_shared(row, 16, "load_matrices");
  if (uintptr_t(row) % 16) cuda_host::fault("load_matrices from an address that is not a multiple of 16");
  const auto combine = [](cuda_host::Lanes& lanes) {
    for (int i = 0; i < 4; ++i) {
      uint16_t matrix[8][8];
      for (int j = 0; j < 8; ++j) std::memcpy(matrix[j], static_cast<Mine*>(lanes[8 * i + j])->row, 16);
      for (int l = 0; l < 32; ++l) {
        const int row = l / 4, column = l % 4 * 2;
        static_cast<Mine*>(lanes[l])->r[i] = matrix[row][column] | uint32_t(matrix[row][column + 1]) << 16;
      }
    }
  };
  cuda_host::full_warp_collective(&mine, combine, {"load_matrices", at});
}

// The `part`-th value of a word of a fragment.
template <class T>
float fragment_value(uint32_t word, int part) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) return __bfloat162float(__ushort_as_bfloat16(uint16_t(word >> 16 * part)));
  if constexpr (std::is_same_v<T, __half>) return __half2float(__ushort_as_half(uint16_t(word >> 16 * part)));
  float value;
  word &= 0xffffe000;  // TF32
  std::memcpy(&value, &word, 4);
  return value;
}

template <class T>
void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], cuda_host::Location at = cuda_host::Location::here()) {
  struct Mine {
    float* c;
    const uint32_t *a, *b;
  } mine{c, a, b};
  const auto combine = [](cuda_host::Lanes& lanes) {
    constexpr int parts = std::is_same_v<T, float> ? 1 : 2, k = 8 * parts;
    typedef float Row __attribute__((vector_size(32)));
    float a[16][k];
    Row b[k], c[16];
    for (int l = 0; l < 32; ++l) {
      const Mine& lane = *static_cast<Mine*>(lanes[l]);
      const int g = l / 4, i = l % 4;
      for (int part = 0; part < parts; ++part) {
        for (int r = 0; r < 4; ++r) a[g + 8 * (r % 2)][parts * i + part + k / 2 * (r / 2)] = fragment_value<T>(lane.a[r], part);
        for (int r = 0; r < 2; ++r) b[parts * i + part + k / 2 * r][g] = fragment_value<T>(lane.b[r], part);
      }
    }
    const auto for_sums = [&](auto f) {
      for (int l = 0; l < 32; ++l)
        for (int r = 0; r < 4; ++r) f(static_cast<Mine*>(lanes[l])->c[r], c[l / 4 + 8 * (r / 2)], l % 4 * 2 + r % 2);
    };
    for_sums([](float& own, Row& row, int n) { row[n] = own; });
    for (int m = 0; m < 16; ++m)
      for (int j = 0; j < k; ++j) c[m] += a[m][j] * b[j];
    for_sums([](float& own, Row& row, int n) { own = row[n]; });
  };
  cuda_host::full_warp_collective(&mine, combine, {"mma", at});
}

inline uint32_t to_tf32(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return (bits & 0x7fffffff) > 0x7f800000 ? 0x7fffffff : (bits + 0x1000) & 0xffffe000;
}

}  // namespace rnnk::cuda::ptx
