// exp, sigmoid and tanh of csrc/cells/activations.h against long double: as scalars and as the vectors of every ISA this CPU
// runs. Prints the largest errors, which docs/numerics.md quotes, and holds them to the bounds in activations.h's header.
#include <cpuid.h>

#include <string>
#include <vector>

#include "cells/scalar.h"
#include "check.h"
#include "cpu/system.h"

// One pair of functions per namespace, evaluated through a pointer so that no ISA's code is inlined into another's.
#define RNNK_TEST_EVALUATE                                                                                  \
  template <class V, class T>                                                                               \
  V apply(int function, V x) { return function == 0 ? exp(x) : function == 1 ? sigmoid(x) : tanh(x); }

namespace rnnk::scalar {
#include "cells/activations.h"
RNNK_TEST_EVALUATE
template <class T>
void evaluate(int function, const T* x, T* y, size_t n) {
  for (size_t i = 0; i < n; ++i) y[i] = apply<T, T>(function, x[i]);
}
}  // namespace rnnk::scalar

// n must be a multiple of every vector's length.
#define RNNK_TEST_EVALUATE_VECTORS                                                                          \
  RNNK_TEST_EVALUATE                                                                                        \
  template <class T>                                                                                        \
  void evaluate(int function, const T* x, T* y, size_t n) {                                                 \
    for (size_t i = 0; i < n; i += Vec<T>::lanes) apply<Vec<T>, T>(function, Vec<T>::load(x + i)).store(y + i); \
  }

#define RNNK_VECTOR_BYTES 16
namespace baseline {
#include "cpu/simd.h"
#include "cells/activations.h"
RNNK_TEST_EVALUATE_VECTORS
}  // namespace baseline
#undef RNNK_VECTOR_BYTES

#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define RNNK_VECTOR_BYTES 32
namespace avx2 {
#include "cpu/simd.h"
#include "cells/activations.h"
RNNK_TEST_EVALUATE_VECTORS
}  // namespace avx2
#undef RNNK_VECTOR_BYTES
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")
#define RNNK_VECTOR_BYTES 64
namespace avx512 {
#include "cpu/simd.h"
#include "cells/activations.h"
RNNK_TEST_EVALUATE_VECTORS
template void evaluate(int, const float*, float*, size_t);  // here, where the target is AVX-512
template void evaluate(int, const double*, double*, size_t);
}  // namespace avx512
#pragma GCC pop_options
