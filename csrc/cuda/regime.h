// Which way a layer is computed. docs/cuda.md has the regimes; tilings.h what R1 can hold.
#pragma once
#include <cstdlib>
#include <cstring>
#include <limits>
#include <optional>

#include "cuda/tilings.h"
#include "cuda/types.h"

namespace rnnk::cuda {

enum class Regime { r0, r1 };
constexpr const char* regime_names[] = {"R0", "R1"};

// What the choice depends on.
struct Layer {
  Cell cell;
  Shape shape;
  Type type;
  bool projected, resets, with_cells, tf32, backward;

  template <class T>
  explicit Layer(const ForwardArgs<T>& a) : Layer(a, type_of<T>, a.c_out, false) {}
  template <class T>
  explicit Layer(const BackwardArgs<T>& a) : Layer(a, type_of<T>, a.d_c_out, true) {}

 private:
  template <class Args>
  Layer(const Args& a, Type type, bool with_cells, bool backward)
      : cell(a.cell), shape(a.shape), type(type), projected(a.weights[0].w_hr), resets(a.reset.mask), with_cells(with_cells), tf32(a.tf32),
        backward(backward) {}
};

// The largest H of R1.
template <class T, int gates>
constexpr int64_t r1_units(bool backward) {
  using List = Tilings<gates, sizeof(T)>;
  return backward ? capacity<T>(typename List::Backward{}) : capacity<T>(typename List::Forward{});
}
template <class T>
constexpr int64_t r1_units(Cell cell, bool backward) {
  const int gates = gate_count(cell);
  return gates == 4 ? r1_units<T, 4>(backward) : gates == 3 ? r1_units<T, 3>(backward) : r1_units<T, 1>(backward);
}

// R1 needs sm_80 for its mma, as all that we build for has; clusters and more are for those after it.
inline bool fits(Regime regime, const Layer& p) {
  if (regime == Regime::r0) return true;
  if (p.resets || p.with_cells || gated_count(p.cell)) return false;
  if (p.projected || p.type == Type::f64 || (p.type == Type::f32 && !p.tf32)) return false;
  if (p.shape.T * p.shape.B * p.shape.D > std::numeric_limits<int>::max()) return false;  // tokens, chunk after chunk of two directions
  return p.shape.H <= (p.type == Type::f32 ? r1_units<float>(p.cell, p.backward) : r1_units<__half>(p.cell, p.backward));
}

// Whether R1 is the faster one, by the model until a card has measured it: at most 1.4 us a step for a CTA, of which some 100 run at once; R0 takes
// at least 4.
inline bool pays(const Layer& p) { return (p.shape.B + 7) / 8 * p.shape.D <= 200; }

// The environment's RNNKERNELS_CUDA_REGIME (R0 or R1) forces one; nothing where it is another word or a regime that does not fit.
inline std::optional<Regime> choose(const Layer& p) {
  const char* forced = std::getenv("RNNKERNELS_CUDA_REGIME");
  if (!forced || !*forced) return fits(Regime::r1, p) && pays(p) ? Regime::r1 : Regime::r0;
  for (const Regime regime : {Regime::r0, Regime::r1})
    if (!std::strcmp(forced, regime_names[int(regime)]) && fits(regime, p)) return regime;
  return {};
}

}  // namespace rnnk::cuda
