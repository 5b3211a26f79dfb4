#include "cpu/kernels.h"

#include <cstdlib>
#include <cstring>

namespace rnnk::cpu {

namespace {

Kernels choose() {
  const char* wanted = std::getenv("ATEN_CPU_CAPABILITY");
  const bool any = !wanted || !std::strcmp(wanted, "avx512");
  __builtin_cpu_init();
  if (any && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl"))
    return avx512::table();
  if ((any || !std::strcmp(wanted, "avx2")) && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return avx2::table();
  return baseline::table();
}

}  // namespace

const Kernels& kernels() {
  static const Kernels chosen = choose();
  return chosen;
}

}  // namespace rnnk::cpu
