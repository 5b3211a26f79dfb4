// What a call enqueues, one thing after the other: kernels over a grid of columns and rows, and products.
#pragma once
#include <algorithm>
#include <utility>

#include "cuda/launch.h"
#include "cuda/types.h"

namespace rnnk::cuda {

// Neighbouring threads take neighbouring columns, so that a warp's accesses are one or two lines; rows past the grid's limit are
// looped over. Small blocks: few rows shall still spread over many SMs.
constexpr int block_threads = 128;

inline LaunchShape over(int64_t columns, int64_t rows, int layers = 1) {
  unsigned x = 32, y = 1;
  while (x < block_threads && x < columns) x *= 2;
  while (x * y < block_threads && y < rows) y *= 2;
  const int64_t blocks = (rows + y - 1) / y;
  return {dim3(unsigned((columns + x - 1) / x), unsigned(std::min(blocks, most_blocks_across)), unsigned(layers)), dim3(x, y)};
}

__device__ inline int64_t own_column() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
template <class F>
__device__ void for_own_rows(int64_t rows, const F& f) {
  for (int64_t row = int64_t(blockIdx.y) * blockDim.y + threadIdx.y; row < rows; row += int64_t(gridDim.y) * blockDim.y) f(row);
}

// A matrix in a product.
template <class T>
struct Operand {
  const T* data;
  int64_t row_stride;
  bool transposed = false;
  int64_t batch_stride = 0;

  operator Product::Matrix() const { return {data, row_stride, transposed, batch_stride}; }
};

template <class T>
struct Result {
  T* data;
  int64_t row_stride;
  int64_t batch_stride = 0;
  bool add = false;
};

// After a failure nothing more is enqueued.
class Queue {
  cudaStream_t stream_;
  const Gemm& gemm_;
  cudaError_t error_ = cudaSuccess;
  const void* newest_ = nullptr;  // the kernel that was enqueued last, and nothing after it

 public:
  Queue(cudaStream_t stream, const Gemm& gemm) : stream_(stream), gemm_(gemm) {}
  cudaError_t error() const { return error_; }

  // Whether what comes next follows a launch of this kernel.
  template <class... Parameters>
  bool follows(void (*kernel)(Parameters...)) const {
    return newest_ == reinterpret_cast<const void*>(kernel);
  }

  // Nothing where the grid is empty.
  template <class... Parameters, class... Arguments>
  void run(void (*kernel)(Parameters...), const LaunchShape& shape, Arguments&&... arguments) {
    if (error_ != cudaSuccess || !shape.grid.x || !shape.grid.y || !shape.grid.z) return;
    newest_ = reinterpret_cast<const void*>(kernel);
    error_ = launch(kernel, shape, stream_, std::forward<Arguments>(arguments)...);
  }

  // c = a b, of [m, k] and [k, n], for each of `batch`.
  template <class T, class Out>
  void multiply(int64_t m, int64_t n, int64_t k, const Operand<T>& a, const Operand<T>& b, const Result<Out>& c, int batch = 1) {
    if (error_ != cudaSuccess) return;
    newest_ = nullptr;
    error_ = gemm_({type_of<T>, type_of<Out>, m, n, k, a, b, c.data, c.row_stride, c.batch_stride, batch, c.add});
  }
};

}  // namespace rnnk::cuda
