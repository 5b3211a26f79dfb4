// float as a value type of ../cells for products whose factors have at most TF32's 11 bits: sigmoid and tanh by the special-function unit, a third
// of the instructions and errors below 2^-20, far below those of the products. Whoever has float32 to keep takes float.
#pragma once
#include <type_traits>

#include "cells/scalar.h"
#include "cuda/ptx.cuh"

namespace rnnk::cuda {

// A namespace of its own: found by their arguments, its functions hide no other type's.
namespace fast {

struct FastFloat {
  float value;

  FastFloat() = default;
  template <class Number, class = std::enable_if_t<std::is_arithmetic_v<Number>>>
  RNNK_FN FastFloat(Number x) : value(float(x)) {}
  RNNK_FN operator float() const { return value; }
};

RNNK_FN FastFloat operator+(FastFloat a, FastFloat b) { return a.value + b.value; }
RNNK_FN FastFloat& operator+=(FastFloat& a, FastFloat b) { return a = a + b; }
RNNK_FN FastFloat operator-(FastFloat a, FastFloat b) { return a.value - b.value; }
RNNK_FN FastFloat operator*(FastFloat a, FastFloat b) { return a.value * b.value; }
RNNK_FN bool operator<(FastFloat a, FastFloat b) { return a.value < b.value; }
RNNK_FN bool operator<=(FastFloat a, FastFloat b) { return a.value <= b.value; }
RNNK_FN FastFloat fma(FastFloat a, FastFloat b, FastFloat c) { return scalar::fma(a.value, b.value, c.value); }

// Far from zero e^-x is 0 or infinity, and so the right limit comes out.
RNNK_FN FastFloat sigmoid(FastFloat x) { return ptx::recip_approx(1.f + ptx::exp2_approx(-1.442695041f * x.value)); }

// Near zero, where 1 - 2 / (e^2x + 1) would leave few bits, a series.
RNNK_FN FastFloat tanh(FastFloat x) {
  const float magnitude = scalar::abs(x.value), square = x.value * x.value;
  const float far = 1.f - 2.f * ptx::recip_approx(1.f + ptx::exp2_approx(2.885390082f * magnitude));
  const float series = scalar::fma(scalar::fma(square, -17.f / 315, 2.f / 15), square, -1.f / 3);
  return scalar::copysign(magnitude < 0.25f ? scalar::fma(magnitude * square, series, magnitude) : far, x.value);
}

}  // namespace fast
using fast::FastFloat;

}  // namespace rnnk::cuda
