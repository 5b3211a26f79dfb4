// Purpose: W_hh and W_hr of two directions side by side, weight gradients that were added up in Wide<T> rounded to T, W_hh transposed; once a call.
// Algorithm: a grid over the elements, each read, converted and written; a transposition by tiles of 32 x 32 through shared memory, so that
// reads and writes are whole lines.
// Threads: one an element; a transposition's block 32 x 8, four elements a thread. Shared memory: a tile, 4.2 KB at float32. 16 registers.
#include "cuda/convert.h"

namespace rnnk::cuda {

namespace {

template <class From, class To>
__global__ void convert_kernel(const From* from, To* to, int64_t count) {
  const int64_t i = own_column();
  if (i >= count) return;
  if constexpr (std::is_same_v<From, To>) to[i] = from[i];
  else to[i] = narrow<To>(from[i]);
}

constexpr int tile_side = 32;

template <class T>
__global__ void transpose_kernel(const T* from, T* to, int64_t rows, int64_t columns) {
  T* const tile = static_cast<T*>(shared_memory());  // [side, side + 1]: a column's elements lie in different banks
  const int64_t column = int64_t(blockIdx.x) * tile_side, row = int64_t(blockIdx.y) * tile_side;
  const int x = int(threadIdx.x);
  for (int y = int(threadIdx.y); y < tile_side; y += int(blockDim.y))
    if (row + y < rows && column + x < columns) tile[y * (tile_side + 1) + x] = from[(row + y) * columns + column + x];
  __syncthreads();
  for (int y = int(threadIdx.y); y < tile_side; y += int(blockDim.y))
    if (row + x < rows && column + y < columns) to[(column + y) * rows + row + x] = tile[x * (tile_side + 1) + y];
}

}  // namespace

template <class From, class To>
void convert(Queue& queue, const From* from, To* to, int64_t count) {
  queue.run(convert_kernel<From, To>, over(count, 1), from, to, count);
}

template <class T>
void transpose(Queue& queue, const T* from, T* to, int64_t rows, int64_t columns) {
  const auto tiles = [](int64_t n) { return unsigned((n + tile_side - 1) / tile_side); };
  queue.run(transpose_kernel<T>, LaunchShape{dim3(tiles(columns), tiles(rows)), dim3(tile_side, 8), tile_side * (tile_side + 1) * sizeof(T)},
            from, to, rows, columns);
}

template void convert(Queue&, const float*, float*, int64_t);
template void convert(Queue&, const double*, double*, int64_t);
template void convert(Queue&, const __nv_bfloat16*, __nv_bfloat16*, int64_t);
template void convert(Queue&, const __half*, __half*, int64_t);
template void convert(Queue&, const float*, __nv_bfloat16*, int64_t);
template void convert(Queue&, const float*, __half*, int64_t);

template void transpose(Queue&, const float*, float*, int64_t, int64_t);
template void transpose(Queue&, const __nv_bfloat16*, __nv_bfloat16*, int64_t, int64_t);
template void transpose(Queue&, const __half*, __half*, int64_t, int64_t);

}  // namespace rnnk::cuda
