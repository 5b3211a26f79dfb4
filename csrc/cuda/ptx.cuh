// Instructions that CUDA C++ has no name for. All inline PTX is here; the PTX ISA's section is named beside each wrapper. The host
// meaning of the same functions: tests/cuda_host/include/cuda_host/ptx.h and mma.h. tests/cuda_host/selftest.cu checks every one, on
// the host and on a card.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

namespace rnnk::cuda::ptx {

// Whether the code is for sm_90 or a later card; the host tests play one.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr bool sm90 = false;
#else
constexpr bool sm90 = true;
#endif

}  // namespace rnnk::cuda::ptx

#ifndef __CUDACC__
#include <cuda_host/mma.h>
#include <cuda_host/ptx.h>
#else

// An instruction of sm_90. Code for an older card stops where it reaches one: who chooses kernels must not choose such a one there.
#if __CUDA_ARCH__ >= 900
#define RNNK_SM90(...) __VA_ARGS__
#else
#define RNNK_SM90(...) __trap()
#endif

namespace rnnk::cuda::ptx {

__device__ inline uint32_t shared_address(const void* shared) { return uint32_t(__cvta_generic_to_shared(shared)); }

// The same number, which the compiler takes for another one: what follows from it is computed where it is needed, and fills no registers between.
template <class Word>
__device__ Word fresh(Word x) {
  static_assert(sizeof(Word) == 4);
  asm volatile("" : "+r"(x));
  return x;
}

// --- The special-function unit (rcp, ex2: "Floating Point Instructions"), to which subnormal numbers are zero. In functions for both sides; the
// host's own side calls none of them.

// Within 1 ulp.
__host__ __device__ inline float recip_approx([[maybe_unused]] float x) {
  float y = 0;
#ifdef __CUDA_ARCH__
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
#endif
  return y;
}
// Within 2 ulp.
__host__ __device__ inline float exp2_approx([[maybe_unused]] float x) {
  float y = 0;
#ifdef __CUDA_ARCH__
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
#endif
  return y;
}

// --- Words in global memory that blocks tell each other something with (ld, st: "Memory Consistency Model").

__device__ inline uint32_t load_acquire(const uint32_t* from) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(__cvta_generic_to_global(from)) : "memory");
  return value;
}
// What this thread has seen or written before, and the threads that it has met at a barrier, is seen by who acquires the value.
__device__ inline void store_release(uint32_t* to, uint32_t value) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(__cvta_generic_to_global(to)), "r"(value) : "memory");
}
// Built with RNNKERNELS_WATCHDOG it gives up after some seconds.
template <class F>
__device__ void wait_until(const F& over) {
#ifdef RNNKERNELS_WATCHDOG
  for (const long long start = clock64(); !over();)
    if (clock64() - start > 10'000'000'000) __trap();
#else
  while (!over()) {
  }
#endif
}
// Until *flag has reached `value`; both may wrap around.
__device__ inline void wait_at_least(const uint32_t* flag, uint32_t value) {
  wait_until([&] { return int32_t(load_acquire(flag) - value) >= 0; });
}

// 16 bytes that another block wrote before it released what this one has acquired: never the L1's old ones.
__device__ inline uint4 load_relaxed(const uint4* from) {
  uint4 v;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(__cvta_generic_to_global(from)) : "memory");
  return v;
}

// --- Clusters (%cluster_ctarank, %cluster_nctarank, barrier.cluster, mapa, ld), sm_90.

__device__ inline unsigned cluster_rank() {
  unsigned rank = 0;
  RNNK_SM90(asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank)));
  return rank;
}
__device__ inline unsigned cluster_size() {
  unsigned size = 1;
  RNNK_SM90(asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size)));
  return size;
}
// Every thread of the cluster arrives, then waits.
__device__ inline void cluster_arrive() { RNNK_SM90(asm volatile("barrier.cluster.arrive.release;" ::: "memory")); }
__device__ inline void cluster_wait() { RNNK_SM90(asm volatile("barrier.cluster.wait.acquire;" ::: "memory")); }

// An address in bytes in the shared memory of any block of the cluster.
using ClusterAddress = uint32_t;

// Where the block of `rank` has what this block has at `shared`; distances there are those here. Volatile, or the compiler keeps a register
// for each rank that a loop sends to.
__device__ inline ClusterAddress cluster_address(const void* shared, unsigned rank) {
  ClusterAddress address = 0;
  RNNK_SM90(asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared_address(shared)), "r"(rank)));
  return address;
}
__device__ inline float load_cluster(ClusterAddress from) {
  float value = 0;
  RNNK_SM90(asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(value) : "r"(from) : "memory"));
  return value;
}

// --- mbarrier: a barrier in shared memory that counts arrivals and bytes, sm_90.

// A phase is over after `arrivals` arrivals and all bytes that they announced.
__device__ inline void mbarrier_init(uint64_t* barrier, uint32_t arrivals) {
  RNNK_SM90(asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory"));
}
// After mbarrier_init and before the cluster barrier after which other blocks use it (fence.mbarrier_init).
__device__ inline void fence_mbarrier_init() { RNNK_SM90(asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory")); }
// Arrives, and announces bytes that asynchronous stores will bring in this phase.
__device__ inline void mbarrier_arrive_expect(uint64_t* barrier, uint32_t bytes) {
  RNNK_SM90(asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes) : "memory"));
}
// Until the phase of this parity is over; the first phase has parity 0. For data that any block of the cluster wrote.
__device__ inline void mbarrier_wait(uint64_t* barrier, uint32_t parity) {
  wait_until([&] {
    uint32_t over = 1;
    RNNK_SM90(asm volatile("{\n.reg .pred over;\n"
                           "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 over, [%1], %2;\n"
                           "selp.u32 %0, 1, 0, over;\n}"
                           : "=r"(over) : "r"(shared_address(barrier)), "r"(parity) : "memory"));
    return over;
  });
}

// --- Copies that run while the thread goes on.

// st.async, sm_90, not in a cluster of one block: the value and its number of bytes arrive together; `barrier` lies in the same block as `to`.
__device__ inline void store_async(ClusterAddress to, uint4 v, ClusterAddress barrier) {
  RNNK_SM90(asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.u32 [%0], {%1, %2, %3, %4}, [%5];"
                         ::"r"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w), "r"(barrier) : "memory"));
}

// cp.async: 16 bytes from global memory to this block's shared memory, past the L1; zeros where `valid` is false.
__device__ inline void copy_async(void* shared, const void* global, bool valid) {
  const uint32_t to = shared_address(shared);
  const size_t from = __cvta_generic_to_global(global);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
}
// The thread's copies since the last commit become a group (cp.async.commit_group).
__device__ inline void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most `groups` of the thread's newest groups are on their way (cp.async.wait_group). Others' copies need a barrier after it.
template <int groups>
__device__ inline void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
}

// --- Matrix fragments. All 32 lanes of the warp together. "Matrix Fragments for mma.m16n8k16" and "... mma.m16n8k8" show who holds what.

// ldmatrix: four matrices of 8 x 8 values of 16 bits. Lane 8 i + j gives the address of row j of matrix i, 16 bytes aligned to 16.
// Lane l gets values 2 (l % 4) and the next of row l / 4 of each.
__device__ inline void load_matrices(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}

// mma.sync: c += a b, with a [16, k], b [k, 8], c [16, 8] in float32. T is __nv_bfloat16 or __half with k = 16 and two values in a word,
// or float with k = 8: TF32, which ignores the low 13 bits of a float. Lane l, with g = l / 4 and i = l % 4, holds
//   a[r]  row g + 8 (r % 2), columns 2 i, 2 i + 1 (TF32: i) of the left (r < 2) or the right half of the columns
//   b[r]  column g, rows 2 i, 2 i + 1 (TF32: i) of the upper (r = 0) or the lower half of the rows
//   c[r]  row g + 8 (r / 2), column 2 i + r % 2
template <class T>
__device__ inline void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#define RNNK_MMA(shape_and_types)                                                                                                  \
  asm volatile("mma.sync.aligned." shape_and_types " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"               \
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                                                    \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
  if constexpr (std::is_same_v<T, __nv_bfloat16>)
    RNNK_MMA("m16n8k16.row.col.f32.bf16.bf16.f32");
  else if constexpr (std::is_same_v<T, __half>)
    RNNK_MMA("m16n8k16.row.col.f32.f16.f16.f32");
  else
    RNNK_MMA("m16n8k8.row.col.f32.tf32.tf32.f32");
#undef RNNK_MMA
}
// Rounded to TF32, to the nearest, ties away from zero, as cuBLAS does (cvt.rna.tf32).
__device__ inline uint32_t to_tf32(float x) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
}

// --- Programmatic dependent launch (griddepcontrol), sm_90: without the launch attribute both do nothing.

// Until the grid before has ended and its writes are seen.
__device__ inline void grid_dependency_wait() { RNNK_SM90(asm volatile("griddepcontrol.wait;" ::: "memory")); }
// The grid after this one may start when all blocks have said so.
__device__ inline void grid_dependency_launch() { RNNK_SM90(asm volatile("griddepcontrol.launch_dependents;" ::: "memory")); }

}  // namespace rnnk::cuda::ptx
#undef RNNK_SM90
#endif
