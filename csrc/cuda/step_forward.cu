// Purpose: a step of the forward pass in two launches (with a projection or a gated state four): R0.
// Algorithm: h W_hh^T of both directions, one batched product; then cell_kernel adds the biases, runs the cell and writes h' to out and over h_n,
// and what the backward pass needs. With a projection it writes o * tanh(c'), and state_kernel what W_hr has made of it. A cell that gates its
// state gets the product with the other gates first, then gated_kernel and one more product. A row that starts anew before the step after is set
// to its reset state by whoever writes its state.
// Threads: one a unit of one row of one direction; a warp covers 32 neighbouring units. A row that has ended, or not begun, writes
// zero to out and keeps its state.
// Budget: no shared memory; at most 72 registers (float64 LSTM), no spills.
// Limits: none; every shape, dtype and architecture. regime.h selects it where no other regime fits and pays.
#include "cuda/step.h"

namespace rnnk::cuda {

namespace {

// All of a cell's inputs, the products with h among them.
template <class T, class C>
__device__ CellInputs<C> load_all(const ForwardArgs<T>& a, const ForwardStep<T>& k, int d, int64_t row, int64_t u) {
  auto in = load<T, C>(a, k, d, row, u);
  load_gates<C>(k.h_products + (d * a.shape.B + row) * (C::gates * a.shape.H), a.shape.H, u, in.h);
  return in;
}

template <class T, class C>
__global__ void cell_kernel(const ForwardArgs<T> a, const ForwardStep<T> k) {
  const Shape& s = a.shape;
  const int d = blockIdx.z;
  const int64_t u = own_column();
  if (u >= s.H) return;
  const Step& step = k.step[d];
  ValueOf<C> biases[C::biases];
  load_biases<C>(a.weights[d], s.H, u, biases);
  for_own_rows(step.rows(a.reset.mask), [&](int64_t row) {
    const int64_t state = d * s.B + row;
    if (runs(step.now, a.schedule.lengths, row)) run_cell<T, C>(a, k, d, row, u, biases, load_all<T, C>(a, k, d, row, u));
    else if (row < step.now.active) pad<T, C>(a, k, d, row, u);
    if (!starts_anew(step.after, a.schedule.lengths, a.reset.mask, row)) return;
    if (!k.states) a.h_n[state * s.P + u] = a.reset.h[state * s.P + u];
    if constexpr (C::has_cell_state) k.c[state * s.H + u] = widen(a.reset.c[state * s.H + u]);
  });
}

// What the last gates' product is with.
template <class T, class C>
__global__ void gated_kernel(const ForwardArgs<T> a, const ForwardStep<T> k) {
  const int d = blockIdx.z;
  const int64_t u = own_column(), H = a.shape.H;
  if (u >= H) return;
  ValueOf<C> biases[C::biases];
  load_biases<C>(a.weights[d], H, u, biases);
  for_own_rows(k.step[d].now.active, [&](int64_t row) {
    if (!runs(k.step[d].now, a.schedule.lengths, row)) return;
    const auto in = load_all<T, C>(a, k, d, row, u);
    k.hidden[(d * a.shape.B + row) * H + u] = narrow<T>(C::gated_state(in.x, in.h, biases, in.carry));
  });
}

template <class T>
__global__ void state_kernel(const ForwardArgs<T> a, const ForwardStep<T> k) {
  const Shape& s = a.shape;
  const int d = blockIdx.z;
  const int64_t u = own_column();
  if (u >= s.P) return;
  const Step& step = k.step[d];
  for_own_rows(step.rows(a.reset.mask), [&](int64_t row) {
    const int64_t state = (d * s.B + row) * s.P + u, token = ((step.now.first + row) * s.D + d) * s.P + u;
    if (runs(step.now, a.schedule.lengths, row)) a.h_n[state] = a.out[token] = k.states[state];
    else if (row < step.now.active) a.out[token] = narrow<T>(0);
    if (starts_anew(step.after, a.schedule.lengths, a.reset.mask, row)) a.h_n[state] = a.reset.h[state];
  });
}

}  // namespace

template <class T>
StepForward<T>::StepForward(Arena& arena, const ForwardArgs<T>& args)
    : a_(args),
      s_(args.shape),
      columns_(gate_count(args.cell) * s_.H),
      w_hh_(arena, args.weights[0].w_hh, args.weights[1].w_hh, columns_ * s_.P, s_.D),
      w_hr_(arena, args.weights[0].w_hr, args.weights[1].w_hr, s_.P * s_.H, s_.D),
      h_products_(arena.take<Wide<T>>(s_.D * s_.B * columns_)),
      hidden_(args.weights[0].w_hr || gated_count(args.cell) ? arena.take<T>(s_.D * s_.B * s_.H) : nullptr),
      states_(args.weights[0].w_hr ? arena.take<T>(s_.D * s_.B * s_.P) : nullptr) {}

template <class T>
void StepForward<T>::enqueue_weights(Queue& queue) const {
  w_hh_.enqueue_copy(queue);
  w_hr_.enqueue_copy(queue);
}

template <class T>
void StepForward<T>::multiply_w_hh(Queue& queue, int64_t rows, const T* states, int64_t first_gate, int64_t gates) const {
  queue.multiply(rows, gates * s_.H, s_.P, Operand<T>{states, s_.P, false, s_.B * s_.P}, w_hh_.operand(s_.P, true, first_gate * s_.H),
                 Result<Wide<T>>{h_products_ + first_gate * s_.H, columns_, s_.B * columns_}, s_.D);
}

// With different numbers of rows the larger one is computed for both directions; nobody reads the surplus.
template <class T>
void StepForward<T>::advance(Queue& queue, ForwardStep<T> k) const {
  k.h_products = h_products_, k.hidden = hidden_, k.states = states_;
  int64_t rows = 0, written = 0;
  for (int d = 0; d < s_.D; ++d) {
    rows = std::max(rows, k.step[d].now.active);
    written = std::max(written, k.step[d].rows(a_.reset.mask));  // with those that are set anew for the step after
  }
  const int plain_gates = gate_count(a_.cell) - gated_count(a_.cell);
  multiply_w_hh(queue, rows, a_.h_n, 0, plain_gates);
  with_any_cell<Wide<T>>(a_.cell, [&](auto cell) {
    using C = decltype(cell);
    if constexpr (C::gated_products) {
      queue.run(gated_kernel<T, C>, over(s_.H, rows, s_.D), a_, k);
      multiply_w_hh(queue, rows, hidden_, plain_gates, C::gated_products);
    }
    queue.run(cell_kernel<T, C>, over(s_.H, written, s_.D), a_, k);
  });
  if (!states_) return;
  queue.multiply(rows, s_.P, s_.H, Operand<T>{hidden_, s_.H, false, s_.B * s_.H}, w_hr_.operand(s_.H, true), Result<T>{states_, s_.P, s_.B * s_.P},
                 s_.D);
  queue.run(state_kernel<T>, over(s_.P, written, s_.D), a_, k);
}

template class StepForward<float>;
template class StepForward<double>;
template class StepForward<__nv_bfloat16>;
template class StepForward<__half>;

}  // namespace rnnk::cuda
