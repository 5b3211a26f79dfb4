// A grid run on the host: one fiber per CUDA thread, all on one thread of the OS. A fiber runs until it waits; who runs next is
// drawn from a seed, so many seeds see many orders, and one seed always the same order.
//
// It finds wrong indices, missing barriers and waits, deadlocks and outputs that nobody writes. It proves nothing about memory
// order (every store is seen at once; a missing __syncwarp before another operation of the whole warp goes unnoticed) nor about speed.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "fiber.h"
#include "vector_types.h"

namespace cuda_host {

// The seed of all launches from here on.
void set_seed(uint64_t seed);

// Where a kernel waits: as a default argument, the place of the call.
struct Location {
  const char* file;
  int line;
  static Location here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};

struct Wait {
  const char* what;
  Location at;
};

struct Thread;

// All `expected` threads arrive before one that has arrived goes on.
struct Barrier {
  unsigned expected = 0, arrived = 0, phase = 0;
  std::vector<Thread*> waiting;
};

// Data of each lane, null of a lane that takes no part.
using Lanes = void* [32];
using Combine = void (*)(Lanes&);

// An operation that lanes of a warp do together; the last one to come does it for all.
struct Collective {
  unsigned mask, arrived;
  Wait wait;
  Lanes lanes;
  Thread* threads[32];
};

struct Warp {
  unsigned existing = 0, exited = 0;  // lanes
  uint64_t priority;
  std::vector<Collective> pending;
};

struct Block;
struct Cluster;

struct Thread {
  Fiber fiber;
  Block* block;
  uint3 index;
  unsigned number;  // in the block
  bool exited = false;
  Wait wait{};  // what it waits at, or waited at last

  bool in_cluster_barrier = false;  // arrived there, in this phase of the barrier, and has not waited
  unsigned cluster_phase = 0;

  bool waited_for_grid = false;  // the one before

  // Its cp.async copies that are still to be done; see ptx.h.
  struct Copy {
    unsigned group;
    std::function<void()> complete;
  };
  std::vector<Copy> copies;
  unsigned groups = 0;  // committed

  Warp& warp() const;
  unsigned lane() const { return number % 32; }
};

struct Block {
  Cluster* cluster;
  uint3 index;
  unsigned rank;  // in the cluster
  unsigned exited = 0;
  uint64_t priority;
  unsigned char* address;           // of its shared memory
  unsigned char* shared = nullptr;  // the same until it has ended
  Barrier barrier;
  std::vector<Warp> warps;
  std::vector<Thread> threads;
};

struct Cluster {
  std::vector<Block> blocks;
  Barrier barrier;
  unsigned exited = 0;  // threads
};

inline Warp& Thread::warp() const { return block->warps[number / 32]; }

struct GridShape {
  dim3 grid, block;
  size_t shared_bytes;
  unsigned cluster;
  bool cooperative, dependent;
};

// Whether a card of compute capability 9.0 would take it.
bool valid(const GridShape& shape);
// Runs `kernel` once per thread of the grid and returns when all have ended.
void run_grid(const GridShape& shape, const std::function<void()>& kernel);

// What a kernel's built-ins are made of. The running thread:
Thread& self();
const GridShape& grid();

// Says what is wrong, where the running thread stands, and ends the process.
[[noreturn]] __attribute__((format(printf, 1, 2))) void fault(const char* format, ...);

void arrive(Barrier& barrier, const Wait& wait);
void wait_for(Barrier& barrier, unsigned phase, const Wait& wait);  // until the phase is over
void warp_collective(unsigned mask, void* mine, Combine combine, const Wait& wait);
void full_warp_collective(void* mine, Combine combine, const Wait& wait);  // of 32 lanes

// Waits until `ready()`, which depends on what is written to `address`.
void wait_until(const void* address, const std::function<bool()>& ready, const Wait& wait);
// Lets others run; for loads that a loop repeats until they show what it waits for.
void yield_in_loop(const Wait& wait);
// Tells both.
void wrote(const void* address);

// Does `complete` at a later moment. It writes to `target`, shared memory of a block of the running thread's cluster.
void later(std::function<void()> complete, const void* target, const char* what);
// The block of the running thread's cluster that [to, to + bytes) lies in.
Block& owner_of(const void* to, size_t bytes, const char* what);
// The running thread's own block, after a check that [at, at + bytes) is its shared memory.
Block& own_shared(const void* at, size_t bytes, const char* what);

uint64_t draw(uint64_t below);

}  // namespace cuda_host
