// The CPU kernels as the torch layer sees them: one table of functions per ISA, chosen once.
#pragma once
#include <cstddef>

#include "args.h"

namespace rnnk::cpu {

// Each function runs the layer in `workspace`, or, given null, returns the bytes of workspace that it needs. It neither allocates
// nor throws. args.threads is the most it may use.
template <class T>
struct KernelsOf {
  size_t (*forward)(const ForwardArgs<T>& args, void* workspace);
  size_t (*backward)(const BackwardArgs<T>& args, void* workspace);
};

struct Kernels {
  const char* isa;
  KernelsOf<float> f32;
  KernelsOf<double> f64;
};

// The best table that this CPU runs and ATEN_CPU_CAPABILITY (default, avx2, avx512) allows.
const Kernels& kernels();

namespace baseline { Kernels table(); }
namespace avx2 { Kernels table(); }
namespace avx512 { Kernels table(); }

}  // namespace rnnk::cpu
