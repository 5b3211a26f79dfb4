// The same stack of layers as rnnkernels/stack.py, in C++: at T = 1 a layer's own work is shorter than a dozen Python statements.
#include "torch/eager.h"

#include <ATen/autocast_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/jit/frontend/tracer.h>

#include "torch/ops.h"

namespace rnnk {

namespace {

namespace py = pybind11;

bool is_plain_tensor(py::handle object) { return THPVariable_CheckExact(object.ptr()); }

bool is_plainly_eager() {
  return !at::autocast::is_autocast_enabled(at::kCPU) && !torch::jit::tracer::isTracing() &&
         !c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerFrontMode);
}

bool has_kernels(const Tensor& t) {
  const auto type = t.scalar_type();
  return t.device().is_cpu() && t.layout() == at::kStrided &&
         (type == at::kFloat || type == at::kDouble || type == at::kBFloat16 || type == at::kHalf);
}

// Unpacks `objects` if all are plain tensors like x; false otherwise.
template <class Sequence>
bool unpack_like(const Tensor& x, const Sequence& objects, std::vector<Tensor>& to) {
  for (py::handle object : objects) {
    if (!is_plain_tensor(object)) return false;
    to.push_back(THPVariable_Unpack(object.ptr()));
    if (to.back().scalar_type() != x.scalar_type() || !to.back().device().is_cpu() || to.back().layout() != at::kStrided) return false;
  }
  return true;
}

// hx as a list of states [L * D, B, *], zeros when it is None; false where torch.nn would object.
bool unpack_states(Cell cell, const Tensor& x, py::handle hx, const ModuleOptions& o, std::vector<Tensor>& states) {
  const int64_t rows = o.num_layers * (o.bidirectional ? 2 : 1), B = x.size(o.batch_first ? 0 : 1);
  const int64_t P = o.proj_size ? o.proj_size : o.hidden_size;
  const bool lstm = cell == Cell::lstm;
  if (hx.is_none()) {
    states.push_back(at::zeros({rows, B, P}, x.options()));
    if (lstm) states.push_back(P == o.hidden_size ? states[0] : at::zeros({rows, B, o.hidden_size}, x.options()));
    return true;
  }
  if (lstm ? !py::isinstance<py::tuple>(hx) || py::len(hx) != 2 : !is_plain_tensor(hx)) return false;
  if (!(lstm ? unpack_like(x, py::reinterpret_borrow<py::tuple>(hx), states) : unpack_like(x, std::array<py::handle, 1>{hx}, states)))
    return false;
  return states[0].sizes() == at::IntArrayRef{rows, B, P} && (!lstm || states[1].sizes() == at::IntArrayRef{rows, B, o.hidden_size});
}

// Layer l's arguments from the flat weights, in the order of torch.nn's _flat_weights.
Layer layer_at(Cell cell, int64_t l, const Tensor& x, const std::vector<Tensor>& states, const std::vector<Tensor>& weights,
               const ModuleOptions& o) {
  const int64_t D = o.bidirectional ? 2 : 1;
  Layer layer{cell, {}, {}, {}, {}};
  layer.arguments[X] = x;
  for (size_t k = 0; k < states.size(); ++k) layer.arguments[H0 + k] = o.num_layers == 1 ? states[k] : states[k].narrow(0, l * D, D);
  const int64_t per_direction = int64_t(weights.size()) / (o.num_layers * D);
  for (int64_t d = 0; d < D; ++d) {
    const Tensor* w = &weights[(l * D + d) * per_direction];
    Tensor* to = &layer.arguments[d * direction_stride];
    to[W_IH] = *w++;
    to[W_HH] = *w++;
    if (o.bias) to[B_IH] = *w++, to[B_HH] = *w++;
    if (o.proj_size) to[W_HR] = *w;
  }
  return layer;
}

LayerOutputs run_stack(Cell cell, Tensor x, const std::vector<Tensor>& states, const std::vector<Tensor>& weights, const ModuleOptions& o) {
  std::vector<Tensor> h_n, c_n;
  LayerOutputs last;
  for (int64_t l = 0; l < o.num_layers; ++l) {
    if (l > 0 && o.dropout != 0) x = at::dropout(x, o.dropout, true);
    last = call_op(layer_at(cell, l, x, states, weights, o));
    x = last.out;
    h_n.push_back(last.h_n);
    c_n.push_back(last.c_n);
  }
  if (o.num_layers == 1) return last;
  return {x, at::cat(h_n), cell == Cell::lstm ? at::cat(c_n) : Tensor(), {}, {}};
}

}  // namespace

py::object run_module(Cell cell, py::handle input, py::handle hx, const py::list& weights, const ModuleOptions& o) {
  if (!is_plain_tensor(input) || !is_plainly_eager()) return py::none();
  Tensor x = THPVariable_Unpack(input.ptr());
  if (x.dim() != 3 || !has_kernels(x) || x.size(2) != o.input_size || x.size(o.batch_first ? 1 : 0) == 0) return py::none();
  std::vector<Tensor> states, flat;
  flat.reserve(weights.size());
  const int64_t per_direction = 2 + (o.bias ? 2 : 0) + (o.proj_size ? 1 : 0);
  if (int64_t(weights.size()) != o.num_layers * (o.bidirectional ? 2 : 1) * per_direction) return py::none();
  if (!unpack_like(x, weights, flat) || !unpack_states(cell, x, hx, o, states)) return py::none();

  LayerOutputs result;
  {
    py::gil_scoped_release release;
    if (o.batch_first) x = x.transpose(0, 1);
    result = run_stack(cell, x, states, flat, o);
    if (o.batch_first) result.out = result.out.transpose(0, 1);
  }
  const auto wrap = [](const Tensor& t) { return py::reinterpret_steal<py::object>(THPVariable_Wrap(t)); };
  if (cell == Cell::lstm) return py::make_tuple(wrap(result.out), py::make_tuple(wrap(result.h_n), wrap(result.c_n)));
  return py::make_tuple(wrap(result.out), wrap(result.h_n));
}

}  // namespace rnnk
