// What mma.sync does.
#include "limits.h"

namespace limits {
namespace {

constexpr int kChains = 8;

__device__ void mma_bf16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ void mma_tf32(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <bool kBf16, int kIndependent>
__global__ void multiply(int rounds, float* never) {
  unsigned a[4], b[2];
  for (int i = 0; i < 4; ++i) {  // of either type: a between 1 and 2, b between -2 and 2
    const unsigned mantissa = (threadIdx.x * 131u + i * 37u) & 0x7fu;
    a[i] = kBf16 ? 0x3f803f80u | mantissa << 16 | (mantissa ^ 0x55u) : 0x3f800000u | mantissa << 16;
    if (i < 2) b[i] = a[i] ^ (kBf16 ? 0x80000011u : 0x80110000u);
  }
  float c[kIndependent][4] = {};
  for (int round = 0; round < rounds; ++round)
#pragma unroll
    for (int chain = 0; chain < kIndependent; ++chain) kBf16 ? mma_bf16(c[chain], a, b) : mma_tf32(c[chain], a, b);
  float sum = 0;
  for (int chain = 0; chain < kIndependent; ++chain) sum += c[chain][0] + c[chain][1] + c[chain][2] + c[chain][3];
  if (sum == 12345.678f && never != nullptr) *never = sum;
}

}  // namespace

void tensor_cores(Report& report) {
  const int processors = device().multiProcessorCount, warps = 16;
  const auto a_round = [](void (*kernel)(int, float*), int blocks, int threads) {
    const auto enqueue = [=](cudaStream_t stream, int n) { launch(kernel, blocks, threads, 0, stream, nullptr, n, static_cast<float*>(nullptr)); };
    return seconds_a_round(enqueue, 2000, 12000);
  };
  const auto rate = [&](void (*kernel)(int, float*), double depth) {
    return 2.0 * 16 * 8 * depth * kChains * warps * processors / a_round(kernel, processors, warps * 32) * 1e-12;
  };
  report.add("mma_sync_bf16_tflop_s", rate(multiply<true, kChains>, 16));
  report.add("mma_sync_tf32_tflop_s", rate(multiply<false, kChains>, 8));
  report.add("mma_sync_bf16_latency_cycles", cycles_a_second() * a_round(multiply<true, 1>, 1, 32));
  report.add("mma_sync_tf32_latency_cycles", cycles_a_second() * a_round(multiply<false, 1>, 1, 32));
}

}  // namespace limits
