// Copies of contiguous arrays, rounded where To is the narrower type.
#pragma once
#include "arena.h"
#include "cuda/queue.h"

namespace rnnk::cuda {

template <class From, class To>
void convert(Queue& queue, const From* from, To* to, int64_t count);

// to [columns, rows] = from [rows, columns], transposed.
template <class T>
void transpose(Queue& queue, const T* from, T* to, int64_t rows, int64_t columns);

// One matrix per direction at a constant distance, as a batched product takes them: with two directions a copy of both.
template <class T>
class SideBySide {
  const T* matrices_[2];
  T* copy_ = nullptr;
  int64_t size_;
  int D_;

 public:
  SideBySide(Arena& arena, const T* first, const T* second, int64_t size, int D) : matrices_{first, second}, size_(size), D_(D) {
    if (D == 2 && first) copy_ = arena.take<T>(2 * size);
  }
  void enqueue_copy(Queue& queue) const {
    for (int d = 0; d < D_ && copy_; ++d) convert(queue, matrices_[d], copy_ + d * size_, size_);
  }
  Operand<T> operand(int64_t row_stride, bool transposed, int64_t first_row = 0) const {
    return {(copy_ ? copy_ : matrices_[0]) + first_row * row_stride, row_stride, transposed, size_};
  }
};

}  // namespace rnnk::cuda
