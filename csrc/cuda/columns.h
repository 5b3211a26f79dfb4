// Sums over the rows of matrices: the gradients of the biases.
#pragma once
#include "arena.h"
#include "cuda/queue.h"

namespace rnnk::cuda {

// One matrix of a chunk, and where the sums of all chunks go, to one place or two: either may be null.
template <class T>
struct ColumnSum {
  const T* matrix;  // [rows, columns]
  int64_t rows;
  T *sums, *second_target;  // [columns]
};

// Two directions, each with what meets x and what meets h.
template <class T>
struct ColumnTasks {
  static constexpr int most = 4;
  ColumnSum<T> at[most];
  int count = 0;

  void push(const ColumnSum<T>& task) {
    if (task.sums || task.second_target) at[count++] = task;
  }
};

template <class T>
class ColumnSums {
  int64_t columns_ = 0;
  int parts_ = 0;
  Wide<T>* partial_ = nullptr;  // [count, parts, columns]

 public:
  ColumnSums() = default;
  // For `count` matrices of at most `rows` rows at a time.
  ColumnSums(Arena& arena, int count, int64_t rows, int64_t columns);

  void add(Queue& queue, const ColumnTasks<T>& tasks, bool first) const;
  void finish(Queue& queue, const ColumnTasks<T>& tasks) const;
};

}  // namespace rnnk::cuda
