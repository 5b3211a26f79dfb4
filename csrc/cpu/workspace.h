// What the threads of one call find in its buffer: each its own piece, and the barriers.
#pragma once
#include <cstdint>
#include <new>

#include "arena.h"
#include "cpu/team.h"

namespace rnnk::cpu {

// One Scratch for each thread, as cut(Arena&) lays it out.
template <class Scratch>
class PerThread {
  char* base_ = nullptr;
  int64_t size_ = 0;

 public:
  PerThread() = default;
  template <class Cut>
  PerThread(Arena& arena, int threads, const Cut& cut) {
    Arena counting(nullptr);
    cut(counting);
    size_ = int64_t(counting.used() + 63) / 64 * 64;
    base_ = arena.take<char>(size_ * threads);
  }

  template <class Cut>
  Scratch operator()(int thread, const Cut& cut) const {
    Arena own(base_ + thread * size_);
    return cut(own);
  }
};

// The barriers of one call, built in its workspace by the calling thread.
struct Barriers {
  Barrier* all = nullptr;
  Barrier* team = nullptr;  // [teams]

  void place(Arena& arena, int teams) {
    all = arena.take<Barrier>(1);
    team = arena.take<Barrier>(teams);
    if (!all) return;
    new (all) Barrier;
    for (int i = 0; i < teams; ++i) new (team + i) Barrier;
  }
};

}  // namespace rnnk::cpu
