// Purpose: the steps of a chunk of the forward pass in one launch, for layers whose W_hh is too large for one SM: R2.
// Algorithm: each CTA of a cluster loads the rows of W_hh of its units, as A fragments, into registers and, what is left, shared memory; h of the 8
// rows, all units, lies in shared memory. A step waits until all ranks have sent their part of h, multiplies, runs the cell, collects h' in
// one of the CTA's two stages, and sends it from there to the other of two copies of h of every rank, itself among them; then it writes what the
// backward pass needs, and fetches what the step after the next one needs. The last h' is not sent: nobody would wait for it.
// Threads: a cluster is 8 rows of the batch of one direction, a CTA an equal part of the units, a warp 4 of them with all gates (a cell of one
// gate: 16), a thread one unit of one row (2 of 2): Share.
// Budget: registers, at most 128 for weights (tilings.h) and 2 * G for x products; no spills. Shared memory: 2 * 8 * (H padded + 16 bytes) for h,
// as much of the CTA's units for the stages, 512 bytes for each fragment that is not in registers: 18 KB at an LSTM's 512 units of 16 bits, 218 KB at
// 768, 163 KB at TF32's 512, 199 KB at float32's.
// Limits: sm_90, 16-bit types and float32, no projection, H within ClusterTilings of tilings.h. regime.h selects it.
// Shapes: grid [tiles of 8 rows * ranks, D], clusters along x.
#include "cuda/cluster.cuh"
#include "cuda/forward_cells.cuh"

namespace rnnk::cuda {

namespace {

template <class T, class C, class Tiles>
class ForwardCluster {
  static constexpr int G = C::gates, kept = Tiles::registers / 4;
  using WeightTiles = Fragments<T, Tiles, 1, Tiles::k_tiles, (Tiles::k_tiles > kept ? Tiles::k_tiles - kept : 0)>;
  using Own = Share<G>;
  using Cells = ForwardCells<T, C, Own::cells, Own::cells>;
  using Inputs = typename Cells::Inputs;
  static constexpr int copy_size = tile_rows * WeightTiles::stride;
  // Of 16 bytes: an odd number, as of h.
  static constexpr int piece = 16 / sizeof(T), stage_stride = Tiles::units + piece, stage_size = tile_rows * stage_stride;

  const int H_;
  const Own share_;
  Cells cells_;
  const Inbox inbox_;
  T* const h_;      // [2, copy_size]
  T* const stage_;  // [2, 8, units]
  WeightTiles weights_;
  int rank_bits_ = 0;

  static constexpr size_t h_at = Inbox::shared_bytes, stage_at = h_at + 2 * copy_size * sizeof(T), weights_at = stage_at + 2 * stage_size * sizeof(T);
  static_assert(weights_at % 16 == 0);

 public:
  static constexpr size_t shared_bytes = weights_at + WeightTiles::shared_bytes_of_thread * most_cluster_threads<G, Tiles>;

  __device__ ForwardCluster(const ForwardArgs<T>& a, const ForwardLoop<T>& k, char* shared)
      : H_(int(a.shape.H)), cells_(a, k, share_.own), inbox_(shared, share_.ranks * share_.units * tile_rows * int(sizeof(T))),
        h_(reinterpret_cast<T*>(shared + h_at)), stage_(reinterpret_cast<T*>(shared + stage_at)),
        weights_(reinterpret_cast<uint4*>(shared + weights_at)) {
    while (1 << rank_bits_ < share_.ranks) ++rank_bits_;
  }

  __device__ void run() {
    clear_shared(h_, 2 * copy_size);
    load_weights();
    cells_.load();
    inbox_.open();
    for (int c = 0; c < Own::cells; ++c) write_stage(0, c);
    __syncthreads();
    send(0);
    Inputs inputs[2] = {};
    cells_.fetch(cells_.begin, inputs[0]);
    cells_.fetch(cells_.begin + 1, inputs[1]);
    // Two steps a turn: buffers by constant indices stay in registers.
    for (int step = cells_.begin; step < cells_.stop; step += 2) {
      advance(step, inputs[0]);
      if (step + 1 < cells_.stop) advance(step + 1, inputs[1]);
    }
    cells_.store();
  }

 private:
  __device__ void load_weights() {
    const T* w_hh = cells_.weights().w_hh;
    const bool whole_words = H_ % WeightTiles::values == 0 && aligned<WeightTiles::values>(w_hh);
    weights_.template load<2>([&](int octet, int tile, int i) {
      const int gate = G == 1 ? 0 : 2 * octet + share_.lane / 16, unit = share_.own.unit + (G == 1 ? octet : 0);
      const int k = tile * WeightTiles::tile_values + i;
      return load_units<WeightTiles::values>(w_hh + (gate * H_ + unit) * H_ + k, gate < G && unit < H_ ? H_ - k : 0, whole_words);
    });
  }

  __device__ T* h(int message) const { return h_ + message % 2 * copy_size; }
  // Two stages by turns: a warp may still send from the one when others, who have all of h, go on.
  __device__ T* stage(int message) const { return stage_ + message % 2 * stage_size; }
  __device__ void write_stage(int message, int c) const {
    store_units(stage(message) + (share_.own.column + c) * stage_stride + share_.unit, cells_.template operands<Tiles>(c), Own::cells, true);
  }

  // The stage, 16 bytes a time, to all ranks, ourselves first; where to, is h(message).
  __device__ void send(int message) const {
    T *const to = h(message) + share_.rank * share_.units, *const from = stage(message);
    const int pieces = share_.units / piece;
    for (int i = int(threadIdx.x); i < tile_rows * pieces << rank_bits_; i += int(blockDim.x)) {
      const int row = i % tile_rows, rank = (i / tile_rows + share_.rank) & (share_.ranks - 1), unit = (i / tile_rows >> rank_bits_) * piece;
      inbox_.send(message, unsigned(rank), to + row * WeightTiles::stride + unit, *reinterpret_cast<const uint4*>(from + row * stage_stride + unit));
    }
  }

  __device__ void advance(int step, Inputs& in) {
    const int message = step - cells_.begin;
    float sums[1][4], gates[4] = {};
    inbox_.wait(message);
    weights_.multiply(h(message), sums);
    if (G > 1) gates_of_cell(sums[0], gates);
    typename Cells::Results results[Own::cells];
#pragma unroll
    for (int c = 0; c < Own::cells; ++c) {
      results[c] = cells_.advance(step, c, in, [&](int row, int o, int g) { return G > 1 ? gates[g] : sums[0][o * 2 + row]; });
      write_stage(message + 1, c);
    }
    __syncthreads();
    if (step + 1 < cells_.stop) send(message + 1);
#pragma unroll
    for (int c = 0; c < Own::cells; ++c) cells_.write(c, in, results[c]);
    cells_.fetch(step + 2, in);
  }
};

template <class T, class C, class Tiles>
__global__ void __launch_bounds__((most_cluster_threads<C::gates, Tiles>), 1) forward_cluster_kernel(const ForwardArgs<T> a, const ForwardLoop<T> k) {
  if constexpr (ptx::sm90) ForwardCluster<T, C, Tiles>(a, k, static_cast<char*>(shared_memory())).run();
}

template <class T, class C, class Tiles>
struct Kernel {
  static constexpr auto function = forward_cluster_kernel<T, C, Tiles>;
  static constexpr size_t shared_bytes = ForwardCluster<T, C, Tiles>::shared_bytes;
};

}  // namespace

template <class T>
void run_cluster_loop(Queue& queue, const ForwardArgs<T>& args, const ForwardLoop<T>& loop) {
  run_cluster<Kernel, T, false>(queue, args, loop);
}

template void run_cluster_loop(Queue&, const ForwardArgs<float>&, const ForwardLoop<float>&);
template void run_cluster_loop(Queue&, const ForwardArgs<__nv_bfloat16>&, const ForwardLoop<__nv_bfloat16>&);
template void run_cluster_loop(Queue&, const ForwardArgs<__half>&, const ForwardLoop<__half>&);

int forward_clusters(const Problem& p) { return clusters<Kernel, false>(p); }

}  // namespace rnnk::cuda
