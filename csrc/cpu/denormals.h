// Denormals flushed to zero, in inputs and results, for as long as this lives: small values underflow through a recurrence and
// denormal arithmetic is a hundred times slower.
#pragma once
#include <immintrin.h>

namespace rnnk::cpu {

class FlushDenormals {
 public:
  FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
};

}  // namespace rnnk::cpu
