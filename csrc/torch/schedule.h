// The table of which rows run at which step, from the layer's lengths or batch_sizes. Only the CPU's follows lengths: other devices run all
// rows at every step and leave those alone that have ended.
#pragma once
#include <c10/util/SmallVector.h>

#include "args.h"
#include "torch/layer.h"

namespace rnnk {

class ScheduleTable {
  c10::SmallVector<int64_t, 64> storage_;  // active, first, slot [T] and order [B]

  void allocate_table();
  void fill_full(int64_t rows);
  void fill_packed(const Tensor& batch_sizes, int64_t rows);
  void fill_lengths(const int64_t* length);
  int64_t* active() { return storage_.data(); }
  int64_t* first() { return storage_.data() + T; }
  int64_t* slot() { return storage_.data() + 2 * T; }
  int64_t* order() { return storage_.data() + 3 * T; }

 public:
  int64_t T = 0, B = 0, N = 0;
  int64_t capacity = 0;  // tokens that saved tensors have room for; known without reading lengths
  bool packed = false, padding = false;

  // Reads x's sizes, batch_sizes and lengths; throws where they do not fit together.
  explicit ScheduleTable(const Layer& layer);

  Schedule view() const { return {storage_.data(), storage_.data() + T, storage_.data() + 2 * T, storage_.data() + 3 * T}; }
};

}  // namespace rnnk
