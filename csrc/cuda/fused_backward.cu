// Purpose: a step of backpropagation through time in one launch, for batches of 64 rows and more: R4.
// Algorithm: what comes back to a tile of rows and 128 units is the product of the step after's slots with W_hh, transposed once a call so that K,
// all gates of all units, is contiguous in both: the tile, stages and clusters of fused_forward.cu. Then R0's vjp (backward_step.cuh), which writes
// the step's slots, and d_h0 of rows that have ended. The first step of a chunk, whose step after lies in another chunk, is R0's.
// Threads: 4 or 8 warps, each 32 rows x 64 units; in the cells one a unit of a row, a warp covers 32 neighbouring units.
// Budget: as fused_forward.cu.
// Limits: 16-bit types and TF32, no projection, resets, d_c_out, gated state. regime.h selects it. Clusters and dependent launches: sm_90.
#include "cuda/backward_step.cuh"
#include "cuda/fused.h"
#include "cuda/fused_tile.cuh"

namespace rnnk::cuda {

namespace {

constexpr int units = fused_units<1>;
template <class T, int row_warps>
using BackwardTile = FusedTile<T, row_warps, units>;

template <class T>
struct FusedBackward : BackwardStep<T> {
  const T* w_hh;        // [D, H, G * H]
  int64_t slot_row[2];  // of the step after's first row in `tokens`
  bool whole;
};

template <class T, class C, class Tile>
__device__ void run_cells(const BackwardArgs<T>& a, const BackwardStep<T>& k, const Tile& tile, int d) {
  const int first_row = Tile::first_row(), u = Tile::template own_unit<units>();
  if (u >= a.shape.H) return;
  const Step& step = k.step[d];
  tile.template for_rows<units>([&](const int (&rows)[cells_at_once]) {
    VjpInputs<C> in[cells_at_once];
#pragma unroll
    for (int i = 0; i < cells_at_once; ++i)
      if (rows[i] >= 0 && runs(step.now, a.schedule.lengths, first_row + rows[i])) in[i] = load<T, C>(a, k, d, first_row + rows[i], u);
#pragma unroll
    for (int i = 0; i < cells_at_once; ++i) {
      const int64_t row = first_row + rows[i];
      if (rows[i] < 0 || row >= step.rows(true)) continue;
      float d_h[1];
      tile.read(rows[i], int(threadIdx.x) % units, 1, d_h);
      if (runs(step.now, a.schedule.lengths, row)) {
        in[i].d_h = d_state(a, k, d, row, u, d_h[0]);
        run_vjp<T, C>(a, k, d, row, u, in[i]);
        continue;
      }
      if (row < step.now.active) pad<T, C>(k, d, row, a.shape.H, u);
      finish_state<C::blends_state>(a, k, d, row, u, d_h[0]);
    }
  });
}

template <class T, class C, int row_warps>
__global__ void __launch_bounds__(64 * row_warps, 2) fused_backward_kernel(const BackwardArgs<T> a, const FusedBackward<T> k) {
  using Tile = BackwardTile<T, row_warps>;
  const int d = blockIdx.z, H = int(a.shape.H), columns = C::gates * H;
  const int first_row = Tile::first_row(), first_unit = Tile::first_column_tile() * units, live = int(k.step[d].rows(true)) - first_row;
  if (live <= 0) return Tile::wait_for_step_before();
  const auto slots = [&](int row) {
    const bool ran = runs(k.step[d].after, a.schedule.lengths, first_row + row);
    return ran ? k.tokens.hidden_slots + (k.slot_row[d] + first_row + row) * columns : nullptr;
  };
  const auto weights = [&](int column) { return first_unit + column < H ? k.w_hh + int64_t(d * H + first_unit + column) * columns : nullptr; };
  Tile tile(columns, k.whole, k.w_hh, slots, weights);
  tile.multiply(live);
  run_cells<T, C>(a, k, tile, d);
  tile.leave();
}

}  // namespace

template <class T>
void run_fused_step(Queue& queue, const BackwardArgs<T>& args, const BackwardStep<T>& step, const T* w_hh, const int64_t (&slot_row)[2]) {
  const Shape& s = args.shape;
  const int64_t rows = std::max(step.step[0].rows(true), step.step[1].rows(true));
  with_cell<FastFloat>(args.cell, [&](auto cell) {
    using C = decltype(cell);
    const int64_t columns = C::gates * s.H;
    const FusedBackward<T> k{step, w_hh, {slot_row[0], slot_row[1]}, whole_pieces<T>(columns, step.tokens.hidden_slots, w_hh)};
    with_row_warps(s.B, [&](auto row_warps) {
      const auto kernel = fused_backward_kernel<T, C, row_warps.value>;
      queue.run(kernel, fused_shape<BackwardTile<T, row_warps.value>, T>(s, rows, columns, units, queue.follows(kernel)), args, k);
    });
  });
}

template void run_fused_step(Queue&, const BackwardArgs<float>&, const BackwardStep<float>&, const float*, const int64_t (&)[2]);
template void run_fused_step(Queue&, const BackwardArgs<__nv_bfloat16>&, const BackwardStep<__nv_bfloat16>&, const __nv_bfloat16*,
                             const int64_t (&)[2]);
template void run_fused_step(Queue&, const BackwardArgs<__half>&, const BackwardStep<__half>&, const __half*, const int64_t (&)[2]);

}  // namespace rnnk::cuda
