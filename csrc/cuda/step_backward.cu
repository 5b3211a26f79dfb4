// Purpose: a step of backpropagation through time in two launches (with a projection or a gated state four): R0.
// Algorithm: cell_kernel adds d_out to what came back through W_hh and runs the cell's vjp, which gives the slots, D(pre-activations), and what
// passes by W_hh; the slots times W_hh, of both directions in one batched product, are what the step before gets. With a projection state_kernel
// makes D(state), and its product with W_hr is what cell_kernel gets. A cell that gates its state gets D(gated state) by one more product, and
// gated_kernel completes slots and carry. What comes back to a state that was set anew goes to the sums of d_reset_h and d_reset_c before anybody
// reads it, and leaves zero.
// Threads: one a unit of one row of one direction; a warp covers 32 neighbouring units.
// Budget: no shared memory; at most 52 registers (float64 LSTM), no spills.
// Limits: none; every shape, dtype and architecture. regime.h selects it where no other regime fits and pays.
#include "cuda/step.h"

namespace rnnk::cuda {

namespace {

template <class T>
__global__ void state_kernel(const BackwardArgs<T> a, const BackwardStep<T> k) {
  const int d = blockIdx.z;
  const int64_t u = own_column(), P = a.shape.P;
  if (u >= P) return;
  const Step& step = k.step[d];
  for_own_rows(step.rows(true), [&](int64_t row) {
    T* to = k.tokens.states + (k.token_row[d] + row) * P + u;
    if (starts_anew(step.after, a.schedule.lengths, a.reset.mask, row)) move_to_reset(k.d_h, k.d_reset_h, (d * a.shape.B + row) * P + u);
    const Wide<T> d_h = d_h_through_w_hh(a, k, d, row, u);
    if (runs(step.now, a.schedule.lengths, row)) {
      *to = narrow<T>(d_state(a, k, d, row, u, d_h));
    } else {
      if (row < step.now.active) *to = narrow<T>(0);
      finish_state<false>(a, k, d, row, u, d_h);
    }
  });
}

template <class T, class C>
__global__ void cell_kernel(const BackwardArgs<T> a, const BackwardStep<T> k) {
  const int d = blockIdx.z;
  const int64_t u = own_column(), H = a.shape.H;
  if (u >= H) return;
  const Step& step = k.step[d];
  for_own_rows(step.rows(true), [&](int64_t row) {
    const int64_t at = (d * a.shape.B + row) * H + u;
    const bool projected = k.tokens.states;
    if (starts_anew(step.after, a.schedule.lengths, a.reset.mask, row)) {
      if (!projected) move_to_reset(k.d_h, k.d_reset_h, at);
      move_carry_to_reset<C>(k, at);
    }
    if (runs(step.now, a.schedule.lengths, row)) {
      auto in = load<T, C>(a, k, d, row, u);
      in.d_h = projected ? k.d_hidden[at] : d_state(a, k, d, row, u, d_h_through_w_hh(a, k, d, row, u));
      return run_vjp<T, C>(a, k, d, row, u, in);
    }
    if (row < step.now.active) pad<T, C>(k, d, row, H, u);
    if (!projected) finish_state<C::blends_state>(a, k, d, row, u, d_h_through_w_hh(a, k, d, row, u));
  });
}

// What D(gated state) completes: the first slot, and the carry.
template <class T, class C>
__global__ void gated_kernel(const BackwardArgs<T> a, const BackwardStep<T> k) {
  const int d = blockIdx.z;
  const int64_t u = own_column(), H = a.shape.H;
  if (u >= H) return;
  for_own_rows(k.step[d].now.active, [&](int64_t row) {
    if (!runs(k.step[d].now, a.schedule.lengths, row)) return;
    const int64_t at = (d * a.shape.B + row) * H + u, token_row = k.token_row[d] + row;
    ValueOf<C> saved[C::saved];
    load_saved<T, C>(k, d, row, u, saved);
    const Wide<T> h = previous<T, C>(a, k, d, row, u);
    const auto gradients = C::vjp_of_gated_state(saved, h, k.d_hidden[at], k.d_carry[at]);
    k.d_carry[at] = gradients.carry;
    k.tokens.slots[token_row * C::gates * H + u] = narrow<T>(gradients.slot);
    if (k.tokens.hidden) k.tokens.hidden[token_row * H + u] = narrow<T>(C::gated_state(saved, h));
  });
}

// With different numbers of rows the larger one is computed for both directions; nobody reads the surplus.
template <class T>
int64_t rows_of(const BackwardStep<T>& k) {
  return std::max(k.step[0].now.active, k.step[1].now.active);
}
// With those that ran at the step after, and are finished.
template <class T>
int64_t rows_with_finished(const BackwardStep<T>& k) {
  return std::max(k.step[0].rows(true), k.step[1].rows(true));
}

}  // namespace

template <class T>
StepBackward<T>::StepBackward(Arena& arena, const BackwardArgs<T>& args, bool transposes)
    : a_(args),
      s_(args.shape),
      columns_(gate_count(args.cell) * s_.H),
      w_hh_(arena, args.weights[0].w_hh, args.weights[1].w_hh, columns_ * s_.P, transposes ? 1 : s_.D),
      w_hr_(arena, args.weights[0].w_hr, args.weights[1].w_hr, s_.P * s_.H, s_.D),
      transposed_(transposes ? arena.take<T>(s_.D * s_.H * columns_) : nullptr),
      d_hidden_(args.weights[0].w_hr || gated_count(args.cell) ? arena.take<Wide<T>>(s_.D * s_.B * s_.H) : nullptr) {}

template <class T>
void StepBackward<T>::enqueue_weights(Queue& queue) const {
  w_hh_.enqueue_copy(queue);
  w_hr_.enqueue_copy(queue);
  if constexpr (on_tensor_cores<T>)
    for (int d = 0; d < s_.D && transposed_; ++d) transpose(queue, a_.weights[d].w_hh, transposed_ + d * s_.H * columns_, columns_, s_.H);
}

// Columns from `first_column` on of a buffer of tokens, of the step's rows.
template <class T>
Operand<T> StepBackward<T>::tokens(const T* of, const BackwardStep<T>& k, int64_t width, int64_t first_column) const {
  return {of + k.token_row[0] * width + first_column, width, false, s_.D == 2 ? (k.token_row[1] - k.token_row[0]) * width : 0};
}

template <class T>
void StepBackward<T>::run_cells(Queue& queue, const BackwardStep<T>& k) const {
  with_any_cell<Wide<T>>(a_.cell, [&](auto cell) { queue.run(cell_kernel<T, decltype(cell)>, over(s_.H, rows_with_finished(k), s_.D), a_, k); });
}

// With the plain gates' rows of W_hh. The layer's first step has it only where somebody asks for D of the state before.
template <class T>
void StepBackward<T>::multiply_w_hh(Queue& queue, const BackwardStep<T>& k) const {
  if (k.step[0].now.time == 0 && !a_.d_h0 && !a_.d_reset_h) return;
  const Operand<T> w_hh = transposed_ ? Operand<T>{transposed_, columns_, true, columns_ * s_.H} : w_hh_.operand(s_.P, false);
  queue.multiply(rows_of(k), s_.P, columns_ - gated_count(a_.cell) * s_.H, tokens(k.tokens.hidden_slots, k, columns_), w_hh,
                 Result<Wide<T>>{k.d_h, s_.P, s_.B * s_.P}, s_.D);
}

template <class T>
void StepBackward<T>::go_back(Queue& queue, BackwardStep<T> k) const {
  const int64_t rows = rows_of(k), plain = columns_ - gated_count(a_.cell) * s_.H;
  k.d_hidden = d_hidden_;
  if (k.tokens.states) {
    queue.run(state_kernel<T>, over(s_.P, rows_with_finished(k), s_.D), a_, k);
    queue.multiply(rows, s_.H, s_.P, tokens(k.tokens.states, k, s_.P), w_hr_.operand(s_.H, false),
                   Result<Wide<T>>{d_hidden_, s_.H, s_.B * s_.H}, s_.D);
  }
  run_cells(queue, k);
  if (gated_count(a_.cell)) {
    queue.multiply(rows, s_.P, columns_ - plain, tokens(k.tokens.hidden_slots, k, columns_, plain), w_hh_.operand(s_.P, false, plain),
                   Result<Wide<T>>{d_hidden_, s_.P, s_.B * s_.P}, s_.D);
    with_any_cell<Wide<T>>(a_.cell, [&](auto cell) {
      using C = decltype(cell);
      if constexpr (C::gated_products) queue.run(gated_kernel<T, C>, over(s_.H, rows, s_.D), a_, k);
    });
  }
  multiply_w_hh(queue, k);
}

template class StepBackward<float>;
template class StepBackward<double>;
template class StepBackward<__nv_bfloat16>;
template class StepBackward<__half>;

}  // namespace rnnk::cuda
