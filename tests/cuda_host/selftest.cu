// Every wrapper of csrc/cuda/ptx.cuh, launch.h's shared memory and launches, fast_float.h, and the conversions of 16-bit types, each in a small
// kernel that uses it as a recurrent kernel does, against plain loops. One file for both:
//
//   nvcc -std=c++17 -Icsrc -arch=sm_90 tests/cuda_host/selftest.cu -o selftest && ./selftest      on a card
//   tests/test_cuda_host.py                                                                       on the host: ./selftest SEEDS [WORD]
//
// Prints PASS or FAIL for each group of wrappers; what a card of less than sm_90 does not have is SKIPped there. SEEDS: so many seeds
// each; WORD: only tests whose name contains it.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "cuda/launch.h"
#include "cuda/ptx.cuh"
#include "selftest_kernels.cuh"

using namespace rnnk::cuda;

namespace {

// Device memory that starts as NaN.
template <class T>
class Buffer {
 public:
  explicit Buffer(size_t n) : n_(n) {
    if (cudaMalloc(&data_, n * sizeof(T)) || cudaMemset(data_, 0xff, n * sizeof(T))) std::abort();
  }
  explicit Buffer(const std::vector<T>& values) : Buffer(values.size()) {
    if (cudaMemcpy(data_, values.data(), n_ * sizeof(T), cudaMemcpyHostToDevice)) std::abort();
  }
  ~Buffer() { cudaFree(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  operator T*() const { return data_; }
  std::vector<T> values() const {
    std::vector<T> result(n_);
    if (cudaMemcpy(result.data(), data_, n_ * sizeof(T), cudaMemcpyDeviceToHost)) std::abort();
    return result;
  }

 private:
  T* data_;
  size_t n_;
};

template <class... Parameters, class... Arguments>
bool run(void (*kernel)(Parameters...), const LaunchShape& shape, const Arguments&... arguments) {
  cudaError_t error = launch(kernel, shape, nullptr, arguments...);
  if (!error) error = cudaDeviceSynchronize();
  if (error) std::printf("  %s\n", cudaGetErrorString(error));
  return !error;
}

template <class T>
bool equal(const std::vector<T>& got, const std::vector<T>& expected) {
  for (size_t i = 0; i < expected.size(); ++i)
    if (!(got[i] == expected[i])) {
      std::printf("  element %zu is %.9g, expected %.9g\n", i, double(got[i]), double(expected[i]));
      return false;
    }
  return true;
}

std::vector<uint32_t> some_words(size_t n) {
  std::vector<uint32_t> words(n);
  for (size_t i = 0; i < n; ++i) words[i] = uint32_t(i) * 2654435761u >> 7;
  return words;
}

// The 16-bit number nearest to x, ties to the even one: of all that there are, with e bits of exponent and m of mantissa.
uint16_t nearest(float x, int e, int m) {
  const auto value = [&](unsigned bits) {
    const int exponent = int(bits >> m), bias = (1 << (e - 1)) - 1;
    return exponent ? std::ldexp(double((1u << m) + (bits & ((1u << m) - 1))), exponent - bias - m) : std::ldexp(double(bits), 1 - bias - m);
  };
  unsigned low = 0, high = ((1u << e) - 1) << m;  // value(infinity) is the next power of two: what rounds to it overflows
  while (high - low > 1) {
    const unsigned middle = (low + high) / 2;
    (value(middle) <= std::fabs(double(x)) ? low : high) = middle;
  }
  const double below = std::fabs(double(x)) - value(low), above = value(high) - std::fabs(double(x));
  return uint16_t((std::signbit(x) ? 0x8000 : 0) | (below < above || (below == above && low % 2 == 0) ? low : high));
}

bool test_conversions() {
  std::vector<float> x;
  for (uint32_t bits = 0; bits < 0x7f800000; bits += 0x7f800000 / 5003)
    for (uint32_t low : {0u, 0x1000u, 0x1fffu, 0x7fffu, 0x8000u, 0x8001u, 0xffffu, 0x3000u}) {
      const uint32_t all = (bits & 0xffff0000) | low | (bits & 1) << 31;
      float value;
      std::memcpy(&value, &all, 4);
      x.push_back(value);
    }
  for (int i = 0; i < 2048; ++i) x.push_back(std::ldexp(float(2 * i + 1), -25));  // half's denormals and their ties
  std::vector<uint16_t> bf16, half;
  for (float value : x) bf16.push_back(nearest(value, 8, 7)), half.push_back(nearest(value, 5, 10));
  Buffer<uint16_t> to_bf16(x.size()), to_half(x.size());
  if (!run(convert, {dim3(unsigned(x.size() + 127) / 128), dim3(128)}, Buffer<float>(x), to_bf16, to_half, int(x.size()))) return false;
  return equal(to_bf16.values(), bf16) && equal(to_half.values(), half);
}

bool test_block_sum() {
  constexpr unsigned blocks = 6, threads = 96, n = 500;
  const std::vector<uint32_t> x = some_words(blocks * n);
  std::vector<uint32_t> expected(blocks);
  for (size_t i = 0; i < x.size(); ++i) expected[i / n] += x[i];
  Buffer<uint32_t> sums(blocks);
  return run(block_sum, {dim3(blocks), dim3(threads), threads * 4}, Buffer<uint32_t>(x), sums, int(n)) && equal(sums.values(), expected);
}

bool test_shuffles() {
  std::vector<uint32_t> expected;
  for (int lane = 0; lane < 32; ++lane)
    for (int source : {(lane * 5 + 1) % 32, lane / 8 * 8 + (lane % 8 + 3) % 8, lane < 3 ? lane : lane - 3,
                       lane % 16 + 7 < 16 ? lane + 7 : lane, lane ^ 9})
      expected.push_back(uint32_t(100 + source));
  Buffer<uint32_t> out(expected.size());
  return run(shuffles, {dim3(1), dim3(32)}, out) && equal(out.values(), expected);
}

bool test_large_shared_memory() {
  constexpr unsigned words = 40 * 1024;  // 160 KB
  Buffer<uint32_t> out(words);
  std::vector<uint32_t> expected = some_words(words);
  const Buffer<uint32_t> in(expected);
  std::vector<uint32_t> reversed(expected.rbegin(), expected.rend());
  return run(reverse, {dim3(1), dim3(256), words * 4}, in, out, int(words)) && equal(out.values(), reversed);
}

bool test_copies() {
  constexpr int words = 4, threads = 64, tiles = 7, n = threads * words * tiles - 3 * words;  // the last copies have nothing to read
  const std::vector<uint32_t> x = some_words(n);
  std::vector<uint32_t> expected(threads);
  for (int i = 0; i < threads; ++i)
    for (int t = 0; t < tiles; ++t)
      for (int w = 0; w < words; ++w) {
        const int at = (t * threads + threads - 1 - i) * words + w;
        expected[i] = expected[i] * 31 + (at < n ? x[at] : 0);
      }
  Buffer<uint32_t> out(threads);
  return run(copies, {dim3(1), dim3(threads), 3 * threads * words * 4}, Buffer<uint32_t>(x), out, n, tiles) && equal(out.values(), expected);
}

bool test_gather() {
  constexpr unsigned ranks = 4, clusters = 2, threads = 32;
  std::vector<float> x, expected(ranks * clusters * threads);
  for (size_t i = 0; i < expected.size(); ++i) x.push_back(float(i * 37 % 101));
  for (unsigned block = 0; block < ranks * clusters; ++block)
    for (unsigned i = 0; i < threads; ++i)
      for (unsigned rank = 0; rank < ranks; ++rank) {
        float& sum = expected[block * threads + i];
        sum = sum * 3 + x[(block / ranks * ranks + rank) * threads + (i + block % ranks) % threads];
      }
  Buffer<float> out(expected.size());
  return run(gather, {dim3(ranks * clusters), dim3(threads), threads * 4, ranks}, Buffer<float>(x), out) && equal(out.values(), expected);
}

bool test_exchange() {
  constexpr unsigned ranks = 4, clusters = 2, threads = 32, values = 4, width = ranks * threads * values, steps = 6;
  std::vector<uint32_t> expected;
  for (unsigned c = 0; c < clusters; ++c) {
    std::vector<uint32_t> h(width), next(width);
    for (unsigned i = 0; i < width; ++i) h[i] = c * width + i;
    for (unsigned t = 0; t < steps; ++t, h = next)
      for (unsigned i = 0; i < width; ++i) next[i] = mixed(h.data(), width, i);
    expected.insert(expected.end(), h.begin(), h.end());
  }
  Buffer<uint32_t> out(expected.size());
  return run(exchange, {dim3(ranks * clusters), dim3(threads), 128 + 2 * width * 4, ranks}, out, int(steps)) && equal(out.values(), expected);
}

bool test_flags() {
  constexpr unsigned blocks = 5, threads = 40, steps = 6;
  std::vector<uint32_t> expected(blocks * steps * threads);
  for (unsigned b = 0; b < blocks; ++b)
    for (unsigned i = 0; i < steps * threads; ++i) expected[b * steps * threads + i] = b ? expected[(b - 1) * steps * threads + i] * 31 + b : i;
  Buffer<uint32_t> data(expected.size());
  const LaunchShape shape{dim3(blocks), dim3(threads), 0, 1, true};
  return run(chain, shape, data, Buffer<uint32_t>(std::vector<uint32_t>(2 * blocks)), int(steps)) && equal(data.values(), expected);
}

bool test_mail() {
  constexpr unsigned blocks = 4, threads = 32, n = blocks * threads, steps = 5;
  std::vector<uint4> h(n), next(n);
  for (unsigned i = 0; i < n; ++i) h[i] = make_uint4(i, i + 1, i + 2, i + 3);
  for (unsigned t = 0; t < steps; ++t, h = next)
    for (unsigned i = 0; i < n; ++i) {
      next[i] = h[i];
      for (const uint4& x : h) next[i].x = next[i].x * 31 + x.y, next[i].y += x.z * (i + 1), next[i].z = next[i].z * 7 + x.w, next[i].w += x.x;
    }
  std::vector<uint32_t> expected;
  for (const uint4& x : h) expected.push_back(x.x ^ x.y ^ x.z ^ x.w);
  Buffer<uint4> messages(2 * n);
  Buffer<uint32_t> out(n);
  const LaunchShape shape{dim3(blocks), dim3(threads), 0, 1, true};
  return run(mail, shape, messages, Buffer<uint32_t>(std::vector<uint32_t>(blocks)), out, int(steps)) && equal(out.values(), expected);
}

bool test_load_matrices() {
  std::vector<uint32_t> expected;
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 4; ++i) {
      const uint32_t first = uint32_t(i * 64 + lane / 4 * 8 + lane % 4 * 2);
      expected.push_back(first | (first + 1) << 16);
    }
  Buffer<uint32_t> out(expected.size());
  return run(load_all, {dim3(1), dim3(32), 4 * 128}, out) && equal(out.values(), expected);
}

template <class T>
bool test_mma() {
  constexpr int k = mma_depth<T>;
  std::vector<float> a(16 * k), b(k * 8), expected(16 * 8);
  for (size_t i = 0; i < a.size(); ++i) a[i] = float(int(i * 37 % 23) - 11);  // small integers: every sum is exact
  for (size_t i = 0; i < b.size(); ++i) b[i] = float(int(i * 29 % 19) - 9);
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 8; ++j) {
      expected[i * 8 + j] = float(100 * i + j);
      for (int l = 0; l < k; ++l) expected[i * 8 + j] += a[i * k + l] * b[l * 8 + j];
    }
  Buffer<float> c(expected.size());
  return run(multiply<T>, {dim3(1), dim3(32), 16 * 16 * 2 + 16 * 8 * 2}, Buffer<float>(a), Buffer<float>(b), c) && equal(c.values(), expected);
}

bool test_to_tf32() {
  std::vector<uint32_t> bits, expected;
  for (uint32_t high : {0x3f800000u, 0xbf802000u, 0x00802000u, 0x7f000000u, 0x40490000u})
    for (uint32_t low : {0u, 1u, 0xfffu, 0x1000u, 0x1001u, 0x1fffu}) {
      bits.push_back(high | low);
      expected.push_back(low < 0x1000 ? high : high + 0x2000);
    }
  Buffer<uint32_t> out(bits.size());
  return run(round_to_tf32, {dim3(1), dim3(32)}, Buffer<uint32_t>(bits), out, int(bits.size())) && equal(out.values(), expected);
}

// csrc/cuda/fast_float.h's functions, too. `limit` is of the error's share of the result, or of 1 where that is less than `least`.
bool test_special_functions() {
  const float infinity = INFINITY;
  std::vector<float> x{0, 1, -1, 2, 1024, -120, infinity, -infinity, NAN, 1e-30f, -1e-30f, 0.25f, 0.2499999f};
  for (float m = 1e-6f; m < 100; m *= 1.003f) x.push_back(m), x.push_back(-m);
  const int n = int(x.size());
  const Buffer<float> out(4 * x.size());
  if (!run(special_functions, {dim3(1), dim3(64)}, Buffer<float>(x), out, n)) return false;
  const std::vector<float> got = out.values();
  struct Function {
    double (*exact)(double);
    double limit, least;
  };
  const Function functions[] = {{[](double v) { return 1 / v; }, 0x1p-22, 0},
                                {[](double v) { return std::exp2(v); }, 0x1p-21, 0},
                                {[](double v) { return 1 / (1 + std::exp(-v)); }, 0x1p-20, 1e-3},
                                {[](double v) { return std::tanh(v); }, 0x1p-20, 0}};
  for (int f = 0; f < 4; ++f)
    for (int i = 0; i < n; ++i) {
      const double y = got[size_t(f * n + i)], exact = functions[f].exact(x[size_t(i)]), size = std::fabs(exact);
      const double limit = functions[f].limit * (size < functions[f].least ? 1 : size);
      if (std::isnan(exact) ? std::isnan(y) : y == exact || std::fabs(y - exact) <= limit) continue;
      std::printf("  function %d of %.9g is %.9g, expected %.9g\n", f, double(x[size_t(i)]), y, exact);
      return false;
    }
  return true;
}

bool test_dependent_launches() {
  constexpr unsigned n = 4096, launches = 20;
  std::vector<uint32_t> expected = some_words(n);
  const Buffer<uint32_t> first(expected), second(n);
  LaunchShape shape{dim3(n / 32), dim3(32)};
  for (unsigned l = 0; l < launches; ++l) {
    const std::vector<uint32_t> before = expected;
    for (unsigned i = 0; i < n; ++i) expected[i] = before[n - 1 - i] * 31 + i;
    shape.dependent = l > 0;
    if (launch(dependent, shape, nullptr, l % 2 ? second : first, l % 2 ? first : second)) return false;
  }
  return !cudaDeviceSynchronize() && equal(first.values(), expected);
}

struct Test {
  const char* name;
  bool needs_sm90;
  bool (*passes)();
};

const Test tests[] = {
    {"conversions: __float2bfloat16_rn, __float2half_rn, __bfloat162float, __half2float", false, test_conversions},
    {"shared_memory, __syncthreads", false, test_block_sum},
    {"160 KB of shared memory", false, test_large_shared_memory},
    {"__shfl_sync, __shfl_up_sync, __shfl_down_sync, __shfl_xor_sync, __syncwarp", false, test_shuffles},
    {"copy_async, copy_commit, copy_wait", false, test_copies},
    {"load_cluster, cluster_rank, cluster_size, cluster_address, cluster_arrive, cluster_wait", true, test_gather},
    {"store_async, mbarrier_init, fence_mbarrier_init, mbarrier_arrive_expect, mbarrier_wait", true, test_exchange},
    {"load_acquire, store_release, wait_at_least", false, test_flags},
    {"load_relaxed, store_release, wait_at_least", false, test_mail},
    {"load_matrices", false, test_load_matrices},
    {"mma<__nv_bfloat16>", false, test_mma<__nv_bfloat16>},
    {"mma<__half>", false, test_mma<__half>},
    {"mma<float>", false, test_mma<float>},
    {"to_tf32", false, test_to_tf32},
    {"recip_approx, exp2_approx, FastFloat's sigmoid and tanh", false, test_special_functions},
    {"grid_dependency_wait, grid_dependency_launch, dependent launches", true, test_dependent_launches},
};

void choose_order([[maybe_unused]] int seed) {
#ifndef __CUDACC__
  cuda_host::set_seed(uint64_t(seed));
#endif
}

}  // namespace

int main(int count, char** words) {
  const int seeds = count > 1 ? std::atoi(words[1]) : 1;
  const char* wanted = count > 2 ? words[2] : "";
  int major = 0, failures = 0;
  if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0)) return std::printf("no card\n"), 2;
  for (const Test& test : tests) {
    bool passed = true;
    if (!std::strstr(test.name, wanted)) continue;
    if (test.needs_sm90 && major < 9) {
      std::printf("SKIP  %s\n", test.name);
      continue;
    }
    for (int seed = 0; passed && seed < seeds; ++seed) {
      choose_order(seed);
      passed = test.passes();
      if (!passed && seeds > 1) std::printf("  with seed %d\n", seed);
    }
    std::printf("%s  %s\n", passed ? "PASS" : "FAIL", test.name);
    failures += !passed;
  }
  return failures != 0;
}
