#include "torch/ensemble.h"

#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/zeros.h>

namespace rnnk {

namespace {

bool is_packed(const Layer& layer) { return layer.batch_sizes.defined(); }

// Dimensions of one model's x, out and their gradients.
int64_t rank_of_tokens(const Layer& layer) { return is_packed(layer) ? 2 : 3; }

constexpr std::array<int64_t, argument_count> rank_of_argument{/*x of its own*/ -1, 3, 3, 2, 2, 1, 1, 2, 2, 2, 1, 1, 2, 3, 3};

bool is_stack(const Tensor& t, int64_t rank) { return t.defined() && t.dim() == rank + 1; }

// f(which, tensor, rank) for the tensors of a layer, and for what backward gets beside it.
template <class F>
void for_inputs(const Layer& layer, const F& f) {
  f(X, layer[X], rank_of_tokens(layer));
  for (int k = H0; k < argument_count; ++k) f(k, layer[k], rank_of_argument[k]);
  f(Ensemble::RESET, layer.reset, rank_of_tokens(layer) - 1);
  f(Ensemble::LENGTHS, layer.lengths, 1);
}
template <class F>
void for_inputs(const Layer& layer, const Cotangents& d, const Saved& saved, const F& f) {
  f(Ensemble::D_OUT, d.out, rank_of_tokens(layer));
  f(Ensemble::D_H_N, d.h_n, 3);
  f(Ensemble::D_C_N, d.c_n, 3);
  f(Ensemble::D_C_OUT, d.c_out, rank_of_tokens(layer));
  f(Ensemble::OUT, saved.out, rank_of_tokens(layer));
  f(Ensemble::GATES, saved.gates, layer.recompute ? 1 : 4);
  f(Ensemble::CELLS, saved.cells, 3);
}

// One of a stack, without the dispatcher: a call of short layers has a hundred of them.
Tensor entry(const Tensor& stack, int64_t e) {
  if (stack.size(0) == 0) return at::zeros(stack.sizes().slice(1), stack.options());
  return at::native::as_strided_tensorimpl(stack, stack.sizes().slice(1), stack.strides().slice(1), stack.storage_offset() + e * stack.stride(0));
}

// Whether the kernels can read the entries where they lie.
bool is_readable(int which, const Tensor& stack) {
  switch (which) {
    case Ensemble::RESET: return true;
    case X: case Ensemble::OUT: case Ensemble::D_OUT: case Ensemble::D_C_OUT: return stack.is_cpu() && (stack.size(-1) <= 1 || stack.stride(-1) == 1);
    default: return entry(stack, 0).is_contiguous();
  }
}

}  // namespace

bool Ensemble::is_one(const Layer& layer) {
  bool found = false;
  for_inputs(layer, [&](int, const Tensor& t, int64_t rank) { found |= is_stack(t, rank); });
  return found;
}

bool Ensemble::is_one(const Layer& layer, const Cotangents& d, const Saved& saved) {
  bool found = is_one(layer);
  for_inputs(layer, d, saved, [&](int, const Tensor& t, int64_t rank) { found |= is_stack(t, rank); });
  return found;
}

Ensemble::Ensemble(const Layer& layer) : layer_(layer) {
  for_inputs(layer, [this](int which, const Tensor& t, int64_t rank) { add(which, t, rank); });
}

Ensemble::Ensemble(const Layer& layer, const Cotangents& d, const Saved& saved) : Ensemble(layer) {
  for_inputs(layer, d, saved, [this](int which, const Tensor& t, int64_t rank) { add(which, t, rank); });
}

void Ensemble::add(int which, const Tensor& t, int64_t rank) {
  stacked_[which] = is_stack(t, rank);
  tensors_[which] = stacked_[which] && !is_readable(which, t) ? t.contiguous() : t;
  if (!stacked_[which]) return;
  TORCH_CHECK(models_ < 0 || models_ == t.size(0), "rnnkernels: tensors of ", models_, " and of ", t.size(0), " models in one call");
  models_ = t.size(0);
}

void Ensemble::add_results(const LayerOutputs& to) {
  for (const auto& [which, t] : {std::pair<int, const Tensor&>(OUT, to.out), {H_N, to.h_n}, {C_N, to.c_n}, {C_OUT, to.c_out},
                                 {GATES, to.gates}, {CELLS, to.cells}})
    tensors_[which] = t, stacked_[which] = t.defined();
}

void Ensemble::add_gradients(const std::array<Tensor, argument_count>& d) {
  for (int k = 0; k < argument_count; ++k) tensors_[GRADIENTS + k] = d[k], stacked_[GRADIENTS + k] = d[k].defined();
}

Tensor Ensemble::of(int which, int64_t e) const { return stacked_[which] ? entry(tensors_[which], e) : tensors_[which]; }

Layer Ensemble::layer(int64_t e) const {
  Layer one{layer_.cell, {}, layer_.batch_sizes, of(LENGTHS, e), of(RESET, e), layer_.recompute, layer_.with_cells};
  for (int k = 0; k < argument_count; ++k) one.arguments[k] = of(k, e);
  return one;
}

std::array<Tensor, argument_count> Ensemble::gradients(int64_t e) const {
  std::array<Tensor, argument_count> d;
  for (int k = 0; k < argument_count; ++k) d[k] = of(GRADIENTS + k, e);
  return d;
}

}  // namespace rnnk
