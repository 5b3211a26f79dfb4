// A layer's arguments after all checks, as the kernels take them.
#pragma once
#include "torch/layer.h"
#include "torch/schedule.h"

namespace rnnk {

struct Checked {
  ScheduleTable schedule;
  Shape shape;
  std::array<Tensor, argument_count> arguments;  // dense where the kernels need it

  // Throws c10::Error on anything that does not fit together.
  explicit Checked(const Layer& layer);

  // t, or a copy of it as the kernels read tokens: the CPU's need the last dimension contiguous, those of other devices all of them.
  static Tensor tokens(const Tensor& t) { return t.is_cpu() && (t.size(-1) <= 1 || t.stride(-1) == 1) ? t : t.contiguous(); }

  template <class T>
  const T* input(int argument) const {
    return arguments[argument].defined() ? static_cast<const T*>(arguments[argument].const_data_ptr()) : nullptr;
  }

  template <class T>
  void weights(Weights<T> (&to)[2]) const {
    for (int d = 0; d < shape.D; ++d) {
      const int base = d * direction_stride;
      to[d] = {input<T>(base + W_IH), input<T>(base + W_HH), input<T>(base + B_IH), input<T>(base + B_HH), input<T>(base + W_HR)};
    }
  }

  // [T, B, columns] or, packed, [N, columns].
  std::vector<int64_t> token_sizes(int64_t columns) const {
    if (schedule.packed) return {shape.N, columns};
    return {shape.T, shape.B, columns};
  }
};

template <class T, class Pointer>
Rows<T> rows(Pointer data, const Tensor& t) {
  if (t.dim() == 2) return {data, t.stride(0), t.stride(0)};
  return {data, t.stride(0), t.stride(1)};
}
template <class T>
Rows<const T> input_rows(const Tensor& t) {
  return rows<const T>(t.const_data_ptr<T>(), t);
}
template <class T>
Rows<T> output_rows(const Tensor& t) {
  return rows<T>(t.mutable_data_ptr<T>(), t);
}

}  // namespace rnnk
