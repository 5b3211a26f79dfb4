// Clusters: their barrier, loads from a peer's shared memory, stores that signal the peer's mbarrier.
#include <cstdint>

#include "limits.h"

namespace limits {
namespace {

__device__ void cluster_barrier() {
#ifdef HOPPER
  asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

#ifdef HOPPER
__device__ unsigned rank_in_cluster() {
  unsigned rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

__device__ uint32_t shared_address(const void* pointer) { return uint32_t(__cvta_generic_to_shared(pointer)); }

// The address, in block `rank`, of what lies at `address` here.
__device__ uint32_t of_peer(uint32_t address, unsigned rank) {
  uint32_t remote;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(rank));
  return remote;
}
#endif

__global__ void sync_cluster(int rounds) {
  for (int round = 0; round < rounds; ++round) cluster_barrier();
}

// Cycles of a load from the last block's shared memory by the first.
__global__ void chase_peer(const unsigned* next, unsigned blocks, double* cycles) {
#ifdef HOPPER
  __shared__ unsigned chain[kHops];
  const unsigned rank = rank_in_cluster();
  const uint32_t last = of_peer(shared_address(chain), blocks - 1);
  for (unsigned i = 0; rank == blocks - 1 && i < kHops; ++i) chain[i] = last + 4 * next[i];
  cluster_barrier();
  if (rank == 0) {
    uint32_t at = last;
    const long long start = clock64();
    for (int hop = 0; hop < kHops; ++hop) asm volatile("ld.shared::cluster.u32 %0, [%0];" : "+r"(at)::"memory");
    *cycles = double(clock64() - start) / kHops;
    if (at != last) __trap();  // the chain is a cycle
  }
  cluster_barrier();  // nobody leaves while its shared memory is read
#endif
}

// The first block and the last send a word to and fro; each waits at a barrier of its own that the other's store completes.
__global__ void ping_pong(int rounds, unsigned blocks, unsigned* last) {
#ifdef HOPPER
  __shared__ alignas(8) uint64_t arrived;
  __shared__ unsigned word;
  const uint32_t barrier = shared_address(&arrived);
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;\n\tfence.mbarrier_init.release.cluster;" ::"r"(barrier) : "memory");
  cluster_barrier();
  const unsigned rank = rank_in_cluster(), peer = rank == 0 ? blocks - 1 : 0;
  if (rank == 0 || rank == blocks - 1) {
    const uint32_t peer_word = of_peer(shared_address(&word), peer), peer_barrier = of_peer(barrier, peer);
    const auto send = [&](unsigned value) {
      asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(peer_word), "r"(value),
                   "r"(peer_barrier)
                   : "memory");
    };
    unsigned value = 0;
    for (int round = 0; round < rounds; ++round) {
      if (rank == 0) send(value + 1);
      asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], 4;" ::"r"(barrier) : "memory");
      const long long start = clock64();
      for (unsigned done = 0; !done; give_up(start))
        asm volatile(
            "{\n\t.reg .pred p;\n\tmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n\tselp.u32 %0, 1, 0, p;\n\t}"
            : "=r"(done)
            : "r"(barrier), "r"(round & 1)
            : "memory");
      value = *static_cast<volatile unsigned*>(&word);
      if (rank != 0) send(value + 1);
    }
    if (rank == 0) *last = value;
  }
  cluster_barrier();
#endif
}

// How many clusters of blocks that take `shared` bytes each run at once; 0 where the card has none of that size.
int active_clusters(int size, size_t shared) {
  const cudaLaunchAttribute attribute = cluster_of(size);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(size);
  config.blockDim = dim3(256);
  config.dynamicSmemBytes = shared;
  config.attrs = const_cast<cudaLaunchAttribute*>(&attribute);
  config.numAttrs = 1;
  int clusters = 0;
  if (cudaFuncSetAttribute(sync_cluster, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared)) == cudaSuccess &&
      cudaOccupancyMaxActiveClusters(&clusters, sync_cluster, &config) == cudaSuccess)
    return clusters;
  cudaGetLastError();
  return 0;
}

}  // namespace

void clusters(Report& report) {
  if (device().major < 9) return;
  const void* kernels[] = {(const void*)sync_cluster, (const void*)chase_peer, (const void*)ping_pong};
  for (const void* kernel : kernels) CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
  const double clock = cycles_a_second();
  const DeviceArray<unsigned> next(random_cycle(kHops)), last(1);
  for (int size : {2, 4, 8, 16}) {
    const cudaLaunchAttribute attribute = cluster_of(size);
    const std::string of = "_of_" + std::to_string(size);
    report.add("active_clusters_200kb" + of, active_clusters(size, 200 << 10));
    if (active_clusters(size, 0) == 0) continue;
    const double barrier = seconds_a_round([&](cudaStream_t stream, int n) { launch(sync_cluster, size, 256, 0, stream, &attribute, n); });
    report.add("cluster_barrier_ns" + of, barrier * 1e9);

    const double hop = median_reported([&](double* reported) {
      launch(chase_peer, size, 1, 0, nullptr, &attribute, static_cast<unsigned*>(next), unsigned(size), reported);
    });
    report.add("dsmem_load_cycles" + of, hop);
    report.add("dsmem_load_ns" + of, hop / clock * 1e9);

    const double round = seconds_a_round([&](cudaStream_t stream, int n) {
      launch(ping_pong, size, 1, 0, stream, &attribute, n, unsigned(size), static_cast<unsigned*>(last));
    });
    REQUIRE(last.first() == 2 * 1200);  // what the longer of the two runs counted
    report.add("st_async_hop_ns" + of, round / 2 * 1e9);
  }
}

}  // namespace limits
