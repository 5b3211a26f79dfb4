// Purpose: backpropagation through the steps of a chunk in one launch: R1.
// Algorithm: W_hh^T is loaded into registers, as A fragments. A step, last to first, runs the cell's vjp on what came back through W_hh and d_out,
// writes the slots to memory, for the products over the chunk's tokens, and, as they meet h, to one of two copies in shared memory; after
// the one barrier of a step every warp multiplies them with its units' columns of W_hh, which is what the step before gets. Saved gates, states and
// d_out were loaded two steps ago.
// Threads: a CTA is 8 rows of the batch of one direction; a warp `octets` * 8 units; a thread `octets` units of two rows.
// Budget: shared memory 2 * 8 * (G * H padded + 16 bytes), at most 18.7 KB (TF32 GRU). Registers: G * octets * k_tiles * 2 for the weights (128 at an
// LSTM's 128 units of 16 bits), 2 * 2 * octets * (S + 2) for prefetched values; one CTA an SM at the largest H. No spills.
// Limits: 16-bit types and float32, no projection, H within tilings.h. regime.h selects it.
#include "cuda/backward_cells.cuh"
#include "cuda/cta.cuh"

namespace rnnk::cuda {

namespace {

template <class T, class C, class Tiles>
class BackwardCta {
  static constexpr int octets = Tiles::octets;
  using WeightTiles = Fragments<T, Tiles, octets / 2, C::gates * Tiles::k_tiles>;
  using Cells = BackwardCells<T, C, 2, octets>;
  using Inputs = typename Cells::Inputs;

  const int H_;
  const Place own_;
  Cells cells_;
  WeightTiles weights_;

  static constexpr int copy_size = tile_rows * WeightTiles::stride;

 public:
  static constexpr size_t shared_bytes = 2 * copy_size * sizeof(T);

  __device__ BackwardCta(const BackwardArgs<T>& a, const BackwardLoop<T>& k) : H_(int(a.shape.H)), own_(own_place<octets>()), cells_(a, k, own_) {}

  __device__ void run(T* shared) {
    T* const slots[2] = {shared, shared + copy_size};
    clear_shared(shared, 2 * copy_size);
    load_weights();
    cells_.load();
    Inputs inputs[2] = {};
    cells_.fetch(cells_.last, inputs[0]);
    cells_.fetch(cells_.last - 1, inputs[1]);
    __syncthreads();
    // Two steps a turn: buffers by constant indices stay in registers.
    for (int step = cells_.last; step >= cells_.begin; step -= 2) {
      go_back(step, inputs[0], slots[0]);
      if (step > cells_.begin) go_back(step - 1, inputs[1], slots[1]);
    }
    cells_.store();
  }

 private:
  __device__ void load_weights() {
    const T* w_hh = cells_.w_hh();
    weights_.template load<2 * octets>([&](int octet, int tile, int i) {
      const int unit = own_.unit + octet, from = tile % Tiles::k_tiles * WeightTiles::tile_values + i;
      Units<T, WeightTiles::values> word{};
      for (int v = 0; v < WeightTiles::values; ++v)
        if (unit < H_ && from + v < H_) word.at[v] = w_hh[(tile / Tiles::k_tiles * H_ + from + v) * H_ + unit];
      return word;
    });
  }

  __device__ void go_back(int step, Inputs& in, T* shared) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const auto slots = cells_.go_back(step, c, in);
      Cells::template write_operands<Tiles>(slots, shared + (own_.column + c) * WeightTiles::stride + own_.unit, units_of<T, Tiles>);
      cells_.write(step, c, in, slots);
    }
    cells_.fetch(step - 2, in);
    __syncthreads();
    float products[octets / 2][4];
    weights_.multiply(shared, products);
    cells_.take(step, [&](int c, int o) { return products[o / 2][o % 2 * 2 + c]; });
  }
};

template <class T, class C, class Tiles>
__global__ void __launch_bounds__(most_threads<T, Tiles>, 1) backward_cta_kernel(const BackwardArgs<T> a, const BackwardLoop<T> k) {
  BackwardCta<T, C, Tiles>(a, k).run(static_cast<T*>(shared_memory()));
}

template <class T, class C, class Tiles>
struct Kernel {
  static constexpr auto function = backward_cta_kernel<T, C, Tiles>;
  static constexpr size_t shared_bytes = BackwardCta<T, C, Tiles>::shared_bytes;
};

}  // namespace

template <class T>
void run_cta_loop(Queue& queue, const BackwardArgs<T>& args, const BackwardLoop<T>& loop) {
  run_cta<Kernel, T, true>(queue, args, loop);
}

template void run_cta_loop(Queue&, const BackwardArgs<float>&, const BackwardLoop<float>&);
template void run_cta_loop(Queue&, const BackwardArgs<__nv_bfloat16>&, const BackwardLoop<__nv_bfloat16>&);
template void run_cta_loop(Queue&, const BackwardArgs<__half>&, const BackwardLoop<__half>&);

}  // namespace rnnk::cuda
