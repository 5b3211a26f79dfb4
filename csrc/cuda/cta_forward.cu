// Purpose: the steps of a chunk of the forward pass in one launch: R1.
// Algorithm: W_hh is loaded into registers, as A fragments; h of the 8 rows lies in shared memory. A step multiplies the two (every warp its own
// rows of W_hh, the same units for all gates), adds the x products that were loaded two steps ago, runs the cell, writes h' to the other of
// two copies of h and to `out`, what the backward pass needs to memory, and meets the other warps at one barrier.
// Threads: a CTA is 8 rows of the batch of one direction; a warp `octets` * 8 units; a thread `octets` units of two rows, all gates of them.
// Budget: shared memory 2 * 8 * (H padded + 16 bytes), at most 12.5 KB (TF32 RNN). Registers: G * octets * k_tiles * 2 for the weights (128 at
// an LSTM's 128 units of 16 bits), 2 * 2 * G * octets for x products; one CTA an SM at the largest H. No spills (tests/test_cuda_compile.py).
// Limits: 16-bit types and float32, no projection, H within tilings.h. regime.h selects it.
#include "cuda/forward_cells.cuh"
#include "cuda/cta.cuh"

namespace rnnk::cuda {

namespace {

template <class T, class C, class Tiles>
class ForwardCta {
  static constexpr int octets = Tiles::octets, tiles = C::gates * octets / 2;
  using WeightTiles = Fragments<T, Tiles, tiles, Tiles::k_tiles>;
  using Cells = ForwardCells<T, C, 2, octets>;
  using Inputs = typename Cells::Inputs;

  const int H_;
  const Place own_;
  Cells cells_;
  WeightTiles weights_;

  static constexpr int copy_size = tile_rows * WeightTiles::stride;

 public:
  static constexpr size_t shared_bytes = 2 * copy_size * sizeof(T);

  __device__ ForwardCta(const ForwardArgs<T>& a, const ForwardLoop<T>& k) : H_(int(a.shape.H)), own_(own_place<octets>()), cells_(a, k, own_) {}

  __device__ void run(T* shared) {
    T* const h[2] = {shared, shared + copy_size};
    clear_shared(shared, 2 * copy_size);
    load_weights();
    cells_.load();
    __syncthreads();
    for (int c = 0; c < 2; ++c) write_operand(h[0], c);
    Inputs inputs[2] = {};
    cells_.fetch(cells_.begin, inputs[0]);
    cells_.fetch(cells_.begin + 1, inputs[1]);
    __syncthreads();
    // Two steps a turn: buffers by constant indices stay in registers.
    for (int step = cells_.begin; step < cells_.stop; step += 2) {
      advance(step, inputs[0], h[0], h[1]);
      if (step + 1 < cells_.stop) advance(step + 1, inputs[1], h[1], h[0]);
    }
    cells_.store();
  }

 private:
  __device__ void load_weights() {
    const T* w_hh = cells_.weights().w_hh;
    const bool whole_words = H_ % WeightTiles::values == 0 && aligned<WeightTiles::values>(w_hh);
    weights_.template load<4 * tiles>([&](int octet, int tile, int i) {
      const int unit = own_.unit + octet % octets, k = tile * WeightTiles::tile_values + i;
      return load_units<WeightTiles::values>(w_hh + (octet / octets * H_ + unit) * H_ + k, unit < H_ ? H_ - k : 0, whole_words);
    });
  }

  __device__ void write_operand(T* h, int c) const {
    store_units(h + (own_.column + c) * WeightTiles::stride + own_.unit, cells_.template operands<Tiles>(c), octets, true);
  }

  __device__ void advance(int step, Inputs& in, const T* from, T* to) {
    float products[tiles][4];
    weights_.multiply(from, products);
    const auto product = [&](int c, int o, int g) {
      const int octet = g * octets + o;
      return products[octet / 2][octet % 2 * 2 + c];
    };
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const auto results = cells_.advance(step, c, in, product);
      write_operand(to, c);
      cells_.write(c, in, results);
    }
    cells_.fetch(step + 2, in);
    __syncthreads();
  }
};

template <class T, class C, class Tiles>
__global__ void __launch_bounds__(most_threads<T, Tiles>, 1) forward_cta_kernel(const ForwardArgs<T> a, const ForwardLoop<T> k) {
  ForwardCta<T, C, Tiles>(a, k).run(static_cast<T*>(shared_memory()));
}

template <class T, class C, class Tiles>
struct Kernel {
  static constexpr auto function = forward_cta_kernel<T, C, Tiles>;
  static constexpr size_t shared_bytes = ForwardCta<T, C, Tiles>::shared_bytes;
};

}  // namespace

template <class T>
void run_cta_loop(Queue& queue, const ForwardArgs<T>& args, const ForwardLoop<T>& loop) {
  run_cta<Kernel, T, false>(queue, args, loop);
}

template void run_cta_loop(Queue&, const ForwardArgs<float>&, const ForwardLoop<float>&);
template void run_cta_loop(Queue&, const ForwardArgs<__nv_bfloat16>&, const ForwardLoop<__nv_bfloat16>&);
template void run_cta_loop(Queue&, const ForwardArgs<__half>&, const ForwardLoop<__half>&);

}  // namespace rnnk::cuda
