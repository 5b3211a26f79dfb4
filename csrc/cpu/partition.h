// Who works on what: even shares, and the split of a layer over threads.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>

#include <unistd.h>

namespace rnnk::cpu {

struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

// The i-th of `parts` even shares of n.
inline Range share(int64_t n, int64_t parts, int64_t i) { return {n * i / parts, n * (i + 1) / parts}; }

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

// Of weights that stay in a core's L2.
inline const int64_t l2_bytes = [] {
  const int64_t size = sysconf(_SC_LEVEL2_CACHE_SIZE);
  return (size > 0 ? size : 1 << 20) * 6 / 7;
}();

struct LayerCost {
  int64_t T, B, columns, I, K;  // columns = G * H of each step's products, over I and K = P
  int D, lanes, element;
  Packing packing;
  int64_t free_panels;  // that need nothing of each other: the threads do not meet (pieces.h). 0: they must
};

// Cycles of a whole layer under a partition: packing, and what bounds a step: multiplies, weight bytes, the barrier.
inline double cycles(const LayerCost& cost, const Partition& p) {
  constexpr double unpacked = 10;  // bytes a cycle, from whatever cache
  const double rows = std::ceil(double(cost.B) / double(p.groups)), columns = double(cost.columns) / p.members;
  const double gates = rows * columns * 32 / cost.lanes;
  const double barrier = p.members > 1 && !cost.free_panels ? 400 : 0;
  const double bytes = columns * (double(cost.K) + double(cost.I) / double(cost.T)) * cost.element;  // W_ih is read once for all steps
  double step = gates + barrier + 100, once = 0;
  if (cost.packing == Packing::never) {
    step += bytes / unpacked;
  } else {
    const double arithmetic = rows * columns * double(cost.K + cost.I) / (2 * cost.lanes) * (rows < 2 ? 2 : 1);
    const double reading = bytes / (bytes < 24e3 ? 64 : bytes < l2_bytes ? 32 : 9);  // L1, L2 and L3 bytes a cycle
    step += std::max(arithmetic, reading) + std::min(arithmetic, reading) / 4;
  }
  if (cost.packing == Packing::now)
    once = double(cost.D) * double(cost.columns) * double(cost.I + cost.K) * cost.element / unpacked / p.threads;
  const double rounds = std::ceil(double(cost.D) * double(p.groups) / p.teams());
  return once + rounds * double(cost.T) * step + (p.threads == 1 ? 0 : cost.free_panels ? 2000 + 1000 * (p.threads - 1) : 8000);
}

// The cheapest of the splits into equal teams. Every choice gives the same bits.
inline Partition choose_partition(const LayerCost& cost, int threads) {
  constexpr int64_t most_rows = 96;  // more rows a group would push its x products and states out of the L2
  Partition best;
  double least = -1;
  for (int used : {1, threads}) {
    for (int members = 1; members <= used; ++members) {
      if (used % members || (cost.free_panels && members < used)) continue;
      const int teams = used / members;
      Partition p{used, members, std::max<int64_t>(1, (cost.B + most_rows - 1) / most_rows)};
      while ((cost.D * p.groups) % teams && p.groups < cost.B) ++p.groups;
      if (cost.free_panels && cost.packing == Packing::before)  // too few panels for all: rows too
        while (cost.D * p.groups * cost.free_panels < used && p.groups < cost.B) ++p.groups;
      const double c = cycles(cost, p);
      if (least < 0 || c < least) least = c, best = p;
    }
  }
  return best;
}

}  // namespace rnnk::cpu
