// Barriers of the whole card: grid.sync, and two of our own through the L2.
#include <cooperative_groups.h>

#include "limits.h"

namespace limits {
namespace {

__global__ void sync_grid(int rounds) {
  const cooperative_groups::grid_group grid = cooperative_groups::this_grid();
  for (int round = 0; round < rounds; ++round) grid.sync();
}

__device__ unsigned load_acquire(const unsigned* at) {
  unsigned value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(at) : "memory");
  return value;
}

// Every block counts itself at one word.
__global__ void sync_counter(unsigned* counter, int rounds) {
  for (unsigned round = 1; round <= unsigned(rounds); ++round) {
    __syncthreads();
    if (threadIdx.x == 0) {
      asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
      const long long start = clock64();
      while (load_acquire(counter) < round * gridDim.x) give_up(start);
    }
    __syncthreads();
  }
}

// Every block has a word of its own, which all others watch.
__global__ void sync_flags(unsigned* flags, int rounds) {
  for (unsigned round = 1; round <= unsigned(rounds); ++round) {
    __syncthreads();
    if (threadIdx.x == 0) asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(flags + blockIdx.x), "r"(round) : "memory");
    const long long start = clock64();
    for (unsigned other = threadIdx.x; other < gridDim.x; other += blockDim.x)
      while (load_acquire(flags + other) < round) give_up(start);
    __syncthreads();
  }
}

}  // namespace

void barriers(Report& report) {
  const int processors = device().multiProcessorCount;
  const DeviceArray<unsigned> words(processors);
  const cudaLaunchAttribute together = cooperative();
  for (int blocks : {16, 64, processors}) {
    if (blocks > processors) continue;
    const std::string name = "_us_" + std::to_string(blocks) + "_blocks";
    const double grid = seconds_a_round([&](cudaStream_t stream, int rounds) { launch(sync_grid, blocks, 256, 0, stream, &together, rounds); });
    const auto flagged = [&](void (*kernel)(unsigned*, int)) {
      return seconds_a_round([&](cudaStream_t stream, int rounds) {
        CHECK(cudaMemsetAsync(words, 0, processors * sizeof(unsigned), stream));
        launch(kernel, blocks, 256, 0, stream, &together, static_cast<unsigned*>(words), rounds);
      });
    };
    report.add("grid_sync" + name, grid * 1e6);
    report.add("counter" + name, flagged(sync_counter) * 1e6);
    report.add("flags" + name, flagged(sync_flags) * 1e6);
  }
}

}  // namespace limits
