// A layer on the CPU: the arguments and the workspace of csrc/cpu's kernels.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <atomic>

#include "cpu/kernels.h"
#include "torch/cpu_ensemble.h"
#include "torch/device.h"
#include "torch/memory.h"

namespace rnnk {

namespace {

template <class Args>
void run(size_t (*kernel)(const Args&, void*), Args& args, const Ensemble* ensemble) {
  if (ensemble) return EnsembleCall<Args>(kernel, args, *ensemble).run();
  args.threads = at::get_num_threads();
  alignas(64) char small[8 << 10];  // a single step of a small layer takes no longer than an allocation
  const size_t needed = kernel(args, nullptr);
  if (needed <= sizeof(small)) return void(kernel(args, small));
  const Tensor workspace = allocate({int64_t(needed)}, at::kByte);
  kernel(args, workspace.mutable_data_ptr());
}

template <class T>
void set_reset(Reset<T>& to, const Layer& layer, const Checked& c) {
  const Tensor& mask = layer.reset;
  if (!mask.defined()) return;
  to = {{mask.const_data_ptr<bool>(), mask.stride(0), mask.stride(-1)}, c.input<T>(RESET_H), c.input<T>(RESET_C)};
}

// The two parts of a prepared layer, one after the other.
void run_rounded(ForwardArgs<float>& args) {
  const auto& [pack, run] = cpu::kernels().f32.rounded;
  args.threads = at::get_num_threads();
  const Tensor workspace = allocate({int64_t(std::max(pack(args, nullptr), run(args, nullptr)))}, at::kByte);
  pack(args, workspace.mutable_data_ptr());
  run(args, workspace.mutable_data_ptr());
}

template <class T>
void forward(const ForwardPass& pass) {
  const Checked& c = pass.checked;
  ForwardArgs<T> args{};
  fill(args, pass);
  args.schedule = c.schedule.view();
  args.x = input_rows<T>(c.arguments[X]);
  set_reset(args.reset, pass.layer, c);
  args.out = output_rows<T>(pass.to.out);
  if (pass.to.c_out.defined()) args.c_out = output_rows<T>(pass.to.c_out);
  static std::atomic<int64_t> calls{0};  // of all layers: where several take turns, the cache seldom holds what each read last
  args.call_index = calls.fetch_add(1, std::memory_order_relaxed);
  if constexpr (std::is_same_v<T, float>)
    if (pass.layer.rounds_weights) return run_rounded(args);
  run(cpu::kernels().of<T>().forward, args, pass.ensemble);
}

template <class T>
void backward(const BackwardPass& pass) {
  const Checked& c = pass.checked;
  BackwardArgs<T> args{};
  fill(args, pass);
  args.schedule = c.schedule.view();
  args.x = input_rows<T>(c.arguments[X]);
  set_reset(args.reset, pass.layer, c);
  args.out = input_rows<T>(pass.out);
  if (pass.d_out.defined()) args.d_out = input_rows<T>(pass.d_out);
  if (pass.d_c_out.defined()) args.d_c_out = input_rows<T>(pass.d_c_out);
  if (pass.d[X].defined()) args.d_x = output_rows<T>(pass.d[X]);
  run(cpu::kernels().of<T>().backward, args, pass.ensemble);
}

const RegisterKernels registered(at::kCPU, {[](const ForwardPass& pass) {
                                              AT_DISPATCH_FLOATING_TYPES(pass.to.out.scalar_type(), "rnnkernels", [&] { forward<scalar_t>(pass); });
                                            },
                                            [](const BackwardPass& pass) {
                                              AT_DISPATCH_FLOATING_TYPES(pass.out.scalar_type(), "rnnkernels", [&] { backward<scalar_t>(pass); });
                                            },
                                            {},
                                            {},
                                            /*run_ensembles=*/true});

}  // namespace

}  // namespace rnnk
