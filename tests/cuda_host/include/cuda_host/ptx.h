// csrc/cuda/ptx.cuh on the host. What is asynchronous completes late: at a moment drawn from the seed, at the latest when nobody
// can go on without it, so that a missing wait finds the memory as it was before. Memory order is not modelled: every store is seen at once.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "mbarrier.h"
#include "scheduler.h"
#include "special.h"

namespace rnnk::cuda::ptx {

using cuda_host::Location;

template <class Word>
Word fresh(Word x) { return x; }

// --- Words in global memory.

inline uint32_t load_acquire(const uint32_t* from, Location at = Location::here()) {
  cuda_host::yield_in_loop({"load_acquire", at});
  return *from;
}
inline void store_release(uint32_t* to, uint32_t value) {
  *to = value;
  cuda_host::wrote(to);
}
inline void wait_at_least(const uint32_t* flag, uint32_t value, Location at = Location::here()) {
  if (!cuda_host::grid().cooperative) cuda_host::fault("waits for a flag in a launch that is not cooperative");
  cuda_host::wait_until(flag, [=] { return int32_t(*flag - value) >= 0; }, {"wait_at_least", at});
}
inline uint4 load_relaxed(const uint4* from) {
  if (uintptr_t(from) % 16) cuda_host::fault("load_relaxed of 16 bytes from an address that is not a multiple of 16");
  return *from;
}

// --- Clusters.

inline unsigned cluster_rank() { return cuda_host::self().block->rank; }
inline unsigned cluster_size() { return cuda_host::grid().cluster; }

inline void cluster_arrive(Location at = Location::here()) {
  cuda_host::Thread& me = cuda_host::self();
  if (me.in_cluster_barrier) cuda_host::fault("arrives twice at the cluster's barrier without a wait");
  me.in_cluster_barrier = true;
  me.cluster_phase = me.block->cluster->barrier.phase;
  cuda_host::arrive(me.block->cluster->barrier, {"cluster_arrive", at});
}
inline void cluster_wait(Location at = Location::here()) {
  cuda_host::Thread& me = cuda_host::self();
  if (!me.in_cluster_barrier) cuda_host::fault("waits at the cluster's barrier without having arrived");
  me.in_cluster_barrier = false;
  cuda_host::wait_for(me.block->cluster->barrier, me.cluster_phase, {"cluster_wait", at});
}

using ClusterAddress = uintptr_t;

inline ClusterAddress cluster_address(const void* shared, unsigned rank) {
  const cuda_host::Block& own = cuda_host::own_shared(shared, 0, "cluster_address");
  if (rank >= own.cluster->blocks.size()) cuda_host::fault("asks for rank %u of a cluster of %zu", rank, own.cluster->blocks.size());
  // A block that has ended keeps its address, but owner_of() no longer finds it.
  return ClusterAddress(own.cluster->blocks[rank].address) + (static_cast<const unsigned char*>(shared) - own.shared);
}
inline float load_cluster(ClusterAddress from) {
  const void* source = reinterpret_cast<const void*>(from);
  float value;
  cuda_host::owner_of(source, sizeof value, "load_cluster");
  std::memcpy(&value, source, sizeof value);
  return value;
}

// --- mbarrier.

inline void mbarrier_init(uint64_t* barrier, uint32_t arrivals) {
  cuda_host::own_shared(barrier, 8, "mbarrier_init");
  cuda_host::mbarrier::init(barrier, arrivals);
}
inline void fence_mbarrier_init() {}
inline void mbarrier_arrive_expect(uint64_t* barrier, uint32_t bytes) {
  cuda_host::own_shared(barrier, 8, "mbarrier_arrive_expect");
  cuda_host::mbarrier::arrive(barrier, bytes);
}
inline void mbarrier_wait(uint64_t* barrier, uint32_t parity, Location at = Location::here()) {
  cuda_host::own_shared(barrier, 8, "mbarrier_wait");
  cuda_host::wait_until(barrier, [=] { return cuda_host::mbarrier::phase(barrier) != parity; }, {"mbarrier_wait", at});
}

// --- Copies that run while the thread goes on.

inline void store_async(ClusterAddress to, uint4 value, ClusterAddress barrier) {
  void* target = reinterpret_cast<void*>(to);
  if (cluster_size() < 2) cuda_host::fault("store_async in a cluster of one block");
  if (to % sizeof value) cuda_host::fault("store_async to an address that is not a multiple of 16");
  const cuda_host::Block& owner = cuda_host::owner_of(target, sizeof value, "store_async");
  if (&cuda_host::owner_of(reinterpret_cast<void*>(barrier), 8, "store_async's mbarrier") != &owner)
    cuda_host::fault("store_async to one block with the mbarrier of another");
  cuda_host::later(
      [=] {
        std::memcpy(target, &value, sizeof value);
        cuda_host::mbarrier::complete(reinterpret_cast<uint64_t*>(barrier), sizeof value);
      },
      target, "store_async");
}

inline void copy_async(void* shared, const void* global, bool valid) {
  constexpr int bytes = 16;
  cuda_host::own_shared(shared, bytes, "copy_async");
  if (uintptr_t(shared) % bytes || uintptr_t(global) % bytes) cuda_host::fault("copy_async of addresses that are not multiples of 16");
  cuda_host::Thread& me = cuda_host::self();
  me.copies.push_back({me.groups, [=] {
                         if (valid)
                           std::memcpy(shared, global, bytes);
                         else
                           std::memset(shared, 0, bytes);
                       }});
}
inline void copy_commit() { ++cuda_host::self().groups; }
template <int groups>
void copy_wait() {
  cuda_host::Thread& me = cuda_host::self();
  const auto waited_for = [&](const auto& copy) { return copy.group + unsigned(groups) < me.groups; };
  for (auto& copy : me.copies)
    if (waited_for(copy)) copy.complete();
  me.copies.erase(std::remove_if(me.copies.begin(), me.copies.end(), waited_for), me.copies.end());
}

// --- Programmatic dependent launch: here a grid starts when the one before has ended; that all threads wait is checked when they end. Who
// lets the next grid start before its own wait could find that one's reads before the writes of the grid before its own.

inline void grid_dependency_wait() { cuda_host::self().waited_for_grid = true; }
inline void grid_dependency_launch() {
  if (cuda_host::grid().dependent && !cuda_host::self().waited_for_grid)
    cuda_host::fault("lets the next grid start before it has waited for the one before");
}

}  // namespace rnnk::cuda::ptx
