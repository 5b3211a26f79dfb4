// csrc/cuda/launch.h on the host; included by it, after LaunchShape.
#pragma once
#include <tuple>
#include <utility>

namespace rnnk::cuda {

inline cuda_host::GridShape grid_shape(const LaunchShape& s) {
  return {s.grid, s.block, s.shared_bytes, unsigned(s.cluster), s.cooperative, s.dependent};
}

inline bool is_sm90() { return cuda_host::cards[cuda_host::device].major >= 9; }

// A block or a part of a cluster for each multiprocessor.
template <class... Parameters>
int resident_clusters(void (*)(Parameters...), const LaunchShape& shape) {
  const cuda_host::Card& card = cuda_host::cards[cuda_host::device];
  return cuda_host::valid(grid_shape(shape)) && shape.cluster <= card.largest_cluster ? card.multiprocessors / shape.cluster : 0;
}

template <class... Parameters>
int resident_blocks(void (*)(Parameters...), const LaunchShape& shape) {
  return cuda_host::valid(grid_shape(shape)) ? cuda_host::cards[cuda_host::device].multiprocessors : 0;
}

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), const LaunchShape& shape, cudaStream_t, Arguments&&... arguments) {
  const std::tuple<Parameters...> parameters{Parameters(arguments)...};
  const cuda_host::GridShape grid = grid_shape(shape);
  if (!cuda_host::valid(grid)) return cudaErrorInvalidConfiguration;
  static const void* newest = nullptr;
  const void* before = std::exchange(newest, reinterpret_cast<const void*>(kernel));
  if (shape.dependent && newest != before)
    cuda_host::fault("a dependent launch after one of another kernel, which may write what it reads before it waits");
  const unsigned blocks = shape.grid.x * shape.grid.y * shape.grid.z;
  if (shape.cooperative && blocks > unsigned(cuda_host::cards[cuda_host::device].multiprocessors)) return cudaErrorCooperativeLaunchTooLarge;
  cuda_host::run_grid(grid, [&] { std::apply(kernel, parameters); });
  return cudaSuccess;
}

inline void* shared_memory() { return cuda_host::self().block->shared; }

}  // namespace rnnk::cuda
