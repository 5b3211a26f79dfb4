// Waiting for a word to change. Threads spin first, and then sleep instead of yielding: on Linux 6.18 sched_yield gives whoever else wants the
// core his whole slice, and beside one busy process of the lowest priority a layer of 100 steps took three times as long.
#pragma once
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>

namespace rnnk::cpu {

constexpr int short_spin = 1'000, long_spin = 4'000;  // pauses: some 50 and 200 us

// Returns at once if `word` is not `value`, and may return early.
inline void sleep_while(const std::atomic<uint32_t>& word, uint32_t value) {
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
}

inline void wake(const std::atomic<uint32_t>& word, int sleepers) {
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, sleepers, nullptr, nullptr, 0);
}

}  // namespace rnnk::cpu
