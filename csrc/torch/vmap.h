// vmap of a module over its weights, without Python: an ensemble's single step is shorter than a dozen statements that work on batched tensors.
#pragma once
#include "torch/module_reader.h"

namespace rnnk {

// The level of vmap, if that is all of torch.func that is active.
std::optional<int64_t> only_vmap();

// Whether it varies a weight of every layer, so that each is an ensemble, and nothing has a gradient, for our autograd node refuses to run
// under vmap. For call_ensemble; else rnnkernels/transforms.py knows what to do.
bool is_plain_ensemble(int64_t level, const Tensor& x, const Tensors& states, const Tensors& weights, const ModuleOptions& o);

// The op on a layer under that vmap, once for all models.
LayerOutputs call_ensemble(int64_t level, const Layer& layer);

}  // namespace rnnk
