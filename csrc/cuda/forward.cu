// Purpose: the forward pass of one layer, both directions, chunk by chunk of steps.
// Algorithm: h_n, which is the state, starts as h0. Per chunk: one product a direction for all its tokens, x W_ih^T; then its steps, by the regime
// that regime.h has chosen: R0 (step_forward.cu) and R4 (fused_forward.cu) one by one, R1 (cta_forward.cu), R2 (cluster_forward.cu) and R3
// (grid_forward.cu) all of them in one launch.
// Threads: start_kernel has one a unit of one row of one direction. No shared memory.
#include <optional>

#include "cuda/first_tokens.h"
#include "cuda/fused.h"
#include "cuda/loop.h"
#include "cuda/step.h"

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

template <class T, class C>
class Forward {
  using V = Wide<T>;

  const ForwardArgs<T>& a_;
  const Shape& s_;
  const Regime regime_;
  const Timeline timeline_;
  const int64_t columns_, steps_per_chunk_, chunk_tokens_;
  Arena arena_;
  const FirstTokens first_;          // R1, R2, R3
  Mailboxes mail_;                   // R3
  V* x_products_;                    // [D, chunk_tokens, G * H]
  V* c_ = nullptr;                   // [D, B, H]
  std::optional<StepForward<T>> step_forward_;  // R0

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
        first_(arena_, s_, args.schedule, loops(regime)) {
    x_products_ = arena_.take<V>(s_.D * chunk_tokens_ * columns_);
    if (regime == Regime::r3) mail_ = Mailboxes(arena_, Problem(args), 1, sizeof(T));
    if (C::has_cell_state) c_ = arena_.take<V>(s_.D * s_.B * s_.H);
    if (regime == Regime::r0) step_forward_.emplace(arena_, args);
  }
  size_t workspace() const { return arena_.used(); }

  void enqueue(Queue& queue) const {
    if (step_forward_) step_forward_->enqueue_weights(queue);
    first_.enqueue(queue, s_, a_.schedule);
    if (regime_ == Regime::r3) mail_.enqueue_clear(queue);
    queue.run(start_kernel<T>, over(s_.H, s_.B, s_.D), a_, step({0, 0}, -1));
    for (Chunk c{0, 0}; c.end < s_.T && queue.error() == cudaSuccess;) {
      c = {c.end, std::min(c.end + steps_per_chunk_, s_.T)};
      for (int d = 0; d < s_.D; ++d) multiply_x(queue, d, timeline_.tokens(timeline_.times(d, c)));
      if (loops(regime_)) run_chunk(queue, c);
      else for (int64_t i = c.begin; i < c.end; ++i) advance(queue, step(c, i));
    }
  }

 private:
  void multiply_x(Queue& queue, int d, const TokenRange& tokens) const {
    queue.multiply(tokens.count, columns_, s_.I, Operand<T>{a_.x + tokens.first * s_.I, s_.I}, Operand<T>{a_.weights[d].w_ih, s_.I, true},
                   Result<V>{x_products_ + d * chunk_tokens_ * columns_, columns_});
  }

  void run_chunk(Queue& queue, const Chunk& c) const {
    ForwardLoop<T> loop{c, first_.table(), x_products_, {}, c_};
    for (int d = 0; d < s_.D; ++d) loop.x_row[d] = d * chunk_tokens_ - timeline_.tokens(timeline_.times(d, c)).first;
    if constexpr (on_tensor_cores<T> && !C::gated_products) {
      if (regime_ == Regime::r1) run_cta_loop(queue, a_, loop);
      if (regime_ == Regime::r2) run_cluster_loop(queue, a_, loop);
      if (regime_ == Regime::r3) run_grid_loop(queue, a_, loop, mail_.after(c.begin));
    }
  }

  ForwardStep<T> step(const Chunk& c, int64_t i) const {
    ForwardStep<T> k{{}, padded_units(s_.H), {}, nullptr, c_, nullptr, nullptr};
    for (int d = 0; d < s_.D; ++d) {
      k.step[d] = timeline_.step(d, i);
      k.x_products[d] = x_products_ + (d * chunk_tokens_ + timeline_.row_of_chunk(d, c, i)) * columns_;
    }
    return k;
  }

  void advance(Queue& queue, const ForwardStep<T>& k) const {
    if (step_forward_) return step_forward_->advance(queue, k);
    if constexpr (on_tensor_cores<T> && !C::gated_products) run_fused_step(queue, a_, k);
  }
};

}  // namespace

template <class T>
cudaError_t forward(const ForwardArgs<T>& args, Regime regime, const Gemm& gemm, void* workspace, size_t& bytes, cudaStream_t stream,
                    size_t chunk_bytes) {
  return with_any_cell<Wide<T>>(args.cell, [&](auto cell) {
    const Forward<T, decltype(cell)> layer(args, regime, workspace, chunk_bytes);
    if (!workspace) return bytes = std::max<size_t>(layer.workspace(), 1), cudaSuccess;
    Queue queue(stream, gemm);
    layer.enqueue(queue);
    return queue.error();
  });
}

template cudaError_t forward(const ForwardArgs<float>&, Regime, const Gemm&, void*, size_t&, cudaStream_t, size_t);
template cudaError_t forward(const ForwardArgs<double>&, Regime, const Gemm&, void*, size_t&, cudaStream_t, size_t);
template cudaError_t forward(const ForwardArgs<__nv_bfloat16>&, Regime, const Gemm&, void*, size_t&, cudaStream_t, size_t);
template cudaError_t forward(const ForwardArgs<__half>&, Regime, const Gemm&, void*, size_t&, cudaStream_t, size_t);

}  // namespace rnnk::cuda
