// The steps of a chunk in one launch, between the products of forward.cu and backward.cu: by R1 (run_cta_loop), R2 (run_cluster_loop) or R3
// (run_grid_loop).
#pragma once
#include "cuda/mailboxes.h"
#include "cuda/steps.h"
#include "cuda/tokens.h"

namespace rnnk::cuda {

// A chunk of the forward pass: states go from h_n and c to h_n and c (and c_n).
template <class T>
struct ForwardLoop {
  Chunk chunk;
  const int64_t* first;       // FirstTokens
  const Wide<T>* x_products;  // [rows, G * H]
  int64_t x_row[2];           // of a direction's token 0
  Wide<T>* c;                 // [D, B, H], LSTM only
};
template <class T>
void run_cta_loop(Queue& queue, const ForwardArgs<T>& args, const ForwardLoop<T>& loop);
template <class T>
void run_cluster_loop(Queue& queue, const ForwardArgs<T>& args, const ForwardLoop<T>& loop);
template <class T>
void run_grid_loop(Queue& queue, const ForwardArgs<T>& args, const ForwardLoop<T>& loop, const Mail& mail);

// A chunk of the backward pass: d_h and d_carry go from those of the chunk after to those of the chunk before; the slots to `tokens`.
// d_h0 is written after the first chunk, of rows that ran.
template <class T>
struct BackwardLoop {
  Chunk chunk;
  const int64_t* first;  // FirstTokens
  TokenBuffers<T> tokens;
  const T* gates;                    // [rows, S, Hp]
  int64_t slot_row[2], gate_row[2];  // of a direction's token 0 in `tokens` and in `gates`
  Wide<T>*d_h, *d_carry;             // [D, B, H]
};
template <class T>
void run_cta_loop(Queue& queue, const BackwardArgs<T>& args, const BackwardLoop<T>& loop);
template <class T>
void run_cluster_loop(Queue& queue, const BackwardArgs<T>& args, const BackwardLoop<T>& loop);
template <class T>
void run_grid_loop(Queue& queue, const BackwardArgs<T>& args, const BackwardLoop<T>& loop, const Mail& mail);

}  // namespace rnnk::cuda
