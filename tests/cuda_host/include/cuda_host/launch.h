// csrc/cuda/launch.h on the host; included by it, after LaunchShape.
#pragma once
#include <tuple>

namespace rnnk::cuda {

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), const LaunchShape& shape, cudaStream_t, Arguments&&... arguments) {
  const std::tuple<Parameters...> parameters{Parameters(arguments)...};
  const cuda_host::GridShape grid{shape.grid, shape.block, shape.shared_bytes, unsigned(shape.cluster), shape.cooperative};
  if (!cuda_host::valid(grid)) return cudaErrorInvalidConfiguration;
  cuda_host::run_grid(grid, [&] { std::apply(kernel, parameters); });
  return cudaSuccess;
}

inline void* shared_memory() { return cuda_host::self().block->shared; }

}  // namespace rnnk::cuda
