// The CPU kernels for x86-64's SSE2, which every such CPU has: no fused multiply-add, so products and sums round separately.
#include "cpu/system.h"

#define RNNK_VECTOR_BYTES 16
#define RNNK_ISA "baseline"

namespace rnnk::cpu::baseline {
#include "cpu/isa.inc"
}
