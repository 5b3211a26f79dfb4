// Which way a layer is computed. docs/cuda.md has the regimes; tilings.h what R1, R2 and R3 can hold.
#pragma once
#include <cstdlib>
#include <cstring>
#include <limits>
#include <optional>

#include "cuda/per_device.h"
#include "cuda/tilings.h"
#include "cuda/types.h"

namespace rnnk::cuda {

// Whether one launch takes a chunk's steps.
constexpr bool loops(Regime regime) { return regime == Regime::r1 || regime == Regime::r2 || regime == Regime::r3; }

// What the choice depends on.
struct Problem {
  Cell cell;
  Shape shape;
  Type type;
  bool projected, resets, with_cells, tf32, backward;

  template <class T>
  explicit Problem(const ForwardArgs<T>& a) : Problem(a, type_of<T>, a.c_out, false) {}
  template <class T>
  explicit Problem(const BackwardArgs<T>& a) : Problem(a, type_of<T>, a.d_c_out, true) {}

 private:
  template <class Args>
  Problem(const Args& a, Type type, bool with_cells, bool backward)
      : cell(a.cell), shape(a.shape), type(type), projected(a.weights[0].w_hr), resets(a.reset.mask), with_cells(with_cells), tf32(a.tf32),
        backward(backward) {}
};

// The largest H of R1, R2 and R3.
template <class T, class Lists>
constexpr int64_t largest_units(bool backward) {
  return backward ? capacity<T>(typename Lists::Backward{}) : capacity<T>(typename Lists::Forward{});
}
template <class T, int gates>
int64_t largest_units(Regime regime, const Problem& p) {
  return with_factors<T>(p.tf32, [&](auto factors) {
    return regime == Regime::r1   ? largest_units<T, CtaTilings<gates, factors.value>>(p.backward)
           : regime == Regime::r2 ? largest_units<T, ClusterTilings<gates, factors.value>>(p.backward)
                                  : largest_units<T, GridTilings<gates, factors.value>>(p.backward);
  });
}
template <class T>
int64_t largest_units(Regime regime, const Problem& p) {
  const int gates = gate_count(p.cell);
  return gates == 4 ? largest_units<T, 4>(regime, p) : gates == 3 ? largest_units<T, 3>(regime, p) : largest_units<T, 1>(regime, p);
}

// How many of R2's clusters the current device has room for at once, of the kernel that takes the layer; 0 where it takes none. The type
// on_tensor_cores. Asked once a kernel and device. cluster_forward.cu, cluster_backward.cu.
int forward_clusters(const Problem& p);
int backward_clusters(const Problem& p);

// R3 likewise: the CTAs of a team, its ranks, with `units` each, and how many teams there is room for. grid_forward.cu, grid_backward.cu.
struct Teams {
  int ranks, units, count;
};
Teams forward_teams(const Problem& p);
Teams backward_teams(const Problem& p);

inline int64_t tiles_of_rows(const Problem& p) { return (p.shape.B + 7) / 8 * p.shape.D; }
inline int resident_tiles(const Problem& p) { return p.backward ? backward_clusters(p) : forward_clusters(p); }
inline Teams resident_teams(const Problem& p) { return p.backward ? backward_teams(p) : forward_teams(p); }

// R1, R3 and R4 need sm_80 for their mma, as all that we build for has; R2 a card that has clusters, and room for one; R3 room for a team. R4
// makes float32 TF32, so that has to be allowed.
inline bool fits(Regime regime, const Problem& p) {
  if (regime == Regime::r0) return true;
  if (p.resets || p.with_cells || gated_count(p.cell)) return false;
  if (p.projected || p.type == Type::f64) return false;
  if (p.shape.T * p.shape.B * p.shape.D > std::numeric_limits<int>::max()) return false;  // tokens, chunk after chunk of two directions
  if (regime == Regime::r4) return (p.type != Type::f32 || p.tf32) && p.shape.B <= most_blocks_across * fused_tile_rows(p.shape.B);
  const int64_t most = p.type == Type::f32 ? largest_units<float>(regime, p) : largest_units<__half>(regime, p);
  return p.shape.H <= most && (regime != Regime::r2 || resident_tiles(p) > 0) &&
         (regime != Regime::r3 || resident_teams(p).count > 0);
}

// Whether it is the faster one, by the model until a card has measured it. R0 takes at least 4 us a step. R1: at most 1.0 us for a tile of 8 rows,
// of which some 100 run at once. R2: at most 1.2 us, at 768 units, and some 10 us to load the weights. R3: 1.2 us for a first tile of rows, 0.8 for
// each more that a team has. R4 saves a launch and the products' way through memory, some 2 us, and multiplies at half of cuBLAS's rate; rows of
// whole 16 bytes only.
inline bool pays(Regime regime, const Problem& p) {
  if (regime == Regime::r1) return tiles_of_rows(p) <= 200;
  if (regime == Regime::r4) {
    const int64_t bytes = p.type == Type::f32 ? 4 : 2, operations = 2 * p.shape.B * p.shape.D * gate_count(p.cell) * p.shape.H * p.shape.H;
    return p.shape.B >= 64 && p.shape.T >= 2 && p.shape.H * bytes % 16 == 0 && operations < int64_t(1) << 31;
  }
  return p.shape.T >= 8 && tiles_of_rows(p) <= (regime == Regime::r2 ? 3 * resident_tiles(p) : 4 * resident_teams(p).count);
}

// The environment's RNNKERNELS_CUDA_REGIME (R0 to R4) forces one; nothing where it is another word or a regime that does not fit.
inline std::optional<Regime> choose(const Problem& p) {
  const char* forced = std::getenv("RNNKERNELS_CUDA_REGIME");
  const bool free = !forced || !*forced;
  for (const Regime regime : {Regime::r1, Regime::r2, Regime::r3, Regime::r4, Regime::r0})
    if (free ? regime == Regime::r0 || (fits(regime, p) && pays(regime, p)) : !std::strcmp(forced, regime_names[int(regime)]) && fits(regime, p))
      return regime;
  return {};
}

}  // namespace rnnk::cuda
