// Purpose: backpropagation through the steps of a chunk in one launch: R1.
// Algorithm: W_hh^T is loaded into registers, as A fragments. A step, last to first, runs the cell's vjp on what came back through W_hh and d_out,
// writes the slots to memory, for the products over the chunk's tokens, and, as they meet h, to one of two copies in shared memory; after
// the one barrier of a step every warp multiplies them with its units' columns of W_hh, which is what the step before gets. Saved gates, states and
// d_out were loaded two steps ago.
// Threads: a CTA is 8 rows of the batch of one direction; a warp `octets` * 8 units; a thread `octets` units of two rows.
// Budget: shared memory 2 * 8 * (G * H padded + 16 bytes), at most 18.7 KB (TF32 GRU). Registers: G * octets * k_tiles * 2 for the weights (128 at an
// LSTM's 128 units of 16 bits), 2 * 2 * octets * (S + 2) for prefetched values; one CTA an SM at the largest H. No spills.
// Limits: 16-bit types and TF32, no projection, H within tilings.h. regime.h selects it.
#include "cuda/persistent.cuh"

namespace rnnk::cuda {

namespace {

template <class T, class C, class Tiles>
class BackwardTile {
  using V = Wide<T>;
  static constexpr int G = C::gates, S = C::saved, octets = Tiles::octets;
  using WeightTiles = Fragments<T, octets / 2, G * Tiles::k_tiles>;
  using State = std::conditional_t<C::has_cell_state, V, T>;

  // What a step needs that is known before it.
  struct Inputs {
    int token;  // of the step's row 0
    Units<T, octets> saved[2][S ? S : 1], d_out[2];
    Units<State, octets> states[2];  // LSTM: c; GRU: h; RNN: h'
  };

  const BackwardArgs<T>& a_;
  const BackwardLoop<T>& k_;
  const Owner<octets> own_;
  const Calendar calendar_;
  const int begin_, stop_;  // the chunk
  const T* const w_hh_;
  const int H_, Hp_, left_;  // left: units from its first one on
  const int slot_row_, gate_row_;
  const bool whole_;
  int end_[2];          // of its rows
  int token_, before_;  // of the step to be fetched next, and of the step before that
  WeightTiles weights_;
  V d_h_[2][octets], d_carry_[2][octets], c_[2][octets];  // c: c', LSTM only

 public:
  static constexpr int copy_size = tile_rows * WeightTiles::stride;

  __device__ BackwardTile(const BackwardArgs<T>& a, const BackwardLoop<T>& k)
      : a_(a), k_(k), calendar_{k.first, a.steps.lengths, int(a.shape.B), int(a.shape.T), int(blockIdx.y)},
        begin_(int(k.steps.begin)), stop_(int(k.steps.end)),
        w_hh_(calendar_.d ? a.weights[1].w_hh : a.weights[0].w_hh), H_(int(a.shape.H)), Hp_(padded(H_)),
        left_(H_ - own_.unit), slot_row_(int(calendar_.d ? k.slot_row[1] : k.slot_row[0])),
        gate_row_(int(calendar_.d ? k.gate_row[1] : k.gate_row[0])),
        whole_(H_ % octets == 0 && aligned<octets>(a.out) && aligned<octets>(a.d_out) && aligned<octets>(k.gates) && aligned<octets>(a.cells) &&
               aligned<octets>(a.h0) && aligned<octets>(a.c0)) {}

  __device__ void run(T* shared) {
    T* const slots[2] = {shared, shared + copy_size};
    clear_shared(shared, 2 * copy_size);
    load();
    const int last = stop_ - 1;
    Inputs inputs[2] = {};
    token_ = calendar_.token(last);
    before_ = last > 0 ? calendar_.token(last - 1) : 0;
    load_cells();
    fetch(last, inputs[0]);
    fetch(last - 1, inputs[1]);
    __syncthreads();
    // Two steps a turn: buffers by constant indices stay in registers.
    for (int step = last; step >= begin_; step -= 2) {
      go_back(step, inputs[0], slots[0]);
      if (step > begin_) go_back(step - 1, inputs[1], slots[1]);
    }
    store();
  }

 private:
  __device__ int64_t state_at(int c) const { return (calendar_.d * a_.shape.B + own_.row + c) * H_ + own_.unit; }
  __device__ int left_of(int c) const { return own_.row + c < calendar_.B ? left_ : 0; }
  __device__ bool runs(int step, int c) const { return step >= 0 && calendar_.time(step) < end_[c]; }

  __device__ void load() {
    weights_.load([&](int octet, int tile, int i) {
      const int unit = own_.unit + octet, from = tile % Tiles::k_tiles * WeightTiles::tile_values + i;
      Units<T, WeightTiles::values> word{};
      for (int v = 0; v < WeightTiles::values; ++v)
        if (unit < H_ && from + v < H_) word.at[v] = w_hh_[(tile / Tiles::k_tiles * H_ + from + v) * H_ + unit];
      return word;
    });
    // The times of later chunks begin here; a row that ran at none of them begins at what the caller gave.
    const int later = calendar_.d ? 0 : stop_;
    for (int c = 0; c < 2; ++c) {
      end_[c] = calendar_.end(own_.row + c);
      const bool ran = stop_ < calendar_.T && later < end_[c];
      for (int o = 0; o < octets; ++o) {
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
  }

  __device__ void store() const {
    for (int c = 0; c < 2; ++c)
      for (int o = 0; o < octets; ++o) {
        if (o >= left_of(c)) continue;
        const int64_t at = state_at(c) + o;
        k_.d_h[at] = d_h_[c][o];
        if constexpr (C::has_cell_state || C::blends_state) k_.d_carry[at] = d_carry_[c][o];
        if (a_.d_h0 && begin_ == 0 && end_[c] > 0) a_.d_h0[at] = narrow<T>(C::blends_state ? d_h_[c][o] + d_carry_[c][o] : d_h_[c][o]);
      }
  }

  // c' of the chunk's last step; later ones are the c before of the step after.
  __device__ void load_cells() {
    if constexpr (C::has_cell_state)
      for (int c = 0; c < 2; ++c) {
        if (!runs(stop_ - 1, c)) continue;
        const auto cells = load_units<octets>(cells_of(token_, c), left_, whole_);
        for (int o = 0; o < octets; ++o) c_[c][o] = cells.at[o];
      }
  }
  __device__ const V* cells_of(int token, int c) const { return a_.cells + (calendar_.d * a_.shape.N + token + own_.row + c) * Hp_ + own_.unit; }
  __device__ int64_t out_at(int token, int c) const { return (int64_t(token + own_.row + c) * a_.shape.D + calendar_.d) * H_ + own_.unit; }

  // Rows that do not run are not read. A row's c' is read one step after its last one, too.
  __device__ void fetch(int step, Inputs& to) {
    if (step < begin_) return;
    const int before = before_;
    to.token = token_;
    token_ = before_;
    if (step > 1) before_ = calendar_.token(step - 2);
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const bool runs_now = runs(step, c), ran_before = runs(step - 1, c);
      if constexpr (C::has_cell_state) {
        if (ran_before) to.states[c] = load_units<octets>(cells_of(before, c), left_, whole_);
      } else if constexpr (!C::blends_state) {
        if (runs_now) to.states[c] = load_units<octets>(a_.out + out_at(to.token, c), left_, whole_);
      } else {
        if (runs_now) to.states[c] = load_units<octets>(ran_before ? a_.out + out_at(before, c) : a_.h0 + state_at(c), left_, whole_);
      }
      if (!runs_now) continue;
      if constexpr (C::has_cell_state)
        if (!ran_before) {
          const auto c0 = load_units<octets>(a_.c0 + state_at(c), left_, whole_);
          for (int o = 0; o < octets; ++o) to.states[c].at[o] = widen(c0.at[o]);
        }
      if (a_.d_out) to.d_out[c] = load_units<octets>(a_.d_out + out_at(to.token, c), left_, whole_);
      const int64_t gates_row = int64_t(gate_row_ + to.token + own_.row + c) * S;
#pragma unroll
      for (int g = 0; g < S; ++g) to.saved[c][g] = load_units<octets>(k_.gates + (gates_row + g) * Hp_ + own_.unit, left_, whole_);
    }
  }

  __device__ void go_back(int step, Inputs& in, T* shared) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const bool runs_now = runs(step, c);
      Units<V, octets> slots[C::slots];
#pragma unroll
      for (int o = 0; o < octets; ++o) {
        V saved[S ? S : 1] = {}, state(0), previous(0);
        for (int g = 0; g < S; ++g) saved[g] = widen(in.saved[c][g].at[o]);
        if constexpr (C::has_cell_state) state = c_[c][o], previous = c_[c][o] = in.states[c].at[o];
        else if constexpr (C::blends_state) previous = widen(in.states[c].at[o]);
        else state = widen(in.states[c].at[o]);
        const auto gradients = C::vjp(saved, state, previous, d_h_[c][o] + widen(in.d_out[c].at[o]), d_carry_[c][o]);
        if (runs_now) d_carry_[c][o] = gradients.carry;
#pragma unroll
        for (int slot = 0; slot < C::slots; ++slot) slots[slot].at[o] = runs_now ? gradients.slots[slot] : V(0);
      }
      write_slots(slots, in.token + own_.row + c, c, runs_now, shared);
    }
    fetch(step - 2, in);
    __syncthreads();
    float products[octets / 2][4];
    weights_.multiply(shared, products);
#pragma unroll
    for (int c = 0; c < 2; ++c)
#pragma unroll
      for (int o = 0; o < octets; ++o)
        if (runs(step, c)) d_h_[c][o] = products[o / 2][o % 2 * 2 + c];
  }

  // To shared memory and, where there is such a token, to memory; zero for padding.
  __device__ void write_slots(const Units<V, octets> (&slots)[C::slots], int token, int c, bool runs_now, T* shared) const {
    constexpr int units = units_of<T, Tiles>;
    const bool pads = a_.steps.lengths && own_.row + c < calendar_.B;
    const int64_t at = int64_t(slot_row_ + token) * (G * H_) + own_.unit;
    T* row = shared + (own_.column + c) * WeightTiles::stride + own_.unit;
    for_gates<C>([&](auto gate, auto meets_x, auto meets_h) {
      Units<T, octets> x, h, operands;
      for (int o = 0; o < octets; ++o) {
        x.at[o] = narrow<T>(slots[meets_x.value].at[o]);
        h.at[o] = narrow<T>(slots[meets_h.value].at[o]);
        operands.at[o] = operand(h.at[o]);
      }
      store_units(row + gate.value * units, operands, octets, true);
      if (!runs_now && !pads) return;
      store_units(k_.tokens.slots + at + gate.value * H_, x, left_, whole_);
      if constexpr (splits_slots<C>) store_units(k_.tokens.hidden_slots + at + gate.value * H_, h, left_, whole_);
    });
  }
};

template <class T, class C, class Tiles>
__global__ void __launch_bounds__(most_threads<T, Tiles>, 1) backward_loop_kernel(const BackwardArgs<T> a, const BackwardLoop<T> k) {
  BackwardTile<T, C, Tiles>(a, k).run(static_cast<T*>(shared_memory()));
}

}  // namespace

template <class T>
void run_loop(Queue& queue, const BackwardArgs<T>& args, const BackwardLoop<T>& loop) {
  with_cell<Wide<T>>(args.cell, [&](auto cell) {
    using C = decltype(cell);
    with_tiling<T>(typename Tilings<C::gates, sizeof(T)>::Backward{}, args.shape.H, [&](auto tiling) {
      using Tiles = decltype(tiling);
      constexpr size_t shared_bytes = 2 * BackwardTile<T, C, Tiles>::copy_size * sizeof(T);
      queue.run(backward_loop_kernel<T, C, Tiles>, loop_shape<T, Tiles>(args.shape, shared_bytes), args, loop);
    });
  });
}

template void run_loop(Queue&, const BackwardArgs<float>&, const BackwardLoop<float>&);
template void run_loop(Queue&, const BackwardArgs<__nv_bfloat16>&, const BackwardLoop<__nv_bfloat16>&);
template void run_loop(Queue&, const BackwardArgs<__half>&, const BackwardLoop<__half>&);

}  // namespace rnnk::cuda
