// Calls of an op for which the dispatcher has no other work than to find the kernel: C++ makes them itself. A way through the dispatcher costs a
// fifth of a short step, and a call under autograd goes it twice.
#pragma once
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <ATen/record_function.h>

#include "torch/ensemble.h"
#include "torch/ops.h"

namespace rnnk {

// Whether nobody else is to see a call on the tensors, some of them undefined: no profiler, no mode, no functorch level, no subclass.
inline bool are_plain(std::initializer_list<at::ArrayRef<Tensor>> lists) {
  using c10::DispatchKey;
  constexpr c10::DispatchKeySet ordinary({DispatchKey::CPU, DispatchKey::CUDA, DispatchKey::BackendSelect, DispatchKey::ADInplaceOrView,
                                          DispatchKey::AutogradCPU, DispatchKey::AutogradCUDA, DispatchKey::AutocastCPU, DispatchKey::AutocastCUDA});
  const auto local = c10::impl::tls_local_dispatch_key_set();
  c10::DispatchKeySet keys = local.included_;
  for (const auto& tensors : lists)
    for (const Tensor& t : tensors)
      if (t.defined()) keys = keys | t.key_set();  // an undefined one has the keys of some other autograd
  const uint64_t others = (keys - local.excluded_).raw_repr() & ~ordinary.raw_repr();  // operator- leaves the bits of the backends
  return others == 0 && !at::hasCallbacks();
}
inline bool is_plain_call(const Layer& l) { return !runs_in_float32(l[X]) && are_plain({l.arguments, l.batch_sizes, l.lengths, l.reset}); }

// The op on a layer, whose autograd nobody has excluded but with the grad mode.
inline LayerOutputs call_layer(const Layer& layer) {
  const bool no_autograd = at::GradMode::is_enabled() && c10::impl::tls_is_dispatch_key_excluded(c10::DispatchKey::AutogradCPU);
  return !no_autograd && is_plain_call(layer) ? differentiable_layer(layer, true) : call_op(layer);
}

// The op with W_ih and W_hh rounded to bfloat16 and kept so; nothing where these kernels cannot run it, or somebody else has to see it.
inline std::optional<LayerOutputs> call_rounded(Layer layer) {
  const Tensor& x = layer[X];
  if (!x.is_cpu() || x.scalar_type() != at::kFloat || requires_grad(layer) || !is_plain_call(layer) || Ensemble::is_one(layer)) return std::nullopt;
  layer.rounds_weights = true;
  at::AutoDispatchBelowADInplaceOrView below;
  return layer_forward(layer, false);
}

}  // namespace rnnk
