// What one call works in: a buffer cut into pieces, and the barriers that live in it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <new>

#include "cpu/team.h"

namespace rnnk::cpu {

// Hands out pieces of one buffer, 64-byte aligned. With a null base it only counts, so one function both sizes and lays out.
class Arena {
 public:
  explicit Arena(void* base) : base_(reinterpret_cast<uintptr_t>(base)) {}

  template <class T>
  T* take(int64_t count) {
    used_ = (used_ + 63) / 64 * 64;
    const uintptr_t at = base_ + used_;
    used_ += size_t(count) * sizeof(T);
    return base_ ? reinterpret_cast<T*>(at) : nullptr;
  }
  size_t used() const { return used_; }

 private:
  uintptr_t base_;
  size_t used_ = 0;
};

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
