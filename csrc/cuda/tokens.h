// What the backward loop leaves for the products over a chunk's tokens.
#pragma once
#include "arena.h"
#include "cuda/args.h"

namespace rnnk::cuda {

// Each is [D, capacity, ...] by token of the chunk. Where a batched product over two directions takes the larger number of rows, it reads
// up to B rows behind the last one.
template <class T>
struct TokenBuffers {
  int64_t capacity = 0;
  bool splits_slots = false;
  T* slots = nullptr;         // [G * H], D(pre-activations) as they meet x
  T* hidden_slots = nullptr;  // [G * H], as they meet h; a GRU's differ, others' are the slots
  T* before = nullptr;        // [P], the state that entered, where a product needs it
  T* states = nullptr;        // [P], with a projection: D(state)
  T* hidden = nullptr;        // [H], what a wanted gradient needs: with a projection o * tanh(c), or the gated state

  static TokenBuffers place(Arena& arena, const BackwardArgs<T>& args, int64_t capacity, bool splits_slots, bool needs_before) {
    const Shape& s = args.shape;
    const int64_t tokens = s.D * capacity, rows = tokens + (s.D == 2 ? s.B : 0), columns = gate_count(args.cell) * s.H;
    TokenBuffers b{capacity, splits_slots};
    b.slots = arena.take<T>(rows * columns);
    b.hidden_slots = splits_slots ? arena.take<T>(rows * columns) : b.slots;
    if (needs_before) b.before = arena.take<T>(tokens * s.P);
    const auto wanted = [&](T* WeightGradients<T>::*weight) { return args.d_weights[0].*weight || args.d_weights[1].*weight; };
    if (args.weights[0].w_hr) b.states = arena.take<T>(rows * s.P);
    if (gated_count(args.cell) ? wanted(&WeightGradients<T>::w_hh) : wanted(&WeightGradients<T>::w_hr)) b.hidden = arena.take<T>(tokens * s.H);
    return b;
  }
};

}  // namespace rnnk::cuda
