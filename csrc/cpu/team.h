// The threads of one call: torch's own OpenMP team, a spinning barrier, and what each thread sets up and restores.
#pragma once
#include <atomic>
#include <cstdint>

namespace rnnk::cpu {

// A sense-reversing barrier for `size` threads that spins, because the threads meet every time step (30-50 ns against 210 ns
// for OpenMP's), and sleeps after a while, because others may have the core that the last one needs.
class Barrier {
 public:
  void wait(int size) {
    if (size == 1) return;
    const uint32_t turn = turn_.load(std::memory_order_relaxed) & ~somebody_sleeps;
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 < size) return await(turn);
    arrived_.store(0, std::memory_order_relaxed);
    if (turn_.exchange(turn + 2, std::memory_order_acq_rel) & somebody_sleeps) wake_all();
  }

 private:
  static constexpr uint32_t somebody_sleeps = 1;
  void await(uint32_t turn);
  void sleep(uint32_t turn);
  void wake_all();
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> turn_{0};  // counts by two
};

// Calls body(context, thread, threads) on up to `threads` threads with denormals flushed to zero. The team may be smaller: one
// thread inside somebody else's parallel region or in a forked child, where OpenMP's workers are gone.
using TeamBody = void (*)(void* context, int thread, int threads);
void run_team(int threads, TeamBody body, void* context);

// To be called before any team runs in a process that may fork: from then on a forked child runs on one thread.
void watch_for_forks();

// The largest team run_team would give.
int available_threads(int wanted);

}  // namespace rnnk::cpu
