// Where the tokens of a time begin, for kernels that run many steps.
#pragma once
#include "arena.h"
#include "cuda/queue.h"

namespace rnnk::cuda {

// Of a packed batch, first[T + 1] of Schedule on the device; of a padded one null, for there tokens are counted.
class FirstTokens {
  int64_t* table_ = nullptr;

 public:
  FirstTokens(Arena& arena, const Shape& s, const Schedule& schedule, bool wanted) {
    if (wanted && schedule.active[s.T - 1] < s.B) table_ = arena.take<int64_t>(s.T + 1);
  }
  void enqueue(Queue& queue, const Shape& s, const Schedule& schedule) const;
  const int64_t* table() const { return table_; }
};

}  // namespace rnnk::cuda
