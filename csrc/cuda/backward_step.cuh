// A step of the backward pass as R0 and R4 run it: what it is made of, and one unit of one row, whoever computes what came back through W_hh.
#pragma once
#include "cuda/cells.h"
#include "cuda/steps.h"
#include "cuda/tokens.h"

namespace rnnk::cuda {

template <class T>
struct BackwardStep {
  Step step[2];  // of each direction
  int64_t token_row[2], gates_row[2];  // of the step's first row in `tokens` and in `gates`
  int64_t Hp;
  TokenBuffers<T> tokens;
  const T* gates;           // [rows, S, Hp]
  Wide<T>* d_h;             // [D, B, P], the step after's part of D(state)
  const Wide<T>* d_hidden;  // [D, B, H], with a projection: D(o * tanh(c)); with a gated state: D of that
  Wide<T>* d_carry;         // [D, B, H], LSTM: D(c); GRU: D(h) that came past W_hh
  Wide<T>*d_reset_h, *d_reset_c;  // [D, B, P], [D, B, H], or null: their sums so far
};

// A row's part from the step after, or, at its last step, what the caller gave.
template <class T>
__device__ Wide<T> from_after(bool ran_after, const Wide<T>* computed, const T* given, int64_t at) {
  return ran_after ? computed[at] : given ? widen(given[at]) : Wide<T>(0);
}

// D(state) of a token; d_h: what the step after has for it, if the row ran there.
template <class T>
__device__ Wide<T> d_state(const BackwardArgs<T>& a, const BackwardStep<T>& k, int d, int64_t row, int64_t u, Wide<T> d_h) {
  const Shape& s = a.shape;
  const Step& step = k.step[d];
  if (!runs(step.after, a.schedule.lengths, row)) d_h = from_after<T>(false, nullptr, a.d_h_n, (d * s.B + row) * s.P + u);
  return a.d_out ? d_h + widen(a.d_out[((step.now.first + row) * s.D + d) * s.P + u]) : d_h;
}

// Of a row that starts anew before the step after: what came back to the state that it was set to goes to that state's sum.
template <class V>
__device__ void move_to_reset(V* d, V* sum, int64_t at) {
  if (sum) sum[at] += d[at];
  d[at] = 0;
}
template <class C, class T>
__device__ void move_carry_to_reset(const BackwardStep<T>& k, int64_t at) {
  if constexpr (C::has_cell_state) move_to_reset(k.d_carry, k.d_reset_c, at);
  else if constexpr (C::blends_state) move_to_reset(k.d_carry, k.d_reset_h, at);
}

// What came back through W_hh to a row that ran at the step after, else zero.
template <class T>
__device__ Wide<T> d_h_through_w_hh(const BackwardArgs<T>& a, const BackwardStep<T>& k, int d, int64_t row, int64_t u) {
  return runs(k.step[d].after, a.schedule.lengths, row) ? k.d_h[(d * a.shape.B + row) * a.shape.P + u] : Wide<T>(0);
}

// D(h0) of a row whose first step was the step after.
template <bool blends_state, class T>
__device__ void finish_state(const BackwardArgs<T>& a, const BackwardStep<T>& k, int d, int64_t row, int64_t u, Wide<T> d_h) {
  if (!a.d_h0 || !runs(k.step[d].after, a.schedule.lengths, row)) return;
  const int64_t at = (d * a.shape.B + row) * a.shape.P + u;
  a.d_h0[at] = narrow<T>(blends_state ? d_h + k.d_carry[at] : d_h);
}

// What the cell had before the step: c, or h for a cell that blends it in.
template <class T, class C>
__device__ Wide<T> previous(const BackwardArgs<T>& a, const BackwardStep<T>& k, int d, int64_t row, int64_t u) {
  const Shape& s = a.shape;
  const Moment& before = k.step[d].before;
  const bool anew = starts_anew(k.step[d].now, a.schedule.lengths, a.reset.mask, row), ran = !anew && runs(before, a.schedule.lengths, row);
  const int64_t token = before.first + row, at = (d * s.B + row) * s.H + u;
  if constexpr (C::has_cell_state) return ran ? a.cells[(d * s.N + token) * k.Hp + u] : widen(anew ? a.reset.c[at] : a.c0[at]);
  else if constexpr (C::blends_state) return widen(ran ? a.out[(token * s.D + d) * s.P + u] : anew ? a.reset.h[at] : a.h0[at]);
  else return 0;
}

template <class T, class C>
__device__ void store_slots(const TokenBuffers<T>& tokens, int64_t token_row, int64_t H, int64_t u, const ValueOf<C> (&slots)[C::slots]) {
  for_gates<C>([&](auto gate, auto meets_x, auto meets_h) {
    const int64_t at = (token_row * C::gates + gate.value) * H + u;
    tokens.slots[at] = narrow<T>(slots[meets_x.value]);
    if constexpr (splits_slots<C>) tokens.hidden_slots[at] = narrow<T>(slots[meets_h.value]);
  });
}

template <class T, class C>
__device__ void load_saved(const BackwardStep<T>& k, int d, int64_t row, int64_t u, ValueOf<C> (&saved)[C::saved ? C::saved : 1]) {
  for (int g = 0; g < C::saved; ++g) saved[g] = widen(k.gates[((k.gates_row[d] + row) * C::saved + g) * k.Hp + u]);
}

// What enters the vjp.
template <class C>
struct VjpInputs {
  ValueOf<C> saved[C::saved ? C::saved : 1], state, previous, d_h, d_carry;
};
// All but D(h).
template <class T, class C>
__device__ VjpInputs<C> load(const BackwardArgs<T>& a, const BackwardStep<T>& k, int d, int64_t row, int64_t u) {
  const Shape& s = a.shape;
  const int64_t at = (d * s.B + row) * s.H + u, token = k.step[d].now.first + row;
  const bool ran_after = runs(k.step[d].after, a.schedule.lengths, row);
  VjpInputs<C> in{};
  load_saved<T, C>(k, d, row, u, in.saved);
  in.previous = previous<T, C>(a, k, d, row, u);
  if constexpr (C::has_cell_state) {
    in.state = a.cells[(d * s.N + token) * k.Hp + u];
    in.d_carry = from_after(ran_after, k.d_carry, a.d_c_n, at);
    if (a.d_c_out) in.d_carry += widen(a.d_c_out[(token * s.D + d) * s.H + u]);
  } else if constexpr (C::blends_state) {
    in.d_carry = from_after<T>(ran_after, k.d_carry, nullptr, at);
  } else {
    in.state = widen(a.out[(token * s.D + d) * s.P + u]);
  }
  return in;
}

template <class T, class C>
__device__ void run_vjp(const BackwardArgs<T>& a, const BackwardStep<T>& k, int d, int64_t row, int64_t u, const VjpInputs<C>& in) {
  const int64_t H = a.shape.H, token_row = k.token_row[d] + row;
  if constexpr (C::has_cell_state)
    if (k.tokens.hidden) k.tokens.hidden[token_row * H + u] = narrow<T>(C::hidden(in.saved, in.state));
  const auto gradients = C::vjp(in.saved, in.state, in.previous, in.d_h, in.d_carry);
  if (C::has_cell_state || C::blends_state) k.d_carry[(d * a.shape.B + row) * H + u] = gradients.carry;
  store_slots<T, C>(k.tokens, token_row, H, u, gradients.slots);
}

// Of a row that has a token but does not run.
template <class T, class C>
__device__ void pad(const BackwardStep<T>& k, int d, int64_t row, int64_t H, int64_t u) {
  const ValueOf<C> zeros[C::slots] = {};
  store_slots<T, C>(k.tokens, k.token_row[d] + row, H, u, zeros);
  if (k.tokens.hidden) k.tokens.hidden[(k.token_row[d] + row) * H + u] = narrow<T>(0);
}

}  // namespace rnnk::cuda
