#include "cpu/team.h"

#include <immintrin.h>
#include <omp.h>
#include <pthread.h>
#include <sched.h>

#include "cpu/denormals.h"

namespace rnnk::cpu {

namespace {

// Set in a forked child for good: libgomp's workers did not survive the fork, and waking them would hang.
std::atomic<bool> forked{false};

void run_member(TeamBody body, void* context, int thread, int threads) {
  const FlushDenormals flush;
  body(context, thread, threads);
}

}  // namespace

void Barrier::await(uint32_t turn) {
  for (int spins = 0; turn_.load(std::memory_order_acquire) == turn; ++spins) {
    if (spins < 1000) _mm_pause();
    else sched_yield();
  }
}

void watch_for_forks() {
  pthread_atfork(nullptr, nullptr, [] { forked.store(true); });
}

int available_threads(int wanted) {
  return forked.load() || omp_in_parallel() ? 1 : wanted;
}

void run_team(int threads, TeamBody body, void* context) {
  threads = available_threads(threads);
  if (threads == 1) return run_member(body, context, 0, 1);
#pragma omp parallel num_threads(threads)
  run_member(body, context, omp_get_thread_num(), omp_get_num_threads());
}

}  // namespace rnnk::cpu
