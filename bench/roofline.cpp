// What the machine can do at most: fused multiply-adds from registers, reads from each level of memory. Built and called by roofline.py.
#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace {

using Kernel = int64_t (*)(const char* data, int64_t bytes, int64_t repeats);  // returns what it did, in flops or bytes

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

template <class V>
void keep(V& v) { asm volatile("" : "+x"(v)); }

__attribute__((target("avx512f"))) int64_t multiply_512(const char*, int64_t, int64_t repeats) {
  __m512 sums[16], x = _mm512_set1_ps(0.5f);
  for (auto& sum : sums) sum = x;
  for (int64_t i = 0; i < repeats; ++i)
#pragma GCC unroll 16
    for (auto& sum : sums) sum = _mm512_fmadd_ps(x, x, sum);
  for (auto& sum : sums) asm volatile("" : "+v"(sum));
  return repeats * 16 * 32;
}
__attribute__((target("avx2,fma"))) int64_t multiply_256(const char*, int64_t, int64_t repeats) {
  __m256 sums[12], x = _mm256_set1_ps(0.5f);
  for (auto& sum : sums) sum = x;
  for (int64_t i = 0; i < repeats; ++i)
#pragma GCC unroll 12
    for (auto& sum : sums) sum = _mm256_fmadd_ps(x, x, sum);
  for (auto& sum : sums) keep(sum);
  return repeats * 12 * 16;
}
__attribute__((target("avx512f"))) int64_t read_512(const char* data, int64_t bytes, int64_t repeats) {
  __m512i sums[4] = {};
  for (int64_t i = 0; i < repeats; ++i)
    for (int64_t at = 0; at < bytes; at += 256)
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) sums[k] = _mm512_or_si512(sums[k], _mm512_load_si512(data + at + 64 * k));
  for (auto& sum : sums) asm volatile("" : "+v"(sum));
  return repeats * bytes;
}
__attribute__((target("avx2"))) int64_t read_256(const char* data, int64_t bytes, int64_t repeats) {
  __m256i sums[8] = {};
  for (int64_t i = 0; i < repeats; ++i)
    for (int64_t at = 0; at < bytes; at += 256)
#pragma GCC unroll 8
      for (int k = 0; k < 8; ++k) sums[k] = _mm256_or_si256(sums[k], _mm256_load_si256(reinterpret_cast<const __m256i*>(data + at + 32 * k)));
  for (auto& sum : sums) keep(sum);
  return repeats * bytes;
}

// The rate of all threads together, the best of several tries: a limit is what the machine does when nothing disturbs it.
double rate(Kernel kernel, int64_t bytes, int64_t repeats, int threads) {
  double best = 0;
  for (int attempt = 0; attempt < 9; ++attempt) {
    int64_t done = 0;
    double start = 0, end = 0;
#pragma omp parallel num_threads(threads) reduction(+ : done)
    {
      char* data = static_cast<char*>(std::aligned_alloc(4096, size_t(bytes + 4095) / 4096 * 4096 + 4096));
      std::memset(data, 1, size_t(bytes));
      kernel(data, bytes, 1);
#pragma omp barrier
#pragma omp master
      start = seconds();
      done += kernel(data, bytes, repeats);
#pragma omp barrier
#pragma omp master
      end = seconds();
      std::free(data);
    }
    best = std::max(best, double(done) / (end - start));
  }
  return best;
}

}  // namespace

extern "C" {

// float32 operations a second; 0 on a CPU without AVX2.
double fma_peak(int threads) {
  const bool wide = __builtin_cpu_supports("avx512f");
  if (!wide && !__builtin_cpu_supports("fma")) return 0;
  return rate(wide ? multiply_512 : multiply_256, 0, 1000000, threads);
}

// Bytes a second when each thread reads `bytes` of its own, a multiple of 256, over and over.
double read_bandwidth(int64_t bytes, int threads) {
  if (!__builtin_cpu_supports("avx2")) return 0;
  const int64_t rounds = std::max<int64_t>(1, (64 << 20) / std::max<int64_t>(1, bytes));
  return rate(__builtin_cpu_supports("avx512f") ? read_512 : read_256, bytes, rounds, threads);
}
}
