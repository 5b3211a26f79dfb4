// The storage types and their arithmetic: T <-> Wide<T>, each conversion rounding once, to nearest even.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cells/scalar.h"
#include "cuda/args.h"

namespace rnnk::cuda {

template <class T>
constexpr Type type_of = std::is_same_v<T, double>   ? Type::f64
                         : std::is_same_v<T, float>  ? Type::f32
                         : std::is_same_v<T, __half> ? Type::f16
                                                     : Type::bf16;

// Whether the regimes whose products are our own, R1 to R4, take the type.
template <class T>
constexpr bool on_tensor_cores = !std::is_same_v<T, double>;

template <class T>
RNNK_FN Wide<T> widen(T a) {
  if constexpr (std::is_same_v<T, __half>) return __half2float(a);
  else if constexpr (std::is_same_v<T, __nv_bfloat16>) return __bfloat162float(a);
  else return a;
}

template <class T>
RNNK_FN T narrow(Wide<T> a) {
  if constexpr (std::is_same_v<T, __half>) return __float2half_rn(a);
  else if constexpr (std::is_same_v<T, __nv_bfloat16>) return __float2bfloat16_rn(a);
  else return a;
}

}  // namespace rnnk::cuda
