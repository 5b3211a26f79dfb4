// Purpose: column sums of D(pre-activations) over all tokens: d_b_ih and d_b_hh.
// Algorithm: two stages of fixed order, no atomics. Part p of a matrix is every parts-th group of 8 rows: add_kernel's block sums it, one thread
// every 8 * parts-th row, then the 8 threads of a column in order through shared memory, onto the sum that earlier chunks left.
// finish_kernel sums the parts in order, once a call, and rounds once.
// Threads: add_kernel 32 columns x 8 rows, a block per 32 columns, part and matrix; finish_kernel one a column.
// Budget: 1 KB of shared memory (2 KB in float64), at most 32 registers. Limits: four matrices of equal width.
#include "cuda/columns.h"

namespace rnnk::cuda {

namespace {

constexpr int block_columns = 32, block_rows = 8;
constexpr int64_t most_parts = 64, rows_of_part = 64;

// By constant indices: a variable one would put the kernel's parameter into local memory.
template <class T>
__device__ ColumnSum<T> own_task(const ColumnTasks<T>& tasks) {
  ColumnSum<T> task = tasks.at[0];
  for (int i = 1; i < tasks.most; ++i)
    if (int(blockIdx.z) == i) task = tasks.at[i];
  return task;
}

template <class T>
__global__ void add_kernel(const ColumnTasks<T> tasks, int64_t columns, Wide<T>* partial, bool first) {
  using V = Wide<T>;
  V* sums = static_cast<V*>(shared_memory());  // [block_rows, block_columns]
  const ColumnSum<T> task = own_task(tasks);
  const int64_t column = own_column(), stride = int64_t(gridDim.y) * block_rows;
  V sum(0);
  if (column < columns)
    for (int64_t row = int64_t(blockIdx.y) * block_rows + threadIdx.y; row < task.rows; row += stride)
      sum += widen(task.matrix[row * columns + column]);
  sums[threadIdx.y * block_columns + threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0 || column >= columns) return;
  for (int i = 1; i < block_rows; ++i) sum += sums[i * block_columns + threadIdx.x];
  V& to = partial[(int64_t(blockIdx.z) * gridDim.y + blockIdx.y) * columns + column];
  to = first ? sum : to + sum;
}

template <class T>
__global__ void finish_kernel(const ColumnTasks<T> tasks, int64_t columns, const Wide<T>* partial, int parts) {
  const int64_t column = own_column();
  if (column >= columns) return;
  Wide<T> sum(0);
  for (int p = 0; p < parts; ++p) sum += partial[(int64_t(blockIdx.z) * parts + p) * columns + column];
  const ColumnSum<T> task = own_task(tasks);
  if (task.sums) task.sums[column] = narrow<T>(sum);
  if (task.second_target) task.second_target[column] = narrow<T>(sum);
}

}  // namespace

template <class T>
ColumnSums<T>::ColumnSums(Arena& arena, int count, int64_t rows, int64_t columns)
    : columns_(columns), parts_(int(std::min(most_parts, std::max<int64_t>(1, rows / rows_of_part)))) {
  partial_ = arena.take<Wide<T>>(count * parts_ * columns);
}

template <class T>
void ColumnSums<T>::add(Queue& queue, const ColumnTasks<T>& tasks, bool first) const {
  const LaunchShape shape{dim3(unsigned((columns_ + block_columns - 1) / block_columns), unsigned(parts_), unsigned(tasks.count)),
                          dim3(block_columns, block_rows), block_columns * block_rows * sizeof(Wide<T>)};
  queue.run(add_kernel<T>, shape, tasks, columns_, partial_, first);
}

template <class T>
void ColumnSums<T>::finish(Queue& queue, const ColumnTasks<T>& tasks) const {
  queue.run(finish_kernel<T>, over(columns_, 1, tasks.count), tasks, columns_, partial_, parts_);
}

template class ColumnSums<float>;
template class ColumnSums<double>;
template class ColumnSums<__nv_bfloat16>;
template class ColumnSums<__half>;

}  // namespace rnnk::cuda
