// The split of a layer over threads.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "cpu/cache.h"

namespace rnnk::cpu {

// The recurrence of a layer is split into D * groups independent tasks (a direction, and every groups-th row of the sorted batch,
// so that lengths spread evenly). A team of `members` threads runs one task at a time, each member owning a range of panels and
// meeting the others once a step; teams of one never wait.
struct Partition {
  int threads = 1, members = 1;
  int64_t groups = 1;

  int teams() const { return threads / members; }
};

// A forward pass over so few rows reads the weights where they lie: packing would not pay.
constexpr int most_direct_rows = 8;
inline bool reads_unpacked(int64_t T, int64_t B) { return T * B <= most_direct_rows; }

// When the weights are packed: by this call, by one before it, or not at all, which reads them where they lie.
enum class Packing { now, before, never };

// The registers of a panel, which holds all gates of its units (gate_weights.h).
constexpr int panel_registers(int gates) { return gates == 1 ? 4 : gates; }

struct LayerCost {
  int64_t T, B, gates, H, I, K;  // the products of a step: G * H columns over I and K = P
  int D, lanes, tile_rows, element;  // tile_rows: the most rows of a register tile (gemm.h)
  Packing packing;
  int64_t independent_panels;  // panels that need nothing of each other, so that threads do not meet (pieces.h); 0 where they must

  int64_t panel_width() const { return panel_registers(int(gates)) * lanes; }
  double weights_of_column() const { return double(K) + double(I) / double(T); }  // read at each step: W_ih is read once for all of them
};

// Cycles of a member's products with packed weights at each step: `panels` panels and `rows` rows. The first tile of rows finds the
// weights where they stay between steps, the others where the first one left the panel.
inline double product_cycles(const LayerCost& cost, double panels, double rows) {
  constexpr double l1_bytes = 24e3, from_l1 = 64, from_l2 = 56, from_l3 = 26, tile_call = 420;
  const double tiles = std::max(1., std::ceil(rows / cost.tile_rows)), columns = panels * double(cost.panel_width());
  const auto multiplying = [&](int64_t K) { return 1.4 * rows * columns * double(K) / (2 * cost.lanes); };
  const double bytes = columns * cost.weights_of_column() * cost.element, panel_bytes = double(cost.K * cost.panel_width() * cost.element);
  const double first = bytes / (bytes < l1_bytes ? from_l1 : bytes < l2_bytes() ? from_l2 : from_l3);
  const double others = (tiles - 1) * bytes / (panel_bytes < l1_bytes ? from_l1 : from_l2);
  const double h = multiplying(cost.K), reading = first + others;
  return multiplying(cost.I) + std::max(h, reading) + std::min(h, reading) / 3 + panels * tiles * tile_call;
}

// Cycles until all threads are at work.
inline double starting_cycles(const LayerCost& cost, int threads) {
  return threads == 1 ? 0 : cost.independent_panels ? 2000 + 1000 * (threads - 1) : 8000;
}

// Cycles of a whole layer under a partition: packing, and at each step the products, the cells, and what it costs a team to meet
// and to bring each other's units over. Fitted to layers of B 2 to 64 and H 32 to 512 on two threads, each split by rows and by
// columns: the cheaper split is chosen, or one within 5% of it.
inline double cycles(const LayerCost& cost, const Partition& p) {
  constexpr double unpacked = 10;  // bytes a cycle, from whatever cache
  const double rows = std::ceil(double(cost.B) / double(p.groups)), columns = double(cost.gates * cost.H), width = double(cost.panel_width());
  const double panels = std::ceil(std::ceil(columns / width) / p.members);
  const double products = cost.packing == Packing::never ? columns / p.members * cost.weights_of_column() * cost.element / unpacked
                                                         : product_cycles(cost, panels, rows);
  const double cells = 24 * rows * panels * width / cost.lanes, meeting = p.members > 1 && !cost.independent_panels ? 100 + 45 * rows : 0;
  const double packing = cost.packing == Packing::now ? cost.D * columns * double(cost.I + cost.K) * cost.element / unpacked / p.threads : 0;
  const double rounds = std::ceil(double(cost.D) * double(p.groups) / p.teams());
  return starting_cycles(cost, p.threads) + packing + rounds * double(cost.T) * (products + cells + meeting + 100);
}

// The cheapest of the splits into equal teams. Every choice gives the same bits.
inline Partition choose_partition(const LayerCost& cost, int threads) {
  constexpr int64_t most_rows = 96;  // more rows a group would push its x products and states out of the L2
  Partition best;
  double least = -1;
  for (int used : {1, threads}) {
    if (least >= 0 && (used == 1 || least < starting_cycles(cost, used))) break;
    for (int members = 1; members <= used; ++members) {
      if (used % members || (cost.independent_panels && members < used)) continue;
      const int teams = used / members;
      Partition p{used, members, std::max<int64_t>(1, (cost.B + most_rows - 1) / most_rows)};
      while ((cost.D * p.groups) % teams && p.groups < cost.B) ++p.groups;
      if (cost.independent_panels && cost.packing == Packing::before)  // too few panels for all: rows too
        while (cost.D * p.groups * cost.independent_panels < used && p.groups < cost.B) ++p.groups;
      const double c = cycles(cost, p);
      if (least < 0 || c < least) least = c, best = p;
    }
  }
  return best;
}

}  // namespace rnnk::cpu
