// The same stack of layers as rnnkernels/stack.py, in C++: at T = 1 a layer's own work is shorter than a dozen Python statements.
#include "torch/eager.h"

#include <ATen/autocast_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/zeros.h>
#include <c10/util/SmallVector.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/jit/frontend/tracer.h>

#include "torch/ops.h"

namespace rnnk {

namespace {

namespace py = pybind11;

using Tensors = c10::SmallVector<Tensor, 8>;

// What a module's constructor fixed, and whether it is training.
struct ModuleOptions {
  Cell cell;
  int64_t input_size, hidden_size, proj_size, num_layers;
  bool bias, batch_first, bidirectional;
  double dropout;  // 0 unless training

  int64_t directions() const { return bidirectional ? 2 : 1; }
};

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

// Unpacks `object` if it is a plain tensor like x; false otherwise.
bool unpack_like(const Tensor& x, py::handle object, Tensors& to) {
  if (!is_plain_tensor(object)) return false;
  const Tensor& t = THPVariable_Unpack(object.ptr());
  if (t.scalar_type() != x.scalar_type() || !t.device().is_cpu() || t.layout() != at::kStrided) return false;
  to.push_back(t);
  return true;
}

// A module's attributes, from its __dict__ where they stand there. A dozen of them cost a quarter of a short step when Python reads them.
class Attributes {
  py::handle module_;
  py::object own_;

  static PyObject* find(const py::object& dict, py::handle name) {
    return PyDict_Check(dict.ptr()) ? PyDict_GetItemWithError(dict.ptr(), name.ptr()) : nullptr;
  }
  py::object found(PyObject* value, py::handle name) const {
    return value ? py::reinterpret_borrow<py::object>(value) : py::getattr(module_, name);
  }

 public:
  explicit Attributes(py::handle module)
      : module_(module), own_(py::reinterpret_steal<py::object>(PyObject_GenericGetDict(module.ptr(), nullptr))) {
    if (!own_) throw py::error_already_set();
  }

  py::object operator[](py::handle name) const { return found(find(own_, name), name); }
  int64_t integer(py::handle name) const { return py::cast<int64_t>((*this)[name]); }
  bool flag(py::handle name) const { return py::cast<bool>((*this)[name]); }

  // The parameter as it is now: weight_norm, parametrize and functional_call replace them between calls.
  py::object parameter(const py::object& parameters, py::handle name) const { return found(find(parameters, name), name); }
};

py::handle interned(const char* name) { return PyUnicode_InternFromString(name); }

Cell cell_of(const py::object& mode) {
  const auto is = [&](const char* name) { return PyUnicode_CompareWithASCIIString(mode.ptr(), name) == 0; };
  return is("LSTM") ? Cell::lstm : is("GRU") ? Cell::gru : is("RNN_TANH") ? Cell::rnn_tanh : Cell::rnn_relu;
}

ModuleOptions options_of(const Attributes& module) {
  static const py::handle mode = interned("mode"), input_size = interned("input_size"), hidden_size = interned("hidden_size"),
                          proj_size = interned("proj_size"), num_layers = interned("num_layers"), bias = interned("bias"),
                          batch_first = interned("batch_first"), bidirectional = interned("bidirectional"), dropout = interned("dropout"),
                          training = interned("training");
  return {cell_of(module[mode]),        module.integer(input_size), module.integer(hidden_size),  module.integer(proj_size),
          module.integer(num_layers),   module.flag(bias),          module.flag(batch_first),     module.flag(bidirectional),
          module.flag(training) ? py::cast<double>(module[dropout]) : 0.0};
}

// The flat weights, in the order of _flat_weights_names; false if one is no plain tensor like x, or one is missing.
bool unpack_weights(const Attributes& module, const Tensor& x, const ModuleOptions& o, Tensors& weights) {
  static const py::handle parameters = interned("_parameters"), flat_weights_names = interned("_flat_weights_names");
  const py::object held = module[parameters];
  for (py::handle name : module[flat_weights_names])
    if (!unpack_like(x, module.parameter(held, name), weights)) return false;
  return int64_t(weights.size()) == o.num_layers * o.directions() * (2 + (o.bias ? 2 : 0) + (o.proj_size ? 1 : 0));
}

// hx as a list of states [L * D, B, *], zeros when it is None; false where torch.nn would object.
bool unpack_states(const Tensor& x, py::handle hx, const ModuleOptions& o, Tensors& states) {
  const int64_t rows = o.num_layers * o.directions(), B = x.size(o.batch_first ? 0 : 1);
  const int64_t P = o.proj_size ? o.proj_size : o.hidden_size;
  const bool lstm = o.cell == Cell::lstm;
  if (hx.is_none()) {
    states.push_back(at::zeros({rows, B, P}, x.options()));
    if (lstm) states.push_back(P == o.hidden_size ? states[0] : at::zeros({rows, B, o.hidden_size}, x.options()));
    return true;
  }
  if (lstm && (!py::isinstance<py::tuple>(hx) || py::len(hx) != 2)) return false;
  const bool plain = lstm ? unpack_like(x, PyTuple_GET_ITEM(hx.ptr(), 0), states) && unpack_like(x, PyTuple_GET_ITEM(hx.ptr(), 1), states)
                          : unpack_like(x, hx, states);
  if (!plain) return false;
  return states[0].sizes() == at::IntArrayRef{rows, B, P} && (!lstm || states[1].sizes() == at::IntArrayRef{rows, B, o.hidden_size});
}

// Layer l's arguments from the flat weights, in the order of torch.nn's _flat_weights.
Layer layer_at(int64_t l, const Tensor& x, const Tensors& states, const Tensors& weights, const ModuleOptions& o) {
  const int64_t D = o.directions();
  Layer layer{o.cell, {}, {}, {}, {}};
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

LayerOutputs run_stack(Tensor x, const Tensors& states, const Tensors& weights, const ModuleOptions& o) {
  if (o.num_layers == 1) return call_op(layer_at(0, x, states, weights, o));
  std::vector<Tensor> h_n, c_n;
  for (int64_t l = 0; l < o.num_layers; ++l) {
    if (l > 0 && o.dropout != 0) x = at::dropout(x, o.dropout, true);
    const LayerOutputs layer = call_op(layer_at(l, x, states, weights, o));
    x = layer.out;
    h_n.push_back(layer.h_n);
    c_n.push_back(layer.c_n);
  }
  return {x, at::cat(h_n), o.cell == Cell::lstm ? at::cat(c_n) : Tensor(), {}, {}};
}

}  // namespace

py::object run_module(py::handle module, py::handle input, py::handle hx) {
  if (!is_plain_tensor(input) || !is_plainly_eager()) return py::none();
  const Attributes attributes(module);
  const ModuleOptions o = options_of(attributes);
  Tensor x = THPVariable_Unpack(input.ptr());
  if (x.dim() != 3 || !has_kernels(x) || x.size(2) != o.input_size || x.size(o.batch_first ? 1 : 0) == 0) return py::none();
  Tensors states, weights;
  if (!unpack_weights(attributes, x, o, weights) || !unpack_states(x, hx, o, states)) return py::none();

  LayerOutputs result;
  {
    py::gil_scoped_release release;
    if (o.batch_first) x = x.transpose(0, 1);
    result = run_stack(x, states, weights, o);
    if (o.batch_first) result.out = result.out.transpose(0, 1);
  }
  const auto wrap = [](const Tensor& t) { return py::reinterpret_steal<py::object>(THPVariable_Wrap(t)); };
  if (o.cell == Cell::lstm) return py::make_tuple(wrap(result.out), py::make_tuple(wrap(result.h_n), wrap(result.c_n)));
  return py::make_tuple(wrap(result.out), wrap(result.h_n));
}

}  // namespace rnnk
