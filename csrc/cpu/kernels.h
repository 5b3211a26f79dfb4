// The CPU kernels as the torch layer sees them: one table of functions per ISA, chosen once.
#pragma once
#include <cstddef>
#include <type_traits>

#include "args.h"

namespace rnnk::cpu {

// Each function runs the layer in `workspace`, or, given null, returns the bytes of workspace that it needs. It neither allocates
// nor throws. args.threads is the most it may use.
template <class Args>
using Function = size_t (*)(const Args& args, void* workspace);

// Forward in two parts that share a workspace: packing the weights, and the layer, any number of times, which reads no weight but
// those. args.threads may fall between the calls, never rise.
template <class T>
struct PreparedLayer {
  Function<ForwardArgs<T>> pack, run;
};

template <class T>
struct KernelsOf {
  Function<ForwardArgs<T>> forward;
  Function<BackwardArgs<T>> backward;
  PreparedLayer<T> exact, rounded;  // rounded: W_ih and W_hh kept in bfloat16; null for double
};

struct Kernels {
  const char* isa;
  KernelsOf<float> f32;
  KernelsOf<double> f64;

  template <class T>
  const KernelsOf<T>& of() const {
    if constexpr (std::is_same_v<T, float>) return f32;
    else return f64;
  }
};

// The best table that this CPU runs and ATEN_CPU_CAPABILITY (default, avx2, avx512) allows.
const Kernels& kernels();

namespace baseline { Kernels table(); }
namespace avx2 { Kernels table(); }
namespace avx512 { Kernels table(); }

}  // namespace rnnk::cpu
