// A step of the forward pass as R0 and R4 run it: what it is made of, and one unit of one row, whoever computes the product with h.
#pragma once
#include "cuda/cells.h"
#include "cuda/steps.h"

namespace rnnk::cuda {

template <class T>
struct ForwardStep {
  Step step[2];  // of each direction
  int64_t Hp;
  const Wide<T>* x_products[2];  // [rows of the step, G * H]
  const Wide<T>* h_products;     // [D, B, G * H]
  Wide<T>* c;                    // [D, B, H], LSTM only
  T* hidden;                     // [D, B, H] with a projection: o * tanh(c); with a gated state: that; or null
  const T* states;               // [D, B, P], what W_hr has made of it
};

// What enters the cell.
template <class C>
struct CellInputs {
  ValueOf<C> x[C::gates], h[C::gates], carry;
};
// All but the products with h.
template <class T, class C>
__device__ CellInputs<C> load(const ForwardArgs<T>& a, const ForwardStep<T>& k, int d, int64_t row, int64_t u) {
  const Shape& s = a.shape;
  const int64_t state = d * s.B + row;
  CellInputs<C> in{};
  load_gates<C>(k.x_products[d] + row * (C::gates * s.H), s.H, u, in.x);
  if constexpr (C::has_cell_state) in.carry = k.c[state * s.H + u];
  else if constexpr (C::blends_state) in.carry = widen(a.h_n[state * s.P + u]);
  return in;
}

template <class T, class C>
__device__ void run_cell(const ForwardArgs<T>& a, const ForwardStep<T>& k, int d, int64_t row, int64_t u, const ValueOf<C> (&biases)[C::biases],
                         const CellInputs<C>& in) {
  const Shape& s = a.shape;
  const Step& step = k.step[d];
  const int64_t state = d * s.B + row, token = step.now.first + row, saved = d * s.N + token;
  const auto next = C::forward(in.x, in.h, biases, in.carry);
  const T hidden = narrow<T>(next.h);
  if (k.states) k.hidden[state * s.H + u] = hidden;
  else a.h_n[state * s.P + u] = a.out[(token * s.D + d) * s.P + u] = hidden;
  if constexpr (C::has_cell_state) {
    k.c[state * s.H + u] = next.carry;
    if (a.cells) a.cells[saved * k.Hp + u] = next.carry;
    if (a.c_out) a.c_out[(token * s.D + d) * s.H + u] = narrow<T>(next.carry);
    if (!runs(step.after, a.schedule.lengths, row)) a.c_n[state * s.H + u] = narrow<T>(next.carry);
  }
  for (int g = 0; g < C::saved && a.gates; ++g) a.gates[(saved * C::saved + g) * k.Hp + u] = narrow<T>(next.saved[g]);
}

// Of a row that has a token but does not run.
template <class T, class C>
__device__ void pad(const ForwardArgs<T>& a, const ForwardStep<T>& k, int d, int64_t row, int64_t u) {
  const Shape& s = a.shape;
  const int64_t token = (k.step[d].now.first + row) * s.D + d;
  if (!k.states) a.out[token * s.P + u] = narrow<T>(0);
  if (C::has_cell_state && a.c_out) a.c_out[token * s.H + u] = narrow<T>(0);
}

}  // namespace rnnk::cuda
