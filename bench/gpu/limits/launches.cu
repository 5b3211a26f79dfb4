// From one kernel to the next: plain and overlapped (programmatic dependent launch), from a stream and from a graph.
#include <chrono>

#include "limits.h"

namespace limits {
namespace {

// Lets the next kernel start at once, waits for the one before, works.
__global__ void overlapped_work(long long cycles) {
#ifdef HOPPER
  asm volatile("griddepcontrol.launch_dependents;\n\tgriddepcontrol.wait;" ::: "memory");
#endif
  const long long start = clock64();
  while (clock64() - start < cycles) {
  }
}

constexpr int kChain = 400;  // fewer than a stream's queue holds, so the host never waits

// Seconds from one kernel of a chain to the next, all of them enqueued while an earlier one keeps the card busy.
double chained(bool early, bool graph, long long cycles, double clock, double* host = nullptr) {
  const int processors = device().multiProcessorCount;
  const cudaLaunchAttribute attribute = overlapped();
  const auto chain = [&](cudaStream_t stream) {
    for (int i = 0; i < kChain; ++i)
      early ? launch(overlapped_work, processors, 256, 0, stream, &attribute, cycles) : launch(spin, processors, 256, 0, stream, nullptr, cycles);
  };
  const auto gate = [&](cudaStream_t stream) { spin<<<1, 1, 0, stream>>>((long long)(clock * 8e-6 * kChain)); };
  if (!graph) {
    std::vector<double> enqueuing;
    const double all = seconds(gate, [&](cudaStream_t stream) {
      const auto start = std::chrono::steady_clock::now();
      chain(stream);
      enqueuing.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    });
    if (host) *host = median(enqueuing) / kChain;
    return all / kChain;
  }
  cudaStream_t stream;
  cudaGraph_t captured;
  cudaGraphExec_t ready;
  CHECK(cudaStreamCreate(&stream));
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  chain(stream);
  CHECK(cudaStreamEndCapture(stream, &captured));
  CHECK(cudaGraphInstantiate(&ready, captured, 0));
  const double all = seconds(gate, [&](cudaStream_t other) { CHECK(cudaGraphLaunch(ready, other)); });
  CHECK(cudaGraphExecDestroy(ready));
  CHECK(cudaGraphDestroy(captured));
  CHECK(cudaStreamDestroy(stream));
  return all / kChain;
}

}  // namespace

void launches(Report& report) {
  const double clock = cycles_a_second(), work = 2e-6;
  double host = 0;
  for (bool early : {false, true}) {
    if (early && device().major < 9) continue;
    for (bool graph : {false, true}) {
      const std::string name = std::string(graph ? "graph" : "stream") + (early ? "_overlapped" : "");
      report.add("gap_us_" + name, (chained(early, graph, (long long)(work * clock), clock, &host) - work) * 1e6);
      report.add("empty_kernel_us_" + name, chained(early, graph, 0, clock) * 1e6);
      if (!graph) report.add("host_us_a_launch_" + name, host * 1e6);
    }
  }
}

}  // namespace limits
