#include "torch/layer.h"

#include <ATen/ops/zeros.h>

#include "torch/device.h"
#include "torch/ensemble.h"
#include "torch/memory.h"

namespace rnnk {

namespace {

const DeviceKernels& kernels_for(const Tensor& x) {
  const DeviceKernels* kernels = device_kernels(x.device().type());
  TORCH_CHECK(kernels, "rnnkernels: this build has no kernels for ", x.device());
  return *kernels;
}

// The sizes of an ensemble's tensors, from those of one model.
using Sizes = c10::SmallVector<int64_t, 6>;
Sizes for_models(const Ensemble* ensemble, at::IntArrayRef sizes) {
  Sizes all(sizes.begin(), sizes.end());
  if (ensemble) all.insert(all.begin(), ensemble->models());
  return all;
}

// The CPU's kernels leave a row's padding alone, so it is zeroed here.
Tensor empty_tokens(const Checked& c, int64_t columns, const Ensemble* ensemble) {
  const at::TensorOptions options = c.arguments[X].options();
  const Sizes sizes = for_models(ensemble, c.token_sizes(columns));
  return c.schedule.padding ? at::zeros(sizes, options) : allocate(sizes, options);
}

std::vector<int64_t> gate_sizes(const Layer& layer, const Checked& c) {
  if (layer.recompute) return {0};
  return {c.shape.D, c.schedule.capacity, saved_count(layer.cell), padded_units(c.shape.H)};
}

// c is kept in the type of the arithmetic: rounded at every step it stalls.
at::ScalarType cells_type(const Layer& layer) { return is_reduced(layer[X]) ? at::kFloat : layer[X].scalar_type(); }

LayerOutputs allocate_outputs(const Layer& layer, const Checked& c, bool save, const Ensemble* ensemble) {
  const Shape& s = c.shape;
  const at::TensorOptions options = c.arguments[X].options();
  const bool has_c = has_cell_state(layer.cell);
  const auto sizes = [&](at::IntArrayRef of_one) { return for_models(ensemble, of_one); };
  LayerOutputs to;
  to.out = empty_tokens(c, s.D * s.P, ensemble);
  to.h_n = allocate(sizes({s.D, s.B, s.P}), options);
  if (has_c) to.c_n = allocate(sizes({s.D, s.B, s.H}), options);
  if (layer.with_cells) to.c_out = empty_tokens(c, s.D * s.H, ensemble);
  if (save && saved_count(layer.cell)) to.gates = allocate(sizes(gate_sizes(layer, c)), options);
  if (save && has_c) to.cells = allocate(sizes({s.D, c.schedule.capacity, padded_units(s.H)}), options.dtype(cells_type(layer)));
  return to;
}

void check_saved(const Layer& layer, const Checked& c, const Tensor& out, const Tensor& gates, const Tensor& cells) {
  const Shape& s = c.shape;
  TORCH_CHECK(out.sizes() == at::IntArrayRef(c.token_sizes(s.D * s.P)), "rnnkernels: out does not belong to this layer's forward pass");
  if (saved_count(layer.cell))
    TORCH_CHECK(gates.sizes() == at::IntArrayRef(gate_sizes(layer, c)) && gates.is_contiguous(),
                "rnnkernels: gates do not belong to this layer's forward pass");
  if (has_cell_state(layer.cell))
    TORCH_CHECK(cells.sizes() == (at::IntArrayRef{s.D, c.schedule.capacity, padded_units(s.H)}) && cells.is_contiguous(),
                "rnnkernels: cells do not belong to this layer's forward pass");
  for (const Tensor* t : {&out, &gates, &cells}) {
    if (!t->defined()) continue;
    TORCH_CHECK(t->scalar_type() == (t == &cells ? cells_type(layer) : layer[X].scalar_type()), "rnnkernels: saved tensors of another dtype than x");
    TORCH_CHECK(t->device() == layer[X].device(), "rnnkernels: saved tensors on ", t->device(), ", x is on ", layer[X].device());
    check_memory(*t, "a saved tensor");
  }
}

Tensor checked_cotangent(const Tensor& d, const char* name, at::IntArrayRef expected, const Tensor& x) {
  if (!d.defined()) return d;
  TORCH_CHECK(d.sizes() == expected && d.scalar_type() == x.scalar_type() && d.device() == x.device(), "rnnkernels: expected ", name,
              " of size ", expected, " and dtype ", x.scalar_type(), " on ", x.device(), ", got ", d.sizes(), " and ", d.scalar_type(), " on ",
              d.device());
  check_memory(d, name);
  return d;
}

// The kernels overwrite it, but for the gradients of a reset state, which they add to.
Tensor gradient_buffer(const Checked& c, int argument, const Ensemble* ensemble) {
  const Tensor& a = c.arguments[argument];
  if (argument == X) return empty_tokens(c, c.shape.I, ensemble);
  const Sizes sizes = for_models(ensemble, a.sizes());
  return argument == RESET_H || argument == RESET_C ? at::zeros(sizes, a.options()) : allocate(sizes, a.options());
}

Tensor contiguous_or_undefined(const Tensor& t) { return t.defined() ? t.contiguous() : t; }
Tensor tokens_or_undefined(const Tensor& t) { return t.defined() ? Checked::tokens(t) : t; }

BackwardPass backward_pass(const Layer& layer, const Checked& c, const Cotangents& d, const Saved& saved, const Ensemble* ensemble = nullptr) {
  const Shape& s = c.shape;
  check_saved(layer, c, saved.out, saved.gates, saved.cells);
  const auto checked = [&](const Tensor& t, const char* name, at::IntArrayRef expected) { return checked_cotangent(t, name, expected, layer[X]); };
  return {layer,
          c,
          tokens_or_undefined(checked(d.out, "d_out", c.token_sizes(s.D * s.P))),
          contiguous_or_undefined(checked(d.h_n, "d_h_n", {s.D, s.B, s.P})),
          contiguous_or_undefined(checked(d.c_n, "d_c_n", {s.D, s.B, s.H})),
          tokens_or_undefined(checked(d.c_out, "d_c_out", c.token_sizes(s.D * s.H))),
          Checked::tokens(saved.out),
          saved.gates,
          saved.cells,
          {},
          ensemble};
}

// How often the kernels are called for all models.
int64_t calls(const Ensemble& ensemble, const DeviceKernels& kernels) {
  return kernels.run_ensembles ? std::min<int64_t>(1, ensemble.models()) : ensemble.models();
}

LayerOutputs ensemble_forward(const Layer& layer, bool save) {
  const DeviceKernels& kernels = kernels_for(layer[X]);
  Ensemble ensemble(layer);
  const Layer first = ensemble.layer(0);
  const LayerOutputs to = allocate_outputs(first, Checked(first), save, &ensemble);
  ensemble.add_results(to);
  for (int64_t e = 0; e < calls(ensemble, kernels); ++e) {
    const Layer one = ensemble.layer(e);
    kernels.forward({one, Checked(one), ensemble.outputs(e), &ensemble});
  }
  return to;
}

std::array<Tensor, argument_count> ensemble_backward(const Layer& layer, const Cotangents& d, const Saved& saved, int64_t needs) {
  const DeviceKernels& kernels = kernels_for(layer[X]);
  Ensemble ensemble(layer, d, saved);
  const Layer first = ensemble.layer(0);
  const Checked c(first);
  std::array<Tensor, argument_count> gradients;
  for (int k = 0; k < argument_count; ++k)
    if (layer[k].defined() && (needs >> k & 1)) gradients[k] = gradient_buffer(c, k, &ensemble);
  ensemble.add_gradients(gradients);
  for (int64_t e = 0; e < calls(ensemble, kernels); ++e) {
    const Layer one = ensemble.layer(e);
    const Checked own(one);
    BackwardPass pass = backward_pass(one, own, ensemble.cotangents(e), ensemble.saved(e), &ensemble);
    pass.d = ensemble.gradients(e);
    kernels.backward(pass);
  }
  return gradients;
}

}  // namespace

LayerOutputs layer_forward(const Layer& layer, bool save) {
  if (Ensemble::is_one(layer)) return ensemble_forward(layer, save);
  const DeviceKernels& kernels = kernels_for(layer[X]);
  const Checked c(layer);
  const LayerOutputs to = allocate_outputs(layer, c, save, nullptr);
  kernels.forward({layer, c, to});
  return to;
}

std::array<Tensor, argument_count> layer_backward(const Layer& layer, const Cotangents& d, const Saved& saved, int64_t needs) {
  if (Ensemble::is_one(layer, d, saved)) return ensemble_backward(layer, d, saved, needs);
  const DeviceKernels& kernels = kernels_for(layer[X]);
  const Checked c(layer);
  BackwardPass pass = backward_pass(layer, c, d, saved);
  for (int k = 0; k < argument_count; ++k)
    if (layer[k].defined() && (needs >> k & 1)) pass.d[k] = gradient_buffer(c, k, nullptr);
  kernels.backward(pass);
  return std::move(pass.d);
}

}  // namespace rnnk
