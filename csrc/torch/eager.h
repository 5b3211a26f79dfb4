// A module's whole forward in one call from Python, for plain eager tensors.
#pragma once
#include <pybind11/pybind11.h>

#include "args.h"

namespace rnnk {

// What a module's constructor fixed, and whether it is training.
struct ModuleOptions {
  int64_t input_size, hidden_size, proj_size, num_layers;
  bool bias, batch_first;
  double dropout;  // 0 unless training
  bool bidirectional;
};

// (out, h_n) or (out, (h_n, c_n)) as the module returns them, for batched 3-D input; None for any call that is not plainly valid or
// not plainly eager (autocast, torch.func, subclasses): rnnkernels/layers.py handles those.
pybind11::object run_module(Cell cell, pybind11::handle input, pybind11::handle hx, const pybind11::list& weights,
                            const ModuleOptions& options);

}  // namespace rnnk
