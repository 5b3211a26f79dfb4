// Purpose: the steps of a chunk of the forward pass in one cooperative launch, for layers whose W_hh takes many SMs, or where there are no
// clusters: R3.
// Algorithm: each CTA of a team loads the rows of W_hh of its units, as A fragments, into registers and, what is left, shared memory. A step of
// a tile of 8 rows waits for h, a message of all ranks in global memory; each warp multiplies with its part of K, straight from there; the
// warps' sums meet in shared memory, and threads with a cell run it, write h' to the next message, which is sent, then what the backward pass
// needs, and fetch what the next step needs. A team has two tiles by turns, so that a message is under way while the other tile is computed. The
// last h' is not sent: nobody would wait for it.
// Threads: a team is some tiles of rows of one direction, a CTA 16 units with all gates (RNN: 32), a warp all of these for an 8th of K, a thread
// of the first warps one unit of one row of both tiles.
// Budget: registers, at most 128 for weights (tilings.h), 16 for what comes from the L2, 2 * G for x products; no spills. Shared memory: 8 warps
// * G * units * 36 bytes for sums, 512 bytes for each fragment that is not in registers: 18 KB at an LSTM's 1024 units of 16 bits, 146 KB at
// 2048.
// Limits: 16-bit types and float32, no projection, H within GridTilings of tilings.h and the card's number of SMs. regime.h selects it.
// Shapes: grid [ranks * teams, directions], all of it resident.
#include "cuda/forward_cells.cuh"
#include "cuda/grid.cuh"

namespace rnnk::cuda {

namespace {

template <class T, class C, class Tiles>
class ForwardGrid {
  using Ranks = Team<T, Tiles, C::gates, 1>;
  using Cells = ForwardCells<T, C, 1, 1>;
  using Inputs = typename Cells::Inputs;

  const ForwardArgs<T>& a_;
  const ForwardLoop<T>& k_;
  Ranks team_;

 public:
  static constexpr int threads = Ranks::threads;
  static constexpr size_t shared_bytes = Ranks::shared_bytes;

  __device__ ForwardGrid(const ForwardArgs<T>& a, const ForwardLoop<T>& k, const Mail& mail, char* shared)
      : a_(a), k_(k), team_(mail, a.shape, shared) {}

  __device__ void run(const Mail& mail) {
    load_weights();
    uint32_t message = mail.sent;
    for (int round = 0; round < mail.plan.rounds; ++round, message += uint32_t(k_.chunk.end - k_.chunk.begin)) run_round(round, message);
  }

 private:
  __device__ void load_weights() {
    const T* w_hh = a_.weights[team_.direction ? 1 : 0].w_hh;
    const int H = int(a_.shape.H);
    constexpr int values = 4 / sizeof(T);
    const bool whole_words = H % values == 0 && aligned<values>(w_hh);
    team_.template load_weights<4>([&](int gate, int unit, int /*part*/, int from) {
      return load_units<values>(w_hh + (gate * H + unit) * H + from, unit < H ? H - from : 0, whole_words);
    });
  }

  __device__ void run_round(int round, uint32_t message) {
    const int tiles = team_.tiles_of(round, int(a_.shape.B));
    Cells cells[2] = {{a_, k_, team_.place(round, 0)}, {a_, k_, team_.place(round, 1)}};
    Inputs inputs[2] = {};
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
      if (tile >= tiles) continue;
      if (team_.has_cell) {
        cells[tile].load();
        *team_.own_values(tile, message, cells[tile].place()) = cells[tile].template operands<Tiles>(0).at[0];
        cells[tile].fetch(cells[tile].begin, inputs[tile]);
      }
      team_.send(tile, message);
    }
    for (int step = cells[0].begin; step < cells[0].stop; ++step, ++message) {
#pragma unroll
      for (int tile = 0; tile < 2; ++tile)
        if (tile < tiles) advance(step, message, tile, cells[tile], inputs[tile]);
    }
#pragma unroll
    for (int tile = 0; tile < 2; ++tile)
      if (tile < tiles && team_.has_cell) cells[tile].store();
  }

  __device__ void advance(int step, uint32_t message, int tile, Cells& cells, Inputs& in) {
    team_.multiply(tile, message);
    cells.forget_addresses();
    typename Cells::Results results;
    if (team_.has_cell) {
      results = cells.advance(step, 0, in, [&](int, int, int gate) { return team_.product(gate, cells.place()); });
      *team_.own_values(tile, message + 1, cells.place()) = cells.template operands<Tiles>(0).at[0];
    }
    if (step + 1 < cells.stop) team_.send(tile, message + 1);
    else __syncthreads();
    if (!team_.has_cell) return;
    cells.write(0, in, results);
    cells.fetch(step + 1, in);
  }
};

template <class T, class C, class Tiles>
__global__ void __launch_bounds__((ForwardGrid<T, C, Tiles>::threads), 1)
    forward_grid_kernel(const ForwardArgs<T> a, const ForwardLoop<T> k, const Mail mail) {
  ForwardGrid<T, C, Tiles>(a, k, mail, static_cast<char*>(shared_memory())).run(mail);
}

template <class T, class C, class Tiles>
struct Kernel {
  static constexpr auto function = forward_grid_kernel<T, C, Tiles>;
  static constexpr int block = ForwardGrid<T, C, Tiles>::threads;
  static constexpr size_t shared_bytes = ForwardGrid<T, C, Tiles>::shared_bytes;
};

}  // namespace

template <class T>
void run_grid_loop(Queue& queue, const ForwardArgs<T>& args, const ForwardLoop<T>& loop, const Mail& mail) {
  run_grid<Kernel, T, false>(queue, args, loop, mail);
}

template void run_grid_loop(Queue&, const ForwardArgs<float>&, const ForwardLoop<float>&, const Mail&);
template void run_grid_loop(Queue&, const ForwardArgs<__nv_bfloat16>&, const ForwardLoop<__nv_bfloat16>&, const Mail&);
template void run_grid_loop(Queue&, const ForwardArgs<__half>&, const ForwardLoop<__half>&, const Mail&);

Teams forward_teams(const Problem& p) { return teams<Kernel, false>(p); }

}  // namespace rnnk::cuda
