// Even shares.
#pragma once
#include <cstdint>

namespace rnnk::cpu {

struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

// The i-th of `parts` even shares of n.
inline Range share(int64_t n, int64_t parts, int64_t i) { return {n * i / parts, n * (i + 1) / parts}; }

}  // namespace rnnk::cpu
