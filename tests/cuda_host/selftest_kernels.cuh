// The kernels of selftest.cu. Integers wherever that can be, so that results are exact; each kernel reads what other threads have brought.
#pragma once
#include "cuda/fast_float.h"
#include "cuda/launch.h"
#include "cuda/ptx.cuh"

namespace rnnk::cuda {

__host__ __device__ inline uint32_t mixed(const uint32_t* h, unsigned n, unsigned unit) {
  uint32_t sum = unit;
  for (unsigned i = 0; i < n; ++i) sum = sum * 31 + h[i];
  return sum;
}

__global__ void convert(const float* x, uint16_t* bf16, uint16_t* half, int n) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= n) return;
  const __nv_bfloat16 b = __float2bfloat16_rn(x[i]);
  const __half h = __float2half_rn(x[i]);
  bf16[i] = __bfloat16_as_ushort(__float2bfloat16_rn(__bfloat162float(b)));  // there, back, and there again
  half[i] = __half_as_ushort(__float2half_rn(__half2float(h)));
}

__global__ void block_sum(const uint32_t* x, uint32_t* sums, int n) {
  uint32_t* parts = static_cast<uint32_t*>(shared_memory());  // [blockDim.x]
  uint32_t sum = 0;
  for (int i = int(threadIdx.x); i < n; i += int(blockDim.x)) sum += x[int(blockIdx.x) * n + i];
  parts[threadIdx.x] = sum;
  __syncthreads();
  for (unsigned count = blockDim.x; count > 1;) {
    const unsigned half = (count + 1) / 2;
    if (threadIdx.x < count / 2) parts[threadIdx.x] += parts[threadIdx.x + half];
    count = half;
    __syncthreads();
  }
  if (threadIdx.x == 0) sums[blockIdx.x] = parts[0];
}

__global__ void reverse(const uint32_t* in, uint32_t* out, int n) {
  uint32_t* all = static_cast<uint32_t*>(shared_memory());
  for (int i = int(threadIdx.x); i < n; i += int(blockDim.x)) all[i] = in[i];
  __syncthreads();
  for (int i = int(threadIdx.x); i < n; i += int(blockDim.x)) out[i] = all[n - 1 - i];
}

__global__ void shuffles(uint32_t* out) {
  constexpr unsigned all = 0xffffffff;
  const int lane = int(threadIdx.x);
  const uint32_t value = 100 + threadIdx.x;
  uint32_t* mine = out + lane * 5;
  mine[0] = __shfl_sync(all, value, (lane * 5 + 1) % 32);
  mine[1] = __shfl_sync(all, value, (lane + 3) % 8, 8);
  mine[2] = __shfl_up_sync(all, value, 3);
  __syncwarp();
  mine[3] = __shfl_down_sync(all, value, 7, 16);
  mine[4] = __shfl_xor_sync(all, value, 9);
}

// A pipeline of three stages: while a tile is consumed, two are on their way.
__global__ void copies(const uint32_t* x, uint32_t* out, int n, int tiles) {
  constexpr int words = 4, stages = 3;
  uint32_t* ring = static_cast<uint32_t*>(shared_memory());  // [stages, threads, words]
  const int threads = int(blockDim.x), i = int(threadIdx.x);
  const auto request = [&](int tile) {
    const int at = (tile * threads + i) * words;
    if (tile < tiles) ptx::copy_async(ring + (tile % stages * threads + i) * words, x + (at < n ? at : 0), at < n);
    ptx::copy_commit();
  };
  for (int tile = 0; tile < stages - 1; ++tile) request(tile);
  uint32_t sum = 0;
  for (int tile = 0; tile < tiles; ++tile) {
    ptx::copy_wait<stages - 2>();
    __syncthreads();
    const uint32_t* part = ring + (tile % stages * threads + threads - 1 - i) * words;
    for (int w = 0; w < words; ++w) sum = sum * 31 + part[w];
    request(tile + stages - 1);  // where the tile before was, which all have consumed
  }
  out[i] = sum;
}

// Sums that are spread over a cluster: each block adds up, by rank, what all blocks have, and ends when all have read it.
__global__ void gather(const float* in, float* out) {
  float* mine = static_cast<float*>(shared_memory());
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  mine[threadIdx.x] = in[i];
  ptx::cluster_arrive();
  ptx::cluster_wait();
  float sum = 0;
  for (unsigned rank = 0; rank < ptx::cluster_size(); ++rank)
    sum = sum * 3 + ptx::load_cluster(ptx::cluster_address(mine + (threadIdx.x + ptx::cluster_rank()) % blockDim.x, rank));
  ptx::cluster_arrive();
  out[i] = sum;
  ptx::cluster_wait();
}

// The exchange of a recurrent layer whose units are spread over a cluster: every step each block pushes its slice of h to all blocks. Two
// buffers, no barrier in the loop: a block sends step t + 1 when it has read step t, so nobody overwrites what is still to be read.
__global__ void exchange(uint32_t* out, int steps) {
  constexpr int values = 4;
  uint64_t* full = static_cast<uint64_t*>(shared_memory());                                 // [2]
  uint32_t* h = reinterpret_cast<uint32_t*>(static_cast<char*>(shared_memory()) + 128);  // [2, width]
  const unsigned slice = blockDim.x * values, width = ptx::cluster_size() * slice;
  const unsigned unit = ptx::cluster_rank() * slice + threadIdx.x * values;
  if (threadIdx.x == 0) {
    for (int b = 0; b < 2; ++b) ptx::mbarrier_init(full + b, 1);
    ptx::fence_mbarrier_init();
    for (int b = 0; b < 2; ++b) ptx::mbarrier_arrive_expect(full + b, width * 4);
  }
  ptx::cluster_arrive();
  ptx::cluster_wait();
  uint32_t mine[values];
  for (int v = 0; v < values; ++v) mine[v] = blockIdx.x / ptx::cluster_size() * width + unit + v;
  for (int t = 0; t < steps; ++t) {
    uint32_t* now = h + t % 2 * width;
    for (unsigned rank = 0; rank < ptx::cluster_size(); ++rank) {
      const ptx::ClusterAddress to = ptx::cluster_address(now + unit, rank), barrier = ptx::cluster_address(full + t % 2, rank);
      ptx::store_async(to, make_uint4(mine[0], mine[1], mine[2], mine[3]), barrier);
    }
    ptx::mbarrier_wait(full + t % 2, uint32_t(t / 2 & 1));
    if (threadIdx.x == 0) ptx::mbarrier_arrive_expect(full + t % 2, width * 4);  // of the next phase
    for (int v = 0; v < values; ++v) mine[v] = mixed(now, width, unit + v);
  }
  for (int v = 0; v < values; ++v) out[blockIdx.x * slice + threadIdx.x * values + v] = mine[v];
}

// Each block goes on from what the block before it has written, step by step. flags: [blocks, 2], 0 at the start.
__global__ void chain(uint32_t* data, uint32_t* flags, int steps) {
  const int b = int(blockIdx.x), threads = int(blockDim.x), size = steps * threads;
  for (int t = 0; t < steps; ++t) {
    const int at = t * threads + int(threadIdx.x);
    if (b > 0 && threadIdx.x == 0) {
      if (t % 2)
        ptx::wait_at_least(flags + 2 * (b - 1), uint32_t(t + 1));
      else
        while (ptx::load_acquire(flags + 2 * (b - 1) + 1) < uint32_t(t + 1)) {
        }
    }
    __syncthreads();
    data[b * size + at] = b > 0 ? data[(b - 1) * size + at] * 31 + uint32_t(b) : uint32_t(at);
    __syncthreads();
    if (threadIdx.x < 2) ptx::store_release(flags + 2 * b + threadIdx.x, uint32_t(t + 1));
  }
}

// Each block's piece of h goes to all blocks, step by step. Two places, no barrier of the grid: a block sends message t + 1 when it has read all of
// message t, which the others sent when they had read t - 1, whose place it takes. messages: [2, n]; flags: [blocks], 0 at the start.
__global__ void mail(uint4* messages, uint32_t* flags, uint32_t* out, int steps) {
  const unsigned n = gridDim.x * blockDim.x, i = blockIdx.x * blockDim.x + threadIdx.x;
  uint4 h = make_uint4(i, i + 1, i + 2, i + 3);
  for (int t = 0; t < steps; ++t) {
    uint4* now = messages + t % 2 * n;
    now[i] = h;
    __syncthreads();
    if (threadIdx.x == 0) ptx::store_release(flags + blockIdx.x, uint32_t(t + 1));
    if (threadIdx.x < gridDim.x) ptx::wait_at_least(flags + threadIdx.x, uint32_t(t + 1));
    __syncthreads();
    for (unsigned from = 0; from < n; ++from) {
      const uint4 x = ptx::load_relaxed(now + from);
      h.x = h.x * 31 + x.y, h.y += x.z * (i + 1), h.z = h.z * 7 + x.w, h.w += x.x;
    }
    __syncthreads();
  }
  out[i] = h.x ^ h.y ^ h.z ^ h.w;
}

__global__ void load_all(uint32_t* out) {
  uint16_t* matrices = static_cast<uint16_t*>(shared_memory());  // [4, 8, 8]
  for (int i = int(threadIdx.x); i < 4 * 64; i += 32) matrices[i] = uint16_t(i);
  __syncwarp();
  uint32_t r[4];
  ptx::load_matrices(r, matrices + threadIdx.x * 8);
  for (int i = 0; i < 4; ++i) out[threadIdx.x * 4 + i] = r[i];
}

__device__ inline void narrow(float x, __nv_bfloat16& y) { y = __float2bfloat16_rn(x); }
__device__ inline void narrow(float x, __half& y) { y = __float2half_rn(x); }

template <class T>
constexpr int mma_depth = sizeof(T) == 2 ? 16 : 8;

// c [16, 8] = a [16, k] b [k, 8] + 100 row + column.
template <class T>
__global__ void multiply(const float* a, const float* b, float* c) {
  constexpr int k = mma_depth<T>;
  const int lane = int(threadIdx.x), g = lane / 4, i = lane % 4;
  uint32_t fa[4], fb[4];
  if constexpr (sizeof(T) == 2) {
    T *as = static_cast<T*>(shared_memory()), *bs = as + 16 * k;  // bs: b's columns
    for (int j = lane; j < 16 * k; j += 32) narrow(a[j], as[j]);
    for (int j = lane; j < k * 8; j += 32) narrow(b[j], bs[j % 8 * k + j / 8]);
    __syncwarp();
    ptx::load_matrices(fa, as + lane % 16 * k + lane / 16 * 8);
    ptx::load_matrices(fb, bs + lane % 8 * k + lane / 8 % 2 * 8);  // each twice
  } else {
    for (int r = 0; r < 4; ++r) fa[r] = ptx::to_tf32(a[(g + r % 2 * 8) * k + i + r / 2 * 4]);
    for (int r = 0; r < 2; ++r) fb[r] = ptx::to_tf32(b[(i + r * 4) * 8 + g]);
  }
  float sum[4];
  for (int r = 0; r < 4; ++r) sum[r] = float(100 * (g + r / 2 * 8) + 2 * i + r % 2);
  ptx::mma<T>(sum, fa, {fb[0], fb[1]});
  for (int r = 0; r < 4; ++r) c[(g + r / 2 * 8) * 8 + 2 * i + r % 2] = sum[r];
}

__global__ void round_to_tf32(const uint32_t* bits, uint32_t* out, int n) {
  const int i = int(threadIdx.x);
  if (i >= n) return;
  float x;
  memcpy(&x, bits + i, 4);
  out[i] = ptx::to_tf32(x);
}

// Of each number: 1 / x, 2^x, sigmoid, tanh.
__global__ void special_functions(const float* x, float* out, int n) {
  for (int i = int(threadIdx.x); i < n; i += int(blockDim.x)) {
    const FastFloat value = x[i];
    const float results[4] = {ptx::recip_approx(x[i]), ptx::exp2_approx(x[i]), sigmoid(value), tanh(value)};
    for (int f = 0; f < 4; ++f) out[f * n + i] = results[f];
  }
}

// Two launches at most are under way, so what the launch but one before wrote may be written over.
__global__ void dependent(const uint32_t* in, uint32_t* out) {
  ptx::grid_dependency_wait();
  ptx::grid_dependency_launch();
  const unsigned n = gridDim.x * blockDim.x, i = blockIdx.x * blockDim.x + threadIdx.x;
  out[i] = in[n - 1 - i] * 31 + i;
}

}  // namespace rnnk::cuda
