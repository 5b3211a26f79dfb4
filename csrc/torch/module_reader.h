// Reading one of torch.nn's recurrent modules from C++.
#pragma once
#include <c10/util/SmallVector.h>
#include <pybind11/pybind11.h>

#include "torch/layer.h"

namespace rnnk {

using Tensors = c10::SmallVector<Tensor, 8>;

// What a module's constructor fixed, and what it keeps in training.
struct ModuleOptions {
  Cell cell;
  int64_t input_size, hidden_size, proj_size, num_layers;
  bool bias, batch_first, bidirectional;
  double dropout;  // 0 unless training
  bool recompute;  // false unless gradients are wanted

  int64_t directions() const { return bidirectional ? 2 : 1; }
  int64_t weight_count() const { return num_layers * directions() * (2 + (bias ? 2 : 0) + (proj_size ? 1 : 0)); }
  int64_t state_size() const { return proj_size ? proj_size : hidden_size; }
};

// A module, read through its __dict__: a dozen attributes cost a quarter of a short step when Python reads them. Parameters as in
// rnnkernels/support.py.
class ModuleReader {
  pybind11::handle module_;
  pybind11::object own_;

  pybind11::object attribute(pybind11::handle name) const;

 public:
  // Throws what Python raises where `module` lacks an attribute.
  explicit ModuleReader(pybind11::handle module);

  ModuleOptions options() const;

  // Calls take(weight) with the flat weights, in the order of _flat_weights_names, as they are now: weight_norm, parametrize and
  // functional_call replace them between calls. Stops where it returns false, and returns that.
  template <class Take>
  bool weights(const Take& take) const {
    const pybind11::object held = parameters();
    for (pybind11::handle name : weight_names())
      if (!take(parameter(held, name))) return false;
    return true;
  }

 private:
  pybind11::object parameters() const;
  pybind11::object weight_names() const;
  pybind11::object parameter(const pybind11::object& parameters, pybind11::handle name) const;
};

// Layer l's arguments from the flat weights.
Layer layer_at(int64_t l, const Tensor& x, const Tensors& states, const Tensors& weights, const ModuleOptions& o);

}  // namespace rnnk
