// Purpose: backpropagation through the steps of a chunk in one launch, for layers whose W_hh is too large for one SM: R2.
// Algorithm: each CTA of a cluster loads the rows of W_hh of its units, transposed, as A fragments, into registers and, what is left, shared
// memory. A step, last to first, runs the vjp of the CTA's cells, whose slots meet in its shared memory; their product with the CTA's part of
// W_hh^T is a part of D(h) of all units, in float32, and goes to the ranks that have these units. Each adds what came by rank, in this order:
// that is what the step before gets. Slots go to memory, and what the step before the next one needs is fetched, while parts are on their way.
// Threads: a cluster is 8 rows of the batch of one direction, a CTA an equal part of the units; the cells of a thread are those of
// cluster_forward.cu; a warp multiplies for 16 units of a rank or for 8 of every other one.
// Budget: registers, at most 128 for weights (tilings.h) and 2 * (S + 2) for prefetched values; no spills. Shared memory: 2 * 32 bytes a unit of
// the layer for what comes, 2 * 8 * G * units for the slots, 512 bytes for each fragment that is not in registers: 85 KB at an LSTM's 512 units of
// 16 bits, 169 KB at TF32's, 221 KB at float32's, 195 KB at an RNN's 1024.
// Limits: sm_90, 16-bit types and float32, no projection, H within ClusterTilings of tilings.h. regime.h selects it.
// Shapes: grid [tiles of 8 rows * ranks, D], clusters along x.
#include "cuda/backward_cells.cuh"
#include "cuda/cluster.cuh"

namespace rnnk::cuda {

namespace {

template <class T, class C, class Tiles>
class BackwardCluster {
  static constexpr int G = C::gates, H_padded = units_of<T, Tiles>;
  // Tiles of M a warp, and of K, of which each gate has as many.
  static constexpr int tiles = H_padded / 16 / (most_cluster_threads<G, Tiles> / 32), gate_tiles = Tiles::units * int(sizeof(T)) / 32;
  static constexpr int k_tiles = (G * gate_tiles + 1) / 2 * 2, kept = Tiles::registers / 4 / tiles;
  using WeightTiles = Fragments<T, Tiles, tiles, k_tiles, (k_tiles > kept ? k_tiles - kept : 0)>;
  using Own = Share<G>;
  using Cells = BackwardCells<T, C, Own::cells, Own::cells>;
  using Inputs = typename Cells::Inputs;
  static constexpr int slots_size = tile_rows * WeightTiles::stride, copy_size = H_padded * tile_rows;
  static_assert(Tiles::units * int(sizeof(T)) % 32 == 0 && tiles >= most_ranks<T, Tiles> * warp_units<G> / 16);

  const int H_;
  const Own share_;
  Cells cells_;
  const Inbox inbox_;
  float* const parts_;  // [2, copy_size], of which [ranks, units, 8] are used
  T* const slots_;      // [2, 8, stride]
  WeightTiles weights_;

  static constexpr size_t parts_at = Inbox::shared_bytes, slots_at = parts_at + 2 * copy_size * sizeof(float);
  static constexpr size_t weights_at = slots_at + 2 * slots_size * sizeof(T);
  static_assert(weights_at % 16 == 0);

 public:
  static constexpr size_t shared_bytes = weights_at + WeightTiles::shared_bytes_of_thread * most_cluster_threads<G, Tiles>;

  __device__ BackwardCluster(const BackwardArgs<T>& a, const BackwardLoop<T>& k, char* shared)
      : H_(int(a.shape.H)), cells_(a, k, share_.own), inbox_(shared, share_.ranks * share_.units * tile_rows * int(sizeof(float))),
        parts_(reinterpret_cast<float*>(shared + parts_at)), slots_(reinterpret_cast<T*>(shared + slots_at)),
        weights_(reinterpret_cast<uint4*>(shared + weights_at)) {}

  __device__ void run() {
    clear_shared(slots_, 2 * slots_size);
    load_weights();
    cells_.load();
    inbox_.open();
    Inputs inputs[2] = {};
    cells_.fetch(cells_.last, inputs[0]);
    cells_.fetch(cells_.last - 1, inputs[1]);
    // Two steps a turn: buffers by constant indices stay in registers.
    for (int step = cells_.last; step >= cells_.begin; step -= 2) {
      go_back(step, inputs[0]);
      if (step > cells_.begin) go_back(step - 1, inputs[1]);
    }
    cells_.store();
  }

 private:
  // Where an octet of this warp's rows belongs: with gates a rank's units are 4 a warp, so that two warps take turns at ranks; else 16.
  __device__ int rank_of(int octet) const { return G == 1 ? octet / 2 : 2 * octet + share_.warp % 2; }
  __device__ int unit_of(int octet) const { return (G == 1 ? share_.warp * 2 + octet % 2 : share_.warp / 2) * 8 + share_.lane / 4; }

  __device__ void load_weights() {
    const T* w_hh = cells_.w_hh();
    weights_.template load<4>([&](int octet, int tile, int i) {
      const int rank = rank_of(octet), to = rank * share_.units + unit_of(octet), gate = tile / gate_tiles;
      const int from = tile % gate_tiles * WeightTiles::tile_values + i, first = share_.rank * share_.units + from;
      const bool there = rank < share_.ranks && to < H_ && gate < G;
      Units<T, WeightTiles::values> word{};
      for (int v = 0; v < WeightTiles::values; ++v)
        if (there && from + v < share_.units && first + v < H_) word.at[v] = w_hh[(gate * H_ + first + v) * H_ + to];
      return word;
    });
  }

  __device__ float* parts(int message) const { return parts_ + message % 2 * copy_size; }

  // A lane and its neighbour have two rows of the batch each, of the same two units: swapped, each has four rows of one unit, 16 bytes.
  __device__ void send(int message, const float (&sums)[tiles][4]) const {
    const int odd = share_.lane % 2, row = share_.lane % 4 / 2 * 4;
    float* const from_us = parts(message) + share_.rank * share_.units * tile_rows + row;
#pragma unroll
    for (int t = 0; t < tiles; ++t) {
      float mine[2], theirs[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        mine[r] = odd ? sums[t][2 + r] : sums[t][r];
        theirs[r] = __shfl_xor_sync(0xffffffff, odd ? sums[t][r] : sums[t][2 + r], 1);
      }
      const int octet = 2 * t + odd, rank = rank_of(octet);
      if (rank >= share_.ranks) continue;
      const float rows[4] = {odd ? theirs[0] : mine[0], odd ? theirs[1] : mine[1], odd ? mine[0] : theirs[0], odd ? mine[1] : theirs[1]};
      uint4 value;
      std::memcpy(&value, rows, sizeof value);
      inbox_.send(message, unsigned(rank), from_us + unit_of(octet) * tile_rows, value);
    }
  }

  // What the ranks have sent for one of our cells.
  __device__ float sum(int message, int c, int o) const {
    const float* from = parts(message) + (share_.unit + o) * tile_rows + share_.own.column + c;
    float sum = 0;
#pragma unroll
    for (int rank = 0; rank < most_ranks<T, Tiles>; ++rank)
      if (rank < share_.ranks) sum += from[rank * share_.units * tile_rows];
    return sum;
  }

  __device__ void go_back(int step, Inputs& in) {
    const int message = cells_.last - step;
    T* const operands = slots_ + message % 2 * slots_size;  // by turns: a warp may still multiply when others, who have all parts, go on
    typename Cells::Slots slots[Own::cells];
#pragma unroll
    for (int c = 0; c < Own::cells; ++c) {
      slots[c] = cells_.go_back(step, c, in);
      Cells::template write_operands<Tiles>(slots[c], operands + (share_.own.column + c) * WeightTiles::stride + share_.unit, Tiles::units);
    }
    __syncthreads();
    float sums[tiles][4];
    weights_.multiply(operands, sums);
    send(message, sums);
#pragma unroll
    for (int c = 0; c < Own::cells; ++c) cells_.write(step, c, in, slots[c]);
    cells_.fetch(step - 2, in);
    inbox_.wait(message);
    cells_.take(step, [&](int c, int o) { return sum(message, c, o); });
  }
};

template <class T, class C, class Tiles>
__global__ void __launch_bounds__((most_cluster_threads<C::gates, Tiles>), 1)
    backward_cluster_kernel(const BackwardArgs<T> a, const BackwardLoop<T> k) {
  if constexpr (ptx::sm90) BackwardCluster<T, C, Tiles>(a, k, static_cast<char*>(shared_memory())).run();
}

template <class T, class C, class Tiles>
struct Kernel {
  static constexpr auto function = backward_cluster_kernel<T, C, Tiles>;
  static constexpr size_t shared_bytes = BackwardCluster<T, C, Tiles>::shared_bytes;
};

}  // namespace

template <class T>
void run_cluster_loop(Queue& queue, const BackwardArgs<T>& args, const BackwardLoop<T>& loop) {
  run_cluster<Kernel, T, true>(queue, args, loop);
}

template void run_cluster_loop(Queue&, const BackwardArgs<float>&, const BackwardLoop<float>&);
template void run_cluster_loop(Queue&, const BackwardArgs<__nv_bfloat16>&, const BackwardLoop<__nv_bfloat16>&);
template void run_cluster_loop(Queue&, const BackwardArgs<__half>&, const BackwardLoop<__half>&);

int backward_clusters(const Problem& p) { return clusters<Kernel, true>(p); }

}  // namespace rnnk::cuda
