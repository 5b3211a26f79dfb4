// cpu/pieces.h: every piece once, in the promised order, by helpers too; denormals flushed on all threads; callers at the same time.
#include "cpu/pieces.h"

#include <immintrin.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "check.h"

using rnnk::cpu::Pieces;
using rnnk::cpu::run_pieces;

template <class Body>
void run(const Pieces& pieces, Body body) {
  run_pieces(pieces, [](void* context, int thread, int64_t piece) { (*static_cast<Body*>(context))(thread, piece); }, &body);
}

bool all_once(const std::vector<std::atomic<int>>& done) {
  for (const auto& times : done)
    if (times != 1) return false;
  return true;
}

void test_every_piece_once() {
  for (int threads : {1, 2, 3, 8, 200})
    for (int64_t count : {0, 1, 2, 5, 100})
      for (bool back : {false, true}) {
        std::vector<std::atomic<int>> done(count);
        run({threads, count, back, threads}, [&](int, int64_t piece) { ++done[piece]; });
        check(all_once(done), "%d threads, %d pieces", threads, int(count));
      }
}

void test_order_of_one_thread() {
  for (bool back : {false, true}) {
    std::vector<int64_t> order;
    run({1, 10, back, 0}, [&](int, int64_t piece) { order.push_back(piece); });
    for (int64_t i = 0; i < 10; ++i) check(order[i] == (back ? 9 - i : i), "piece %d came %dth", int(order[i]), int(i));
  }
}

// The caller holds its first piece until a helper has begun one. A machine that gives the helper no time for a minute fails.
void test_helpers_work() {
  if (std::thread::hardware_concurrency() < 2) return;  // a helper works on another core or not at all
  const unsigned before = _mm_getcsr();
  for (int round = 0; round < 3; ++round) {
    std::atomic<bool> helped{false}, flushed{true};
    run({2, 8, false, 1}, [&](int thread, int64_t) {
      if ((_mm_getcsr() & 0x8040) != 0x8040) flushed = false;
      if (thread == 1) helped = true;
      const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(1);
      while (!helped && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
    });
    check(helped, "no helper came");
    check(flushed, "denormals not flushed");
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // the next round finds it asleep
  }
  check(_mm_getcsr() == before, "the caller's MXCSR is not restored");
}

// What pieces write is there when run_pieces returns, and nothing is written after.
void test_results_are_complete() {
  for (int round = 0; round < 2000; ++round) {
    std::vector<int64_t> results(40, -1);
    run({4, 40, round % 2 != 0, 4}, [&](int, int64_t piece) { results[piece] = piece; });
    int64_t sum = 0;
    for (int64_t result : results) sum += result;
    if (!check(sum == 39 * 40 / 2, "round %d lacks results", round)) return;
  }
}

void test_callers_at_the_same_time() {
  std::atomic<int> wrong{0};
  const auto call = [&] {
    for (int round = 0; round < 500; ++round) {
      std::vector<std::atomic<int>> done(20);
      run({3, 20, false, 3}, [&](int, int64_t piece) { ++done[piece]; });
      if (!all_once(done)) ++wrong;
    }
  };
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i) callers.emplace_back(call);
  for (std::thread& caller : callers) caller.join();
  check(wrong == 0, "%d calls with a piece missing or done twice", int(wrong));
}

int main() {
  test_every_piece_once();
  test_order_of_one_thread();
  test_helpers_work();
  test_results_are_complete();
  test_callers_at_the_same_time();
  return finish("test_pieces");
}
