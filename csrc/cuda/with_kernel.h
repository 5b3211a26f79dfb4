// R1, R2 and R3: the kernel that takes a layer.
#pragma once
#include "cuda/cells.h"
#include "cuda/per_device.h"
#include "cuda/regime.h"

namespace rnnk::cuda {

// Calls f(C{}, Tiling{}) with the cell's mathematics and the first tiling of Lists, CtaTilings, ClusterTilings or GridTilings, that takes the layer.
template <template <int, Factors> class Lists, class T, bool backward, class F>
void with_cell_and_tiling(const Problem& p, const F& f) {
  with_factors<T>(p.tf32, [&](auto factors) {
    with_cell<std::conditional_t<factors.value == Factors::tf32x3, float, FastFloat>>(p.cell, [&](auto c) {
      using Of = Lists<decltype(c)::gates, factors.value>;
      with_tiling<T>(std::conditional_t<backward, typename Of::Backward, typename Of::Forward>{}, p.shape.H, [&](auto tiling) { f(c, tiling); });
    });
  });
}

// f(T{}, C{}, Tiling{}), of a type that on_tensor_cores.
template <template <int, Factors> class Lists, bool backward, class F>
void with_kernel(const Problem& p, const F& f) {
  const auto of = [&](auto zero) {
    with_cell_and_tiling<Lists, decltype(zero), backward>(p, [&](auto c, auto tiling) { f(zero, c, tiling); });
  };
  p.type == Type::f32 ? of(float{}) : p.type == Type::bf16 ? of(__nv_bfloat16{}) : of(__half{});
}

}  // namespace rnnk::cuda
