// Purpose: R3's messages and flags are zero before a call's first step; one launch.
// Threads: one a word, at most 256 blocks.
#include "cuda/mailboxes.h"

namespace rnnk::cuda {

namespace {

__global__ void clear_kernel(uint32_t* words, int64_t count) {
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += int64_t(gridDim.x) * blockDim.x) words[i] = 0;
}

}  // namespace

void Mailboxes::enqueue_clear(Queue& queue) const {
  const int64_t words = bytes_ / int64_t(sizeof(uint32_t)), blocks = (words + block_threads - 1) / block_threads;
  queue.run(clear_kernel, LaunchShape{dim3(unsigned(std::min<int64_t>(blocks, 256))), dim3(block_threads)},
            reinterpret_cast<uint32_t*>(mail_.messages), words);
}

}  // namespace rnnk::cuda
