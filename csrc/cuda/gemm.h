// A matrix product as the kernels ask for it, and whoever computes it: cuBLAS on a card (torch/cuda_gemm.cpp), a loop in the host tests.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace rnnk::cuda {

enum class Type { f32, f64, bf16, f16 };

// C = A B, or C + A B, for each of `batch` matrices that lie a stride apart. All matrices are stored by rows; `transposed` means that
// the memory holds A^T or B^T. A and B are of type `in`; C of type `out`, which is `in` or, where `in` is bf16 or f16, also f32.
// Sums are in float64 for f64 and in float32 for all others. k may be 0, where A and B may be null: A B is zero then.
struct Product {
  struct Matrix {
    const void* data;
    int64_t row_stride;        // in elements
    bool transposed = false;
    int64_t batch_stride = 0;  // in elements
  };
  Type in, out;
  int64_t m, n, k;  // C is [m, n], A [m, k], B [k, n]
  Matrix a, b;
  void* c;
  int64_t c_row_stride;
  int64_t c_batch_stride = 0;
  int batch = 1;
  bool add = false;
};

// Enqueues a product; `context` is the torch layer's.
struct Gemm {
  cudaError_t (*enqueue)(void* context, const Product&);
  void* context;

  cudaError_t operator()(const Product& p) const { return p.m == 0 || p.n == 0 || p.batch == 0 ? cudaSuccess : enqueue(context, p); }
};

}  // namespace rnnk::cuda
