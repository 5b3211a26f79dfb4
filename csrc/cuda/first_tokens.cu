// Purpose: the table of first tokens on the device, for R1 to R3 on packed batches; a few launches a call.
// Algorithm: its numbers come by value, as a kernel's parameters, so that nobody reads host memory after the call; 480 of them a launch.
// Threads: one block. No shared memory; 3.8 KB of kernel parameters of the 4 that any card takes.
#include "cuda/first_tokens.h"

namespace rnnk::cuda {

namespace {

struct FirstPart {
  static constexpr int64_t most = 480;
  int64_t at[most];
};
__global__ void first_tokens_kernel(const FirstPart part, int64_t count, int64_t* to) {
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) to[i] = part.at[i];
}

}  // namespace

void FirstTokens::enqueue(Queue& queue, const Shape& s, const Schedule& schedule) const {
  for (int64_t begin = 0; table_ && begin <= s.T; begin += FirstPart::most) {
    FirstPart part{};
    const int64_t count = std::min(FirstPart::most, s.T + 1 - begin);
    for (int64_t i = 0; i < count; ++i) part.at[i] = begin + i < s.T ? schedule.first[begin + i] : s.N;
    queue.run(first_tokens_kernel, LaunchShape{dim3(1), dim3(block_threads)}, part, count, table_ + begin);
  }
}

}  // namespace rnnk::cuda
