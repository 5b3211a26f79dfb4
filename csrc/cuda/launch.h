// Launching a kernel, and the only way that a kernel gets shared memory. tests/cuda_host gives both another meaning, so that every
// kernel also runs on the host.
#pragma once
#include <cuda_runtime.h>

#include <cstddef>

namespace rnnk::cuda {

struct LaunchShape {
  dim3 grid, block;
  size_t shared_bytes = 0;
  int cluster = 1;           // blocks of a cluster, along x
  bool cooperative = false;  // all blocks run at once and may wait for each other
};

}  // namespace rnnk::cuda

#ifndef __CUDACC__
#include <cuda_host/launch.h>
#else
namespace rnnk::cuda {

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), const LaunchShape& shape, cudaStream_t stream, Arguments&&... arguments) {
  if (shape.shared_bytes > 48 * 1024)
    if (const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shape.shared_bytes))) return error;
  if (shape.cluster > 8)
    if (const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1)) return error;
  cudaLaunchAttribute attributes[2];
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  if (shape.cluster > 1) {
    cudaLaunchAttribute& a = attributes[config.numAttrs++];
    a.id = cudaLaunchAttributeClusterDimension;
    a.val.clusterDim.x = unsigned(shape.cluster);
    a.val.clusterDim.y = a.val.clusterDim.z = 1;
  }
  if (shape.cooperative) {
    cudaLaunchAttribute& a = attributes[config.numAttrs++];
    a.id = cudaLaunchAttributeCooperative;
    a.val.cooperative = 1;
  }
  return cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...);
}

// The block's dynamic shared memory.
__device__ inline void* shared_memory() {
  extern __shared__ __align__(128) unsigned char memory[];
  return memory;
}

}  // namespace rnnk::cuda
#endif
