// Bandwidths and latencies of the memories.
#include <cstdint>

#include "limits.h"

namespace limits {
namespace {

__global__ void fill(uint4* out, size_t count) {
  for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < count; i += size_t(gridDim.x) * blockDim.x) {
    const unsigned hash = unsigned(i) * 2654435761u;
    out[i] = make_uint4(hash, hash ^ 0x9e3779b9u, hash * 40503u, ~hash);
  }
}

__global__ void copy(const uint4* in, uint4* out, size_t count) {
#pragma unroll 4
  for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < count; i += size_t(gridDim.x) * blockDim.x) out[i] = in[i];
}

// Reads through the L2 alone; the store never happens, but the compiler cannot know.
__global__ void read_l2(const uint4* in, size_t count, int passes, unsigned* never) {
  unsigned mix = 0;
  for (int pass = 0; pass < passes; ++pass) {
#pragma unroll 4
    for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < count; i += size_t(gridDim.x) * blockDim.x) {
      const uint4 v = __ldcg(in + i);
      mix += v.x ^ v.y ^ v.z ^ v.w ^ unsigned(pass);
    }
  }
  if (mix == 0x12345678u && never != nullptr) *never = mix;
}

// Cycles a hop along a chain of addresses in the L2; all of it has been there before.
__global__ void chase_l2(const uint64_t* chain, double* cycles) {
  uint64_t at = uint64_t(chain);
  for (int hop = 0; hop < kHops; ++hop) at = __ldcg(reinterpret_cast<const uint64_t*>(at));
  const long long start = clock64();
  for (int hop = 0; hop < kHops; ++hop) at = __ldcg(reinterpret_cast<const uint64_t*>(at));
  *cycles = double(clock64() - start) / kHops + (at == 1);
}

__global__ void chase_shared(const unsigned* next, double* cycles) {
  __shared__ unsigned chain[kHops];
  const unsigned base = unsigned(__cvta_generic_to_shared(chain));
  for (unsigned i = 0; i < kHops; ++i) chain[i] = base + 4 * next[i];
  unsigned at = base;
  const long long start = clock64();
  for (int hop = 0; hop < kHops; ++hop) asm volatile("ld.shared.u32 %0, [%0];" : "+r"(at)::"memory");
  *cycles = double(clock64() - start) / kHops + (at == 1);
}

double l2_hit_cycles() {
  constexpr size_t kLine = 16;  // words of 8 bytes
  const std::vector<unsigned> next = random_cycle(kHops);
  const DeviceArray<uint64_t> chain(kHops * kLine);
  std::vector<uint64_t> addresses(kHops * kLine);
  for (size_t i = 0; i < kHops; ++i) addresses[i * kLine] = uint64_t(chain + next[i] * kLine);
  CHECK(cudaMemcpy(chain, addresses.data(), addresses.size() * sizeof(uint64_t), cudaMemcpyHostToDevice));
  return median_reported([&](double* cycles) { chase_l2<<<1, 1>>>(chain, cycles); });
}

}  // namespace

void memory(Report& report) {
  const int processors = device().multiProcessorCount;
  const size_t bytes = size_t(1) << 30, count = bytes / sizeof(uint4);
  const DeviceArray<uint4> from(count), to(count);
  fill<<<processors * 8, 256>>>(from, count);
  CHECK(cudaGetLastError());
  report.add("sm_clock_ghz", cycles_a_second() * 1e-9);
  report.add("copy_gb_s", 2e-9 * bytes / seconds([&](cudaStream_t stream) { copy<<<processors * 4, 512, 0, stream>>>(from, to, count); }));
  report.add("memcpy_gb_s", 2e-9 * bytes / seconds([&](cudaStream_t stream) {
                              CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream));
                            }));
  for (int megabytes : {8, 16, 32}) {
    const size_t part = (size_t(megabytes) << 20) / sizeof(uint4);
    const double pass = seconds_a_round(
        [&](cudaStream_t stream, int passes) { read_l2<<<processors * 2, 1024, 0, stream>>>(from, part, passes, nullptr); }, 20, 120);
    report.add("l2_read_gb_s_" + std::to_string(megabytes) + "mb", 1e-9 * part * sizeof(uint4) / pass);
  }
  report.add("l2_hit_cycles", l2_hit_cycles());
  const DeviceArray<unsigned> next(random_cycle(kHops));
  report.add("shared_cycles", median_reported([&](double* cycles) { chase_shared<<<1, 1>>>(next, cycles); }));
}

}  // namespace limits
