// Purpose: the gates of a chunk's tokens, [tokens, S, Hp], where the forward pass did not save them.
// Algorithm: x W_ih^T and h W_hh^T over all tokens of the chunk, then per unit the cell's forward(), of which only what it saves is kept. No
// cell's saved values depend on what it carries (c is saved itself), so the carry stays out. A gated state comes between, with a product of its
// own. Padding gives numbers that nobody reads.
// Threads: one a unit of one token; a warp covers 32 neighbouring units.
// Budget: no shared memory, at most 48 registers. Sums may be split otherwise than in the forward pass's products: equal up to rounding.
#include "cuda/recompute.h"

#include "cuda/cells.h"

namespace rnnk::cuda {

namespace {

// f(token, x products, h products, biases) of the thread's unit, for its tokens.
template <class T, class C, class F>
__device__ void for_products(const Weights<T>& weights, int64_t H, int64_t u, int64_t tokens, const Wide<T>* x_products, const Wide<T>* h_products,
                             const F& f) {
  const int64_t columns = C::gates * H;
  ValueOf<C> biases[C::biases];
  load_biases<C>(weights, H, u, biases);
  for_own_rows(tokens, [&](int64_t token) {
    ValueOf<C> x[C::gates], h[C::gates];
    load_gates<C>(x_products + token * columns, H, u, x);
    load_gates<C>(h_products + token * columns, H, u, h);
    f(token, x, h, biases);
  });
}

template <class T, class C>
__global__ void gates_kernel(const Weights<T> weights, int64_t H, int64_t Hp, int64_t tokens, const Wide<T>* x_products,
                             const Wide<T>* h_products, T* gates) {
  const int64_t u = own_column();
  if (u >= H) return;
  for_products<T, C>(weights, H, u, tokens, x_products, h_products, [&](int64_t token, const auto& x, const auto& h, const auto& biases) {
    const auto step = C::forward(x, h, biases, Wide<T>(0));
    for (int g = 0; g < C::saved; ++g) gates[(token * C::saved + g) * Hp + u] = narrow<T>(step.saved[g]);
  });
}

template <class T, class C>
__global__ void gated_kernel(const Weights<T> weights, int64_t H, int64_t tokens, const Wide<T>* x_products, const Wide<T>* h_products,
                             const T* before, T* gated) {
  const int64_t u = own_column();
  if (u >= H) return;
  for_products<T, C>(weights, H, u, tokens, x_products, h_products, [&](int64_t token, const auto& x, const auto& h, const auto& biases) {
    gated[token * H + u] = narrow<T>(C::gated_state(x, h, biases, widen(before[token * H + u])));
  });
}

}  // namespace

template <class T>
Recompute<T>::Recompute(Arena& arena, const BackwardArgs<T>& args, int64_t capacity) : capacity_(capacity) {
  const Shape& s = args.shape;
  const int64_t columns = gate_count(args.cell) * s.H;
  x_products_ = arena.take<Wide<T>>(capacity * columns);
  h_products_ = arena.take<Wide<T>>(capacity * columns);
  if (gated_count(args.cell)) gated_ = arena.take<T>(capacity * s.H);
  gates_ = arena.take<T>(s.D * capacity * saved_count(args.cell) * padded_units(s.H));
}

template <class T>
void Recompute<T>::enqueue(Queue& queue, const BackwardArgs<T>& args, int d, const TokenRange& tokens, const T* before) const {
  const Shape& s = args.shape;
  const int64_t columns = gate_count(args.cell) * s.H, Hp = padded_units(s.H);
  const Weights<T>& w = args.weights[d];
  queue.multiply(tokens.count, columns, s.I, Operand<T>{args.x + tokens.first * s.I, s.I}, Operand<T>{w.w_ih, s.I, true},
                 Result<Wide<T>>{x_products_, columns});
  const int64_t plain = columns - gated_count(args.cell) * s.H;
  queue.multiply(tokens.count, plain, s.P, Operand<T>{before, s.P}, Operand<T>{w.w_hh, s.P, true}, Result<Wide<T>>{h_products_, columns});
  with_any_cell<Wide<T>>(args.cell, [&](auto cell) {
    using C = decltype(cell);
    if constexpr (C::gated_products) {
      queue.run(gated_kernel<T, C>, over(s.H, tokens.count), w, s.H, tokens.count, x_products_, h_products_, before, gated_);
      queue.multiply(tokens.count, columns - plain, s.P, Operand<T>{gated_, s.P}, Operand<T>{w.w_hh + plain * s.P, s.P, true},
                     Result<Wide<T>>{h_products_ + plain, columns});
    }
    if constexpr (C::saved > 0)
      queue.run(gates_kernel<T, C>, over(s.H, tokens.count), w, s.H, Hp, tokens.count, x_products_, h_products_,
                gates_ + d * capacity_ * saved_count(args.cell) * Hp);
  });
}

template class Recompute<float>;
template class Recompute<double>;
template class Recompute<__nv_bfloat16>;
template class Recompute<__half>;

}  // namespace rnnk::cuda
