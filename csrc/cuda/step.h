// R0: a step in launches of its own, products and cells one after the other.
#pragma once
#include "cuda/backward_step.cuh"
#include "cuda/convert.h"
#include "cuda/forward_step.cuh"

namespace rnnk::cuda {

// The forward pass; step_forward.cu.
template <class T>
class StepForward {
  const ForwardArgs<T>& a_;
  const Shape& s_;
  const int64_t columns_;
  const SideBySide<T> w_hh_, w_hr_;
  Wide<T>* const h_products_;  // [D, B, G * H]
  T *const hidden_, *const states_;  // as in ForwardStep

 public:
  StepForward(Arena& arena, const ForwardArgs<T>& args);

  // Before the first step.
  void enqueue_weights(Queue& queue) const;
  // Fills in what no other regime has of a step, and runs it.
  void advance(Queue& queue, ForwardStep<T> step) const;

 private:
  void multiply_w_hh(Queue& queue, int64_t rows, const T* states, int64_t first_gate, int64_t gates) const;
};

// The backward pass; step_backward.cu. R4 takes of it what it cannot fuse: run_cells for the last step of a chunk, whose product is in memory,
// and multiply_w_hh, which brings the first step's there.
template <class T>
class StepBackward {
  const BackwardArgs<T>& a_;
  const Shape& s_;
  const int64_t columns_;
  const SideBySide<T> w_hh_, w_hr_;
  T* const transposed_;
  Wide<T>* const d_hidden_;  // as in BackwardStep

 public:
  StepBackward(Arena& arena, const BackwardArgs<T>& args, bool transposes);

  // Before the first step.
  void enqueue_weights(Queue& queue) const;
  void go_back(Queue& queue, BackwardStep<T> step) const;
  void run_cells(Queue& queue, const BackwardStep<T>& step) const;
  void multiply_w_hh(Queue& queue, const BackwardStep<T>& step) const;
  // W_hh as [D, H, G * H], if it `transposes`.
  const T* transposed() const { return transposed_; }

 private:
  Operand<T> tokens(const T* of, const BackwardStep<T>& step, int64_t width, int64_t first_column = 0) const;
};

}  // namespace rnnk::cuda
