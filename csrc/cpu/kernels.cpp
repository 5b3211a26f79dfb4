#include "cpu/kernels.h"

#include <cstdlib>
#include <cstring>

namespace rnnk::cpu {

namespace {

Kernels choose() {
  const char* wanted = std::getenv("ATEN_CPU_CAPABILITY");
  const auto limited_to = [&](const char* isa) { return wanted && !std::strcmp(wanted, isa); };
  __builtin_cpu_init();
  if (limited_to("default")) return baseline::table();
  if (!limited_to("avx2") && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl"))
    return avx512::table();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return avx2::table();
  return baseline::table();
}

}  // namespace

const Kernels& kernels() {
  static const Kernels chosen = choose();
  return chosen;
}

}  // namespace rnnk::cpu
