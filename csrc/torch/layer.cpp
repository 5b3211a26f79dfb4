#include "torch/layer.h"

#include <ATen/ops/zeros.h>

#include "torch/device.h"
#include "torch/memory.h"

namespace rnnk {

namespace {

const DeviceKernels& kernels_for(const Tensor& x) {
  const DeviceKernels* kernels = device_kernels(x.device().type());
  TORCH_CHECK(kernels, "rnnkernels: this build has no kernels for ", x.device());
  return *kernels;
}

// Where a row has padding the CPU's kernels leave it alone.
Tensor empty_tokens(const Checked& c, int64_t columns) {
  const at::TensorOptions options = c.arguments[X].options();
  return c.schedule.padding ? at::zeros(c.token_sizes(columns), options) : allocate(c.token_sizes(columns), options);
}

std::vector<int64_t> gate_sizes(const Layer& layer, const Checked& c) {
  if (layer.recompute) return {0};
  return {c.shape.D, c.schedule.capacity, saved_count(layer.cell), padded_units(c.shape.H)};
}

// c is kept in the type of the arithmetic: rounded at every step it stalls.
at::ScalarType cells_type(const Layer& layer) { return is_reduced(layer[X]) ? at::kFloat : layer[X].scalar_type(); }

LayerOutputs allocate_outputs(const Layer& layer, const Checked& c, bool save) {
  const Shape& s = c.shape;
  const at::TensorOptions options = c.arguments[X].options();
  const bool lstm = layer.cell == Cell::lstm;
  LayerOutputs to;
  to.out = empty_tokens(c, s.D * s.P);
  to.h_n = allocate({s.D, s.B, s.P}, options);
  if (lstm) to.c_n = allocate({s.D, s.B, s.H}, options);
  if (layer.with_cells) to.c_out = empty_tokens(c, s.D * s.H);
  if (save && saved_count(layer.cell)) to.gates = allocate(gate_sizes(layer, c), options);
  if (save && lstm) to.cells = allocate({s.D, c.schedule.capacity, padded_units(s.H)}, options.dtype(cells_type(layer)));
  return to;
}

void check_saved(const Layer& layer, const Checked& c, const Tensor& out, const Tensor& gates, const Tensor& cells) {
  const Shape& s = c.shape;
  TORCH_CHECK(out.sizes() == at::IntArrayRef(c.token_sizes(s.D * s.P)), "rnnkernels: out does not belong to this layer's forward pass");
  if (saved_count(layer.cell))
    TORCH_CHECK(gates.sizes() == at::IntArrayRef(gate_sizes(layer, c)) && gates.is_contiguous(),
                "rnnkernels: gates do not belong to this layer's forward pass");
  if (layer.cell == Cell::lstm)
    TORCH_CHECK(cells.sizes() == (at::IntArrayRef{s.D, c.schedule.capacity, padded_units(s.H)}) && cells.is_contiguous(),
                "rnnkernels: cells do not belong to this layer's forward pass");
  for (const Tensor* t : {&out, &gates, &cells}) {
    if (!t->defined()) continue;
    TORCH_CHECK(t->scalar_type() == (t == &cells ? cells_type(layer) : layer[X].scalar_type()), "rnnkernels: saved tensors of another dtype than x");
    TORCH_CHECK(t->device() == layer[X].device(), "rnnkernels: saved tensors on ", t->device(), ", x is on ", layer[X].device());
  }
}

Tensor checked_cotangent(const Tensor& d, const char* name, at::IntArrayRef expected, const Tensor& x) {
  if (!d.defined()) return d;
  TORCH_CHECK(d.sizes() == expected && d.scalar_type() == x.scalar_type() && d.device() == x.device(), "rnnkernels: expected ", name,
              " of size ", expected, " and dtype ", x.scalar_type(), " on ", x.device(), ", got ", d.sizes(), " and ", d.scalar_type(), " on ",
              d.device());
  return d;
}

// The kernels overwrite it, but for the gradients of a reset state, which they add to.
Tensor gradient_buffer(const Checked& c, int argument) {
  const Tensor& a = c.arguments[argument];
  if (argument == X) return empty_tokens(c, c.shape.I);
  return argument == RESET_H || argument == RESET_C ? at::zeros(a.sizes(), a.options()) : allocate(a.sizes(), a.options());
}

Tensor contiguous_or_undefined(const Tensor& t) { return t.defined() ? t.contiguous() : t; }
Tensor tokens_or_undefined(const Tensor& t) { return t.defined() ? Checked::tokens(t) : t; }

}  // namespace

LayerOutputs layer_forward(const Layer& layer, bool save) {
  const DeviceKernels& kernels = kernels_for(layer[X]);
  const Checked c(layer);
  const LayerOutputs to = allocate_outputs(layer, c, save);
  kernels.forward({layer, c, to});
  return to;
}

std::array<Tensor, argument_count> layer_backward(const Layer& layer, const Cotangents& d, const Tensor& out, const Tensor& gates,
                                                  const Tensor& cells, int64_t needs) {
  const DeviceKernels& kernels = kernels_for(layer[X]);
  const Checked c(layer);
  const Shape& s = c.shape;
  check_saved(layer, c, out, gates, cells);
  const auto checked = [&](const Tensor& t, const char* name, at::IntArrayRef expected) { return checked_cotangent(t, name, expected, layer[X]); };
  BackwardPass pass{layer,
                    c,
                    tokens_or_undefined(checked(d.out, "d_out", c.token_sizes(s.D * s.P))),
                    contiguous_or_undefined(checked(d.h_n, "d_h_n", {s.D, s.B, s.P})),
                    contiguous_or_undefined(checked(d.c_n, "d_c_n", {s.D, s.B, s.H})),
                    tokens_or_undefined(checked(d.c_out, "d_c_out", c.token_sizes(s.D * s.H))),
                    Checked::tokens(out),
                    gates,
                    cells,
                    {}};
  for (int k = 0; k < argument_count; ++k)
    if (layer[k].defined() && (needs >> k & 1)) pass.d[k] = gradient_buffer(c, k);
  kernels.backward(pass);
  return std::move(pass.d);
}

}  // namespace rnnk
