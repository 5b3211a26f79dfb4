// R4: a step in one launch, a product with the cell as its epilogue.
#pragma once
#include "cuda/queue.h"

namespace rnnk::cuda {

template <class T>
struct ForwardStep;
template <class T>
struct BackwardStep;

// A step of the forward pass.
template <class T>
void run_fused_step(Queue& queue, const ForwardArgs<T>& args, const ForwardStep<T>& step);

// A step of the backward pass, not the first of its chunk: the step after's slots lie from `slot_row` of each direction on in `step.tokens`.
// w_hh: [D, H, G * H], transposed.
template <class T>
void run_fused_step(Queue& queue, const BackwardArgs<T>& args, const BackwardStep<T>& step, const T* w_hh, const int64_t (&slot_row)[2]);

}  // namespace rnnk::cuda
