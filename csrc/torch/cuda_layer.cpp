// A layer on CUDA: the arguments of csrc/cuda's kernels, a workspace from torch's allocator, cuBLAS on the current stream, and the kernels' errors as
// exceptions. Nothing here waits for the device.
#include <ATen/Context.h>
#include <ATen/Dispatch.h>
#include <ATen/cuda/CUDAContext.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAGuard.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <c10/util/StringUtil.h>
#include <torch/library.h>

#include <atomic>

#include "cuda/args.h"
#include "cuda/regime.h"
#include "torch/cuda_gemm.h"
#include "torch/device.h"
#include "torch/ops.h"

namespace rnnk {

namespace {

// How many passes each regime has taken.
std::atomic<int64_t> passes[std::size(cuda::regime_names)];

std::map<std::string, int64_t> passes_by_regime() {
  std::map<std::string, int64_t> all;
  for (size_t k = 0; k < std::size(passes); ++k) all[cuda::regime_names[k]] = passes[k];
  return all;
}

template <class T>
struct OnDevice {
  using Type = T;
};
template <>
struct OnDevice<at::BFloat16> {
  using Type = __nv_bfloat16;
};
template <>
struct OnDevice<at::Half> {
  using Type = __half;
};

template <class Run>
void dispatch(const Tensor& x, const Run& run) {
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "rnnkernels", [&] { run(typename OnDevice<scalar_t>::Type()); });
}

void check(cudaError_t error) {
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction || error == cudaErrorUnsupportedPtxVersion) {
    cudaGetLastError();  // or the next call of somebody else reports it
    const cudaDeviceProp& card = *at::cuda::getCurrentDeviceProperties();
    TORCH_CHECK(false, "rnnkernels: this build has no kernel image for ", card.name, " (", cudaGetErrorString(error),
                "). Build it again with TORCH_CUDA_ARCH_LIST=\"", card.major, ".", card.minor,
                "\" in the environment; the kernels need 8.0 or more.");
  }
  C10_CUDA_CHECK(error);
}

// torch.nn's layers run in cuDNN and follow its setting, TF32 unless told otherwise. A single step follows that of matmul, which is
// strict unless told otherwise: so do torch.nn's cells. allowTF32CuBLAS would throw where fp32_precision was set.
bool allows_tf32(int64_t T) {
  const at::Float32Op op = T == 1 ? at::Float32Op::MATMUL : at::Float32Op::RNN;
  return at::globalContext().float32Precision(at::Float32Backend::CUDA, op) == at::Float32Precision::TF32;
}

Tensor dense(const Tensor& t) { return t.defined() ? t.contiguous() : t; }

// Pinned memory lets a copy from the CPU wait for nobody. A graph would read it again at each replay, when it is long gone.
Tensor lengths_on(const Tensor& x, const Tensor& lengths) {
  if (!lengths.defined() || lengths.is_cuda()) return dense(lengths);
  TORCH_CHECK(c10::cuda::currentStreamCaptureStatusMayInitCtx() == c10::cuda::CaptureStatus::None,
              "rnnkernels: a CUDA graph cannot capture lengths on the CPU; move them to ", x.device(), " first");
  return lengths.contiguous().pin_memory().to(x.device(), at::kLong, /*non_blocking=*/true);
}

cuda::Schedule steps(const Checked& c, const Tensor& lengths) {
  const Schedule schedule = c.schedule.view();
  cuda::Schedule result{schedule.active, schedule.first, nullptr};
  point(result.lengths, lengths);
  return result;
}

template <class T, class... Rest>
cudaError_t enqueue(const cuda::ForwardArgs<T>& args, Rest&&... rest) {
  return cuda::forward(args, rest...);
}
template <class T, class... Rest>
cudaError_t enqueue(const cuda::BackwardArgs<T>& args, Rest&&... rest) {
  return cuda::backward(args, rest...);
}

template <class Args>
void run(Args& args, const Tensor& x) {
  const cudaStream_t stream = at::cuda::getCurrentCUDAStream();
  args.tf32 = allows_tf32(args.shape.T);
  CublasProducts products(args.tf32);
  const std::optional<cuda::Regime> regime = cuda::choose(cuda::Problem(args));
  TORCH_CHECK(regime, "rnnkernels: RNNKERNELS_CUDA_REGIME=", std::getenv("RNNKERNELS_CUDA_REGIME"), " does not take this layer, or is none of ",
              c10::Join(", ", at::ArrayRef<const char*>(cuda::regime_names)));
  ++passes[int(*regime)];
  size_t bytes = 0;
  check(enqueue(args, *regime, products.gemm(), nullptr, bytes, stream));
  const Tensor workspace = at::empty({std::max(int64_t(bytes), int64_t(1))}, x.options().dtype(at::kByte));  // null would ask for its size again
  check(enqueue(args, *regime, products.gemm(), workspace.mutable_data_ptr(), bytes, stream));
}

template <class T>
void set_reset(cuda::Reset<T>& to, const Checked& c, const Tensor& mask) {
  point(to.mask, mask);
  point(to.h, c.arguments[RESET_H]);
  point(to.c, c.arguments[RESET_C]);
}

// No row or no unit: nothing to compute, and no grid of zero blocks to launch.
bool is_empty(const Checked& c) { return c.shape.B == 0 || c.shape.H == 0; }

void forward(const ForwardPass& pass) {
  const Checked& c = pass.checked;
  if (is_empty(c)) return;
  const Tensor& x = c.arguments[X];
  const c10::cuda::CUDAGuard guard(x.device());
  const Tensor lengths = lengths_on(x, pass.layer.lengths), resets = dense(pass.layer.reset);
  dispatch(x, [&](auto type) {
    cuda::ForwardArgs<decltype(type)> args{};
    fill(args, pass);
    args.schedule = steps(c, lengths);
    set_reset(args.reset, c, resets);
    point(args.x, x);
    point(args.out, pass.to.out);
    point(args.c_out, pass.to.c_out);
    run(args, x);
  });
}

void backward(const BackwardPass& pass) {
  const Checked& c = pass.checked;
  const Tensor& x = c.arguments[X];
  const c10::cuda::CUDAGuard guard(x.device());
  if (is_empty(c)) {
    for (const Tensor& d : pass.d)
      if (d.defined()) d.zero_();
    return;
  }
  const Tensor lengths = lengths_on(x, pass.layer.lengths), resets = dense(pass.layer.reset);
  dispatch(x, [&](auto type) {
    cuda::BackwardArgs<decltype(type)> args{};
    fill(args, pass);
    args.schedule = steps(c, lengths);
    set_reset(args.reset, c, resets);
    point(args.x, x);
    point(args.out, pass.out);
    point(args.d_out, pass.d_out);
    point(args.d_c_out, pass.d_c_out);
    point(args.d_x, pass.d[X]);
    run(args, x);
  });
}

const std::string toolkit = std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10);
const RegisterKernels registered(at::kCUDA, {&forward, &backward, toolkit, &passes_by_regime});

}  // namespace

TORCH_LIBRARY_IMPL(rnnkernels, CUDA, m) { register_kernels(m); }

}  // namespace rnnk
