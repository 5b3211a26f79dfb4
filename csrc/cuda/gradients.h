// The gradients that need no recurrence: large products over the tokens of a chunk of steps.
//
//   d_x    = slots W_ih                         d_w_ih = slots^T x
//   d_w_hr = D(state)^T (o * tanh(c))           d_w_hh = (hidden slots)^T (h before)        d_b = column sums of the slots
// The rows of d_w_hh that met a gated state: with that.
#pragma once
#include "cuda/columns.h"
#include "cuda/convert.h"
#include "cuda/gather.h"
#include "cuda/tokens.h"

namespace rnnk::cuda {

// A weight's gradient that the chunks add to: in place, or, where T would round it chunk by chunk, in Wide<T>.
template <class T>
class ChunkSum {
  T* result_ = nullptr;
  Wide<T>* sum_ = nullptr;
  int64_t m_ = 0, n_ = 0;

 public:
  ChunkSum() = default;
  ChunkSum(Arena& arena, T* result, int64_t m, int64_t n, bool several_chunks) : result_(result), m_(m), n_(n) {
    if (result && several_chunks && !std::is_same_v<T, Wide<T>>) sum_ = arena.take<Wide<T>>(m * n);
  }
  explicit operator bool() const { return result_; }

  // += a^T b: a [tokens, m], whose rows lie a_stride apart, b [tokens, n].
  void add(Queue& queue, int64_t tokens, const T* a, int64_t a_stride, const T* b, bool first) const {
    const Operand<T> left{a, a_stride, true}, right{b, n_};
    if (sum_) queue.multiply(m_, n_, tokens, left, right, Result<Wide<T>>{sum_, n_, 0, !first});
    else queue.multiply(m_, n_, tokens, left, right, Result<T>{result_, n_, 0, !first});
  }
  void finish(Queue& queue) const {
    if constexpr (!std::is_same_v<T, Wide<T>>)
      if (sum_) convert(queue, sum_, result_, m_ * n_);
  }
};

template <class T>
class Gradients {
  const BackwardArgs<T>& a_;
  const Shape& s_;
  const TokenBuffers<T> tokens_;
  const Timeline timeline_;
  const int64_t columns_, plain_;  // plain: those of gates whose recurrent product is with h
  struct {
    ChunkSum<T> w_ih, w_hh, gated, w_hr;  // gated: the rows of W_hh after the plain ones
  } sums_[2];
  T* inputs_ = nullptr;  // [capacity, I], with lengths: x with zeros for padding
  ColumnSums<T> biases_;

 public:
  Gradients(Arena& arena, const BackwardArgs<T>& args, const TokenBuffers<T>& tokens, bool several_chunks)
      : a_(args), s_(args.shape), tokens_(tokens), timeline_(args), columns_(gate_count(args.cell) * s_.H),
        plain_(columns_ - gated_count(args.cell) * s_.H) {
    for (int d = 0; d < s_.D; ++d) {
      const WeightGradients<T>& to = args.d_weights[d];
      sums_[d].w_ih = {arena, to.w_ih, columns_, s_.I, several_chunks};
      sums_[d].w_hh = {arena, to.w_hh, plain_, s_.P, several_chunks};
      if (to.w_hh && plain_ < columns_) sums_[d].gated = {arena, to.w_hh + plain_ * s_.P, columns_ - plain_, s_.P, several_chunks};
      sums_[d].w_hr = {arena, to.w_hr, s_.P, s_.H, several_chunks};
      if (to.w_ih && args.schedule.lengths && !inputs_) inputs_ = arena.take<T>(tokens.capacity * s_.I);
    }
    biases_ = {arena, bias_tasks({0, 0}).count, tokens.capacity, columns_};
  }

  // The loop comes from the last chunk to the first.
  void enqueue(Queue& queue, const Chunk& c) const {
    const bool first = c.end == s_.T;
    for (int d = 0; d < s_.D; ++d) {
      const Chunk times = timeline_.times(d, c);
      const TokenRange range = timeline_.tokens(times);
      const int64_t at = d * tokens_.capacity;
      if (a_.d_x) input_gradient(queue, d, c);
      if (sums_[d].w_ih) {
        if (inputs_) gather_inputs(queue, a_, times, inputs_);
        sums_[d].w_ih.add(queue, range.count, tokens_.slots + at * columns_, columns_, inputs_ ? inputs_ : a_.x + range.first * s_.I, first);
      }
      const T* slots = tokens_.hidden_slots + at * columns_;
      if (sums_[d].w_hh) sums_[d].w_hh.add(queue, range.count, slots, columns_, tokens_.before + at * s_.P, first);
      if (sums_[d].gated) sums_[d].gated.add(queue, range.count, slots + plain_, columns_, tokens_.hidden + at * s_.H, first);
      if (sums_[d].w_hr) sums_[d].w_hr.add(queue, range.count, tokens_.states + at * s_.P, s_.P, tokens_.hidden + at * s_.H, first);
    }
    biases_.add(queue, bias_tasks(c), first);
  }

  // After the last one.
  void finish(Queue& queue) const {
    biases_.finish(queue, bias_tasks({0, 0}));
    for (const auto& sums : sums_) {
      sums.w_ih.finish(queue);
      sums.w_hh.finish(queue);
      sums.gated.finish(queue);
      sums.w_hr.finish(queue);
    }
  }

 private:
  // The direction that comes to a time first overwrites, the other one adds.
  void input_gradient(Queue& queue, int d, const Chunk& c) const {
    const Chunk times = timeline_.times(d, c);
    const int64_t meeting = std::clamp(d ? c.begin : s_.T - c.end, times.begin, times.end);
    for (const Chunk part : {Chunk{times.begin, meeting}, Chunk{meeting, times.end}}) {
      const bool second = s_.D == 2 && (part.begin < meeting) == (d == 0);
      if (part.begin < part.end) multiply_w_ih(queue, d, timeline_.tokens(times).first, timeline_.tokens(part), second);
    }
  }

  void multiply_w_ih(Queue& queue, int d, int64_t first_of_chunk, const TokenRange& tokens, bool add) const {
    const T* slots = tokens_.slots + (d * tokens_.capacity + tokens.first - first_of_chunk) * columns_;
    queue.multiply(tokens.count, s_.I, columns_, Operand<T>{slots, columns_}, Operand<T>{a_.weights[d].w_ih, s_.I},
                   Result<T>{a_.d_x + tokens.first * s_.I, s_.I, 0, add});
  }

  ColumnTasks<T> bias_tasks(const Chunk& c) const {
    ColumnTasks<T> tasks;
    for (int d = 0; d < s_.D; ++d) {
      const WeightGradients<T>& to = a_.d_weights[d];
      const int64_t rows = timeline_.tokens(timeline_.times(d, c)).count, at = d * tokens_.capacity * columns_;
      tasks.push({tokens_.slots + at, rows, to.b_ih, tokens_.splits_slots ? nullptr : to.b_hh});
      if (tokens_.splits_slots) tasks.push({tokens_.hidden_slots + at, rows, to.b_hh, nullptr});
    }
    return tasks;
  }
};

}  // namespace rnnk::cuda
