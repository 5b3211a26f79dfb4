// cuBLAS as the CUDA kernels' source of matrix products: torch's handle of the current device and stream.
#pragma once
#include <cublas_v2.h>

#include "cuda/gemm.h"

namespace rnnk {

// Holds the handle in the mode that our products need, and puts back the mode it was in.
class CublasProducts {
  cublasHandle_t handle_;
  cublasMath_t mode_before_;
  bool tf32_;

  static cudaError_t enqueue(void* context, const cuda::Product& product);

 public:
  // Where `tf32`, products of float32 may round their factors to 10 bits.
  explicit CublasProducts(bool tf32);
  ~CublasProducts();
  CublasProducts(const CublasProducts&) = delete;

  // Enqueues on the stream that was current when this was made. Throws c10::Error where cuBLAS refuses.
  cuda::Gemm gemm() { return {&enqueue, this}; }
};

}  // namespace rnnk
