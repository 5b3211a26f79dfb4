// Purpose: backpropagation through time of one layer, both directions: R0, two launches a step (with a projection or a gated state four).
// Algorithm: per step, last to first: cell_kernel adds d_out to what came back through W_hh and runs the cell's vjp, which gives the slots,
// D(pre-activations), and what passes by W_hh; the slots times W_hh, of both directions in one batched product, are what the step
// before gets. With a projection state_kernel makes D(state), and its product with W_hr is what cell_kernel gets. A cell that gates its state gets
// D(gated state) by one more product, and gated_kernel completes slots and carry. After each chunk of steps the products over its tokens
// (gradients.h); before it, where no gates were saved, recompute.h. end_kernel writes d_h0 and d_c0. What comes back to a state that was set
// anew goes to the sums of d_reset_h and d_reset_c before anybody reads it, and leaves zero.
// Threads: one a unit of one row of one direction; a warp covers 32 neighbouring units. A row begins at d_h_n and d_c_n at its own last
// step, which the schedule tells, so nothing is initialised; it is finished when it does not run at a step but did at the one after.
// Budget: no shared memory; at most 52 registers (float64 LSTM), no spills.
// Limits: none; every shape, dtype and architecture. regime.h selects it where no other fits; R1 (cta_backward.cu), R2
// (cluster_backward.cu) and R3 (grid_backward.cu) take the steps of a chunk out of its hands, R4 (fused_backward.cu) each step's two launches
// but the chunk's last product.
#include "cuda/backward_step.cuh"
#include "cuda/first_tokens.h"
#include "cuda/fused.h"
#include "cuda/gradients.h"
#include "cuda/loop.h"
#include "cuda/recompute.h"

namespace rnnk::cuda {

namespace {

// Of a row that starts anew before the step after.
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

// Through W_hh, to a row that ran at the step after.
template <class T>
__device__ Wide<T> d_h_through_w_hh(const BackwardArgs<T>& a, const BackwardStep<T>& k, int d, int64_t row, int64_t u) {
  return runs(k.step[d].after, a.schedule.lengths, row) ? k.d_h[(d * a.shape.B + row) * a.shape.P + u] : Wide<T>(0);
}

template <class T>
__global__ void start_kernel(const BackwardArgs<T> a, const BackwardStep<T> k) {
  const Shape& s = a.shape;
  const int64_t u = own_column();
  for_own_rows(s.D * s.B, [&](int64_t row) {
    if (k.d_reset_h && u < s.P) k.d_reset_h[row * s.P + u] = 0;
    if (k.d_reset_c && u < s.H) k.d_reset_c[row * s.H + u] = 0;
  });
}

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
    Wide<T> saved[C::saved];
    load_saved<T, C>(k, d, row, u, saved);
    const Wide<T> h = previous<T, C>(a, k, d, row, u);
    const auto gradients = C::vjp_of_gated_state(saved, h, k.d_hidden[at], k.d_carry[at]);
    k.d_carry[at] = gradients.carry;
    k.tokens.slots[token_row * C::gates * H + u] = narrow<T>(gradients.slot);
    if (k.tokens.hidden) k.tokens.hidden[token_row * H + u] = narrow<T>(C::gated_state(saved, h));
  });
}

// After the loop. A row that ran at all, ran at time 0.
template <class T, class C>
__global__ void end_kernel(const BackwardArgs<T> a, const BackwardStep<T> k, const Moment start) {
  const Shape& s = a.shape;
  const int d = blockIdx.z;
  const int64_t u = own_column();
  for_own_rows(s.B, [&](int64_t row) {
    const bool ran = runs(start, a.schedule.lengths, row);
    const int64_t state = (d * s.B + row) * s.P + u, unit = (d * s.B + row) * s.H + u;
    if (starts_anew(k.step[d].after, a.schedule.lengths, a.reset.mask, row)) {
      if (u < s.P) move_to_reset(k.d_h, k.d_reset_h, state);
      if (u < s.H) move_carry_to_reset<C>(k, unit);
    }
    if (u < s.P && k.d_reset_h) a.d_reset_h[state] = narrow<T>(k.d_reset_h[state]);
    if (u < s.H && k.d_reset_c) a.d_reset_c[unit] = narrow<T>(k.d_reset_c[unit]);
    if (u < s.P && a.d_h0) {
      if (ran) finish_state<C::blends_state>(a, k, d, row, u, d_h_through_w_hh(a, k, d, row, u));
      else a.d_h0[state] = narrow<T>(from_after(false, k.d_h, a.d_h_n, state));
    }
    if constexpr (C::has_cell_state)
      if (u < s.H && a.d_c0) a.d_c0[unit] = narrow<T>(from_after(ran, k.d_carry, a.d_c_n, unit));
  });
}

template <class T, class C>
class Backward {
  using V = Wide<T>;

  const BackwardArgs<T>& a_;
  const Shape& s_;
  const Regime regime_;
  const Timeline timeline_;
  const int64_t columns_, Hp_;
  const bool projected_, recomputes_;
  Arena arena_;
  const SideBySide<T> w_hh_, w_hr_;  // R0
  T* const transposed_;              // R4: W_hh as [D, H, G * H]
  const FirstTokens first_;          // R1, R2, R3
  const Mailboxes mail_;             // R3
  V *d_h_, *d_hidden_, *d_carry_;    // [D, B, P], [D, B, H], [D, B, H]
  V *d_reset_h_, *d_reset_c_;        // [D, B, P], [D, B, H], where wanted
  const int64_t steps_per_chunk_;
  TokenBuffers<T> tokens_;
  Recompute<T> recompute_;
  const Gradients<T> gradients_;

 public:
  Backward(const BackwardArgs<T>& args, Regime regime, void* workspace, size_t chunk_bytes)
      : a_(args),
        s_(args.shape),
        regime_(regime),
        timeline_(args),
        columns_(C::gates * s_.H),
        Hp_(padded_units(s_.H)),
        projected_(args.weights[0].w_hr),
        recomputes_(C::saved && !args.gates),
        arena_(workspace, 256),
        w_hh_(arena_, args.weights[0].w_hh, args.weights[1].w_hh, columns_ * s_.P, regime == Regime::r0 ? s_.D : 1),
        w_hr_(arena_, args.weights[0].w_hr, args.weights[1].w_hr, s_.P * s_.H, s_.D),
        transposed_(regime == Regime::r4 ? arena_.take<T>(s_.D * s_.H * columns_) : nullptr),
        first_(arena_, s_, args.schedule, loops(regime)),
        mail_(regime == Regime::r3 ? Mailboxes(arena_, Problem(args), C::gates, sizeof(T)) : Mailboxes()),
        d_h_(arena_.take<V>(s_.D * s_.B * s_.P)),
        d_hidden_(projected_ || C::gated_products ? arena_.take<V>(s_.D * s_.B * s_.H) : nullptr),
        d_carry_(C::has_cell_state || C::blends_state ? arena_.take<V>(s_.D * s_.B * s_.H) : nullptr),
        d_reset_h_(args.d_reset_h ? arena_.take<V>(s_.D * s_.B * s_.P) : nullptr),
        d_reset_c_(args.d_reset_c ? arena_.take<V>(s_.D * s_.B * s_.H) : nullptr),
        steps_per_chunk_(steps_of_chunk(s_, bytes_of_steps(2) - bytes_of_steps(1), chunk_bytes)),
        tokens_(place_tokens(arena_, tokens_of_chunk(s_, steps_per_chunk_))),
        recompute_(place_recompute(arena_, tokens_of_chunk(s_, steps_per_chunk_))),
        gradients_(arena_, args, tokens_, steps_per_chunk_ < s_.T) {}
  size_t workspace() const { return arena_.used(); }

  void enqueue(Queue& queue) const {
    w_hh_.enqueue_copy(queue);
    w_hr_.enqueue_copy(queue);
    if constexpr (on_tensor_cores<T>)
      for (int d = 0; d < s_.D && transposed_; ++d) transpose(queue, a_.weights[d].w_hh, transposed_ + d * s_.H * columns_, columns_, s_.H);
    first_.enqueue(queue, s_, a_.schedule);
    if (regime_ == Regime::r3) mail_.enqueue_clear(queue);
    if (a_.d_reset_h || a_.d_reset_c) queue.run(start_kernel<T>, over(s_.H, s_.D * s_.B), a_, step({0, 0}, -1));
    for (Chunk c{s_.T, s_.T}; c.begin > 0 && queue.error() == cudaSuccess;) {
      c = {std::max<int64_t>(0, c.begin - steps_per_chunk_), c.begin};
      for (int d = 0; d < s_.D; ++d) prepare(queue, d, c);
      if (loops(regime_)) run_steps(queue, c);
      else for (int64_t i = c.end - 1; i >= c.begin; --i) go_back(queue, c, i);
      gradients_.enqueue(queue, c);
    }
    gradients_.finish(queue);
    if (a_.d_h0 || a_.d_c0 || a_.d_reset_h || a_.d_reset_c)
      queue.run(end_kernel<T, C>, over(s_.H, s_.B, s_.D), a_, step({0, 0}, -1), timeline_.moment(0));
  }

 private:
  bool needs_before() const { return recomputes_ || a_.d_weights[0].w_hh || a_.d_weights[1].w_hh; }
  TokenBuffers<T> place_tokens(Arena& arena, int64_t capacity) const {
    return TokenBuffers<T>::place(arena, a_, capacity, splits_slots<C>, needs_before());
  }
  Recompute<T> place_recompute(Arena& arena, int64_t capacity) const { return recomputes_ ? Recompute<T>(arena, a_, capacity) : Recompute<T>(); }
  size_t bytes_of_steps(int64_t steps) const {
    Arena counting(nullptr, 256);
    place_tokens(counting, steps * s_.B);
    place_recompute(counting, steps * s_.B);
    return counting.used();
  }

  void prepare(Queue& queue, int d, const Chunk& c) const {
    if (!needs_before()) return;
    const Chunk times = timeline_.times(d, c);
    T* before = tokens_.before + d * tokens_.capacity * s_.P;
    gather_states_before(queue, a_, d, times, before);
    if (recomputes_) recompute_.enqueue(queue, a_, d, timeline_.tokens(times), before);
  }

  Operand<T> recurrent_weights() const {
    return transposed_ ? Operand<T>{transposed_, columns_, true, columns_ * s_.H} : w_hh_.operand(s_.P, false);
  }
  const T* gates() const { return recomputes_ ? recompute_.gates() : a_.gates; }

  void run_steps(Queue& queue, const Chunk& c) const {
    BackwardLoop<T> loop{c, first_.table(), tokens_, gates(), {}, {}, d_h_, d_carry_};
    for (int d = 0; d < s_.D; ++d) {
      loop.slot_row[d] = d * tokens_.capacity - timeline_.tokens(timeline_.times(d, c)).first;
      loop.gate_row[d] = recomputes_ ? loop.slot_row[d] : d * s_.N;
    }
    if constexpr (on_tensor_cores<T> && !C::gated_products) {
      if (regime_ == Regime::r1) run_cta_loop(queue, a_, loop);
      if (regime_ == Regime::r2) run_cluster_loop(queue, a_, loop);
      if (regime_ == Regime::r3) run_grid_loop(queue, a_, loop, mail_.after(s_.T - c.end));
    }
  }

  BackwardStep<T> step(const Chunk& c, int64_t i) const {
    BackwardStep<T> k{{}, {}, {}, Hp_, tokens_, gates(), d_h_, d_hidden_, d_carry_, d_reset_h_, d_reset_c_};
    for (int d = 0; d < s_.D; ++d) {
      k.step[d] = timeline_.step(d, i);
      k.token_row[d] = d * tokens_.capacity + timeline_.row_of_chunk(d, c, i);
      k.gates_row[d] = recomputes_ ? k.token_row[d] : d * s_.N + k.step[d].now.first;
    }
    return k;
  }

  // The product with the step after's slots and the cells, which R0 does one launch after the other. The chunk's first step finds the
  // product in memory, for its slots lay where this chunk's go.
  void run_cells(Queue& queue, const Chunk& c, int64_t i, const BackwardStep<T>& k, int64_t rows) const {
    if constexpr (on_tensor_cores<T> && !C::gated_products)
      if (regime_ == Regime::r4 && i + 1 < c.end)
        return run_fused_step(queue, a_, k, transposed_, step(c, i + 1).token_row);
    queue.run(cell_kernel<T, C>, over(s_.H, rows, s_.D), a_, k);
  }

  // With different numbers of rows the larger one is computed for both directions; nobody reads the surplus.
  void go_back(Queue& queue, const Chunk& c, int64_t i) const {
    const BackwardStep<T> k = step(c, i);
    int64_t rows = 0, finished = 0;
    for (int d = 0; d < s_.D; ++d) {
      rows = std::max(rows, k.step[d].now.active);
      finished = std::max(finished, k.step[d].after.active);
    }
    const auto tokens = [&](const T* of, int64_t width, int64_t first_column = 0) {
      return Operand<T>{of + k.token_row[0] * width + first_column, width, false, s_.D == 2 ? (k.token_row[1] - k.token_row[0]) * width : 0};
    };
    if (projected_) {
      queue.run(state_kernel<T>, over(s_.P, std::max(rows, finished), s_.D), a_, k);
      queue.multiply(rows, s_.H, s_.P, tokens(tokens_.states, s_.P), w_hr_.operand(s_.H, false), Result<V>{d_hidden_, s_.H, s_.B * s_.H}, s_.D);
    }
    run_cells(queue, c, i, k, std::max(rows, finished));
    if (regime_ == Regime::r4 && i > c.begin) return;  // the step before brings its own product
    constexpr int plain_gates = C::gates - C::gated_products;
    const int64_t plain = plain_gates * s_.H;
    if constexpr (C::gated_products) {
      queue.multiply(rows, s_.P, columns_ - plain, tokens(tokens_.hidden_slots, columns_, plain), w_hh_.operand(s_.P, false, plain),
                     Result<V>{d_hidden_, s_.P, s_.B * s_.P}, s_.D);
      queue.run(gated_kernel<T, C>, over(s_.H, rows, s_.D), a_, k);
    }
    if (i > 0 || a_.d_h0 || a_.d_reset_h)
      queue.multiply(rows, s_.P, plain, tokens(tokens_.hidden_slots, columns_), recurrent_weights(), Result<V>{d_h_, s_.P, s_.B * s_.P}, s_.D);
  }
};

}  // namespace

template <class T>
cudaError_t backward(const BackwardArgs<T>& args, const Gemm& gemm, void* workspace, size_t& bytes, cudaStream_t stream, size_t chunk_bytes) {
  const std::optional<Regime> regime = choose(Problem(args));
  if (!regime) return cudaErrorNotSupported;
  return with_any_cell<Wide<T>>(args.cell, [&](auto cell) {
    const Backward<T, decltype(cell)> layer(args, *regime, workspace, chunk_bytes);
    if (!workspace) return bytes = std::max<size_t>(layer.workspace(), 1), cudaSuccess;
    Queue queue(stream, gemm);
    layer.enqueue(queue);
    return queue.error();
  });
}

template cudaError_t backward(const BackwardArgs<float>&, const Gemm&, void*, size_t&, cudaStream_t, size_t);
template cudaError_t backward(const BackwardArgs<double>&, const Gemm&, void*, size_t&, cudaStream_t, size_t);
template cudaError_t backward(const BackwardArgs<__nv_bfloat16>&, const Gemm&, void*, size_t&, cudaStream_t, size_t);
template cudaError_t backward(const BackwardArgs<__half>&, const Gemm&, void*, size_t&, cudaStream_t, size_t);

}  // namespace rnnk::cuda
