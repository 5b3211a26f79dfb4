// Purpose: backpropagation through time of one layer, both directions, chunk by chunk of steps, last to first.
// Algorithm: a chunk's steps by the regime that regime.h has chosen: R0 (step_backward.cu) and R4 (fused_backward.cu) one by one, R1
// (cta_backward.cu), R2 (cluster_backward.cu) and R3 (grid_backward.cu) all of them in one launch. They leave the slots, D(pre-activations), of
// the chunk's tokens, with which the products over them follow (gradients.h); before the steps, where no gates were saved, recompute.h. end_kernel
// writes d_h0 and d_c0.
// Threads: one a unit of one row of one direction. No shared memory. A row begins at d_h_n and d_c_n at its own last step, which the schedule
// tells, so nothing is initialised; it is finished when it does not run at a step but did at the one after.
#include <optional>

#include "cuda/first_tokens.h"
#include "cuda/fused.h"
#include "cuda/gradients.h"
#include "cuda/loop.h"
#include "cuda/recompute.h"
#include "cuda/step.h"

namespace rnnk::cuda {

namespace {

template <class T>
__global__ void start_kernel(const BackwardArgs<T> a, const BackwardStep<T> k) {
  const Shape& s = a.shape;
  const int64_t u = own_column();
  for_own_rows(s.D * s.B, [&](int64_t row) {
    if (k.d_reset_h && u < s.P) k.d_reset_h[row * s.P + u] = 0;
    if (k.d_reset_c && u < s.H) k.d_reset_c[row * s.H + u] = 0;
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
  const bool recomputes_;
  Arena arena_;
  std::optional<StepBackward<T>> step_backward_;  // R0, R4
  const FirstTokens first_;          // R1, R2, R3
  const Mailboxes mail_;             // R3
  V *d_h_, *d_carry_;                // [D, B, P], [D, B, H]
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
        recomputes_(C::saved && !args.gates),
        arena_(workspace, 256),
        first_(arena_, s_, args.schedule, loops(regime)),
        mail_(regime == Regime::r3 ? Mailboxes(arena_, Problem(args), C::gates, sizeof(T)) : Mailboxes()),
        d_h_(arena_.take<V>(s_.D * s_.B * s_.P)),
        d_carry_(C::has_cell_state || C::blends_state ? arena_.take<V>(s_.D * s_.B * s_.H) : nullptr),
        d_reset_h_(args.d_reset_h ? arena_.take<V>(s_.D * s_.B * s_.P) : nullptr),
        d_reset_c_(args.d_reset_c ? arena_.take<V>(s_.D * s_.B * s_.H) : nullptr),
        steps_per_chunk_(steps_of_chunk(s_, bytes_of_steps(2) - bytes_of_steps(1), chunk_bytes)),
        tokens_(place_tokens(arena_, tokens_of_chunk(s_, steps_per_chunk_))),
        recompute_(place_recompute(arena_, tokens_of_chunk(s_, steps_per_chunk_))),
        gradients_(arena_, args, tokens_, steps_per_chunk_ < s_.T) {
    if (!loops(regime)) step_backward_.emplace(arena_, args, regime == Regime::r4);
  }
  size_t workspace() const { return arena_.used(); }

  void enqueue(Queue& queue) const {
    if (step_backward_) step_backward_->enqueue_weights(queue);
    first_.enqueue(queue, s_, a_.schedule);
    if (regime_ == Regime::r3) mail_.enqueue_clear(queue);
    if (a_.d_reset_h || a_.d_reset_c) queue.run(start_kernel<T>, over(s_.H, s_.D * s_.B), a_, step({0, 0}, -1));
    for (Chunk c{s_.T, s_.T}; c.begin > 0 && queue.error() == cudaSuccess;) {
      c = {std::max<int64_t>(0, c.begin - steps_per_chunk_), c.begin};
      for (int d = 0; d < s_.D; ++d) prepare(queue, d, c);
      if (loops(regime_)) run_chunk(queue, c);
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

  const T* gates() const { return recomputes_ ? recompute_.gates() : a_.gates; }

  void run_chunk(Queue& queue, const Chunk& c) const {
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
    BackwardStep<T> k{{}, {}, {}, Hp_, tokens_, gates(), d_h_, nullptr, d_carry_, d_reset_h_, d_reset_c_};
    for (int d = 0; d < s_.D; ++d) {
      k.step[d] = timeline_.step(d, i);
      k.token_row[d] = d * tokens_.capacity + timeline_.row_of_chunk(d, c, i);
      k.gates_row[d] = recomputes_ ? k.token_row[d] : d * s_.N + k.step[d].now.first;
    }
    return k;
  }

  // R4's chunks: the last step finds the product with the slots of the step after in memory, for those lay where this chunk's go; the first one
  // leaves its own there.
  void go_back(Queue& queue, const Chunk& c, int64_t i) const {
    const BackwardStep<T> k = step(c, i);
    if (regime_ == Regime::r0) return step_backward_->go_back(queue, k);
    if constexpr (on_tensor_cores<T> && !C::gated_products) {
      if (i + 1 < c.end) run_fused_step(queue, a_, k, step_backward_->transposed(), step(c, i + 1).token_row);
      else step_backward_->run_cells(queue, k);
      if (i == c.begin) step_backward_->multiply_w_hh(queue, k);
    }
  }
};

}  // namespace

template <class T>
cudaError_t backward(const BackwardArgs<T>& args, Regime regime, const Gemm& gemm, void* workspace, size_t& bytes, cudaStream_t stream,
                     size_t chunk_bytes) {
  return with_any_cell<Wide<T>>(args.cell, [&](auto cell) {
    const Backward<T, decltype(cell)> layer(args, regime, workspace, chunk_bytes);
    if (!workspace) return bytes = std::max<size_t>(layer.workspace(), 1), cudaSuccess;
    Queue queue(stream, gemm);
    layer.enqueue(queue);
    return queue.error();
  });
}

template cudaError_t backward(const BackwardArgs<float>&, Regime, const Gemm&, void*, size_t&, cudaStream_t, size_t);
template cudaError_t backward(const BackwardArgs<double>&, Regime, const Gemm&, void*, size_t&, cudaStream_t, size_t);
template cudaError_t backward(const BackwardArgs<__nv_bfloat16>&, Regime, const Gemm&, void*, size_t&, cudaStream_t, size_t);
template cudaError_t backward(const BackwardArgs<__half>&, Regime, const Gemm&, void*, size_t&, cudaStream_t, size_t);

}  // namespace rnnk::cuda
