#include "cpu/team.h"

#include <immintrin.h>
#include <omp.h>
#include <pthread.h>
#include <sched.h>

#include <limits>

#include "cpu/denormals.h"
#include "cpu/futex.h"

namespace rnnk::cpu {

namespace {

// Set in a forked child for good: libgomp's workers did not survive the fork, and waking them would hang.
std::atomic<bool> forked{false};

// Threads of all teams of this process.
std::atomic<int> running{0};

void run_member(TeamBody body, void* context, int thread, int threads) {
  const FlushDenormals flush;
  body(context, thread, threads);
}

}  // namespace

void Barrier::await(uint32_t turn) {
  const auto done = [&] { return (turn_.load(std::memory_order_acquire) & ~somebody_sleeps) != turn; };
  for (int spins = 0; !done(); ++spins) {
    if (spins < short_spin) _mm_pause();
    else if (running.load(std::memory_order_relaxed) > omp_get_num_procs()) sched_yield();  // to one of our own
    else if (spins < long_spin) _mm_pause();
    else sleep(turn);
  }
}

void Barrier::sleep(uint32_t turn) {
  uint32_t awake = turn;
  turn_.compare_exchange_strong(awake, turn | somebody_sleeps);
  sleep_while(turn_, turn | somebody_sleeps);
}

void Barrier::wake_all() { wake(turn_, std::numeric_limits<int>::max()); }

void watch_for_forks() {
  pthread_atfork(nullptr, nullptr, [] { forked.store(true); });
}

int available_threads(int wanted) {
  return forked.load() || omp_in_parallel() ? 1 : wanted;
}

void run_team(int threads, TeamBody body, void* context) {
  threads = available_threads(threads);
  if (threads == 1) return run_member(body, context, 0, 1);
  running.fetch_add(threads, std::memory_order_relaxed);
#pragma omp parallel num_threads(threads)
  run_member(body, context, omp_get_thread_num(), omp_get_num_threads());
  running.fetch_sub(threads, std::memory_order_relaxed);
}

}  // namespace rnnk::cpu
