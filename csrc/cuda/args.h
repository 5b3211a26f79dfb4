// The CUDA kernels as the torch layer sees them: what it hands over, and the two entry points. Plain pointers, each with its shape; no
// torch header, no ownership. Shape letters as in ../args.h; pointers are to the device's memory unless they say host.
#pragma once
#include <cuda_runtime.h>

#include <cstddef>
#include <type_traits>

#include "../args.h"
#include "cuda/gemm.h"

namespace rnnk::cuda {

// Arithmetic, products and c are of this type; float16 and bfloat16 are for storage only.
template <class T>
using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;

// Which tokens a step has: first[t] to first[t] + active[t], row b the b-th of them. A padded batch has all B at every step.
struct Schedule {
  const int64_t* active;   // host [T], non-increasing
  const int64_t* first;    // host [T], the sum of active[0..t)
  const int64_t* lengths;  // [B] or null: of a padded batch, row b runs at step t where t < lengths[b]
};

// Where rows start anew: before a token's step, in the direction's own time, its row's state becomes `h` and `c` if the mask is true.
template <class T>
struct Reset {
  const bool* mask;  // [N]; null means nowhere
  const T* h;        // [D, B, P]
  const T* c;        // [D, B, H], LSTM only
};

template <class T>
struct ForwardArgs {
  Cell cell;
  Shape shape;
  Schedule schedule;
  Weights<T> weights[2];
  const T* x;      // [N, I]
  const T* h0;     // [D, B, P]
  const T* c0;     // [D, B, H], LSTM only
  Reset<T> reset;
  T* out;          // [N, D * P], direction d at column d * P; zero past a row's length
  T* c_out;        // [N, D * H], the c of every step likewise, or null when not wanted; LSTM only
  T* h_n;          // [D, B, P]
  T* c_n;          // [D, B, H], LSTM only
  T* gates;        // [D, N, S, Hp], or null when no backward pass follows or it shall recompute them
  Wide<T>* cells;  // [D, N, Hp], or null when no backward pass follows; LSTM only
  bool tf32;       // float: products may take their operands as TF32
};

template <class T>
struct BackwardArgs {
  Cell cell;
  Shape shape;
  Schedule schedule;
  Weights<T> weights[2];
  const T* x;
  const T* out;
  const T* h0;
  const T* c0;
  Reset<T> reset;
  const T* gates;  // or null to compute them again
  const Wide<T>* cells;
  const T* d_out;  // [N, D * P] or null for zero
  const T* d_c_out;  // [N, D * H] or null for zero
  const T* d_h_n;  // [D, B, P] or null for zero
  const T* d_c_n;  // [D, B, H] or null for zero
  T* d_x;          // [N, I] or null when not wanted; zero past a row's length
  T* d_h0;         // [D, B, P] or null
  T* d_c0;         // [D, B, H] or null
  T* d_reset_h;    // [D, B, P] or null
  T* d_reset_c;    // [D, B, H] or null
  WeightGradients<T> d_weights[2];
  bool tf32;  // as in ForwardArgs
};

// Of the gates, the last so many whose recurrent product is not with h but with a gated state; cells.h asserts that cells/ agrees.
constexpr int gated_count(Cell cell) { return cell == Cell::gru_reset_before ? 1 : 0; }

// The ways a layer is computed: docs/cuda.md.
enum class Regime { r0, r1, r2, r3, r4 };
constexpr const char* regime_names[] = {"R0", "R1", "R2", "R3", "R4"};

// Enqueues the layer on `stream`, by a regime that fits it (regime.h), or, where `workspace` is null, only sets `bytes` to what it needs,
// never 0; a workspace lies at a multiple of 256. Nothing is allocated, nothing waits, no host memory is read once the call has returned: it
// may be captured into a graph. `chunk_bytes` bounds what the workspace holds per token: forward, products that shall stay in the L2; backward,
// what the large products of a chunk of steps need, whose weight gradients are added up. T: float, double, __nv_bfloat16, __half.
template <class T>
cudaError_t forward(const ForwardArgs<T>& args, Regime regime, const Gemm& gemm, void* workspace, size_t& bytes, cudaStream_t stream,
                    size_t chunk_bytes = 32 << 20);
template <class T>
cudaError_t backward(const BackwardArgs<T>& args, Regime regime, const Gemm& gemm, void* workspace, size_t& bytes, cudaStream_t stream,
                     size_t chunk_bytes = 256 << 20);

}  // namespace rnnk::cuda
