// The CPU kernels for AVX2 with FMA.
#include "cpu/system.h"

#pragma GCC target("avx2,fma")

#define RNNK_VECTOR_BYTES 32
#define RNNK_ISA "avx2"

namespace rnnk::cpu::avx2 {
#include "cpu/isa.inc"
}
