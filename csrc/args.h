// What the torch layer hands to the kernels. Plain pointers, each with its shape; no torch header, no ownership.
//
// T steps, B batch, N tokens (rows over all steps, padding not counted), I input, H hidden, P state size (a projection's, 0 < P <= H; or H),
// D directions, G gates, S saved values per unit, Hp = H rounded up to 16.
#pragma once
#include <cstddef>
#include <cstdint>

namespace rnnk {

enum class Cell { lstm, gru, gru_reset_before, rnn_tanh, rnn_relu, rnn_sigmoid };

// G, S and whether there is a c, for those who do not see the mathematics; csrc/cpu/isa.inc asserts that cells/ agrees.
constexpr int gate_count(Cell cell) { return cell == Cell::lstm ? 4 : cell == Cell::gru || cell == Cell::gru_reset_before ? 3 : 1; }
constexpr int saved_count(Cell cell) { return cell == Cell::lstm || cell == Cell::gru ? 4 : cell == Cell::gru_reset_before ? 3 : 0; }
constexpr bool has_cell_state(Cell cell) { return cell == Cell::lstm; }

struct Shape {
  int64_t T, B, N, I, H, P;
  int D;
};

constexpr int64_t unit_padding = 16;
inline int64_t padded_units(int64_t H) { return (H + unit_padding - 1) / unit_padding * unit_padding; }

// Which rows run at which step. Rows are sorted by falling length, so that the first `active[t]` of them run at step t.
struct Schedule {
  const int64_t* active;  // [T], non-increasing
  const int64_t* first;   // [T], index of step t's first token: the sum of active[0..t)
  const int64_t* slot;    // [T], where step t lies in the caller's tensors, in units of Rows::step_stride
  const int64_t* order;   // [B], the caller's index of the b-th sorted row
};

// A caller's [T, B, *] tensor (padded or packed) with contiguous last dimension.
template <class T>
struct Rows {
  T* data;
  int64_t step_stride, row_stride;  // in elements

  T* at(const Schedule& schedule, int64_t t, int64_t b) const {
    return data + schedule.slot[t] * step_stride + schedule.order[b] * row_stride;
  }
};

// Where rows start anew: before step t, in the direction's own time, row b's state becomes `h` and `c` if the mask is true.
template <class T>
struct Reset {
  Rows<const bool> mask;  // [T, B]; data null means nowhere
  const T* h;             // [D, B, P]
  const T* c;             // [D, B, H], LSTM only

  bool at(const Schedule& schedule, int64_t t, int64_t b) const { return mask.data && *mask.at(schedule, t, b); }
};

template <class T>
struct Weights {
  const T* w_ih;  // [G * H, I]
  const T* w_hh;  // [G * H, P]
  const T* b_ih;  // [G * H] or null
  const T* b_hh;  // [G * H] or null
  const T* w_hr;  // [P, H] or null
};

template <class T>
struct ForwardArgs {
  Cell cell;
  Shape shape;
  Schedule schedule;
  int threads;
  Weights<T> weights[2];
  Rows<const T> x;  // [T, B, I]
  const T* h0;      // [D, B, P]
  const T* c0;      // [D, B, H], LSTM only
  Reset<T> reset;
  Rows<T> out;      // [T, B, D * P], direction d at column d * P
  Rows<T> c_out;    // [T, B, D * H], the c of every step likewise, LSTM only; data null when not wanted
  T* h_n;           // [D, B, P], not h0: some units may be there before others have read h0
  T* c_n;           // [D, B, H], LSTM only; may be c0
  int64_t call_index;  // every other call walks back over the weights, see cpu/walk.h
  T* gates;         // [D, N, S, Hp], or null when no backward pass follows or it shall recompute them (with lengths there is room for T * B tokens)
  T* cells;         // [D, N, Hp], likewise; LSTM only
};

// Any pointer may be null: that gradient is not wanted.
template <class T>
struct WeightGradients {
  T* w_ih;  // [G * H, I]
  T* w_hh;  // [G * H, P]
  T* b_ih;  // [G * H]
  T* b_hh;  // [G * H]
  T* w_hr;  // [P, H]
};

template <class T>
struct BackwardArgs {
  Cell cell;
  Shape shape;
  Schedule schedule;
  int threads;
  Weights<T> weights[2];
  Rows<const T> x;
  Rows<const T> out;    // [T, B, D * P]
  const T* h0;          // [D, B, P]
  const T* c0;          // [D, B, H]
  Reset<T> reset;
  const T* gates;       // [D, N, S, Hp], or null to compute them again
  const T* cells;       // [D, N, Hp]
  Rows<const T> d_out;  // [T, B, D * P]; data null means zero
  Rows<const T> d_c_out;  // [T, B, D * H], likewise
  const T* d_h_n;       // [D, B, P] or null for zero
  const T* d_c_n;       // [D, B, H] or null for zero
  Rows<T> d_x;          // [T, B, I]; data null when not wanted; rows of padding are left alone
  T* d_h0;              // [D, B, P] or null
  T* d_c0;              // [D, B, H] or null
  T* d_reset_h;         // [D, B, P] or null; added to
  T* d_reset_c;         // [D, B, H] or null; added to
  WeightGradients<T> d_weights[2];
};

}  // namespace rnnk
