// Launching a kernel, and the only way that a kernel gets shared memory. tests/cuda_host gives both another meaning, so that every
// kernel also runs on the host.
#pragma once
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "cuda/per_device.h"

namespace rnnk::cuda {

struct LaunchShape {
  dim3 grid, block;
  size_t shared_bytes = 0;
  int cluster = 1;           // blocks of a cluster, along x
  bool cooperative = false;  // all blocks run at once and may wait for each other
  bool dependent = false;    // sm_90: may start before the launch before it has ended; each thread calls ptx::grid_dependency_wait
};

}  // namespace rnnk::cuda

#ifndef __CUDACC__
#include <cuda_host/launch.h>
#else
namespace rnnk::cuda {

// A LaunchShape as the runtime takes it.
struct LaunchConfig {
  cudaLaunchAttribute attributes[3];
  cudaLaunchConfig_t config{};

  LaunchConfig(const LaunchShape& shape, cudaStream_t stream) {
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
    if (shape.dependent) {
      cudaLaunchAttribute& a = attributes[config.numAttrs++];
      a.id = cudaLaunchAttributeProgrammaticStreamSerialization;
      a.val.programmaticStreamSerializationAllowed = 1;
    }
  }
  LaunchConfig(const LaunchConfig&) = delete;
};

// What a kernel must be told before it may have more than any card gives.
template <class... Parameters>
cudaError_t allow(void (*kernel)(Parameters...), const LaunchShape& shape) {
  if (shape.shared_bytes > 48 * 1024)
    if (const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shape.shared_bytes))) return error;
  return shape.cluster > 8 ? cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1) : cudaSuccess;
}

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), const LaunchShape& shape, cudaStream_t stream, Arguments&&... arguments) {
  if (const cudaError_t error = allow(kernel, shape)) return error;
  const LaunchConfig launch(shape, stream);
  return cudaLaunchKernelEx(&launch.config, kernel, Parameters(arguments)...);
}

template <class = void>
__global__ void empty_kernel() {}

// Whether the current device has clusters and programmatic dependent launch, and the code was compiled for them: a driver may have translated it
// from that of an older card, where ptx::sm90 is false.
inline bool is_sm90() {
  static PerDevice known;
  return known([](int device) {
    cudaFuncAttributes code{};
    if (!cudaFuncGetAttributes(&code, empty_kernel<>)) return int(code.ptxVersion >= 90 && device_attribute(cudaDevAttrClusterLaunch, device));
    cudaGetLastError();  // or the next call of somebody else reports it
    return 0;
  });
}

// How many of its clusters the current device has room for at once: 0 where it takes none.
template <class... Parameters>
int resident_clusters(void (*kernel)(Parameters...), const LaunchShape& shape) {
  const LaunchConfig launch(shape, nullptr);
  int count = 0;
  if (!allow(kernel, shape) && !cudaOccupancyMaxActiveClusters(&count, kernel, &launch.config)) return count;
  cudaGetLastError();
  return 0;
}

// How many of its blocks the current device has room for at once: 0 where it takes none.
template <class... Parameters>
int resident_blocks(void (*kernel)(Parameters...), const LaunchShape& shape) {
  int blocks = 0;
  if (!allow(kernel, shape) && !cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, int(shape.block.x), shape.shared_bytes))
    return blocks * multiprocessors();
  cudaGetLastError();
  return 0;
}

// The block's dynamic shared memory.
__device__ inline void* shared_memory() {
  extern __shared__ __align__(128) unsigned char memory[];
  return memory;
}

}  // namespace rnnk::cuda
#endif
