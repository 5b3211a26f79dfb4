// Purpose: the steps of a chunk of the forward pass in one launch: R1.
// Algorithm: W_hh is loaded into registers, as A fragments; h of the 8 rows lies in shared memory. A step multiplies the two (every warp its own
// rows of W_hh, the same units for all gates), adds the x products that were loaded two steps ago, runs the cell, writes h' to the other of
// two copies of h and to `out`, what the backward pass needs to memory, and meets the other warps at one barrier.
// Threads: a CTA is 8 rows of the batch of one direction; a warp `octets` * 8 units; a thread `octets` units of two rows, all gates of them.
// Budget: shared memory 2 * 8 * (H padded + 16 bytes), at most 12.5 KB (TF32 RNN). Registers: G * octets * k_tiles * 2 for the weights (128 at
// an LSTM's 128 units of 16 bits), 2 * 2 * G * octets for x products; one CTA an SM at the largest H. No spills (tests/test_cuda_compile.py).
// Limits: 16-bit types and TF32, no projection, H within tilings.h. regime.h selects it.
#include "cuda/persistent.cuh"

namespace rnnk::cuda {

namespace {

template <class T, class C, class Tiles>
class ForwardTile {
  using V = Wide<T>;
  static constexpr int G = C::gates, octets = Tiles::octets, tiles = G * octets / 2;
  using WeightTiles = Fragments<T, tiles, Tiles::k_tiles>;

  // What a step needs that is known before it.
  struct Inputs {
    int token;  // of the step's row 0
    Units<V, octets> x[2][G];
  };

  const ForwardArgs<T>& a_;
  const ForwardLoop<T>& k_;
  const Owner<octets> own_;
  const Calendar calendar_;
  const int begin_, stop_;  // the chunk
  const Weights<T> w_;
  const int H_, left_;  // units from its first one on
  const int x_row_;
  const bool whole_;
  int end_[2];  // of its rows
  int coming_;  // token of the step to be fetched next
  WeightTiles weights_;
  V biases_[octets][C::biases], carry_[2][octets];
  Units<T, octets> state_[2];

 public:
  static constexpr int copy_size = tile_rows * WeightTiles::stride;

  __device__ ForwardTile(const ForwardArgs<T>& a, const ForwardLoop<T>& k)
      : a_(a), k_(k), calendar_{k.first, a.steps.lengths, int(a.shape.B), int(a.shape.T), int(blockIdx.y)},
        begin_(int(k.steps.begin)), stop_(int(k.steps.end)),
        w_(calendar_.d ? a.weights[1] : a.weights[0]), H_(int(a.shape.H)), left_(H_ - own_.unit), x_row_(int(calendar_.d ? k.x_row[1] : k.x_row[0])),
        whole_(H_ % octets == 0 && aligned<octets>(a.out) && aligned<octets>(a.gates) && aligned<octets>(a.cells)) {}

  __device__ void run(T* shared) {
    T* const h[2] = {shared, shared + copy_size};
    clear_shared(shared, 2 * copy_size);
    load();
    __syncthreads();
    for (int c = 0; c < 2; ++c) write_operand(h[0], c);
    Inputs inputs[2] = {};
    coming_ = calendar_.token(begin_);
    fetch(begin_, inputs[0]);
    fetch(begin_ + 1, inputs[1]);
    __syncthreads();
    // Two steps a turn: buffers by constant indices stay in registers.
    for (int step = begin_; step < stop_; step += 2) {
      advance(step, inputs[0], h[0], h[1]);
      if (step + 1 < stop_) advance(step + 1, inputs[1], h[1], h[0]);
    }
    store();
  }

 private:
  __device__ int64_t state_at(int c) const { return (calendar_.d * a_.shape.B + own_.row + c) * H_ + own_.unit; }

  __device__ void load() {
    const bool whole_words = H_ % WeightTiles::values == 0 && aligned<WeightTiles::values>(w_.w_hh);
    weights_.load([&](int octet, int tile, int i) {
      const int unit = own_.unit + octet % octets, k = tile * WeightTiles::tile_values + i;
      return load_units<WeightTiles::values>(w_.w_hh + (octet / octets * H_ + unit) * H_ + k, unit < H_ ? H_ - k : 0, whole_words);
    });
    for (int o = 0; o < octets; ++o) {
      for (V& b : biases_[o]) b = 0;
      if (o < left_) load_biases<C>(w_, H_, own_.unit + o, biases_[o]);
    }
    for (int c = 0; c < 2; ++c) {
      end_[c] = calendar_.end(own_.row + c);
      const int left = own_.row + c < calendar_.B ? left_ : 0;
      state_[c] = load_units<octets>(a_.h_n + state_at(c), left, false);
      for (int o = 0; o < octets; ++o) carry_[c][o] = C::has_cell_state && o < left ? k_.c[state_at(c) + o] : V(0);
    }
  }

  __device__ void store() const {
    for (int c = 0; c < 2; ++c) {
      const int left = own_.row + c < calendar_.B ? left_ : 0;
      store_units(a_.h_n + state_at(c), state_[c], left, false);
      for (int o = 0; C::has_cell_state && o < octets; ++o) {
        if (o >= left) continue;
        k_.c[state_at(c) + o] = carry_[c][o];
        a_.c_n[state_at(c) + o] = narrow<T>(carry_[c][o]);
      }
    }
  }

  __device__ void write_operand(T* h, int c) const {
    Units<T, octets> h_c;
    for (int o = 0; o < octets; ++o) h_c.at[o] = operand(state_[c].at[o]);
    store_units(h + (own_.column + c) * WeightTiles::stride + own_.unit, h_c, octets, true);
  }

  // A row that does not run is not read: padding may be NaN, and there may be no such row.
  __device__ void fetch(int step, Inputs& to) {
    if (step >= stop_) return;
    const int time = calendar_.time(step);
    to.token = coming_;
    if (step + 1 < stop_) coming_ = calendar_.token(step + 1);
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      if (time >= end_[c]) continue;
      const V* x = k_.x_products + int64_t(x_row_ + to.token + own_.row + c) * (G * H_) + own_.unit;
#pragma unroll
      for (int g = 0; g < G; ++g) to.x[c][g] = load_units<octets>(x + g * H_, left_, whole_);
    }
  }

  __device__ void advance(int step, Inputs& in, const T* from, T* to) {
    float products[tiles][4];
    weights_.multiply(from, products);
    const int time = calendar_.time(step);
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const bool runs = time < end_[c];
      Units<T, octets> saved[C::saved ? C::saved : 1];
      Units<V, octets> cells;
#pragma unroll
      for (int o = 0; o < octets; ++o) {
        V x[G], h[G];
#pragma unroll
        for (int g = 0; g < G; ++g) {
          const int octet = g * octets + o;
          x[g] = in.x[c][g].at[o];
          h[g] = products[octet / 2][octet % 2 * 2 + c];
        }
        const auto next = C::forward(x, h, biases_[o], C::blends_state ? widen(state_[c].at[o]) : carry_[c][o]);
        for (int g = 0; g < C::saved; ++g) saved[g].at[o] = narrow<T>(next.saved[g]);
        if (runs) state_[c].at[o] = narrow<T>(next.h);
        if (C::has_cell_state && runs) carry_[c][o] = next.carry;
        cells.at[o] = next.carry;
      }
      write_operand(to, c);
      write_results(in.token + own_.row + c, c, runs, saved, cells);
    }
    fetch(step + 2, in);
    __syncthreads();
  }

  __device__ void write_results(int token, int c, bool runs, const Units<T, octets>* saved, const Units<V, octets>& cells) const {
    const int D = a_.shape.D, Hp = padded(H_);
    const int64_t row = calendar_.d * a_.shape.N + token;
    const bool pads = a_.steps.lengths && own_.row + c < calendar_.B;
    if (runs || pads) store_units(a_.out + (int64_t(token) * D + calendar_.d) * H_ + own_.unit, runs ? state_[c] : Units<T, octets>{}, left_, whole_);
    if (!runs) return;
#pragma unroll
    for (int g = 0; g < C::saved; ++g)
      if (a_.gates) store_units(a_.gates + (row * C::saved + g) * Hp + own_.unit, saved[g], left_, whole_);
    if (C::has_cell_state && a_.cells) store_units(a_.cells + row * Hp + own_.unit, cells, left_, whole_);
  }
};

template <class T, class C, class Tiles>
__global__ void __launch_bounds__(most_threads<T, Tiles>, 1) forward_loop_kernel(const ForwardArgs<T> a, const ForwardLoop<T> k) {
  ForwardTile<T, C, Tiles>(a, k).run(static_cast<T*>(shared_memory()));
}

// By value, so that nobody reads host memory later.
struct FirstPart {
  static constexpr int64_t most = 480;
  int64_t at[most];
};
__global__ void first_tokens_kernel(const FirstPart part, int64_t count, int64_t* to) {
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) to[i] = part.at[i];
}

}  // namespace

void FirstTokens::enqueue(Queue& queue, const Shape& s, const Steps& steps) const {
  for (int64_t begin = 0; table_ && begin <= s.T; begin += FirstPart::most) {
    FirstPart part{};
    const int64_t count = std::min(FirstPart::most, s.T + 1 - begin);
    for (int64_t i = 0; i < count; ++i) part.at[i] = begin + i < s.T ? steps.first[begin + i] : s.N;
    queue.run(first_tokens_kernel, LaunchShape{dim3(1), dim3(block_threads)}, part, count, table_ + begin);
  }
}

template <class T>
void run_loop(Queue& queue, const ForwardArgs<T>& args, const ForwardLoop<T>& loop) {
  with_cell<Wide<T>>(args.cell, [&](auto cell) {
    using C = decltype(cell);
    with_tiling<T>(typename Tilings<C::gates, sizeof(T)>::Forward{}, args.shape.H, [&](auto tiling) {
      using Tiles = decltype(tiling);
      constexpr size_t shared_bytes = 2 * ForwardTile<T, C, Tiles>::copy_size * sizeof(T);
      queue.run(forward_loop_kernel<T, C, Tiles>, loop_shape<T, Tiles>(args.shape, shared_bytes), args, loop);
    });
  });
}

template void run_loop(Queue&, const ForwardArgs<float>&, const ForwardLoop<float>&);
template void run_loop(Queue&, const ForwardArgs<__nv_bfloat16>&, const ForwardLoop<__nv_bfloat16>&);
template void run_loop(Queue&, const ForwardArgs<__half>&, const ForwardLoop<__half>&);

}  // namespace rnnk::cuda
