// Purpose: backpropagation through the steps of a chunk in one cooperative launch, for layers whose W_hh takes many SMs, or where there are no
// clusters: R3.
// Algorithm: each CTA of a team loads the columns of W_hh of its units, as A fragments of W_hh^T, into registers and, what is left, shared
// memory. The vjp of a cell writes its slots, as they meet h, to a message in global memory. A step of a tile of 8 rows, last to first, waits
// for the message of all ranks; each warp multiplies with its part of K, straight from there; the warps' sums meet in shared memory: D(h) of the
// step before, whose vjp runs, and whose slots are sent; then they are written for the products over the chunk's tokens, and what the step
// before that needs is fetched. A team has two tiles by turns, as in grid_forward.cu.
// Threads: a team is some tiles of rows of one direction, a CTA 16 units (RNN: 32), a warp all of these for an 8th of K = G * H, a thread of the
// first warps one unit of one row of both tiles.
// Budget: registers, at most 104 for weights (tilings.h), 16 for what comes from the L2, 2 * (S + 2) for prefetched values; no spills. Shared
// memory: 8 warps * units * 36 bytes for sums, 512 bytes for each fragment that is not in registers: 37 KB at an LSTM's 1024 units of 16 bits,
// 161 KB at 2048.
// Limits: 16-bit types and float32, no projection, H within GridTilings of tilings.h and the card's number of SMs. regime.h selects it.
// Shapes: grid [ranks * teams, directions], all of it resident.
#include "cuda/backward_cells.cuh"
#include "cuda/grid.cuh"

namespace rnnk::cuda {

namespace {

template <class T, class C, class Tiles>
class BackwardGrid {
  using Ranks = Team<T, Tiles, 1, C::gates>;
  using Cells = BackwardCells<T, C, 1, 1>;
  using Inputs = typename Cells::Inputs;

  const BackwardArgs<T>& a_;
  const BackwardLoop<T>& k_;
  Ranks team_;

 public:
  static constexpr int threads = Ranks::threads;
  static constexpr size_t shared_bytes = Ranks::shared_bytes;

  __device__ BackwardGrid(const BackwardArgs<T>& a, const BackwardLoop<T>& k, const Mail& mail, char* shared)
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
    team_.template load_weights<2>([&](int, int unit, int gate, int from) {
      Units<T, values> word{};
      for (int v = 0; v < values; ++v)
        if (unit < H && from + v < H) word.at[v] = w_hh[(gate * H + from + v) * H + unit];
      return word;
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
        cells[tile].fetch(cells[tile].last, inputs[tile]);
      }
      go_back(cells[tile].last, message, tile, cells[tile], inputs[tile]);
    }
    for (int step = cells[0].last; step >= cells[0].begin; --step, ++message) {
#pragma unroll
      for (int tile = 0; tile < 2; ++tile) {
        if (tile >= tiles) continue;
        team_.multiply(tile, message);
        if (team_.has_cell) cells[tile].take(step, [&](int, int) { return team_.product(0, cells[tile].place()); });
        if (step > cells[0].begin) go_back(step - 1, message + 1, tile, cells[tile], inputs[tile]);
        else __syncthreads();
      }
    }
#pragma unroll
    for (int tile = 0; tile < 2; ++tile)
      if (tile < tiles && team_.has_cell) cells[tile].store();
  }

  __device__ void go_back(int step, uint32_t message, int tile, Cells& cells, Inputs& in) {
    typename Cells::Slots slots;
    cells.forget_addresses();
    if (team_.has_cell) {
      slots = cells.go_back(step, 0, in);
      Cells::template write_operands<Tiles>(slots, team_.own_values(tile, message, cells.place()), Ranks::part_stride);
    }
    team_.send(tile, message);
    if (!team_.has_cell) return;
    cells.write(step, 0, in, slots);
    cells.fetch(step - 1, in);
  }
};

template <class T, class C, class Tiles>
__global__ void __launch_bounds__((BackwardGrid<T, C, Tiles>::threads), 1)
    backward_grid_kernel(const BackwardArgs<T> a, const BackwardLoop<T> k, const Mail mail) {
  BackwardGrid<T, C, Tiles>(a, k, mail, static_cast<char*>(shared_memory())).run(mail);
}

template <class T, class C, class Tiles>
struct Kernel {
  static constexpr auto function = backward_grid_kernel<T, C, Tiles>;
  static constexpr int block = BackwardGrid<T, C, Tiles>::threads;
  static constexpr size_t shared_bytes = BackwardGrid<T, C, Tiles>::shared_bytes;
};

}  // namespace

template <class T>
void run_grid_loop(Queue& queue, const BackwardArgs<T>& args, const BackwardLoop<T>& loop, const Mail& mail) {
  run_grid<Kernel, T, true>(queue, args, loop, mail);
}

template void run_grid_loop(Queue&, const BackwardArgs<float>&, const BackwardLoop<float>&, const Mail&);
template void run_grid_loop(Queue&, const BackwardArgs<__nv_bfloat16>&, const BackwardLoop<__nv_bfloat16>&, const Mail&);
template void run_grid_loop(Queue&, const BackwardArgs<__half>&, const BackwardLoop<__half>&, const Mail&);

Teams backward_teams(const Problem& p) { return teams<Kernel, true>(p); }

}  // namespace rnnk::cuda
