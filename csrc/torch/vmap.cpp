#include "torch/vmap.h"

#include <ATen/functorch/BatchedTensorImpl.h>
#include <pybind11/gil_safe_call_once.h>

#include "torch/plain_call.h"

namespace rnnk {

namespace {

namespace py = pybind11;
namespace functorch = at::functorch;

const functorch::BatchedTensorImpl* batched_at(int64_t level, const Tensor& t) {
  const auto* batched = functorch::maybeGetBatchedImpl(t);
  return batched && batched->level() == level ? batched : nullptr;
}

// All elements, the vmap dimension in front.
Tensor stack(int64_t level, const Tensor& t) {
  const auto* batched = t.defined() ? batched_at(level, t) : nullptr;
  if (!batched) return t;
  return batched->bdim() == 0 ? batched->value() : batched->value().movedim(batched->bdim(), 0);
}

}  // namespace

// Asked of Python: ATen/functorch/DynamicLayer.h includes a header that torch's wheels do not bring.
std::optional<int64_t> only_vmap() {
  struct Names {
    py::object levels, kinds;
  };
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<Names> names;
  const auto& [levels_of, kinds] = names.call_once_and_store_result([] {
      const py::module_ module = py::module_::import("torch._C._functorch");
      return Names{module.attr("get_interpreter_stack"), module.attr("TransformType")};
    }).get_stored();
  const py::object levels = levels_of();
  if (levels.is_none() || py::len(levels) != 1) return std::nullopt;
  const py::object level = py::list(levels)[0];
  if (!level.attr("key")().equal(kinds.attr("Vmap"))) return std::nullopt;
  return py::cast<int64_t>(level.attr("level")());
}

bool is_plain_ensemble(int64_t level, const Tensor& x, const Tensors& states, const Tensors& weights, const ModuleOptions& o) {
  const auto wants_gradient = [level](const Tensor& t) {
    const auto* batched = batched_at(level, t);
    return (batched ? batched->value() : t).requires_grad();
  };
  if (at::GradMode::is_enabled() && (wants_gradient(x) || std::any_of(states.begin(), states.end(), wants_gradient) ||
                                     std::any_of(weights.begin(), weights.end(), wants_gradient)))
    return false;
  const size_t of_layer = weights.size() / o.num_layers;
  for (size_t begin = 0; begin < weights.size(); begin += of_layer)
    if (std::none_of(&weights[begin], &weights[begin] + of_layer, [level](const Tensor& w) { return batched_at(level, w); })) return false;
  return true;
}

LayerOutputs call_ensemble(int64_t level, const Layer& layer) {
  LayerOutputs o;
  {
    const c10::impl::ExcludeDispatchKeyGuard outside(
        c10::DispatchKeySet({c10::DispatchKey::FuncTorchDynamicLayerFrontMode, c10::DispatchKey::FuncTorchDynamicLayerBackMode}));
    Layer all{layer.cell, {}, layer.batch_sizes, stack(level, layer.lengths), stack(level, layer.reset), layer.recompute};
    for (int k = 0; k < argument_count; ++k) all.arguments[k] = stack(level, layer[k]);
    o = call_layer(all);
  }
  for (Tensor* t : {&o.out, &o.h_n, &o.c_n})
    if (t->defined()) *t = functorch::makeBatched(*t, 0, level);
  return o;
}

}  // namespace rnnk
