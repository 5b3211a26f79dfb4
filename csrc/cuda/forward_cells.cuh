// The cells of a thread in the forward pass, whoever computes their products: what they read and write in global memory, and their state,
// which stays in registers from step to step.
#pragma once
#include "cuda/loop.cuh"

namespace rnnk::cuda {

template <class T, class C, int rows, int units>
class ForwardCells {
  using V = Wide<T>;
  using Value = ValueOf<C>;
  static constexpr int G = C::gates;

  const ForwardArgs<T>& a_;
  const ForwardLoop<T>& k_;
  Place own_;
  const Calendar calendar_;
  const int H_, left_;  // units from its first one on
  const int x_row_;
  const bool whole_;
  int end_[rows];
  int coming_;  // token of the step to be fetched next
  Value biases_[units][C::biases];
  V carry_[rows][units];
  Units<T, units> state_[rows];

 public:
  const int begin, stop;  // the chunk

  // What a step needs that is known before it.
  struct Inputs {
    int token;  // of the step's row 0
    Units<V, units> x[rows][G];
  };

  // What a step leaves, beside the state, in one row.
  struct Results {
    bool runs;
    Units<T, units> saved[C::saved ? C::saved : 1];
    Units<V, units> cells;
  };

  __device__ ForwardCells(const ForwardArgs<T>& a, const ForwardLoop<T>& k, const Place& own)
      : a_(a), k_(k), own_(own), calendar_{k.first, a.schedule.lengths, int(a.shape.B), int(a.shape.T), own.direction},
        H_(int(a.shape.H)), left_(H_ - own.unit), x_row_(int(calendar_.d ? k.x_row[1] : k.x_row[0])),
        whole_(H_ % units == 0 && aligned<units>(a.out) && aligned<units>(a.gates) && aligned<units>(a.cells)),
        begin(int(k.chunk.begin)), stop(int(k.chunk.end)) {}

  // Addresses are computed anew from here on: a thread that has several of these cannot keep them all.
  __device__ void forget_addresses() { own_.row = ptx::fresh(own_.row), own_.unit = ptx::fresh(own_.unit); }
  __device__ const Place& place() const { return own_; }

  __device__ const Weights<T>& weights() const { return calendar_.d ? a_.weights[1] : a_.weights[0]; }

  __device__ void load() {
    for (int o = 0; o < units; ++o) {
      for (Value& b : biases_[o]) b = 0;
      if (o < left_) load_biases<C>(weights(), H_, own_.unit + o, biases_[o]);
    }
    for (int c = 0; c < rows; ++c) {
      end_[c] = calendar_.end(own_.row + c);
      const int left = own_.row + c < calendar_.B ? left_ : 0;
      state_[c] = load_units<units>(a_.h_n + state_at(c), left, false);
      for (int o = 0; o < units; ++o) carry_[c][o] = C::has_cell_state && o < left ? k_.c[state_at(c) + o] : V(0);
    }
    coming_ = calendar_.token(begin);
  }

  __device__ void store() const {
    for (int c = 0; c < rows; ++c) {
      const int left = own_.row + c < calendar_.B ? left_ : 0;
      store_units(a_.h_n + state_at(c), state_[c], left, false);
      for (int o = 0; C::has_cell_state && o < units; ++o) {
        if (o >= left) continue;
        k_.c[state_at(c) + o] = carry_[c][o];
        a_.c_n[state_at(c) + o] = narrow<T>(carry_[c][o]);
      }
    }
  }

  // h of a row, as the next product takes it.
  template <class Tiles>
  __device__ Units<T, units> operands(int c) const {
    Units<T, units> h;
    for (int o = 0; o < units; ++o) h.at[o] = operand<Tiles>(state_[c].at[o]);
    return h;
  }

  // Step by step. A row that does not run is not read: padding may be NaN, and there may be no such row.
  __device__ void fetch(int step, Inputs& to) {
    if (step >= stop) return;
    const int time = calendar_.time(step);
    to.token = coming_;
    if (step + 1 < stop) coming_ = calendar_.token(step + 1);
#pragma unroll
    for (int c = 0; c < rows; ++c) {
      if (time >= end_[c]) continue;
      const V* x = k_.x_products + int64_t(x_row_ + to.token + own_.row + c) * (G * H_) + own_.unit;
#pragma unroll
      for (int g = 0; g < G; ++g) to.x[c][g] = load_units<units>(x + g * H_, left_, whole_);
    }
  }

  // product(c, o, g): of W_hh and h, for a row, a unit and a gate.
  template <class F>
  __device__ Results advance(int step, int c, const Inputs& in, const F& product) {
    Results results;
    results.runs = calendar_.time(step) < end_[c];
#pragma unroll
    for (int o = 0; o < units; ++o) {
      Value x[G], h[G];
#pragma unroll
      for (int g = 0; g < G; ++g) x[g] = in.x[c][g].at[o], h[g] = product(c, o, g);
      const auto next = C::forward(x, h, biases_[o], C::blends_state ? widen(state_[c].at[o]) : carry_[c][o]);
      for (int g = 0; g < C::saved; ++g) results.saved[g].at[o] = narrow<T>(next.saved[g]);
      if (results.runs) state_[c].at[o] = narrow<T>(next.h);
      if (C::has_cell_state && results.runs) carry_[c][o] = next.carry;
      results.cells.at[o] = next.carry;
    }
    return results;
  }

  __device__ void write(int c, const Inputs& in, const Results& results) const {
    const int D = a_.shape.D, Hp = padded(H_), token = in.token + own_.row + c;
    const int64_t row = calendar_.d * a_.shape.N + token;
    const bool runs = results.runs, pads = a_.schedule.lengths && own_.row + c < calendar_.B;
    if (runs || pads) store_units(a_.out + (int64_t(token) * D + calendar_.d) * H_ + own_.unit, runs ? state_[c] : Units<T, units>{}, left_, whole_);
    if (!runs) return;
#pragma unroll
    for (int g = 0; g < C::saved; ++g)
      if (a_.gates) store_units(a_.gates + (row * C::saved + g) * Hp + own_.unit, results.saved[g], left_, whole_);
    if (C::has_cell_state && a_.cells) store_units(a_.cells + row * Hp + own_.unit, results.cells, left_, whole_);
  }

 private:
  __device__ int64_t state_at(int c) const { return (calendar_.d * a_.shape.B + ptx::fresh(own_.row) + c) * H_ + own_.unit; }
};

}  // namespace rnnk::cuda
