// Purpose: W_hh and W_hr of two directions side by side, and weight gradients that were added up in Wide<T> rounded to T, once a call.
// Algorithm: a grid over the elements, each read, converted and written.
// Threads: one an element. No shared memory, 16 registers.
#include "cuda/convert.h"

namespace rnnk::cuda {

namespace {

template <class From, class To>
__global__ void convert_kernel(const From* from, To* to, int64_t count) {
  const int64_t i = own_column();
  if (i >= count) return;
  if constexpr (std::is_same_v<From, To>) to[i] = from[i];
  else to[i] = narrow<To>(from[i]);
}

}  // namespace

template <class From, class To>
void convert(Queue& queue, const From* from, To* to, int64_t count) {
  queue.run(convert_kernel<From, To>, over(count, 1), from, to, count);
}

template void convert(Queue&, const float*, float*, int64_t);
template void convert(Queue&, const double*, double*, int64_t);
template void convert(Queue&, const __nv_bfloat16*, __nv_bfloat16*, int64_t);
template void convert(Queue&, const __half*, __half*, int64_t);
template void convert(Queue&, const float*, __nv_bfloat16*, int64_t);
template void convert(Queue&, const float*, __half*, int64_t);

}  // namespace rnnk::cuda
