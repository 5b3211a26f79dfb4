// The same stack of layers as rnnkernels/stack.py, in C++: at T = 1 a layer's own work is shorter than a dozen Python statements.
#include "torch/eager.h"

#include <ATen/autocast_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/jit/frontend/tracer.h>

#include <algorithm>

#include "torch/device.h"
#include "torch/memory.h"
#include "torch/module_reader.h"
#include "torch/plain_call.h"
#include "torch/vmap.h"

namespace rnnk {

namespace {

namespace py = pybind11;

bool is_plain_tensor(py::handle object) { return THPVariable_CheckExact(object.ptr()); }

bool is_plainly_eager(const Tensor& x) { return !at::autocast::is_autocast_enabled(x.device().type()) && !torch::jit::tracer::isTracing(); }
bool is_under_functorch() { return c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerFrontMode); }

bool has_kernels(const Tensor& t) {
  const auto type = t.scalar_type();
  return device_kernels(t.device().type()) && t.layout() == at::kStrided &&
         (type == at::kFloat || type == at::kDouble || type == at::kBFloat16 || type == at::kHalf);
}

// Unpacks `object` if it is a plain tensor like x; false otherwise.
bool unpack_like(const Tensor& x, py::handle object, Tensors& to) {
  if (!is_plain_tensor(object)) return false;
  const Tensor& t = THPVariable_Unpack(object.ptr());
  if (t.scalar_type() != x.scalar_type() || t.device() != x.device() || t.layout() != at::kStrided) return false;
  to.push_back(t);
  return true;
}

// Whether no weight has a dimension more, for which it would be taken for an ensemble's.
bool are_of_one_model(const Tensors& weights, const ModuleOptions& o) {
  const int64_t per_direction = int64_t(weights.size()) / (o.num_layers * o.directions());
  for (int64_t i = 0; i < int64_t(weights.size()); ++i) {
    const int64_t k = i % per_direction;
    if (weights[i].dim() != (o.bias && (k == 2 || k == 3) ? 1 : 2)) return false;
  }
  return true;
}

// Zeros without a call of the dispatcher, as `allocate`.
Tensor zeros(at::IntArrayRef sizes, const Tensor& x) {
  if (!x.is_cpu()) return at::zeros(sizes, x.options());
  const Tensor t = allocate(sizes, x.options());
  std::fill_n(static_cast<char*>(t.mutable_data_ptr()), t.nbytes(), 0);
  return t;
}

// hx as a list of states [L * D, B, *], zeros when it is None; false where torch.nn would object.
bool unpack_states(const Tensor& x, py::handle hx, const ModuleOptions& o, Tensors& states) {
  const int64_t rows = o.num_layers * o.directions(), B = x.size(o.batch_first ? 0 : 1);
  const int64_t P = o.state_size();
  const bool lstm = has_cell_state(o.cell);
  if (hx.is_none()) {
    states.push_back(zeros({rows, B, P}, x));
    if (lstm) states.push_back(P == o.hidden_size ? states[0] : zeros({rows, B, o.hidden_size}, x));
    return true;
  }
  if (lstm && (!PyTuple_Check(hx.ptr()) || PyTuple_GET_SIZE(hx.ptr()) != 2)) return false;
  const bool plain = lstm ? unpack_like(x, PyTuple_GET_ITEM(hx.ptr(), 0), states) && unpack_like(x, PyTuple_GET_ITEM(hx.ptr(), 1), states)
                          : unpack_like(x, hx, states);
  if (!plain) return false;
  return states[0].sizes() == at::IntArrayRef{rows, B, P} && (!lstm || states[1].sizes() == at::IntArrayRef{rows, B, o.hidden_size});
}

LayerOutputs run_stack(Tensor x, const Tensors& states, const Tensors& weights, const ModuleOptions& o, std::optional<int64_t> vmap) {
  const auto run = [&](const Layer& layer) { return vmap ? call_ensemble(*vmap, layer) : call_layer(layer); };
  if (o.num_layers == 1) return run(layer_at(0, x, states, weights, o));
  std::vector<Tensor> h_n, c_n;
  for (int64_t l = 0; l < o.num_layers; ++l) {
    if (l > 0 && o.dropout != 0) x = at::dropout(x, o.dropout, true);
    const LayerOutputs layer = run(layer_at(l, x, states, weights, o));
    x = layer.out;
    h_n.push_back(layer.h_n);
    c_n.push_back(layer.c_n);
  }
  return {x, at::cat(h_n), has_cell_state(o.cell) ? at::cat(c_n) : Tensor(), {}, {}, {}};
}

// Nothing where an attribute was set to what torch.nn refuses, and shall refuse in its own words.
std::optional<ModuleOptions> read_options(const ModuleReader& reader) {
  try {
    return reader.options();
  } catch (const py::cast_error&) {
  } catch (const c10::Error&) {
  }
  return std::nullopt;
}

}  // namespace

py::object run_module(py::handle module, py::handle input, py::handle hx) {
  if (!is_plain_tensor(input)) return py::none();
  Tensor x = THPVariable_Unpack(input.ptr());
  if (x.dim() != 3 || !has_kernels(x) || !is_plainly_eager(x)) return py::none();
  const bool transformed = is_under_functorch();
  const std::optional<int64_t> vmap = transformed ? only_vmap() : std::nullopt;
  if (transformed && !vmap) return py::none();
  const ModuleReader reader(module);
  const std::optional<ModuleOptions> options = read_options(reader);
  if (!options) return py::none();
  const ModuleOptions& o = *options;
  if (x.size(2) != o.input_size || x.size(o.batch_first ? 1 : 0) == 0) return py::none();
  Tensors states, weights;
  const bool plain = reader.weights([&](const py::object& weight) { return unpack_like(x, weight, weights); });
  if (!plain || int64_t(weights.size()) != o.weight_count() || !are_of_one_model(weights, o) || !unpack_states(x, hx, o, states)) return py::none();
  if (vmap && !is_plain_ensemble(*vmap, x, states, weights, o)) return py::none();

  LayerOutputs result;
  {
    py::gil_scoped_release release;
    if (o.batch_first) x = x.transpose(0, 1);
    result = run_stack(x, states, weights, o, vmap);
    if (o.batch_first) result.out = result.out.transpose(0, 1);
  }
  const auto wrap = [](const Tensor& t) { return py::reinterpret_steal<py::object>(THPVariable_Wrap(t)); };
  if (has_cell_state(o.cell)) return py::make_tuple(wrap(result.out), py::make_tuple(wrap(result.h_n), wrap(result.c_n)));
  return py::make_tuple(wrap(result.out), wrap(result.h_n));
}

}  // namespace rnnk
