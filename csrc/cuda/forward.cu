// Purpose: the forward pass of one layer, both directions: R0, two launches a step (with a projection or a gated state four).
// Algorithm: h_n, which is the state, starts as h0. Per chunk of steps: one product a direction for all its tokens, x W_ih^T. Per step:
// h W_hh^T of both directions, one batched product; then cell_kernel adds the biases, runs the cell and writes h' to out and over h_n, and
// what the backward pass needs. With a projection it writes o * tanh(c'), and state_kernel what W_hr has made of it. A cell that gates its state
// gets the product with the other gates first, then gated_kernel and one more product. A row that starts anew before the step after is set
// to its reset state by whoever writes its state.
// Threads: one a unit of one row of one direction; a warp covers 32 neighbouring units. A row that has ended, or not begun, writes
// zero to out and keeps its state.
// Budget: no shared memory; at most 72 registers (float64 LSTM), no spills.
// Limits: none; every shape, dtype and architecture. regime.h selects it where no other fits; R1 (cta_forward.cu), R2
// (cluster_forward.cu) and R3 (grid_forward.cu) take the steps of a chunk out of its hands, R4 (fused_forward.cu) each step's two launches.
#include "arena.h"
#include "cuda/convert.h"
#include "cuda/forward_step.cuh"
#include "cuda/first_tokens.h"
#include "cuda/fused.h"
#include "cuda/loop.h"

namespace rnnk::cuda {

namespace {

// The step here is the one before the first.
template <class T>
__global__ void start_kernel(const ForwardArgs<T> a, const ForwardStep<T> k) {
  const Shape& s = a.shape;
  const int d = blockIdx.z;
  const int64_t u = own_column();
  for_own_rows(s.B, [&](int64_t row) {
    const int64_t state = (d * s.B + row) * s.P + u, unit = (d * s.B + row) * s.H + u;
    const bool anew = starts_anew(k.step[d].after, a.schedule.lengths, a.reset.mask, row);
    if (u < s.P) a.h_n[state] = anew ? a.reset.h[state] : a.h0[state];
    if (!k.c || u >= s.H) return;
    a.c_n[unit] = a.c0[unit];
    k.c[unit] = widen(anew ? a.reset.c[unit] : a.c0[unit]);
  });
}

// With what the products with h are.
template <class T, class C>
__device__ CellInputs<Wide<T>, C> load_all(const ForwardArgs<T>& a, const ForwardStep<T>& k, int d, int64_t row, int64_t u) {
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
  Wide<T> biases[C::biases];
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
  Wide<T> biases[C::biases];
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

template <class T, class C>
class Forward {
  using V = Wide<T>;

  const ForwardArgs<T>& a_;
  const Shape& s_;
  const Regime regime_;
  const Timeline timeline_;
  const int64_t columns_, steps_per_chunk_, chunk_tokens_;
  Arena arena_;
  const SideBySide<T> w_hh_, w_hr_;  // R0
  const FirstTokens first_;          // R1, R2, R3
  Mailboxes mail_;                   // R3
  V *x_products_, *h_products_ = nullptr;  // [D, chunk_tokens, G * H]; R0: [D, B, G * H]
  V* c_ = nullptr;               // [D, B, H]
  T *hidden_ = nullptr, *states_ = nullptr;

 public:
  Forward(const ForwardArgs<T>& args, Regime regime, void* workspace, size_t chunk_bytes)
      : a_(args),
        s_(args.shape),
        regime_(regime),
        timeline_(args),
        columns_(C::gates * s_.H),
        steps_per_chunk_(steps_of_chunk(s_, size_t(s_.D * s_.B * columns_) * sizeof(V), chunk_bytes)),
        chunk_tokens_(tokens_of_chunk(s_, steps_per_chunk_)),
        arena_(workspace, 256),
        w_hh_(arena_, args.weights[0].w_hh, args.weights[1].w_hh, columns_ * s_.P, regime == Regime::r0 ? s_.D : 1),
        w_hr_(arena_, args.weights[0].w_hr, args.weights[1].w_hr, s_.P * s_.H, s_.D),
        first_(arena_, s_, args.schedule, loops(regime)) {
    x_products_ = arena_.take<V>(s_.D * chunk_tokens_ * columns_);
    if (regime == Regime::r3) mail_ = Mailboxes(arena_, Problem(args), 1, sizeof(T));
    if (regime == Regime::r0) h_products_ = arena_.take<V>(s_.D * s_.B * columns_);
    if (C::has_cell_state) c_ = arena_.take<V>(s_.D * s_.B * s_.H);
    if (args.weights[0].w_hr || C::gated_products) hidden_ = arena_.take<T>(s_.D * s_.B * s_.H);
    if (args.weights[0].w_hr) states_ = arena_.take<T>(s_.D * s_.B * s_.P);
  }
  size_t workspace() const { return arena_.used(); }

  void enqueue(Queue& queue) const {
    w_hh_.enqueue_copy(queue);
    w_hr_.enqueue_copy(queue);
    first_.enqueue(queue, s_, a_.schedule);
    if (regime_ == Regime::r3) mail_.enqueue_clear(queue);
    queue.run(start_kernel<T>, over(s_.H, s_.B, s_.D), a_, step({0, 0}, -1));
    for (Chunk c{0, 0}; c.end < s_.T && queue.error() == cudaSuccess;) {
      c = {c.end, std::min(c.end + steps_per_chunk_, s_.T)};
      for (int d = 0; d < s_.D; ++d) multiply_x(queue, d, timeline_.tokens(timeline_.times(d, c)));
      if (loops(regime_)) run_steps(queue, c);
      else for (int64_t i = c.begin; i < c.end; ++i) regime_ == Regime::r4 ? advance_fused(queue, c, i) : advance(queue, c, i);
    }
  }

 private:
  void multiply_x(Queue& queue, int d, const TokenRange& tokens) const {
    queue.multiply(tokens.count, columns_, s_.I, Operand<T>{a_.x + tokens.first * s_.I, s_.I}, Operand<T>{a_.weights[d].w_ih, s_.I, true},
                   Result<V>{x_products_ + d * chunk_tokens_ * columns_, columns_});
  }

  void run_steps(Queue& queue, const Chunk& c) const {
    ForwardLoop<T> loop{c, first_.table(), x_products_, {}, c_};
    for (int d = 0; d < s_.D; ++d) loop.x_row[d] = d * chunk_tokens_ - timeline_.tokens(timeline_.times(d, c)).first;
    if constexpr (on_tensor_cores<T> && !C::gated_products) {
      if (regime_ == Regime::r1) run_cta_loop(queue, a_, loop);
      if (regime_ == Regime::r2) run_cluster_loop(queue, a_, loop);
      if (regime_ == Regime::r3) run_grid_loop(queue, a_, loop, mail_.after(c.begin));
    }
  }

  ForwardStep<T> step(const Chunk& c, int64_t i) const {
    ForwardStep<T> k{{}, padded_units(s_.H), {}, h_products_, c_, hidden_, states_};
    for (int d = 0; d < s_.D; ++d) {
      k.step[d] = timeline_.step(d, i);
      k.x_products[d] = x_products_ + (d * chunk_tokens_ + timeline_.row_of_chunk(d, c, i)) * columns_;
    }
    return k;
  }

  void advance_fused(Queue& queue, const Chunk& c, int64_t i) const {
    if constexpr (on_tensor_cores<T> && !C::gated_products) run_fused_step(queue, a_, step(c, i));
  }

  // With different numbers of rows the larger one is computed for both directions; nobody reads the surplus.
  void advance(Queue& queue, const Chunk& c, int64_t i) const {
    const ForwardStep<T> k = step(c, i);
    int64_t rows = 0, written = 0;
    for (int d = 0; d < s_.D; ++d) {
      rows = std::max(rows, k.step[d].now.active);
      written = std::max(written, k.step[d].rows(a_.reset.mask));  // with those that are set anew for the step after
    }
    const auto multiply_w_hh = [&](const T* states, int64_t first_gate, int64_t gates) {
      queue.multiply(rows, gates * s_.H, s_.P, Operand<T>{states, s_.P, false, s_.B * s_.P}, w_hh_.operand(s_.P, true, first_gate * s_.H),
                     Result<V>{h_products_ + first_gate * s_.H, columns_, s_.B * columns_}, s_.D);
    };
    constexpr int plain_gates = C::gates - C::gated_products;
    multiply_w_hh(a_.h_n, 0, plain_gates);
    if constexpr (C::gated_products) {
      queue.run(gated_kernel<T, C>, over(s_.H, rows, s_.D), a_, k);
      multiply_w_hh(hidden_, plain_gates, C::gated_products);
    }
    queue.run(cell_kernel<T, C>, over(s_.H, written, s_.D), a_, k);
    if (!states_) return;
    queue.multiply(rows, s_.P, s_.H, Operand<T>{hidden_, s_.H, false, s_.B * s_.H}, w_hr_.operand(s_.H, true),
                   Result<T>{states_, s_.P, s_.B * s_.P}, s_.D);
    queue.run(state_kernel<T>, over(s_.P, written, s_.D), a_, k);
  }
};

}  // namespace

template <class T>
cudaError_t forward(const ForwardArgs<T>& args, const Gemm& gemm, void* workspace, size_t& bytes, cudaStream_t stream, size_t chunk_bytes) {
  const std::optional<Regime> regime = choose(Problem(args));
  if (!regime) return cudaErrorNotSupported;
  return with_any_cell<Wide<T>>(args.cell, [&](auto cell) {
    const Forward<T, decltype(cell)> layer(args, *regime, workspace, chunk_bytes);
    if (!workspace) return bytes = std::max<size_t>(layer.workspace(), 1), cudaSuccess;
    Queue queue(stream, gemm);
    layer.enqueue(queue);
    return queue.error();
  });
}

template cudaError_t forward(const ForwardArgs<float>&, const Gemm&, void*, size_t&, cudaStream_t, size_t);
template cudaError_t forward(const ForwardArgs<double>&, const Gemm&, void*, size_t&, cudaStream_t, size_t);
template cudaError_t forward(const ForwardArgs<__nv_bfloat16>&, const Gemm&, void*, size_t&, cudaStream_t, size_t);
template cudaError_t forward(const ForwardArgs<__half>&, const Gemm&, void*, size_t&, cudaStream_t, size_t);

}  // namespace rnnk::cuda
