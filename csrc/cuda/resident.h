// R2 and R3: the kernel that takes a layer.
#pragma once
#include "cuda/cells.h"
#include "cuda/per_device.h"
#include "cuda/regime.h"

namespace rnnk::cuda {

// Calls f(C{}, Tiling{}) with the cell's mathematics and the first tiling of Lists, ClusterTilings or GridTilings, that takes H units.
template <template <bool, size_t> class Lists, class T, bool backward, class F>
void with_cell_and_tiling(Cell cell, int64_t H, const F& f) {
  with_cell<Wide<T>>(cell, [&](auto c) {
    using Of = Lists<(decltype(c)::gates > 1), sizeof(T)>;
    with_tiling<T>(std::conditional_t<backward, typename Of::Backward, typename Of::Forward>{}, H, [&](auto tiling) { f(c, tiling); });
  });
}

// f(T{}, C{}, Tiling{}), of a type that on_tensor_cores.
template <template <bool, size_t> class Lists, bool backward, class F>
void with_kernel(Cell cell, Type type, int64_t H, const F& f) {
  const auto of = [&](auto zero) {
    with_cell_and_tiling<Lists, decltype(zero), backward>(cell, H, [&](auto c, auto tiling) { f(zero, c, tiling); });
  };
  type == Type::f32 ? of(float{}) : type == Type::bf16 ? of(__nv_bfloat16{}) : of(__half{});
}

}  // namespace rnnk::cuda
