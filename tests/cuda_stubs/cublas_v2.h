// As much of the CUDA libraries as csrc/torch and torch's headers name, so that a compiler can check types where only a toolkit without libraries
// is installed (tests/test_cuda_compile.py). Nothing here is linked or run.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

typedef struct cublasContext* cublasHandle_t;
typedef enum { CUBLAS_STATUS_SUCCESS } cublasStatus_t;
typedef enum { CUBLAS_OP_N, CUBLAS_OP_T } cublasOperation_t;
typedef enum { CUBLAS_DEFAULT_MATH, CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION = 16 } cublasMath_t;
typedef enum { CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_FAST_TF32, CUBLAS_COMPUTE_64F } cublasComputeType_t;
typedef enum { CUBLAS_GEMM_DEFAULT = -1 } cublasGemmAlgo_t;

cublasStatus_t cublasGetMathMode(cublasHandle_t, cublasMath_t*);
cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t);
cublasStatus_t cublasGemmStridedBatchedEx_64(cublasHandle_t, cublasOperation_t, cublasOperation_t, int64_t m, int64_t n, int64_t k, const void* alpha,
                                             const void* a, cudaDataType, int64_t lda, long long stride_a, const void* b, cudaDataType, int64_t ldb,
                                             long long stride_b, const void* beta, void* c, cudaDataType, int64_t ldc, long long stride_c,
                                             int64_t count, cublasComputeType_t, cublasGemmAlgo_t);
