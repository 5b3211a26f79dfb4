#include "torch/cuda_gemm.h"

#include <ATen/cuda/CUDAContext.h>

namespace rnnk {

namespace {

using cuda::Product;
using cuda::Type;

cudaDataType_t cublas_type(Type type) {
  switch (type) {
    case Type::f32: return CUDA_R_32F;
    case Type::f64: return CUDA_R_64F;
    case Type::bf16: return CUDA_R_16BF;
    default: return CUDA_R_16F;
  }
}

size_t bytes(Type type) { return type == Type::f64 ? 8 : type == Type::f32 ? 4 : 2; }

// A sum of no terms: cuBLAS need not be asked, whose pointers and leading dimensions must not be null.
cudaError_t clear(const Product& p, cudaStream_t stream) {
  const size_t size = bytes(p.out);
  for (int i = 0; i < p.batch; ++i) {
    char* c = static_cast<char*>(p.c) + size * size_t(i * p.c_batch_stride);
    const cudaError_t error = cudaMemset2DAsync(c, size * p.c_row_stride, 0, size * p.n, p.m, stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace

CublasProducts::CublasProducts(bool tf32) : handle_(at::cuda::getCurrentCUDABlasHandle()), tf32_(tf32) {
  TORCH_CUDABLAS_CHECK(cublasGetMathMode(handle_, &mode_before_));
  // Else float32 follows torch's setting for matmul, and long sums of bfloat16 and float16 may be added up in their own type.
  TORCH_CUDABLAS_CHECK(cublasSetMathMode(handle_, cublasMath_t(CUBLAS_DEFAULT_MATH | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION)));
}

CublasProducts::~CublasProducts() { cublasSetMathMode(handle_, mode_before_); }

// cuBLAS stores by columns: our C is its C^T = B^T A^T, so B goes first, and what our memory holds as it is, it sees transposed.
cudaError_t CublasProducts::enqueue(void* context, const Product& p) {
  const CublasProducts& self = *static_cast<const CublasProducts*>(context);
  if (p.k == 0) return p.add ? cudaSuccess : clear(p, at::cuda::getCurrentCUDAStream());
  const auto operation = [](const Product::Matrix& matrix) { return matrix.transposed ? CUBLAS_OP_T : CUBLAS_OP_N; };
  const cudaDataType_t in = cublas_type(p.in), out = cublas_type(p.out);
  const bool f64 = p.in == Type::f64;
  const double alpha64 = 1, beta64 = p.add;
  const float alpha32 = 1, beta32 = p.add;
  const void *alpha = f64 ? static_cast<const void*>(&alpha64) : &alpha32, *beta = f64 ? static_cast<const void*>(&beta64) : &beta32;
  const cublasComputeType_t compute = f64                                 ? CUBLAS_COMPUTE_64F
                                      : p.in == Type::f32 && self.tf32_ ? CUBLAS_COMPUTE_32F_FAST_TF32
                                                                          : CUBLAS_COMPUTE_32F;
  // The interface with 64-bit sizes; what cuBLAS has no kernel for it refuses.
  TORCH_CUDABLAS_CHECK(cublasGemmStridedBatchedEx_64(self.handle_, operation(p.b), operation(p.a), p.n, p.m, p.k, alpha, p.b.data, in,
                                                     p.b.row_stride, p.b.batch_stride, p.a.data, in, p.a.row_stride, p.a.batch_stride, beta, p.c,
                                                     out, p.c_row_stride, p.c_batch_stride, p.batch, compute, CUBLAS_GEMM_DEFAULT));
  return cudaSuccess;
}

}  // namespace rnnk
