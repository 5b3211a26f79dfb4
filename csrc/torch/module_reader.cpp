#include "torch/module_reader.h"

#include <ATen/core/grad_mode.h>

namespace rnnk {

namespace {

namespace py = pybind11;

py::handle interned(const char* name) { return PyUnicode_InternFromString(name); }

py::object find(py::handle dict, py::handle name, py::handle otherwise) {
  PyObject* value = PyDict_Check(dict.ptr()) ? PyDict_GetItemWithError(dict.ptr(), name.ptr()) : nullptr;
  if (!value && PyErr_Occurred()) throw py::error_already_set();
  return value ? py::reinterpret_borrow<py::object>(value) : py::getattr(otherwise, name);
}

Cell cell_of(py::handle module, const py::object& mode) {
  static const py::handle reset_after = interned("reset_after");  // which torch.nn's own do not have

  TORCH_CHECK(PyUnicode_Check(mode.ptr()), "rnnkernels: expected mode to be a string");
  const auto is = [&](const char* name) { return PyUnicode_CompareWithASCIIString(mode.ptr(), name) == 0; };
  if (is("LSTM")) return Cell::lstm;
  if (is("GRU")) return py::bool_(py::getattr(module, reset_after, py::bool_(true))) ? Cell::gru : Cell::gru_reset_before;
  if (is("RNN_TANH")) return Cell::rnn_tanh;
  if (is("RNN_SIGMOID")) return Cell::rnn_sigmoid;
  TORCH_CHECK(is("RNN_RELU"), "rnnkernels: unknown mode ", py::cast<std::string>(py::repr(mode)));
  return Cell::rnn_relu;
}

}  // namespace

ModuleReader::ModuleReader(py::handle module)
    : module_(module), own_(py::reinterpret_steal<py::object>(PyObject_GenericGetDict(module.ptr(), nullptr))) {
  if (!own_) throw py::error_already_set();
}

py::object ModuleReader::attribute(py::handle name) const { return find(own_, name, module_); }

ModuleOptions ModuleReader::options() const {
  static const py::handle mode = interned("mode"), input_size = interned("input_size"), hidden_size = interned("hidden_size"),
                          proj_size = interned("proj_size"), num_layers = interned("num_layers"), bias = interned("bias"),
                          batch_first = interned("batch_first"), bidirectional = interned("bidirectional"), dropout = interned("dropout"),
                          training = interned("training"), recompute = interned("recompute");
  const auto integer = [this](py::handle name) { return py::cast<int64_t>(attribute(name)); };
  const auto flag = [this](py::handle name) { return py::cast<bool>(attribute(name)); };
  const double rate = py::cast<double>(attribute(dropout));  // read outside training, too: torch.nn refuses what is no number
  const Cell cell = cell_of(module_, attribute(mode));
  const int64_t layers = integer(num_layers);
  TORCH_CHECK(layers > 0, "rnnkernels: expected num_layers to be positive, got ", layers);
  const bool keeps_gates = at::GradMode::is_enabled() && saved_count(cell);  // an RNN keeps none: it has no `recompute`, and asking for it takes 2 us
  return {cell,
          integer(input_size),
          integer(hidden_size),
          integer(proj_size),
          layers,
          flag(bias),
          flag(batch_first),
          flag(bidirectional),
          flag(training) ? rate : 0.0,
          keeps_gates && bool(py::bool_(py::getattr(module_, recompute, py::bool_(false))))};
}

py::object ModuleReader::parameters() const {
  static const py::handle name = interned("_parameters");
  return attribute(name);
}

py::object ModuleReader::weight_names() const {
  static const py::handle name = interned("_flat_weights_names");
  return attribute(name);
}

py::object ModuleReader::parameter(const py::object& parameters, py::handle name) const { return find(parameters, name, module_); }

Layer layer_at(int64_t l, const Tensor& x, const Tensors& states, const Tensors& weights, const ModuleOptions& o) {
  const int64_t D = o.directions();
  Layer layer{o.cell, {}, {}, {}, {}, o.recompute};
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

}  // namespace rnnk
