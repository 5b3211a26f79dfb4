// What the kernels of R3 share: the CTAs of a team, its ranks, each have `units` neighbouring units, and all of them the same tiles of 8 rows of a
// direction. A step of a tile: wait for a message, multiply, run the cells, send the next message.
#pragma once
#include "cuda/loop.cuh"
#include "cuda/with_kernel.h"

namespace rnnk::cuda {

// A CTA of a team, and its part of a matrix: `gates` rows for each of its units, against a message of `parts` values for each unit of the layer.
//
// K goes in blocks of 64 bytes: the values of some units for one part, 8 rows of them, 16 bytes a lane, which are its B fragments of two tiles of K.
// Each warp has the same number of neighbouring blocks, all rows of the matrix, and waits for those ranks only whose units its blocks have.
template <class T, class Tiles, int gates, int parts>
class Team {
  static constexpr int tiles = (gates * Tiles::units + 15) / 16, k_tiles = parts * Tiles::k_tiles / grid_warps, kept = Tiles::registers / 4 / tiles;
  using WeightTiles = Fragments<T, Tiles, tiles, k_tiles, (k_tiles > kept ? k_tiles - kept : 0)>;
  static constexpr int block_units = 64 / sizeof(T), block_size = block_units * tile_rows;
  // A row of sums: 8 columns, and one more for the banks' sake, for they are read by columns.
  static constexpr int sums_stride = tile_rows + 1, sums_size = tiles * 16 * sums_stride;
  static constexpr int cells = Tiles::units * tile_rows;  // of the CTA, one a thread

  const Mail& mail_;

 public:
  const int rank = int(blockIdx.x) % mail_.plan.ranks, team = int(blockIdx.x) / mail_.plan.ranks, direction = mail_.direction + int(blockIdx.y);
  const bool has_cell = int(threadIdx.x) < cells;

 private:
  const int H_;
  char* const messages_;   // [2 tiles, 2, message_bytes]
  uint32_t* const flags_;  // [2 tiles, ranks]
  float* const sums_;      // [warps, sums_size]
  int block_, blocks_;             // of this warp
  int first_rank_, last_rank_;     // whom it waits for
  WeightTiles weights_;

  static constexpr size_t sums_bytes = grid_warps * sums_size * sizeof(float);
  static_assert(sums_bytes % 16 == 0 && cells % 32 == 0 && cells <= grid_warps * 32 && block_units % WeightTiles::values == 0);

 public:
  static constexpr int threads = grid_warps * 32;
  static constexpr size_t shared_bytes = sums_bytes + WeightTiles::shared_bytes_of_thread * threads;

  __device__ Team(const Mail& mail, const Shape& s, char* shared)
      : mail_(mail), H_(int(s.H)), messages_(mail.messages + box() * 2 * int64_t(mail.message_bytes)), flags_(mail.flags + box() * mail.plan.ranks),
        sums_(reinterpret_cast<float*>(shared)), weights_(reinterpret_cast<uint4*>(shared + sums_bytes)) {
    const int all = (H_ + block_units - 1) / block_units * parts, each = (all + grid_warps - 1) / grid_warps;
    block_ = int(threadIdx.x) / 32 * each;
    blocks_ = all - block_ < each ? all - block_ : each;
    const int end = ((block_ + blocks_ - 1) / parts + 1) * block_units;
    first_rank_ = block_ / parts * block_units / Tiles::units;
    last_rank_ = blocks_ > 0 ? ((end < H_ ? end : H_) - 1) / Tiles::units : -1;
  }

  // Of the thread's cell, in a tile of the batch.
  __device__ Place place(int tile) const {
    const int column = int(threadIdx.x) / Tiles::units;
    return {column, tile * tile_rows + column, rank * Tiles::units + int(threadIdx.x) % Tiles::units, direction};
  }

  // word(gate, unit, part, from): the values of the matrix in the row of a gate of one of our units, for units from `from` on. Both may lie beyond H.
  template <int burst, class F>
  __device__ void load_weights(const F& word) {
    weights_.template load<burst>([&](int octet, int tile, int i) {
      constexpr int half = WeightTiles::tile_values / 2;
      const int row = octet * 8 + int(threadIdx.x) % 32 / 4, block = block_ + tile / 2;
      const int at = i % half * 4 + (tile % 2 * 2 + i / half) * WeightTiles::values;  // a lane's fragments are 16 neighbouring bytes of a message
      const bool there = row < gates * Tiles::units && tile / 2 < blocks_;
      return word(row / Tiles::units, there ? rank * Tiles::units + row % Tiles::units : H_, block % parts, block / parts * block_units + at);
    });
  }

  // Where message n of a tile has the thread's cell: each of its parts `part_stride` values apart.
  static constexpr int part_stride = block_size;
  __device__ T* own_values(int tile, uint32_t n, const Place& own) const {
    return message(tile, n) + own.unit / block_units * parts * block_size + own.column * block_units + own.unit % block_units;
  }

  // All threads, when they have written what is theirs, and have read what they need of the sums. The place of message n is free: each rank
  // had read n - 2 when it sent n - 1, which all of our warps together have waited for, from every rank, before the barrier in multiply().
  __device__ void send(int tile, uint32_t n) const {
    __syncthreads();
    if (threadIdx.x == 0) ptx::store_release(flags_ + tile * mail_.plan.ranks + rank, n + 1);
  }

  // All threads: afterwards each may read the sums.
  __device__ void multiply(int tile, uint32_t n) {
    const int lane = int(threadIdx.x) % 32;
    for (int from = first_rank_ + lane; from <= last_rank_; from += 32) ptx::wait_at_least(flags_ + tile * mail_.plan.ranks + from, n + 1);
    __syncwarp();
    float sums[tiles][4];
    multiply_message(reinterpret_cast<const uint4*>(message(tile, n) + block_ * block_size) + lane, sums);
    float* to = sums_ + int(threadIdx.x) / 32 * sums_size + lane / 4 * sums_stride + lane % 4 * 2;
#pragma unroll
    for (int t = 0; t < tiles; ++t)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float* at = to + (t * 16 + half * 8) * sums_stride;
        at[0] = sums[t][2 * half], at[1] = sums[t][2 * half + 1];
      }
    __syncthreads();
  }

  // Of a row of the thread's unit and its column of the message.
  __device__ float product(int gate, const Place& own) const {
    const float* from = sums_ + (gate * Tiles::units + int(threadIdx.x) % Tiles::units) * sums_stride + own.column;
    float sum = 0;
#pragma unroll
    for (int warp = 0; warp < grid_warps; ++warp) sum += from[warp * sums_size];
    return sum;
  }

  // The tiles of rows that the team has in a round: none, one or two. Of them the second one lies `teams` tiles further.
  __device__ int first_tile(int round) const { return 2 * round * mail_.plan.teams + team; }
  __device__ int tiles_of(int round, int B) const {
    const int left = (B + tile_rows - 1) / tile_rows - first_tile(round);
    return left <= 0 ? 0 : left <= mail_.plan.teams ? 1 : 2;
  }
  __device__ Place place(int round, int tile) const { return place(first_tile(round) + tile * mail_.plan.teams); }

 private:
  __device__ int64_t box() const { return (int64_t(direction) * mail_.plan.teams + team) * 2; }
  __device__ T* message(int tile, uint32_t n) const {
    return reinterpret_cast<T*>(messages_ + (tile * 2 + int(n % 2)) * int64_t(mail_.message_bytes));
  }

  // Some loads ahead of the products, for the way to the L2 is long; not more, for each takes 4 registers.
  __device__ void multiply_message(const uint4* from, float (&sums)[tiles][4]) const {
    constexpr int most = k_tiles / 2, ahead = most < 4 ? most : 4;
    uint4 ring[ahead];
#pragma unroll
    for (int i = 0; i < ahead; ++i)
      if (i < blocks_) ring[i] = ptx::load_relaxed(from + i * 32);
    weights_.multiply_pairs(
        [&](int k, uint32_t(&b)[4]) {
          const int i = k / 2;
          if (i >= blocks_) return false;
          const uint4 w = ring[i % ahead];
          b[0] = w.x, b[1] = w.y, b[2] = w.z, b[3] = w.w;
          if (i + ahead < most && i + ahead < blocks_) ring[i % ahead] = ptx::load_relaxed(from + (i + ahead) * 32);
          return true;
        },
        sums);
  }
};

// The launches of a chunk: both directions in one, where there is room.
template <template <class, class, class> class Kernel, class T, bool backward, class Args, class Loop>
void run_grid(Queue& queue, const Args& args, const Loop& loop, Mail mail) {
  with_cell_and_tiling<GridTilings, T, backward>(Problem(args), [&](auto cell, auto tiling) {
    using K = Kernel<T, decltype(cell), decltype(tiling)>;
    const GridPlan& plan = mail.plan;
    const LaunchShape shape{dim3(unsigned(plan.ranks * plan.teams), unsigned(plan.directions)), K::block, K::shared_bytes, 1, true};
    for (mail.direction = 0; mail.direction < args.shape.D; mail.direction += plan.directions) queue.run(K::function, shape, args, loop, mail);
  });
}

template <template <class, class, class> class Kernel, bool backward>
Teams teams(const Problem& p) {
  Teams result{};
  with_kernel<GridTilings, backward>(p, [&](auto zero, auto c, auto tiling) {
    using Tiles = decltype(tiling);
    using K = Kernel<decltype(zero), decltype(c), Tiles>;
    static PerDevice known;
    const int room = known([](int) { return resident_blocks(K::function, {dim3(1), K::block, K::shared_bytes, 1, true}); });
    result.ranks = p.shape.H > 0 ? int((p.shape.H + Tiles::units - 1) / Tiles::units) : 1;
    result.units = Tiles::units;
    result.count = room / result.ranks;
  });
  return result;
}

}  // namespace rnnk::cuda
