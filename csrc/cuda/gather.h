// What the products over a chunk's tokens need in one piece.
#pragma once
#include "cuda/queue.h"
#include "cuda/steps.h"

namespace rnnk::cuda {

// The state that entered each token of direction d in `times`: to [tokens, P]; zero for padding.
template <class T>
void gather_states_before(Queue& queue, const BackwardArgs<T>& args, int d, const Chunk& times, T* to);

// x of the tokens in `times` of a padded batch with lengths: to [tokens, I]; zero for padding, which may hold NaN.
template <class T>
void gather_inputs(Queue& queue, const BackwardArgs<T>& args, const Chunk& times, T* to);

}  // namespace rnnk::cuda
