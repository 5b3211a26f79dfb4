// What the kernels of R1, R2 and R3 share: 8 rows of the batch of one direction go through all steps of a chunk, W_hh stays where it
// is. Who computes which cells, a Place, is the regime's; what happens to them, ForwardCells' and BackwardCells'.
#pragma once
#include <cstring>

#include "cuda/cells.h"
#include "cuda/loop.h"
#include "cuda/ptx.cuh"
#include "cuda/tilings.h"

namespace rnnk::cuda {

constexpr int tile_rows = 8;

// The cells of a thread: some neighbouring rows and some neighbouring units from these on.
struct Place {
  int column;     // of its first row, in the tile
  int row, unit;  // the first ones
  int direction;
};

// padded_units() on the device.
__device__ inline int padded(int H) { return (H + int(unit_padding) - 1) / int(unit_padding) * int(unit_padding); }

// n neighbouring values, read and written as one where `whole` says that neither the end of a row nor alignment forbids it.
template <class V, int n>
struct alignas(sizeof(V) * n) Units {
  V at[n];
};
template <int n, class V>
__device__ Units<V, n> load_units(const V* from, int left, bool whole) {
  Units<V, n> to{};
  if (n == 1 || whole) {
    if (left > 0) to = *reinterpret_cast<const Units<V, n>*>(from);
  } else {
    for (int o = 0; o < n; ++o)
      if (o < left) to.at[o] = from[o];
  }
  return to;
}
template <int n, class V>
__device__ void store_units(V* to, const Units<V, n>& from, int left, bool whole) {
  if (n == 1 || whole) {
    if (left > 0) *reinterpret_cast<Units<V, n>*>(to) = from;
  } else {
    for (int o = 0; o < n; ++o)
      if (o < left) to[o] = from.at[o];
  }
}
template <int n, class V>
__device__ bool aligned(const V* p) { return reinterpret_cast<uintptr_t>(p) % (sizeof(V) * n) == 0; }

// When the rows of a direction run. Times, rows, units and tokens are int in these kernels: registers are what they have least of.
struct Calendar {
  const int64_t *first, *lengths;
  int B, T, d;

  __device__ int time(int step) const { return d ? T - 1 - step : step; }
  // Of row 0.
  __device__ int token(int step) const { return first ? int(first[time(step)]) : time(step) * B; }
  // A row runs at times before this. Packed: the number of times with more tokens than `row`.
  __device__ int end(int row) const {
    if (row >= B) return 0;
    if (!first) return lengths && lengths[row] < T ? int(lengths[row] < 0 ? 0 : lengths[row]) : T;
    int low = 0, high = T;
    while (low < high) {
      const int middle = (low + high) / 2;
      if (first[middle + 1] - first[middle] > row) low = middle + 1;
      else high = middle;
    }
    return low;
  }
};

// As the products of a tiling take a value.
template <class Tiles, class T>
__device__ T operand(T x) {
  if constexpr (std::is_same_v<T, float> && !Tiles::tf32x3) {
    const uint32_t bits = ptx::to_tf32(x);
    std::memcpy(&x, &bits, 4);
  }
  return x;
}

// The words of a fragment, float32, as sums: of what TF32 has room for, cut off, and of what that leaves, of which the tensor cores cut off the last
// two bits.
template <int n>
struct Split {
  uint32_t high[n], low[n];

  __device__ explicit Split(const uint32_t (&words)[n]) {
#pragma unroll
    for (int i = 0; i < n; ++i) {
      high[i] = words[i] & 0xffffe000;
      float x, h;
      std::memcpy(&x, &words[i], 4), std::memcpy(&h, &high[i], 4);
      x -= h;
      std::memcpy(&low[i], &x, 4);
    }
  }
};

// A matrix of 16 * tiles rows a warp, as A fragments, and its product with 8 rows of k_tiles * 32 bytes. The
// fragments lie in registers, those of the last `shared_k_tiles` of K in shared memory, in the order in which lanes take them.
template <class T, class Tiles, int tiles, int k_tiles, int shared_k_tiles = 0>
class Fragments {
  static_assert(k_tiles % 2 == 0);
  static constexpr int kept = k_tiles - shared_k_tiles;
  // Tensor cores cut sums off instead of rounding them. 3xTF32 lets them add up so many tiles of K, and float32 the rest (Ootomo and Yokota 2022,
  // arXiv:2203.03341); with half as many the compiler has more under way than it has registers for.
  static constexpr int tiles_together = 14;
  uint32_t a_[tiles][kept][4];
  uint4* const shared_;  // [warps, shared_k_tiles, tiles, 32]

 public:
  static constexpr int values = 4 / sizeof(T), tile_values = 32 / sizeof(T);
  // Of a row in shared memory, in values: an odd number of 16 bytes, so that 8 rows lie in different banks.
  static constexpr int stride = k_tiles * tile_values + 16 / int(sizeof(T));
  static constexpr size_t shared_bytes_of_thread = shared_k_tiles * tiles * sizeof(uint4);

  __device__ explicit Fragments(uint4* shared = nullptr) : shared_(shared) {}

  // word(octet, k, i): the values from i on of tile k of this lane's row, lane / 4, of the octet of rows.
  // The barriers, for all threads of the block, bound how many loads are on their way, `burst` tiles: the compiler would spill to have more.
  template <int burst, class F>
  __device__ void load(const F& word) {
    const int i = threadIdx.x % 4;
#pragma unroll
    for (int k = 0; k < k_tiles; ++k) {
#pragma unroll
      for (int t = 0; t < tiles; ++t) {
        uint32_t a[4];
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          Units<T, values> w = word(2 * t + r % 2, k, r / 2 * tile_values / 2 + i * values);
          for (T& x : w.at) x = operand<Tiles>(x);
          std::memcpy(&a[r], &w, 4);
        }
        if (k < kept) std::memcpy(a_[t][k < kept ? k : 0], a, 16);
        else *shared(k, t) = make_uint4(a[0], a[1], a[2], a[3]);
        if ((k * tiles + t) % burst == burst - 1) __syncthreads();
      }
    }
  }

  // With rows in shared memory, `stride` values apart.
  __device__ void multiply(const T* rows, float (&sums)[tiles][4]) const {
    const int lane = threadIdx.x % 32;
    const T* at = rows + lane % 8 * stride + lane / 8 * (tile_values / 2);
    multiply_pairs([&](int k, uint32_t(&b)[4]) { return ptx::load_matrices(b, at + k * tile_values), true; }, sums);
  }

  // pair(k, b): the B fragments of tiles k and k + 1; false where there are no more of them.
  // An mma waits for the one before it on the same sums: a warp with few tiles takes turns between several.
  template <class F>
  __device__ void multiply_pairs(const F& pair, float (&sums)[tiles][4]) const {
    constexpr int wanted = tiles < 4 ? 4 / tiles : 1, chains = Tiles::tf32x3 ? (tiles < 2 ? 3 : 2) : wanted < k_tiles ? wanted : k_tiles;
    float parts[chains][tiles][4] = {};
    const auto add = [&](int k, uint32_t low, uint32_t high) {
      const uint32_t b[2] = {low, high};
#pragma unroll
      for (int t = 0; t < tiles; ++t) {
        uint32_t a[4];
        if (k < kept) {
          for (int r = 0; r < 4; ++r) a[r] = a_[t][k < kept ? k : 0][r];
        } else {
          const uint4 w = *shared(k, t);
          a[0] = w.x, a[1] = w.y, a[2] = w.z, a[3] = w.w;
        }
        if constexpr (Tiles::tf32x3) add_split(a, b, parts[0][t], parts[1][t], parts[chains - 1][t]);
        else ptx::mma<T>(parts[k % chains][t], a, b);
      }
    };
    const auto for_sums = [&](const auto& f) {
#pragma unroll
      for (int t = 0; t < tiles; ++t)
#pragma unroll
        for (int r = 0; r < 4; ++r) f(t, r);
    };
    if (Tiles::tf32x3) for_sums([&](int t, int r) { sums[t][r] = 0; });
#pragma unroll
    for (int k = 0; k < k_tiles; k += 2) {
      uint32_t b[4];
      if (!pair(k, b)) break;
      add(k, b[0], b[1]);
      add(k + 1, b[2], b[3]);
      if (Tiles::tf32x3 && (k + 2) % tiles_together == 0) for_sums([&](int t, int r) { sums[t][r] += parts[0][t][r], parts[0][t][r] = 0; });
    }
    for_sums([&](int t, int r) {
      sums[t][r] = Tiles::tf32x3 ? sums[t][r] + parts[0][t][r] : parts[0][t][r];
      for (int chain = 1; chain < chains; ++chain) sums[t][r] += parts[chain][t][r];
    });
  }

 private:
  // 3xTF32. What is left out, the product of both lows, is some 2^-22 of a product.
  __device__ static void add_split(uint32_t (&a_words)[4], const uint32_t (&b_words)[2], float (&high)[4], float (&low_high)[4],
                                   float (&high_low)[4]) {
    for (uint32_t& word : a_words) word = ptx::fresh(word);  // or both parts of every weight would be kept from step to step
    const Split<4> a(a_words);
    const Split<2> b(b_words);
    ptx::mma<T>(low_high, a.low, b.high);
    ptx::mma<T>(high_low, a.high, b.low);
    ptx::mma<T>(high, a.high, b.high);
  }

  // A constant distance apart, or the compiler would keep an address for each.
  __device__ uint4* shared(int k, int t) const {
    return shared_ + int(threadIdx.x) / 32 * (shared_k_tiles * tiles * 32) + ((k - kept) * tiles + t) * 32 + int(threadIdx.x) % 32;
  }
};

// Zero before the first barrier: units past H stay so.
template <class T>
__device__ void clear_shared(T* memory, int count) {
  for (int i = threadIdx.x; i < count; i += blockDim.x) memory[i] = narrow<T>(0);
}

}  // namespace rnnk::cuda
