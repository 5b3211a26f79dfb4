// Words for what went wrong.
#pragma once
#include <list>
#include <string>

#include "cuda_host/scheduler.h"

namespace cuda_host {

extern uint64_t current_seed;
Thread* running_thread();  // or null

std::string describe(const Wait& wait);
std::string describe_waiting(const Barrier& barrier);
// Who waits at what, and ends the process.
[[noreturn]] void report_deadlock(const std::list<Cluster>& clusters);

}  // namespace cuda_host
