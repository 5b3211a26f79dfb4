// What a card can do at most, and how quickly its parts can talk to each other: the figures that the regimes of the kernels rest on.
//
//   nvcc -O3 -std=c++17 -arch=sm_90 -o limits *.cu
//   ./limits            the names of the groups
//   ./limits GROUP      measures one and prints a JSON object; units are in the names, each figure is a median
//
// A group that needs a newer card than sm_80 prints {} on an older one. Whatever waits gives up after seconds and traps.
#include "limits.h"

namespace limits {

cudaDeviceProp device() {
  cudaDeviceProp properties;
  CHECK(cudaGetDeviceProperties(&properties, 0));
  return properties;
}

__global__ void spin(long long cycles) {
  const long long start = clock64();
  while (clock64() - start < cycles) {
  }
}

double cycles_a_second() {
  const long long cycles = 20000000;
  return cycles / seconds([&](cudaStream_t stream) { spin<<<1, 1, 0, stream>>>(cycles); });
}

namespace {

struct Group {
  const char* name;
  void (*measure)(Report&);
};
constexpr Group kGroups[] = {
    {"memory", memory}, {"barriers", barriers}, {"clusters", clusters}, {"launches", launches}, {"tensor_cores", tensor_cores},
};

}  // namespace
}  // namespace limits

int main(int count, char** words) {
  using namespace limits;
  for (const Group& group : kGroups) {
    if (count < 2) std::printf("%s\n", group.name);
    if (count < 2 || std::string(words[1]) != group.name) continue;
    Report report;
    group.measure(report);
    CHECK(cudaDeviceSynchronize());
    report.print();
    return 0;
  }
  return count < 2 ? 0 : 2;
}
