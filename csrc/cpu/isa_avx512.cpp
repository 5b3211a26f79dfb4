// The CPU kernels for AVX-512 F, DQ, BW, VL.
#include "cpu/system.h"

#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")

#define RNNK_VECTOR_BYTES 64
#define RNNK_ISA "avx512"

namespace rnnk::cpu::avx512 {
#include "cpu/isa.inc"
}
