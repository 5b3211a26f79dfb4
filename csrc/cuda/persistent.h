// What R1, R2 and R3 have in common (R3 also grid.h): the steps of a chunk in one launch, between the products of forward.cu and backward.cu.
#pragma once
#include "arena.h"
#include "cuda/queue.h"
#include "cuda/steps.h"
#include "cuda/tokens.h"

namespace rnnk::cuda {

template <class T>
constexpr bool has_loop = !std::is_same_v<T, double>;

// Packed: first[T + 1] of Steps on the device, where kernels find a time's tokens. Padded: null, they are counted.
class FirstTokens {
  int64_t* table_ = nullptr;

 public:
  FirstTokens(Arena& arena, const Shape& s, const Steps& steps, bool wanted) {
    if (wanted && steps.active[s.T - 1] < s.B) table_ = arena.take<int64_t>(s.T + 1);
  }
  void enqueue(Queue& queue, const Shape& s, const Steps& steps) const;
  const int64_t* table() const { return table_; }
};

// A chunk of the forward pass: states go from h_n and c to h_n and c (and c_n).
template <class T>
struct ForwardLoop {
  Chunk steps;
  const int64_t* first;       // FirstTokens
  const Wide<T>* x_products;  // [rows, G * H]
  int64_t x_row[2];           // of a direction's token 0
  Wide<T>* c;                 // [D, B, H], LSTM only
};
template <class T>
void run_loop(Queue& queue, const ForwardArgs<T>& args, const ForwardLoop<T>& loop);
template <class T>
void run_cluster_loop(Queue& queue, const ForwardArgs<T>& args, const ForwardLoop<T>& loop);

// A chunk of the backward pass: d_h and d_carry go from those of the chunk after to those of the chunk before; the slots to `tokens`.
// d_h0 is written after the first chunk, of rows that ran.
template <class T>
struct BackwardLoop {
  Chunk steps;
  const int64_t* first;  // FirstTokens
  TokenBuffers<T> tokens;
  const T* gates;                    // [rows, S, Hp]
  int64_t slot_row[2], gate_row[2];  // of a direction's token 0 in `tokens` and in `gates`
  Wide<T>*d_h, *d_carry;             // [D, B, H]
};
template <class T>
void run_loop(Queue& queue, const BackwardArgs<T>& args, const BackwardLoop<T>& loop);
template <class T>
void run_cluster_loop(Queue& queue, const BackwardArgs<T>& args, const BackwardLoop<T>& loop);

}  // namespace rnnk::cuda
