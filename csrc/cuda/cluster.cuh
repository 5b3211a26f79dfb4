// What the kernels of R2 share: a cluster has 8 rows of the batch of one direction (blockIdx.y) and shares out the units: each of its CTAs,
// its ranks, has the same number of neighbouring ones, a multiple of 8. Who has what in a CTA, and how ranks send each other something.
#pragma once
#include "cuda/loop.cuh"
#include "cuda/with_kernel.h"

namespace rnnk::cuda {

// A tile of 16 rows of W_hh a warp, row lane / 4 of its octets. With gates, row 4 * gate + unit: lanes 0-15 have the first and the third gate of
// their unit, lanes 16-31 the second and the fourth, and after a swap (gates_of_cell) each lane all gates of one row of the batch. With one gate
// the accumulators are two neighbouring units of two rows, as in R1.
template <int gates>
struct Share {
  static constexpr int cells = gates == 1 ? 2 : 1;  // of a thread: so many rows and units
  const int rank = int(ptx::cluster_rank()), ranks = int(ptx::cluster_size());
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  const int units = int(blockDim.x) / 32 * warp_units<gates>;  // of a CTA
  const int unit = gates == 1 ? int(threadIdx.x) / 4 * 2 : warp * 4 + lane / 4 % 4;  // its first one, of the CTA's
  const Place own{column(), int(blockIdx.x) / ranks * tile_rows + column(), rank * units + unit, int(blockIdx.y)};

 private:
  __device__ int column() const { return gates == 1 ? lane % 4 * 2 : lane % 4 * 2 + lane / 16; }
};

// All gates of the lane's cell, from the accumulators of its warp's tile.
__device__ inline void gates_of_cell(const float (&sums)[4], float (&gates)[4]) {
  const bool upper = threadIdx.x % 32 / 16;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float left = sums[2 * half], right = sums[2 * half + 1];
    const float mine = upper ? right : left, theirs = __shfl_xor_sync(0xffffffff, upper ? left : right, 16);
    gates[2 * half] = upper ? theirs : mine;
    gates[2 * half + 1] = upper ? mine : theirs;
  }
}

// What the ranks send each other, message after message, of `bytes` to each rank, in two places by turns: an mbarrier each. A phase is one
// arrival, ours, which announces the bytes, and the bytes.
//
// Two places do, without a barrier of the cluster, where each CTA has a barrier between reading a message and sending the next one. Message n + 1
// is sent by a rank that has all of message n, so by then all ranks have read message n - 1, whose place it takes. For the same reason no phase is
// over before all warps have seen the one before it, and a rank that has waited for all messages may end.
class Inbox {
  uint64_t* const full_;  // [2]
  const uint32_t bytes_;

 public:
  static constexpr size_t shared_bytes = 2 * sizeof(uint64_t);

  __device__ Inbox(void* shared, int bytes) : full_(static_cast<uint64_t*>(shared)), bytes_(uint32_t(bytes)) {}

  // All threads of the cluster; what they have written to their own shared memory is there before anything comes.
  __device__ void open() const {
    if (threadIdx.x == 0) {
      for (int place = 0; place < 2; ++place) ptx::mbarrier_init(full_ + place, 1);
      ptx::fence_mbarrier_init();
      for (int place = 0; place < 2; ++place) ptx::mbarrier_arrive_expect(full_ + place, bytes_);
    }
    ptx::cluster_arrive();
    ptx::cluster_wait();
  }

  // `to` is an address of ours behind the mbarriers, aligned to 16.
  __device__ void send(int message, unsigned rank, const void* to, const uint4& value) const {
    const ptx::ClusterAddress there = ptx::cluster_address(full_, rank);
    const auto distance = ptx::ClusterAddress(static_cast<const char*>(to) - reinterpret_cast<const char*>(full_));
    ptx::store_async(there + distance, value, there + ptx::ClusterAddress(message % 2 * int(sizeof(uint64_t))));
  }

  __device__ void wait(int message) const {
    ptx::mbarrier_wait(full_ + message % 2, uint32_t(message / 2 & 1));
    if (threadIdx.x == 0) ptx::mbarrier_arrive_expect(full_ + message % 2, bytes_);  // of the next but one
    __syncwarp();
  }
};

// The fewest ranks that have room for H units, as equal as tiles allow; at least two, for st.async is undefined in a cluster of one.
template <class T, int gates, class Tiles>
LaunchShape cluster_shape(const Shape& s, size_t shared_bytes) {
  constexpr int step = warp_units<gates> > 8 ? warp_units<gates> : 8;
  static_assert(Tiles::units % step == 0 && 2 <= most_ranks<T, Tiles> && most_ranks<T, Tiles> <= 16);
  int ranks = 2;
  while (ranks * Tiles::units < s.H) ranks *= 2;
  const int64_t units = ((s.H + ranks - 1) / ranks + step - 1) / step * step;
  const int64_t threads = units / warp_units<gates> * 32;
  return {dim3(unsigned((s.B + tile_rows - 1) / tile_rows * ranks), unsigned(s.D)), dim3(unsigned(threads)), shared_bytes, ranks};
}

template <template <class, class, class> class Kernel, class T, bool backward, class Args, class Loop>
void run_cluster(Queue& queue, const Args& args, const Loop& loop) {
  with_cell_and_tiling<ClusterTilings, T, backward>(Problem(args), [&](auto cell, auto tiling) {
    using C = decltype(cell);
    using Tiles = decltype(tiling);
    using K = Kernel<T, C, Tiles>;
    queue.run(K::function, cluster_shape<T, C::gates, Tiles>(args.shape, K::shared_bytes), args, loop);
  });
}

// resident_clusters of K's function at the largest H of its tiling; 0 before sm_90.
template <class K, class T, class C, class Tiles>
int clusters_of_kernel() {
  static PerDevice known;
  return known([](int) {
    if (!is_sm90()) return 0;
    constexpr int64_t H = units_of<T, Tiles>;
    return resident_clusters(K::function, cluster_shape<T, C::gates, Tiles>({1, 1, 1, 1, H, H, 1}, K::shared_bytes));
  });
}

template <template <class, class, class> class Kernel, bool backward>
int clusters(const Problem& p) {
  int count = 0;
  with_kernel<ClusterTilings, backward>(p, [&](auto zero, auto c, auto tiling) {
    using T = decltype(zero);
    using C = decltype(c);
    using Tiles = decltype(tiling);
    count = clusters_of_kernel<Kernel<T, C, Tiles>, T, C, Tiles>();
  });
  return count;
}

}  // namespace rnnk::cuda
