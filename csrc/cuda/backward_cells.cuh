// The cells of a thread in the backward pass, whoever computes their products: what they read and write in global memory, and what they hand to
// the step before, which stays in registers.
#pragma once
#include "cuda/loop.cuh"

namespace rnnk::cuda {

template <class T, class C, int rows, int units>
class BackwardCells {
  using V = Wide<T>;
  using Value = ValueOf<C>;
  static constexpr int G = C::gates, S = C::saved;
  using State = std::conditional_t<C::has_cell_state, V, T>;

  const BackwardArgs<T>& a_;
  const BackwardLoop<T>& k_;
  Place own_;
  const Calendar calendar_;
  const int H_, Hp_, left_;  // left: units from its first one on
  const int slot_row_, gate_row_;
  const bool whole_;
  int end_[rows];
  int token_, before_;  // of the step to be fetched next, and of the step before that
  V d_h_[rows][units], d_carry_[rows][units], c_[rows][units];  // c: c', LSTM only

 public:
  const int begin, last;  // the chunk's steps

  // What a step needs that is known before it.
  struct Inputs {
    int token;  // of the step's row 0
    Units<T, units> saved[rows][S ? S : 1], d_out[rows];
    Units<State, units> states[rows];  // LSTM: c; GRU: h; RNN: h'
  };

  // D(pre-activations) of a row.
  struct Slots {
    Units<V, units> at[C::slots];
  };

  __device__ BackwardCells(const BackwardArgs<T>& a, const BackwardLoop<T>& k, const Place& own)
      : a_(a), k_(k), own_(own), calendar_{k.first, a.schedule.lengths, int(a.shape.B), int(a.shape.T), own.direction},
        H_(int(a.shape.H)), Hp_(padded(H_)), left_(H_ - own.unit), slot_row_(int(calendar_.d ? k.slot_row[1] : k.slot_row[0])),
        gate_row_(int(calendar_.d ? k.gate_row[1] : k.gate_row[0])),
        whole_(H_ % units == 0 && aligned<units>(a.out) && aligned<units>(a.d_out) && aligned<units>(k.gates) && aligned<units>(a.cells) &&
               aligned<units>(a.h0) && aligned<units>(a.c0)),
        begin(int(k.chunk.begin)), last(int(k.chunk.end) - 1) {}

  // As ForwardCells'.
  __device__ void forget_addresses() { own_.row = ptx::fresh(own_.row), own_.unit = ptx::fresh(own_.unit); }
  __device__ const Place& place() const { return own_; }

  __device__ const T* w_hh() const { return calendar_.d ? a_.weights[1].w_hh : a_.weights[0].w_hh; }
  __device__ bool runs(int step, int c) const { return step >= 0 && calendar_.time(step) < end_[c]; }

  // The times of later chunks begin at `later`; a row that ran at none of them begins at what the caller gave.
  __device__ void load() {
    const int later = calendar_.d ? 0 : last + 1;
    for (int c = 0; c < rows; ++c) {
      end_[c] = calendar_.end(own_.row + c);
      const bool ran = last + 1 < calendar_.T && later < end_[c];
      for (int o = 0; o < units; ++o) {
        d_h_[c][o] = d_carry_[c][o] = c_[c][o] = 0;
        if (o >= left_of(c)) continue;
        const int64_t at = state_at(c) + o;
        if (ran) d_h_[c][o] = k_.d_h[at];
        else if (a_.d_h_n) d_h_[c][o] = widen(a_.d_h_n[at]);
        if constexpr (C::has_cell_state || C::blends_state)
          if (ran) d_carry_[c][o] = k_.d_carry[at];
        if constexpr (C::has_cell_state)
          if (!ran && a_.d_c_n) d_carry_[c][o] = widen(a_.d_c_n[at]);
      }
    }
    token_ = calendar_.token(last);
    before_ = last > 0 ? calendar_.token(last - 1) : 0;
    load_cells();
  }

  __device__ void store() const {
    for (int c = 0; c < rows; ++c)
      for (int o = 0; o < units; ++o) {
        if (o >= left_of(c)) continue;
        const int64_t at = state_at(c) + o;
        k_.d_h[at] = d_h_[c][o];
        if constexpr (C::has_cell_state || C::blends_state) k_.d_carry[at] = d_carry_[c][o];
        if (a_.d_h0 && begin == 0 && end_[c] > 0) a_.d_h0[at] = narrow<T>(C::blends_state ? d_h_[c][o] + d_carry_[c][o] : d_h_[c][o]);
      }
  }

  // Step by step, last to first. Rows that do not run are not read. A row's c' is read one step after its last one, too.
  __device__ void fetch(int step, Inputs& to) {
    if (step < begin) return;
    const int before = before_;
    to.token = token_;
    token_ = before_;
    if (step > 1) before_ = calendar_.token(step - 2);
#pragma unroll
    for (int c = 0; c < rows; ++c) {
      const bool runs_now = runs(step, c), ran_before = runs(step - 1, c);
      if constexpr (C::has_cell_state) {
        if (ran_before) to.states[c] = load_units<units>(cells_of(before, c), left_, whole_);
      } else if constexpr (!C::blends_state) {
        if (runs_now) to.states[c] = load_units<units>(a_.out + out_at(to.token, c), left_, whole_);
      } else {
        if (runs_now) to.states[c] = load_units<units>(ran_before ? a_.out + out_at(before, c) : a_.h0 + state_at(c), left_, whole_);
      }
      if (!runs_now) continue;
      if constexpr (C::has_cell_state)
        if (!ran_before) {
          const auto c0 = load_units<units>(a_.c0 + state_at(c), left_, whole_);
          for (int o = 0; o < units; ++o) to.states[c].at[o] = widen(c0.at[o]);
        }
      if (a_.d_out) to.d_out[c] = load_units<units>(a_.d_out + out_at(to.token, c), left_, whole_);
      const int64_t gates_row = int64_t(gate_row_ + to.token + own_.row + c) * S;
#pragma unroll
      for (int g = 0; g < S; ++g) to.saved[c][g] = load_units<units>(k_.gates + (gates_row + g) * Hp_ + own_.unit, left_, whole_);
    }
  }

  // The cell's vjp; a row that does not run has slots of zero.
  __device__ Slots go_back(int step, int c, const Inputs& in) {
    const bool runs_now = runs(step, c);
    Slots slots;
#pragma unroll
    for (int o = 0; o < units; ++o) {
      Value saved[S ? S : 1] = {}, state(0), previous(0);
      for (int g = 0; g < S; ++g) saved[g] = widen(in.saved[c][g].at[o]);
      if constexpr (C::has_cell_state) state = c_[c][o], previous = c_[c][o] = in.states[c].at[o];
      else if constexpr (C::blends_state) previous = widen(in.states[c].at[o]);
      else state = widen(in.states[c].at[o]);
      const auto gradients = C::vjp(saved, state, previous, d_h_[c][o] + widen(in.d_out[c].at[o]), d_carry_[c][o]);
      if (runs_now) d_carry_[c][o] = gradients.carry;
#pragma unroll
      for (int slot = 0; slot < C::slots; ++slot) slots.at[slot].at[o] = runs_now ? V(gradients.slots[slot]) : V(0);
    }
    return slots;
  }

  // As they meet h, for the product: gate g's `units` go to row + g * gate_stride.
  template <class Tiles>
  __device__ static void write_operands(const Slots& slots, T* row, int gate_stride) {
    for_gates<C>([&](auto gate, auto /*meets_x*/, auto meets_h) {
      Units<T, units> operands;
      for (int o = 0; o < units; ++o) operands.at[o] = operand<Tiles>(narrow<T>(slots.at[meets_h.value].at[o]));
      store_units(row + gate.value * gate_stride, operands, units, true);
    });
  }

  // To memory, where there is such a token; zero for padding.
  __device__ void write(int step, int c, const Inputs& in, const Slots& slots) const {
    const bool pads = a_.schedule.lengths && own_.row + c < calendar_.B;
    if (!runs(step, c) && !pads) return;
    const int64_t at = int64_t(slot_row_ + in.token + own_.row + c) * (G * H_) + own_.unit;
    for_gates<C>([&](auto gate, auto meets_x, auto meets_h) {
      Units<T, units> x, h;
      for (int o = 0; o < units; ++o) {
        x.at[o] = narrow<T>(slots.at[meets_x.value].at[o]);
        h.at[o] = narrow<T>(slots.at[meets_h.value].at[o]);
      }
      store_units(k_.tokens.slots + at + gate.value * H_, x, left_, whole_);
      if constexpr (splits_slots<C>) store_units(k_.tokens.hidden_slots + at + gate.value * H_, h, left_, whole_);
    });
  }

  // product(c, o): of W_hh^T and the step's slots, what the step before gets.
  template <class F>
  __device__ void take(int step, const F& product) {
#pragma unroll
    for (int c = 0; c < rows; ++c)
#pragma unroll
      for (int o = 0; o < units; ++o)
        if (runs(step, c)) d_h_[c][o] = product(c, o);
  }

 private:
  __device__ int64_t state_at(int c) const { return (calendar_.d * a_.shape.B + own_.row + c) * H_ + own_.unit; }
  __device__ int left_of(int c) const { return own_.row + c < calendar_.B ? left_ : 0; }
  __device__ const V* cells_of(int token, int c) const { return a_.cells + (calendar_.d * a_.shape.N + token + own_.row + c) * Hp_ + own_.unit; }
  __device__ int64_t out_at(int token, int c) const { return (int64_t(token + own_.row + c) * a_.shape.D + calendar_.d) * H_ + own_.unit; }

  // c' of the chunk's last step; later ones are the c before of the step after.
  __device__ void load_cells() {
    if constexpr (C::has_cell_state)
      for (int c = 0; c < rows; ++c) {
        if (!runs(last, c)) continue;
        const auto cells = load_units<units>(cells_of(token_, c), left_, whole_);
        for (int o = 0; o < units; ++o) c_[c][o] = cells.at[o];
      }
  }
};

}  // namespace rnnk::cuda
