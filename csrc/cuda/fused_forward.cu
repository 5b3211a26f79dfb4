// Purpose: a step of the forward pass in one launch, for batches of 64 rows and more: R4.
// Algorithm: a CTA multiplies a tile of rows of h, which it reads from `out` at the step before (or h0), with the rows of W_hh that are all gates of
// 32 units (128 of a cell of one gate), K through four stages of shared memory by cp.async, mma.sync. Where there are fewer tiles than SMs, the CTAs
// of a cluster share K, and afterwards the tile's rows: each adds up all ranks' sums for its own, by rank. Then R0's cell (forward_step.cuh).
// Threads: 4 or 8 warps, each 32 rows x half of the columns; in the cells one a unit of a row, a warp covers 32 neighbouring units.
// Budget: shared memory 4 stages of (64 or 128 rows + 128 columns) * 80 bytes, 60 or 80 KB, in which the sums lie later. Registers: 64 sums; at
// most 255, with 8 warps 128. No spills.
// Limits: 16-bit types and TF32, no projection, resets, cells wanted, gated state. regime.h selects it. Clusters and dependent launches: sm_90.
#include "cuda/forward_step.cuh"
#include "cuda/fused.h"
#include "cuda/fused_tile.cuh"

namespace rnnk::cuda {

namespace {

template <class T, class C, int row_warps>
using ForwardTile = FusedTile<T, row_warps, C::gates * fused_units<C::gates>>;

// A row's state: `out` at the step before, or h0; null where it does not run.
template <class T>
__device__ const T* state_before(const ForwardArgs<T>& a, const ForwardStep<T>& k, int d, int64_t row) {
  const Shape& s = a.shape;
  const Step& step = k.step[d];
  if (!runs(step.now, a.schedule.lengths, row)) return nullptr;
  return runs(step.before, a.schedule.lengths, row) ? a.out + ((step.before.first + row) * s.D + d) * s.H : a.h0 + (d * s.B + row) * s.H;
}

template <class T, class C, class Tile>
__device__ void run_cells(const ForwardArgs<T>& a, const ForwardStep<T>& k, const Tile& tile, int d) {
  constexpr int units = fused_units<C::gates>;
  const int first_row = Tile::first_row(), u = Tile::template own_unit<units>();
  if (u >= a.shape.H) return;
  const int64_t active = k.step[d].now.active;
  ValueOf<C> biases[C::biases];
  load_biases<C>(a.weights[d], a.shape.H, u, biases);
  tile.template for_rows<units>([&](const int (&rows)[cells_at_once]) {
    CellInputs<C> in[cells_at_once];
#pragma unroll
    for (int i = 0; i < cells_at_once; ++i)
      if (rows[i] >= 0 && runs(k.step[d].now, a.schedule.lengths, first_row + rows[i])) in[i] = load<T, C>(a, k, d, first_row + rows[i], u);
#pragma unroll
    for (int i = 0; i < cells_at_once; ++i) {
      const int64_t row = first_row + rows[i];
      if (rows[i] < 0 || row >= active) continue;
      if (!runs(k.step[d].now, a.schedule.lengths, row)) {
        pad<T, C>(a, k, d, row, u);
        continue;
      }
      tile.read(rows[i], int(threadIdx.x) % units, units, in[i].h);
      run_cell<T, C>(a, k, d, row, u, biases, in[i]);
    }
  });
}

template <class T, class C, int row_warps>
__global__ void __launch_bounds__(64 * row_warps, 2) fused_forward_kernel(const ForwardArgs<T> a, const ForwardStep<T> k, const bool whole) {
  using Tile = ForwardTile<T, C, row_warps>;
  constexpr int units = fused_units<C::gates>;
  const int d = blockIdx.z, H = int(a.shape.H), first_row = Tile::first_row(), first_unit = Tile::first_column_tile() * units;
  const int live = int(k.step[d].now.active) - first_row;
  if (live <= 0) return Tile::wait_for_step_before();
  const auto weights = [&](int column) {
    const int unit = first_unit + column % units;
    return unit < H ? a.weights[d].w_hh + int64_t(column / units * H + unit) * H : nullptr;
  };
  Tile tile(H, whole, a.h0, [&](int row) { return state_before(a, k, d, first_row + row); }, weights);
  tile.multiply(live);
  run_cells<T, C>(a, k, tile, d);
  tile.leave();
}

}  // namespace

template <class T>
void run_fused_step(Queue& queue, const ForwardArgs<T>& args, const ForwardStep<T>& step) {
  const Shape& s = args.shape;
  const bool whole = whole_pieces<T>(s.H, args.weights[0].w_hh, args.weights[1].w_hh, args.out, args.h0);
  const int64_t rows = std::max(step.step[0].now.active, step.step[1].now.active);
  with_cell<FastFloat>(args.cell, [&](auto cell) {
    using C = decltype(cell);
    with_row_warps(s.B, [&](auto row_warps) {
      constexpr int units = fused_units<C::gates>;
      const auto kernel = fused_forward_kernel<T, C, row_warps.value>;
      queue.run(kernel, fused_shape<ForwardTile<T, C, row_warps.value>, T>(s, rows, s.H, units, queue.follows(kernel)), args, step, whole);
    });
  });
}

template void run_fused_step(Queue&, const ForwardArgs<float>&, const ForwardStep<float>&);
template void run_fused_step(Queue&, const ForwardArgs<__nv_bfloat16>&, const ForwardStep<__nv_bfloat16>&);
template void run_fused_step(Queue&, const ForwardArgs<__half>&, const ForwardStep<__half>&);

}  // namespace rnnk::cuda
