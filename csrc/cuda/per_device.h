// What the current device is like, asked once for each, and what every device is like.
#pragma once
#include <cuda_runtime.h>

#include <atomic>
#include <cstdint>

namespace rnnk::cuda {

// The most blocks of a grid in y and in z, on every card; along x it may have 2^31 - 1.
constexpr int64_t most_blocks_across = 65535;

// What `ask` says of the current device, asked once for each device.
class PerDevice {
  static constexpr int most = 64;
  std::atomic<int> known_[most] = {};  // one more than it said, or 0

 public:
  template <class F>
  int operator()(const F& ask) {
    int device = 0;
    if (cudaGetDevice(&device) || device >= most) return 0;
    if (!known_[device]) known_[device] = 1 + ask(device);
    return known_[device] - 1;
  }
};

inline int device_attribute(cudaDeviceAttr attribute, int device) {
  int value = 0;
  return cudaDeviceGetAttribute(&value, attribute, device) ? 0 : value;
}

inline int multiprocessors() {
  static PerDevice known;
  return known([](int device) { return device_attribute(cudaDevAttrMultiProcessorCount, device); });
}

}  // namespace rnnk::cuda
