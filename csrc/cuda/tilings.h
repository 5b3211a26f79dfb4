// The template parameters of R1, R2 and R3: for each cell and width of type a few tilings, by rising H. The last one is the capacity, set by
// registers (R2, R3: and shared memory): a thread may have at most 255 of them with up to 8 warps, 168 with up to 12, and `nvcc -Xptxas -v` must
// show no spills.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace rnnk::cuda {

// R1. H is padded to `k_tiles` tiles of 32 bytes; a warp owns `octets` times 8 units.
template <int k_tiles_, int octets_>
struct CtaTiling {
  static constexpr int k_tiles = k_tiles_, octets = octets_;
  static constexpr bool tf32x3 = false;
};
template <class T, class Tiles>
constexpr int units_of = Tiles::k_tiles * 32 / int(sizeof(T));
template <class T, class Tiles>
constexpr int most_threads = units_of<T, Tiles> / (8 * Tiles::octets) * 32;

// R2. H is padded to `k_tiles` tiles of 32 bytes; a CTA owns at most `units`. Of W_hh a thread keeps `registers` words, the rest of a
// CTA's part lies in shared memory.
template <int k_tiles_, int units_, int registers_>
struct SplitTiling {
  static constexpr int k_tiles = k_tiles_, units = units_, registers = registers_;
  static constexpr bool tf32x3 = false;
};
template <class T, class Tiles>
constexpr int most_ranks = units_of<T, Tiles> / Tiles::units;
// A warp's 16 rows of W_hh are 4 gates of 4 units, the GRU's last one zero, or the one gate of 16 units.
template <int gates>
constexpr int warp_units = gates == 1 ? 16 : 4;
template <int gates, class Tiles>
constexpr int most_cluster_threads = Tiles::units / warp_units<gates> * 32;

template <class... Tiles>
struct TilingList {};

// How products take their factors: as they are, of 16 bits; a float32 rounded to TF32; or a float32 that may not become TF32, by three products of
// TF32 (Fragments, loop.cuh).
enum class Factors { bits16, tf32, tf32x3 };
template <class Tiles>
struct Tf32x3 : Tiles {
  static constexpr bool tf32x3 = true;
};

// By the number of gates. The numbers of warps at full H stand behind.
template <int gates, Factors factors>
struct CtaTilings;
template <>
struct CtaTilings<4, Factors::bits16> {
  using Forward = TilingList<CtaTiling<2, 1>, CtaTiling<4, 1>, CtaTiling<8, 2>>;   // 4, 8, 8
  using Backward = TilingList<CtaTiling<2, 2>, CtaTiling<4, 2>, CtaTiling<8, 2>>;  // 2, 4, 8
};
template <>
struct CtaTilings<3, Factors::bits16> {
  using Forward = TilingList<CtaTiling<2, 2>, CtaTiling<4, 2>, CtaTiling<8, 2>>;  // 2, 4, 8
  using Backward = Forward;
};
template <>
struct CtaTilings<1, Factors::bits16> {
  using Forward = TilingList<CtaTiling<4, 2>, CtaTiling<8, 2>, CtaTiling<16, 4>>;  // 4, 8, 8
  using Backward = Forward;
};
template <>
struct CtaTilings<4, Factors::tf32> {
  using Forward = TilingList<CtaTiling<4, 1>, CtaTiling<8, 1>, CtaTiling<10, 1>>;  // 4, 8, 10
  using Backward = TilingList<CtaTiling<4, 2>, CtaTiling<8, 2>>;                // 2, 4
};
template <>
struct CtaTilings<3, Factors::tf32> {
  using Forward = TilingList<CtaTiling<4, 2>, CtaTiling<8, 2>, CtaTiling<12, 2>>;  // 2, 4, 6
  using Backward = Forward;
};
template <>
struct CtaTilings<1, Factors::tf32> {
  using Forward = TilingList<CtaTiling<8, 2>, CtaTiling<16, 2>, CtaTiling<24, 2>>;  // 4, 8, 12
  using Backward = Forward;
};
template <>
struct CtaTilings<4, Factors::tf32x3> {
  using Forward = TilingList<Tf32x3<CtaTiling<4, 1>>, Tf32x3<CtaTiling<8, 1>>, Tf32x3<CtaTiling<10, 1>>>;  // 4, 8, 10
  using Backward = TilingList<Tf32x3<CtaTiling<4, 2>>, Tf32x3<CtaTiling<6, 2>>>;                           // 2, 3
};
template <>
struct CtaTilings<3, Factors::tf32x3> {
  using Forward = TilingList<Tf32x3<CtaTiling<4, 2>>, Tf32x3<CtaTiling<8, 2>>, Tf32x3<CtaTiling<12, 2>>>;  // 2, 4, 6
  using Backward = TilingList<Tf32x3<CtaTiling<4, 2>>, Tf32x3<CtaTiling<6, 2>>>;                           // 2, 3
};
template <>
struct CtaTilings<1, Factors::tf32x3> {
  using Forward = TilingList<Tf32x3<CtaTiling<8, 2>>, Tf32x3<CtaTiling<16, 2>>>;  // 4, 8
  using Backward = Forward;
};

// Likewise. The numbers of warps and the largest ones of ranks stand behind.
template <int gates, Factors factors>
struct ClusterTilings;
template <Factors factors>
struct ClusterTilings<3, factors> : ClusterTilings<4, factors> {};
template <>
struct ClusterTilings<4, Factors::bits16> {
  using Forward = TilingList<SplitTiling<16, 32, 128>, SplitTiling<32, 32, 128>, SplitTiling<48, 48, 64>>;  // 8, 8, 12; 8, 16, 16
  using Backward = TilingList<SplitTiling<16, 32, 128>, SplitTiling<32, 32, 80>>;                             // 8; 8, 16
};
template <>
struct ClusterTilings<4, Factors::tf32> {
  using Forward = TilingList<SplitTiling<16, 32, 128>, SplitTiling<32, 32, 128>, SplitTiling<64, 32, 128>>;  // 8; 4, 8, 16
  using Backward = Forward;
};
template <>
struct ClusterTilings<4, Factors::tf32x3> {
  using Forward = TilingList<Tf32x3<SplitTiling<16, 32, 128>>, Tf32x3<SplitTiling<32, 32, 128>>, Tf32x3<SplitTiling<64, 32, 96>>>;  // the same
  using Backward = TilingList<Tf32x3<SplitTiling<16, 32, 128>>, Tf32x3<SplitTiling<32, 32, 96>>, Tf32x3<SplitTiling<64, 32, 80>>>;
};
template <Factors factors>
struct ClusterTilings<1, factors> {
  using Forward = TilingList<SplitTiling<32, 64, 128>, SplitTiling<64, 64, 128>>;  // 4; 8, 16, of 4 bytes 4, 8
  using Backward = TilingList<SplitTiling<32, 64, 128>, SplitTiling<64, 64, factors == Factors::bits16 ? 32 : 64>>;
};
template <>
struct ClusterTilings<1, Factors::tf32x3> {
  using Forward = TilingList<Tf32x3<SplitTiling<32, 64, 64>>, Tf32x3<SplitTiling<64, 64, 32>>>;
  using Backward = Forward;
};

// R3, in the same words: a CTA owns `units`, and each of its 8 warps has an 8th of the tiles of K. The largest numbers of ranks stand behind.
constexpr int grid_warps = 8;
template <int gates, Factors factors>
struct GridTilings {
  using Forward = TilingList<SplitTiling<64, 16, 128>, SplitTiling<128, 16, (factors == Factors::bits16 ? 128 : 112)>>;  // 64, 128; of 4 bytes 32, 64
  using Backward = TilingList<SplitTiling<64, 16, 96>, SplitTiling<128, 16, 100>>;
};
template <Factors factors>
struct GridTilings<1, factors> {
  using Forward = TilingList<SplitTiling<128, 32, 128>>;  // 64; of 4 bytes 32
  using Backward = TilingList<SplitTiling<128, 32, 104>>;
};
template <>
struct GridTilings<4, Factors::tf32x3> {
  using Forward = TilingList<Tf32x3<SplitTiling<64, 16, 112>>, Tf32x3<SplitTiling<128, 16, 84>>>;
  using Backward = TilingList<Tf32x3<SplitTiling<64, 16, 96>>, Tf32x3<SplitTiling<128, 16, 100>>>;
};
template <>
struct GridTilings<3, Factors::tf32x3> {
  using Forward = TilingList<Tf32x3<SplitTiling<64, 16, 112>>, Tf32x3<SplitTiling<96, 16, 84>>>;  // 32, 48
  using Backward = GridTilings<4, Factors::tf32x3>::Backward;
};
template <>
struct GridTilings<1, Factors::tf32x3> {
  using Forward = TilingList<Tf32x3<SplitTiling<128, 32, 112>>>;
  using Backward = TilingList<Tf32x3<SplitTiling<128, 32, 104>>>;
};

// R4. A tile has 64 rows of the batch, or, where there are more, 128.
constexpr int64_t fused_tile_rows(int64_t B) { return B <= 64 ? 64 : 128; }

// The largest H.
template <class T, class... Tiles>
constexpr int64_t capacity(TilingList<Tiles...>) {
  int64_t most = 0;
  ((most = units_of<T, Tiles>), ...);
  return most;
}

// Calls f(Tiling{}) with the first that takes H units.
template <class T, class... Tiles, class F>
void with_tiling(TilingList<Tiles...>, int64_t H, const F& f) {
  bool found = false;
  ((!found && H <= units_of<T, Tiles> ? (found = true, f(Tiles{})) : void()), ...);
}

// Calls f with the Factors of products in T, a constant; `tf32` is whether float may become TF32.
template <class T, class F>
auto with_factors(bool tf32, const F& f) {
  if constexpr (sizeof(T) == 2) return f(std::integral_constant<Factors, Factors::bits16>{});
  else if (tf32) return f(std::integral_constant<Factors, Factors::tf32>{});
  else return f(std::integral_constant<Factors, Factors::tf32x3>{});
}

}  // namespace rnnk::cuda
