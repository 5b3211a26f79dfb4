// What a test program here needs: checks that say what they saw, random numbers, and an exit status.
#pragma once
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>

inline int checks = 0, failures = 0;

// Counts a check; prints printf's arguments where it fails, and ends the program after 40 of them, which tell the story. Returns whether it held.
__attribute__((format(printf, 2, 3))) inline bool check(bool held, const char* format, ...) {
  ++checks;
  if (held) return true;
  std::fputs("FAILED: ", stderr);
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fputc('\n', stderr);
  if (++failures == 40) std::exit(1);
  return false;
}

inline int finish(const char* name) {
  std::printf("%s: %d checks, %d failures\n", name, checks, failures);
  return failures || !checks;
}

inline std::mt19937_64& generator() {
  static std::mt19937_64 engine(1234);
  return engine;
}
inline double uniform(double low, double high) { return std::uniform_real_distribution<double>(low, high)(generator()); }
inline int64_t uniform_integer(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(generator()); }
