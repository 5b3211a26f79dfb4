// The layer ops under autograd: a C++ autograd::Function over the *_train and *_bwd ops, so that eager mode pays microseconds and
// torch.compile traces straight through to the ops. Differentiating a gradient again goes through the *_bwd ops' own autograd
// (rnnkernels/autograd.py).
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "torch/plain_call.h"

namespace rnnk {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The ops have no rule for tangents, which would vanish without a word.
void check_no_tangent(at::ArrayRef<Tensor> tensors) {
  for (const Tensor& t : tensors)
    TORCH_CHECK(!t.defined() || !t._fw_grad(/*level=*/0).defined(),
                "rnnkernels: the ops have no forward-mode derivative; call rnnkernels.functional or a module, inside the transform and not compiled");
}

class LayerFunction : public torch::autograd::Function<LayerFunction> {
 public:
  static variable_list forward(AutogradContext* ctx, int64_t cell, const Tensor& x, const Tensor& h0, Optional c0, const Tensor& w_ih,
                               const Tensor& w_hh, Optional b_ih, Optional b_hh, Optional w_hr, Optional w_ih_r, Optional w_hh_r,
                               Optional b_ih_r, Optional b_hh_r, Optional w_hr_r, Optional reset_h, Optional reset_c, Optional batch_sizes,
                               Optional lengths, Optional reset, bool recompute, bool with_cells) {
    Layer layer = LstmOp::layer(x, h0, or_undefined(c0), w_ih, w_hh, b_ih, b_hh, w_hr, w_ih_r, w_hh_r, b_ih_r, b_hh_r, w_hr_r, reset_h,
                                reset_c, batch_sizes, lengths, reset, recompute);
    layer.cell = Cell(cell);
    layer.with_cells = with_cells;
    at::AutoDispatchBelowADInplaceOrView below;
    const LayerOutputs o = is_plain_call(layer) ? layer_forward(layer, true) : call_train_op(layer);

    ctx->set_materialize_grads(false);
    ctx->saved_data["cell"] = cell;
    ctx->saved_data["recompute"] = recompute;
    variable_list saved(layer.arguments.begin(), layer.arguments.end());
    for (const Tensor& t : {layer.batch_sizes, layer.lengths, layer.reset, o.out, o.gates, o.cells}) saved.push_back(t);
    ctx->save_for_backward(std::move(saved));
    variable_list outputs{o.out, o.h_n};
    for (const Tensor& t : {o.c_n, o.c_out})
      if (t.defined()) outputs.push_back(t);
    return outputs;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& cotangents) {
    check_no_tangent(cotangents);
    const variable_list saved = ctx->get_saved_variables();
    Layer layer{Cell(ctx->saved_data["cell"].toInt()), {}, saved[argument_count], saved[argument_count + 1], saved[argument_count + 2],
                ctx->saved_data["recompute"].toBool(), /*with_cells=*/cotangents.size() > 3};
    std::copy_n(saved.begin(), argument_count, layer.arguments.begin());
    const Saved of_forward{saved[argument_count + 3], saved[argument_count + 4], saved[argument_count + 5]};
    const auto of_lstm = [&](size_t k) { return cotangents.size() > k ? cotangents[k] : Tensor(); };
    const Cotangents d_results{cotangents[0], cotangents[1], of_lstm(2), of_lstm(3)};

    const auto d = [&] {
      const int64_t needs = wanted(ctx, layer);
      if (at::GradMode::is_enabled()) return call_backward_op(layer, d_results, of_forward, needs);
      at::AutoDispatchBelowADInplaceOrView below;  // spares the Python autograd of the *_bwd ops
      if (are_plain({saved, cotangents})) return layer_backward(layer, d_results, of_forward, needs);
      return call_backward_op(layer, d_results, of_forward, needs);
    }();
    variable_list gradients(1 + argument_count + 5);  // after `cell`, before batch_sizes, lengths, reset, recompute and with_cells
    for (int k = 0; k < argument_count; ++k)  // of an ensemble: what its models share gets the sum
      gradients[1 + k] = d[k].defined() && d[k].dim() > layer[k].dim() ? d[k].sum(0) : d[k];
    return gradients;
  }

 private:
  // The context counts edges, one for each tensor that was given.
  static int64_t wanted(AutogradContext* ctx, const Layer& layer) {
    int64_t needs = 0;
    size_t edge = 0;
    for (int k = 0; k < argument_count; ++k)
      if (layer[k].defined() && ctx->needs_input_grad(edge++)) needs |= int64_t(1) << k;
    return needs;
  }
};

template <class Op, class Signature = typename Op::Signature>
struct AutogradKernel;
template <class Op, class R, class... Args>
struct AutogradKernel<Op, R(Args...)> {
  static R call(Args... args) {
    const Layer layer = Op::layer(args...);
    return op_outputs<Op>(differentiable_layer(layer, is_plain_call(layer)));
  }
};

}  // namespace

bool requires_grad(const Layer& layer) {
  if (!at::GradMode::is_enabled()) return false;
  return std::any_of(layer.arguments.begin(), layer.arguments.end(), [](const Tensor& t) { return t.defined() && t.requires_grad(); });
}

LayerOutputs differentiable_layer(const Layer& l, bool plain) {
  check_no_tangent(l.arguments);
  if (!requires_grad(l)) {
    at::AutoDispatchBelowADInplaceOrView below;
    return plain ? layer_forward(l, false) : call_op(l);
  }
  if (runs_in_float32(l[X])) return layer_in_float32(l);
  const variable_list o = LayerFunction::apply(
      int64_t(l.cell), l[X], l[H0], or_none(l[C0]), l[W_IH], l[W_HH], or_none(l[B_IH]), or_none(l[B_HH]), or_none(l[W_HR]),
      or_none(l[W_IH_R]), or_none(l[W_HH_R]), or_none(l[B_IH_R]), or_none(l[B_HH_R]), or_none(l[W_HR_R]), or_none(l[RESET_H]),
      or_none(l[RESET_C]), or_none(l.batch_sizes), or_none(l.lengths), or_none(l.reset), l.recompute, l.with_cells);
  const auto of_lstm = [&](size_t k) { return o.size() > k ? o[k] : Tensor(); };
  return {o[0], o[1], of_lstm(2), of_lstm(3), {}, {}};
}

// bfloat16 and float16 on the CPU: the whole layer runs in float32, so that only the outputs are rounded.
LayerOutputs layer_in_float32(const Layer& layer) {
  const at::ScalarType reduced = layer[X].scalar_type();
  Layer wide = layer;
  for (Tensor& t : wide.arguments) {
    if (!t.defined()) continue;
    TORCH_CHECK(t.scalar_type() == reduced, "rnnkernels: expected all tensors of one dtype, got ", t.scalar_type(), " and ", reduced);
    t = t.to(at::kFloat);
  }
  LayerOutputs o = call_op(wide);
  for (Tensor* t : {&o.out, &o.h_n, &o.c_n, &o.c_out})
    if (t->defined()) *t = t->to(reduced);
  return o;
}

TORCH_LIBRARY_IMPL(rnnkernels, Autograd, m) {
  m.impl("lstm", &AutogradKernel<LstmOp>::call);
  m.impl("lstm_with_cells", &AutogradKernel<LstmWithCellsOp>::call);
  m.impl("gru", &AutogradKernel<GruOp>::call);
  m.impl("gru_reset_before", &AutogradKernel<GruResetBeforeOp>::call);
  m.impl("rnn", &AutogradKernel<RnnOp>::call);
}

}  // namespace rnnk
