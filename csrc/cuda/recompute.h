// The gates that a forward pass did not save, computed again for a chunk of steps at a time: the states are known by now, so two products
// over the chunk's tokens and the cell are all.
#pragma once
#include "arena.h"
#include "cuda/queue.h"
#include "cuda/steps.h"

namespace rnnk::cuda {

template <class T>
class Recompute {
  Wide<T>*x_products_ = nullptr, *h_products_ = nullptr;  // [capacity, G * H], one direction after the other
  T* gated_ = nullptr;                                    // [capacity, H], the gated state of a cell that has one, likewise
  T* gates_ = nullptr;                                    // [D, capacity, S, Hp]
  int64_t capacity_ = 0;

 public:
  Recompute() = default;
  Recompute(Arena& arena, const BackwardArgs<T>& args, int64_t capacity);

  // before: [tokens, P], the states that entered.
  void enqueue(Queue& queue, const BackwardArgs<T>& args, int d, const TokenRange& tokens, const T* before) const;
  const T* gates() const { return gates_; }
};

}  // namespace rnnk::cuda
