// What every measurement needs: checked calls, medians, the list of results.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define HOPPER 1
#endif

namespace limits {

inline void check(cudaError_t error, const char* call, const char* file, int line) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s:%d: %s: %s\n", file, line, call, cudaGetErrorString(error));
  std::exit(1);
}

inline void require(bool right, const char* what, const char* file, int line) {
  if (right) return;
  std::fprintf(stderr, "%s:%d: wrong result: %s\n", file, line, what);
  std::exit(1);
}

#define CHECK(call) limits::check((call), #call, __FILE__, __LINE__)
#define REQUIRE(right) limits::require((right), #right, __FILE__, __LINE__)

template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t count) : count_(count) { CHECK(cudaMalloc(&data_, count * sizeof(T))); }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) {
    CHECK(cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  operator T*() const { return data_; }
  T first() const {
    T value;
    CHECK(cudaMemcpy(&value, data_, sizeof(T), cudaMemcpyDeviceToHost));
    return value;
  }

 private:
  T* data_ = nullptr;
  size_t count_;
};

inline double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

constexpr int kRepeats = 21;

// Median seconds of what `enqueue(stream)` puts between two events. `before(stream)` comes ahead of the first one.
template <class Before, class Enqueue>
double seconds(Before&& before, Enqueue&& enqueue) {
  cudaStream_t stream;
  cudaEvent_t begin, end;
  CHECK(cudaStreamCreate(&stream));
  CHECK(cudaEventCreate(&begin));
  CHECK(cudaEventCreate(&end));
  std::vector<double> all;
  for (int repeat = -3; repeat < kRepeats; ++repeat) {  // the first ones warm up
    before(stream);
    CHECK(cudaEventRecord(begin, stream));
    enqueue(stream);
    CHECK(cudaEventRecord(end, stream));
    CHECK(cudaGetLastError());
    CHECK(cudaStreamSynchronize(stream));
    float milliseconds;
    CHECK(cudaEventElapsedTime(&milliseconds, begin, end));
    if (repeat >= 0) all.push_back(milliseconds * 1e-3);
  }
  CHECK(cudaEventDestroy(begin));
  CHECK(cudaEventDestroy(end));
  CHECK(cudaStreamDestroy(stream));
  return median(all);
}

template <class Enqueue>
double seconds(Enqueue&& enqueue) {
  return seconds([](cudaStream_t) {}, enqueue);
}

// Seconds of one round of a kernel that does as many as it is told: the difference of two lengths, so the launch is not in it.
template <class Enqueue>
double seconds_a_round(Enqueue&& enqueue, int few = 200, int many = 1200) {
  const double shorter = seconds([&](cudaStream_t stream) { enqueue(stream, few); });
  const double longer = seconds([&](cudaStream_t stream) { enqueue(stream, many); });
  return (longer - shorter) / (many - few);
}

constexpr int kHops = 4096;  // of the chains that measure a latency

// Median of what a kernel itself writes to the pointer that `enqueue` gets.
template <class Enqueue>
double median_reported(Enqueue&& enqueue) {
  const DeviceArray<double> reported(1);
  std::vector<double> all;
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    enqueue(static_cast<double*>(reported));
    CHECK(cudaGetLastError());
    all.push_back(reported.first());
  }
  return median(all);
}

// A launch with at most one attribute beside the shape.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), int blocks, int threads, size_t shared, cudaStream_t stream, const cudaLaunchAttribute* attribute,
            Arguments... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(blocks);
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = const_cast<cudaLaunchAttribute*>(attribute);
  config.numAttrs = attribute != nullptr;
  CHECK(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...));
}

inline cudaLaunchAttribute cluster_of(int size) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = unsigned(size);
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  return attribute;
}

inline cudaLaunchAttribute cooperative() {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = 1;
  return attribute;
}

inline cudaLaunchAttribute overlapped() {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  return attribute;
}

// One cycle through all of 0..count-1 in random order: value i is the element after i.
inline std::vector<unsigned> random_cycle(unsigned count) {
  std::vector<unsigned> next(count);
  for (unsigned i = 0; i < count; ++i) next[i] = i;
  unsigned state = 12345;
  for (unsigned i = count - 1; i > 0; --i) {
    state = state * 1664525u + 1013904223u;
    std::swap(next[i], next[(state >> 8) % i]);  // Sattolo: never with itself
  }
  return next;
}

class Report {
 public:
  void add(const std::string& name, double value) { values_.emplace_back(name, value); }
  void print() const {
    for (size_t i = 0; i < values_.size(); ++i)
      std::printf("%s\"%s\": %.5g", i == 0 ? "{" : ", ", values_[i].first.c_str(), values_[i].second);
    std::printf("%s\n", values_.empty() ? "{}" : "}");
  }

 private:
  std::vector<std::pair<std::string, double>> values_;
};

cudaDeviceProp device();
double cycles_a_second();
__global__ void spin(long long cycles);

// Ends a wait that will not: a hang would cost all that is left of the minutes on a card.
__device__ inline void give_up(long long waiting_since) {
  if (clock64() - waiting_since > 4000000000ll) __trap();
}

void memory(Report& report);
void barriers(Report& report);
void clusters(Report& report);
void launches(Report& report);
void tensor_cores(Report& report);

}  // namespace limits
