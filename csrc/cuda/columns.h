// Sums over the rows of matrices: the gradients of the biases.
#pragma once
#include "arena.h"
#include "cuda/queue.h"

namespace rnnk::cuda {

constexpr int most_column_sums = 4;  // two directions, each with what meets x and what meets h

// One matrix of a chunk, and where the sums of all chunks go; null where nobody wants them.
template <class T>
struct ColumnSum {
  const T* matrix;  // [rows, columns]
  int64_t rows;
  T* sums[2];  // [columns], the same numbers
};

template <class T>
class ColumnSums {
  int64_t columns_ = 0;
  int parts_ = 0, count_ = 0;
  Wide<T>* partial_ = nullptr;  // [count, parts, columns]

 public:
  ColumnSums() = default;
  // For `count` matrices of at most `rows` rows at a time.
  ColumnSums(Arena& arena, int count, int64_t rows, int64_t columns);

  void add(Queue& queue, const ColumnSum<T> (&of)[most_column_sums], bool first) const;
  void finish(Queue& queue, const ColumnSum<T> (&of)[most_column_sums]) const;
};

}  // namespace rnnk::cuda
