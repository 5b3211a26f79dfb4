#include "report.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>

namespace cuda_host {
namespace {

[[noreturn]] void end() {
  std::fflush(nullptr);
  std::_Exit(1);
}

bool same(const Wait& a, const Wait& b) { return a.what == b.what && a.at.line == b.at.line; }

std::string describe(const Block& block) {
  return "block (" + std::to_string(block.index.x) + ", " + std::to_string(block.index.y) + ", " + std::to_string(block.index.z) + ")";
}

// The running threads of a block, in ranges that wait at the same place.
void print_waiting(const Block& block) {
  const std::vector<Thread>& threads = block.threads;
  for (size_t begin = 0, end; begin < threads.size(); begin = end) {
    const Thread& first = threads[begin];
    for (end = begin + 1; end < threads.size() && threads[end].exited == first.exited && same(threads[end].wait, first.wait);) ++end;
    const std::string range = std::to_string(begin) + (end - begin > 1 ? "-" + std::to_string(end - 1) : "");
    const std::string where = first.exited ? "ended" : "at " + describe(first.wait);
    std::fprintf(stderr, "  %s thread%s %s: %s\n", describe(block).c_str(), end - begin > 1 ? "s" : "", range.c_str(), where.c_str());
  }
}

}  // namespace

std::string describe(const Wait& wait) {
  if (!wait.what) return "its beginning";
  const std::string file = wait.at.file;
  return std::string(wait.what) + ", " + file.substr(file.rfind('/') + 1) + ":" + std::to_string(wait.at.line);
}

std::string describe_waiting(const Barrier& barrier) {
  return std::to_string(barrier.arrived) + " of " + std::to_string(barrier.expected) +
         (barrier.waiting.empty() ? "" : " at " + describe(barrier.waiting[0]->wait));
}

void fault(const char* format, ...) {
  std::fprintf(stderr, "cuda_host, seed %llu: ", static_cast<unsigned long long>(current_seed));
  if (const Thread* thread = running_thread()) std::fprintf(stderr, "%s thread %u ", describe(*thread->block).c_str(), thread->number);
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fputc('\n', stderr);
  end();
}

void report_deadlock(const std::list<Cluster>& clusters) {
  std::fprintf(stderr, "cuda_host, seed %llu: deadlock, nobody can go on\n", static_cast<unsigned long long>(current_seed));
  for (const Cluster& cluster : clusters)
    for (const Block& block : cluster.blocks) print_waiting(block);
  end();
}

}  // namespace cuda_host
