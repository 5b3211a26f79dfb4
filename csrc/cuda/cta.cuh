// What the kernels of R1 share: a CTA has 8 rows of the batch of one direction (blockIdx.x, blockIdx.y), a warp `octets` times 8 units, and a
// thread `octets` neighbouring ones of them in two neighbouring rows: those that the accumulators of its lane belong to.
#pragma once
#include "cuda/loop.cuh"
#include "cuda/with_kernel.h"

namespace rnnk::cuda {

template <int octets>
__device__ Place own_place() {
  const int column = int(threadIdx.x) % 4 * 2;
  return {column, int(blockIdx.x) * tile_rows + column, int(threadIdx.x) / 4 * octets, int(blockIdx.y)};
}

template <class T, class Tiles>
LaunchShape cta_shape(const Shape& s, size_t shared_bytes) {
  constexpr int units = 8 * Tiles::octets;
  static_assert(units_of<T, Tiles> % units == 0);
  return {dim3(unsigned((s.B + tile_rows - 1) / tile_rows), unsigned(s.D)), dim3(unsigned((s.H + units - 1) / units * 32)), shared_bytes};
}

template <template <class, class, class> class Kernel, class T, bool backward, class Args, class Loop>
void run_cta(Queue& queue, const Args& args, const Loop& loop) {
  with_cell_and_tiling<CtaTilings, T, backward>(Problem(args), [&](auto cell, auto tiling) {
    using Tiles = decltype(tiling);
    using K = Kernel<T, decltype(cell), Tiles>;
    queue.run(K::function, cta_shape<T, Tiles>(args.shape, K::shared_bytes), args, loop);
  });
}

}  // namespace rnnk::cuda
