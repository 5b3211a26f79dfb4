// The mathematics of ../cells on one unit of one row, and the run-time cell as a type.
#pragma once
#include <utility>

#include "cuda/fast_float.h"
#include "cuda/types.h"

namespace rnnk::cuda {

using namespace rnnk::scalar;
#include "cells/activations.h"
#include "cells/gru.h"
#include "cells/gru_reset_before.h"
#include "cells/lstm.h"
#include "cells/rnn.h"

template <Cell cell, class C, class F>
auto call_with(const F& f) {
  static_assert(C::gates == gate_count(cell) && C::saved == saved_count(cell) && C::gated_products == gated_count(cell));
  return f(C{});
}

// Calls f(C{}) with the cell's mathematics in V, of a cell whose step takes one product.
template <class V, class F>
auto with_cell(Cell cell, const F& f) {
  switch (cell) {
    case Cell::lstm: return call_with<Cell::lstm, Lstm<V>>(f);
    case Cell::gru: return call_with<Cell::gru, Gru<V>>(f);
    case Cell::rnn_tanh: return call_with<Cell::rnn_tanh, RnnTanh<V>>(f);
    case Cell::rnn_sigmoid: return call_with<Cell::rnn_sigmoid, RnnSigmoid<V>>(f);
    default: return call_with<Cell::rnn_relu, RnnRelu<V>>(f);
  }
}

// Of any cell.
template <class V, class F>
auto with_any_cell(Cell cell, const F& f) {
  return cell == Cell::gru_reset_before ? call_with<Cell::gru_reset_before, GruResetBefore<V>>(f) : with_cell<V>(cell, f);
}

// Calls f(gate, slot that meets x, slot that meets h) for every gate, all of them constants: device code sees no static array.
template <class C, class F, int... gate>
RNNK_FN void for_gates(const F& f, std::integer_sequence<int, gate...>) {
  (f(std::integral_constant<int, gate>{}, std::integral_constant<int, C::input_slots[gate]>{},
     std::integral_constant<int, C::hidden_slots[gate]>{}), ...);
}
template <class C, class F>
RNNK_FN void for_gates(const F& f) {
  for_gates<C>(f, std::make_integer_sequence<int, C::gates>{});
}

template <class C>
constexpr bool differs(int gate) {
  return gate < C::gates && (C::input_slots[gate] != C::hidden_slots[gate] || differs<C>(gate + 1));
}
// Whether some gate's gradient meets h otherwise than x.
template <class C>
constexpr bool splits_slots = differs<C>(0);

// What a cell computes in: double, float or FastFloat.
template <class C>
using ValueOf = decltype(C::Step::h);

// The merged biases of unit u.
template <class C, class T>
RNNK_FN void load_biases(const Weights<T>& w, int64_t H, int64_t u, ValueOf<C> (&merged)[C::biases]) {
  const auto of = [=](const T* b) { return [=](int g) { return b ? widen(b[g * H + u]) : Wide<T>(0); }; };
  C::merge_biases(of(w.b_ih), of(w.b_hh), merged);
}

// The gates of unit u in a row of [G, H].
template <class C, class V>
RNNK_FN void load_gates(const V* row, int64_t H, int64_t u, ValueOf<C> (&gates)[C::gates]) {
  for (int g = 0; g < C::gates; ++g) gates[g] = row[g * H + u];
}

}  // namespace rnnk::cuda
