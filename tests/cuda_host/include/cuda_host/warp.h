// Barriers and shuffles of a block and a warp, by CUDA's names.
#pragma once
#include "scheduler.h"

inline void __syncthreads(cuda_host::Location at = cuda_host::Location::here()) {
  cuda_host::Barrier& barrier = cuda_host::self().block->barrier;
  const unsigned phase = barrier.phase;
  cuda_host::arrive(barrier, {"__syncthreads", at});
  cuda_host::wait_for(barrier, phase, {"__syncthreads", at});
}

inline void __syncwarp(unsigned mask = 0xffffffff, cuda_host::Location at = cuda_host::Location::here()) {
  cuda_host::warp_collective(mask, &mask, [](cuda_host::Lanes&) {}, {"__syncwarp", at});
}

inline void __threadfence(cuda_host::Location at = cuda_host::Location::here()) { cuda_host::yield_in_loop({"__threadfence", at}); }

namespace cuda_host {

// Each lane of `mask` gets the value of its `source`.
template <class T>
T shuffle(unsigned mask, T value, unsigned source, const Wait& wait) {
  struct Mine {
    T value, result;
    unsigned source;
  } mine{value, value, source};
  warp_collective(
      mask, &mine,
      [](Lanes& lanes) {
        for (void* lane : lanes) {
          if (!lane) continue;
          Mine& to = *static_cast<Mine*>(lane);
          const Mine* from = static_cast<Mine*>(lanes[to.source]);
          if (!from) fault("a shuffle reads lane %u, which takes no part", to.source);
          to.result = from->value;
        }
      },
      wait);
  return mine.result;
}

// A lane's own value where `source` lies in another group of `width` lanes.
template <class T>
T shuffle_within(unsigned mask, T value, int source, int width, const Wait& wait) {
  const int lane = int(self().lane()), begin = lane / width * width;
  return shuffle(mask, value, unsigned(source >= begin && source < begin + width ? source : lane), wait);
}

}  // namespace cuda_host

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, cuda_host::Location at = cuda_host::Location::here()) {
  const int begin = int(cuda_host::self().lane()) / width * width;
  return cuda_host::shuffle(mask, value, unsigned(begin + (source & (width - 1))), {"__shfl_sync", at});
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, cuda_host::Location at = cuda_host::Location::here()) {
  return cuda_host::shuffle_within(mask, value, int(cuda_host::self().lane() - delta), width, {"__shfl_up_sync", at});
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, cuda_host::Location at = cuda_host::Location::here()) {
  return cuda_host::shuffle_within(mask, value, int(cuda_host::self().lane() + delta), width, {"__shfl_down_sync", at});
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, cuda_host::Location at = cuda_host::Location::here()) {
  return cuda_host::shuffle_within(mask, value, int(cuda_host::self().lane()) ^ bits, width, {"__shfl_xor_sync", at});
}
