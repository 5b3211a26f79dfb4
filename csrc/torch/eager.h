// A module's whole forward in one call from Python, for plain eager tensors.
#pragma once
#include <pybind11/pybind11.h>

namespace rnnk {

// (out, h_n) or (out, (h_n, c_n)) as `module`, one of torch.nn.RNNBase's, returns them for batched 3-D input; None for any call that is
// not plainly valid or not plainly eager (autocast, torch.func, subclasses): rnnkernels/layers.py handles those.
pybind11::object run_module(pybind11::handle module, pybind11::handle input, pybind11::handle hx);

}  // namespace rnnk
