#include "torch/device.h"

#include <array>
#include <optional>

namespace rnnk {

namespace {

using Table = std::array<std::optional<DeviceKernels>, c10::COMPILE_TIME_MAX_DEVICE_TYPES>;

Table& table() {
  static Table all;
  return all;
}

}  // namespace

const DeviceKernels* device_kernels(c10::DeviceType type) {
  const auto& kernels = table()[size_t(type)];
  return kernels ? &*kernels : nullptr;
}

RegisterKernels::RegisterKernels(c10::DeviceType type, const DeviceKernels& kernels) { table()[size_t(type)] = kernels; }

}  // namespace rnnk
