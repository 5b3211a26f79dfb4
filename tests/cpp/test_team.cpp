// cpu/team.h: nobody passes the barrier before the last one has come, whether those who wait still spin or already sleep, on fewer
// and on more threads than cores; teams at the same time.
#include "cpu/team.h"

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "check.h"

using rnnk::cpu::Barrier;
using rnnk::cpu::run_team;

// Each thread adds one before a barrier and sees everybody's after it. By turns one comes late.
struct Meeting {
  int rounds;
  std::chrono::microseconds late;
  Barrier barrier;
  std::atomic<int64_t> sum{0};
  std::atomic<int> wrong{0}, members{0};

  void attend(int thread, int threads) {
    members = threads;
    for (int round = 0; round < rounds; ++round) {
      if (late.count() && round % threads == thread) std::this_thread::sleep_for(late);
      sum.fetch_add(1);
      barrier.wait(threads);
      if (sum.load() != int64_t(round + 1) * threads) ++wrong;
      barrier.wait(threads);
    }
  }
};

// How often a thread went on too early, or missed somebody's one at the end.
int faults(int threads, int rounds, std::chrono::microseconds late) {
  Meeting meeting{rounds, late, {}, {}, {}, {}};
  run_team(threads, [](void* m, int thread, int size) { static_cast<Meeting*>(m)->attend(thread, size); }, &meeting);
  return meeting.wrong + (meeting.sum != int64_t(rounds) * meeting.members);
}

int main() {
  using namespace std::chrono_literals;
  for (int threads : {1, 2, 3, 8}) {
    check(faults(threads, 2000, 0us) == 0, "%d threads that spin", threads);
    check(faults(threads, 30, 5ms) == 0, "%d threads that sleep", threads);
  }
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (int i = 0; i < 3; ++i) callers.emplace_back([&] { wrong += faults(2, 500, 0us); });
  for (std::thread& caller : callers) caller.join();
  check(wrong == 0, "%d faults of teams at the same time", int(wrong));
  return finish("test_team");
}
