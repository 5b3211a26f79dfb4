// What the kernels of R4 share: a tile of left rows (states, or slots) times right rows (of W_hh, or of it transposed), both with K contiguous. The
// CTAs of a cluster, its ranks, have the same tile and each a part of K; then each has a part of the tile's rows and what all ranks summed for it.
#pragma once
#include "cuda/loop.cuh"
#include "cuda/per_device.h"

namespace rnnk::cuda {

// Of a right row, in one dimension of a tile: 32 units with all gates of one, or 128 where there is one.
template <int gates>
constexpr int fused_units = gates == 1 ? 128 : 32;

// Of a thread: their loads are on their way together. More do not fit beside all ranks' sums of an LSTM.
constexpr int cells_at_once = 2;

// Whether K goes by in pieces of 16 bytes: rows that are multiples of it, and aligned.
template <class T, class... Pointers>
bool whole_pieces(int64_t K, Pointers... pointers) {
  return K * sizeof(T) % 16 == 0 && (... && (reinterpret_cast<uintptr_t>(pointers) % 16 == 0));
}

// Words of a fragment, as the tensor cores take them.
template <class T>
__device__ void round_operands(uint32_t (&words)[4]) {
  if constexpr (std::is_same_v<T, float>)
    for (uint32_t& word : words) {
      float x;
      std::memcpy(&x, &word, 4);
      word = ptx::to_tf32(x);
    }
}

// `row_warps` times 32 rows, by two warps of half of the columns each.
template <class T, int row_warps, int columns>
class FusedTile {
  static constexpr int stages = 4, piece = 16 / int(sizeof(T)), tile_k = 4 * piece;
  static constexpr int stride = tile_k + piece;  // an odd number of 16 bytes: ldmatrix meets no bank twice
  static constexpr int octets = columns / 16, sums_stride = columns + 8;
  static_assert(octets % 2 == 0);

 public:
  static constexpr int rows = 32 * row_warps, threads = 64 * row_warps, most_ranks = 8;
  static constexpr size_t stage_bytes = (rows + columns) * stride * sizeof(T);
  static constexpr size_t shared_bytes = stages * stage_bytes > rows * sums_stride * 4 ? stages * stage_bytes : rows * sums_stride * 4;

 private:
  static constexpr int together = threads / 4;  // rows that all threads copy at once, 4 pieces of each
  static constexpr int left_turns = rows / together, right_turns = (columns + together - 1) / together;

  T* const stages_;      // [stages, rows + columns, stride]
  float* const sums_;    // [rows, sums_stride], in the same place, when the stages are done with
  const int K_;
  const bool whole_;
  const T *left_[left_turns], *right_[right_turns];  // rows that this thread copies, or null
  const T* const anywhere_;  // for copies that read nothing

 public:
  const int rank, ranks;

  // left(row), right(column): where they lie, or null where there is none; anywhere: some aligned memory of the card.
  template <class Left, class Right>
  __device__ FusedTile(int K, bool whole, const T* anywhere, const Left& left, const Right& right)
      : stages_(static_cast<T*>(shared_memory())), sums_(static_cast<float*>(shared_memory())), K_(K), whole_(whole), anywhere_(anywhere),
        rank(own_rank()), ranks(cluster_ranks()) {
    for (int i = 0; i < left_turns; ++i) left_[i] = left(copied_row(i));
    for (int i = 0; i < right_turns; ++i) right_[i] = copied_row(i) < columns ? right(copied_row(i)) : nullptr;
  }

  static __device__ int cluster_ranks() {
    if constexpr (ptx::sm90) return int(ptx::cluster_size());
    return 1;
  }
  // Before anything is read that the launch before has written.
  static __device__ void wait_for_step_before() {
    if constexpr (ptx::sm90) {
      ptx::grid_dependency_wait();
      ptx::grid_dependency_launch();  // not before: the grid after this one relies on it that what came before this one has ended
    }
  }

  // Of the rank's tiles of K, of the first `live` rows; W_hh is on its way before the step before has ended. Ends with all ranks' sums to be seen.
  __device__ void multiply(int live) {
    const int k_tiles = (K_ + tile_k - 1) / tile_k, begin = k_tiles * rank / ranks, end = k_tiles * (rank + 1) / ranks;
    float sums[2][octets][4] = {};
    for (int tile = begin; tile < begin + stages - 1; ++tile) fill_right(tile, begin, end);
    wait_for_step_before();
    for (int tile = begin; tile < begin + stages - 1; ++tile) {
      fill_left(tile, begin, end);
      ptx::copy_commit();
    }
    for (int tile = begin; tile < end; ++tile) {
      ptx::copy_wait<stages - 2>();
      __syncthreads();  // also: all have multiplied the tile whose stage is filled now
      fill_left(tile + stages - 1, begin, end);
      fill_right(tile + stages - 1, begin, end);
      ptx::copy_commit();
      if (warp_row() < live) add_products(stage(tile - begin), sums);
    }
    __syncthreads();
    keep(sums);
    meet();
  }

  // Where this CTA's tile lies among the tiles. Computed where it is needed: the product leaves no register free.
  static __device__ int first_row() { return ptx::fresh(int(blockIdx.y)) * rows; }
  static __device__ int first_column_tile() { return ptx::fresh(int(blockIdx.x)) / cluster_ranks(); }
  template <int units>
  static __device__ int own_unit() { return first_column_tile() * units + int(threadIdx.x) % units; }

  // All ranks' sums of `n` columns that lie `distance` apart, by rank.
  template <class V, int n>
  __device__ void read(int row, int column, int distance, V (&to)[n]) const {
    const float* const ours = sums_ + row * sums_stride + column;
    if (ranks == 1) {
      for (int i = 0; i < n; ++i) to[i] = ours[i * distance];
      return;
    }
    float parts[most_ranks][n];  // all on their way before the first is added
#pragma unroll
    for (int r = 0; r < most_ranks; ++r) {
      if (r >= ranks) continue;
      const ptx::ClusterAddress theirs = ptx::cluster_address(ours, unsigned(r));
      for (int i = 0; i < n; ++i) parts[r][i] = ptx::load_cluster(theirs + ptx::ClusterAddress(i * distance * 4));
    }
    for (int i = 0; i < n; ++i) to[i] = 0;
#pragma unroll
    for (int r = 0; r < most_ranks; ++r)
      for (int i = 0; r < ranks && i < n; ++i) to[i] += parts[r][i];
  }
  // After the last read, by all threads: nobody's shared memory ends before.
  __device__ void leave() const {
    if (ranks > 1) meet();
  }

  // f(rows): the rows of this thread's column in the rank's part of the tile, some at once; -1 where there are no more.
  template <int units, class F>
  __device__ void for_rows(const F& f) const {
    constexpr int step = threads / units;
    const int end = rows * (rank + 1) / ranks;
    for (int row = rows * rank / ranks + int(threadIdx.x) / units; row < end; row += cells_at_once * step) {
      int part[cells_at_once];
      for (int i = 0; i < cells_at_once; ++i) part[i] = row + i * step < end ? row + i * step : -1;
      f(part);
    }
  }

 private:
  static __device__ int own_rank() {
    if constexpr (ptx::sm90) return int(ptx::cluster_rank());
    return 0;
  }
  __device__ void meet() const {
    if constexpr (ptx::sm90) {
      if (ranks > 1) return ptx::cluster_arrive(), ptx::cluster_wait();
    }
    __syncthreads();
  }

  static __device__ int warp() { return ptx::fresh(int(threadIdx.x)) / 32; }
  static __device__ int lane() { return ptx::fresh(int(threadIdx.x)) % 32; }
  static __device__ int warp_row() { return warp() % row_warps * 32; }
  static __device__ int warp_column() { return warp() / row_warps * (columns / 2); }
  static __device__ int copied_row(int turn) { return int(threadIdx.x) / 4 + turn * together; }
  __device__ T* stage(int i) const { return stages_ + i % stages * ((rows + columns) * stride); }

  __device__ void fill_left(int tile, int begin, int end) const {
    if (tile < end) fill(stage(tile - begin), left_, rows, tile * tile_k);
  }
  __device__ void fill_right(int tile, int begin, int end) const {
    if (tile < end) fill(stage(tile - begin) + rows * stride, right_, columns, tile * tile_k);
  }
  // Zeros past K and where there is no row.
  template <int turns>
  __device__ void fill(T* to, const T* const (&from)[turns], int count, int k) const {
    const int at = int(threadIdx.x) % 4 * piece;
    k += at;
#pragma unroll
    for (int i = 0; i < turns; ++i) {
      const int row = copied_row(i), left = from[i] ? K_ - k : 0;
      if (row >= count) continue;
      T* const there = to + row * stride + at;
      if (whole_) {
        ptx::copy_async(there, left > 0 ? from[i] + k : anywhere_, left > 0);
      } else {
#pragma unroll 1
        for (int v = 0; v < piece; ++v) there[v] = v < left ? from[i][k + v] : narrow<T>(0);
      }
    }
  }

  __device__ void add_products(const T* stage, float (&sums)[2][octets][4]) const {
    // Of A: the upper and lower 8 rows of the left half of 32 bytes of K, then of the right one. Of B: both halves of an octet, then of the next one.
    const T* const a_at = stage + (warp_row() + lane() % 16) * stride + lane() / 16 * piece;
    const T* const b_at = stage + (rows + warp_column() + lane() / 16 * 8 + lane() % 8) * stride + lane() / 8 % 2 * piece;
#pragma unroll
    for (int k = 0; k < tile_k; k += 2 * piece) {
      uint32_t a[2][4];
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        ptx::load_matrices(a[m], a_at + m * 16 * stride + k);
        round_operands<T>(a[m]);
      }
#pragma unroll
      for (int o = 0; o < octets; o += 2) {
        uint32_t b[4];
        ptx::load_matrices(b, b_at + o * 8 * stride + k);
        round_operands<T>(b);
        const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          ptx::mma<T>(sums[m][o], a[m], first);
          ptx::mma<T>(sums[m][o + 1], a[m], second);
        }
      }
    }
  }

  __device__ void keep(const float (&sums)[2][octets][4]) const {
    float* const to = sums_ + (warp_row() + lane() / 4) * sums_stride + warp_column() + lane() % 4 * 2;
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int o = 0; o < octets; ++o)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          store_units(to + (m * 16 + half * 8) * sums_stride + o * 8, Units<float, 2>{{sums[m][o][2 * half], sums[m][o][2 * half + 1]}}, 2, true);
  }
};

// A tile's grid: the columns' tiles, each of `ranks` CTAs, by the rows' tiles by directions. As many ranks, up to 8, as the card has room for at
// once and K has tiles; the same for all steps of a layer. `follows`: the launch before is another step, which writes nothing that this one reads
// before it waits.
template <class Tile, class T>
LaunchShape fused_shape(const Shape& s, int64_t rows, int64_t K, int units, bool follows) {
  const auto tiles = [](int64_t n, int64_t of) { return (n + of - 1) / of; };
  const int64_t across = tiles(s.H, units), all = across * tiles(s.B, Tile::rows) * s.D, k_tiles = tiles(K * int(sizeof(T)), 64);
  int ranks = 1;
  while (is_sm90() && ranks < Tile::most_ranks && 2 * ranks <= k_tiles && 2 * ranks * all <= multiprocessors()) ranks *= 2;
  return {dim3(unsigned(across * ranks), unsigned(tiles(rows, Tile::rows)), unsigned(s.D)), dim3(Tile::threads), Tile::shared_bytes, ranks, false,
          follows && is_sm90()};
}

// Calls f(row_warps) of the tile for B rows, each warp 32 of them.
template <class F>
void with_row_warps(int64_t B, const F& f) {
  fused_tile_rows(B) == 64 ? f(std::integral_constant<int, 2>{}) : f(std::integral_constant<int, 4>{});
}

}  // namespace rnnk::cuda
