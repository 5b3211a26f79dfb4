// csrc/cpu/team.cpp with std::thread in the place of OpenMP's team, for ThreadSanitizer, which cannot see into libgomp: the kernels
// and the barrier are the real ones, and everything that orders their memory accesses is visible.
#include <thread>
#include <vector>

#define run_team run_openmp_team
#include "cpu/team.cpp"
#undef run_team

namespace rnnk::cpu {

void run_team(int threads, TeamBody body, void* context) {
  threads = available_threads(threads);
  std::vector<std::thread> team;
  for (int thread = 1; thread < threads; ++thread) team.emplace_back(run_member, body, context, thread, threads);
  run_member(body, context, 0, threads);
  for (std::thread& member : team) member.join();
}

}  // namespace rnnk::cpu
