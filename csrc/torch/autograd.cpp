// The layer ops under autograd: a C++ node over the *_train and *_bwd ops, so that eager mode pays microseconds and torch.compile traces
// straight through to the ops. Differentiating a gradient again goes through the *_bwd ops' own autograd
// (rnnkernels/autograd.py).
#include <ATen/FuncTorchTLS.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/library.h>

#include "torch/plain_call.h"

namespace rnnk {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::CppNode;
using torch::autograd::variable_list;
using NodePointer = decltype(torch::autograd::Edge::function);  // a shared_ptr in torch 2.11, an intrusive_ptr in 2.13

// The ops have no rule for tangents, which would vanish without a word.
void check_no_tangent(at::ArrayRef<Tensor> tensors) {
  for (const Tensor& t : tensors)
    TORCH_CHECK(!t.defined() || !t._fw_grad(/*level=*/0).defined(),
                "rnnkernels: the ops have no forward-mode derivative; call rnnkernels.functional or a module, inside the transform and not compiled");
}

// What was saved: a bit for each of arguments, batch_sizes, lengths, reset, out, gates and cells that was there.
struct Manifest {
  static constexpr const char* key = "manifest";
  static constexpr int tensors = argument_count + 6;

  Cell cell;
  bool recompute;
  int64_t present = 0;

  int64_t packed() const { return (int64_t(cell) << 1 | int64_t(recompute)) << tensors | present; }
  static Manifest unpack(int64_t m) { return {Cell(m >> (tensors + 1)), bool(m >> tensors & 1), m & ((int64_t(1) << tensors) - 1)}; }
};

struct LayerBackward {
  static constexpr bool is_traceable = true;  // by compiled autograd: backward reads nothing but the context and its arguments

  static void save(AutogradContext& ctx, const Layer& layer, const LayerOutputs& o) {
    Manifest manifest{layer.cell, layer.recompute};
    variable_list saved;
    saved.reserve(Manifest::tensors);
    int k = 0;
    const auto add = [&](const Tensor& t) {
      if (t.defined()) saved.push_back(t), manifest.present |= int64_t(1) << k;
      ++k;
    };
    for (const Tensor& t : layer.arguments) add(t);
    add(layer.batch_sizes), add(layer.lengths), add(layer.reset);
    add(o.out), add(o.gates), add(o.cells);
    ctx.set_materialize_grads(false);
    ctx.saved_data[Manifest::key] = manifest.packed();
    ctx.save_for_backward(std::move(saved));
  }

  // d_results: of out, h_n, c_n and c_out, as many as the layer has. Returns a gradient for each argument that is there.
  static variable_list backward(AutogradContext* ctx, const variable_list& d_results) {
    check_no_tangent(d_results);
    const Manifest manifest = Manifest::unpack(ctx->saved_data.at(Manifest::key).toInt());
    const variable_list saved = ctx->get_saved_variables();
    std::array<Tensor, Manifest::tensors> all;
    for (size_t k = 0, next = 0; k < all.size(); ++k)
      if (manifest.present >> k & 1) all[k] = saved[next++];
    const Tensor* const beside = &all[argument_count];
    Layer layer{manifest.cell, {}, beside[0], beside[1], beside[2], manifest.recompute, /*with_cells=*/d_results.size() > 3};
    std::copy_n(all.begin(), argument_count, layer.arguments.begin());
    const Saved of_forward{beside[3], beside[4], beside[5]};
    const auto of_lstm = [&](size_t k) { return d_results.size() > k ? d_results[k] : Tensor(); };
    const Cotangents cotangents{d_results[0], d_results[1], of_lstm(2), of_lstm(3)};

    const auto d = [&] {
      const int64_t needs = wanted(ctx, layer);
      if (at::GradMode::is_enabled()) return call_backward_op(layer, cotangents, of_forward, needs);
      at::AutoDispatchBelowADInplaceOrView below;  // spares the Python autograd of the *_bwd ops
      if (are_plain({saved, d_results})) return layer_backward(layer, cotangents, of_forward, needs);
      return call_backward_op(layer, cotangents, of_forward, needs);
    }();
    variable_list gradients;
    for (int k = 0; k < argument_count; ++k)  // of an ensemble: what its models share gets the sum
      if (layer[k].defined()) gradients.push_back(d[k].defined() && d[k].dim() > layer[k].dim() ? d[k].sum(0) : d[k]);
    return gradients;
  }

 private:
  // The context counts edges, one for each argument that is there.
  static int64_t wanted(AutogradContext* ctx, const Layer& layer) {
    int64_t needs = 0;
    size_t edge = 0;
    for (int k = 0; k < argument_count; ++k)
      if (layer[k].defined() && ctx->needs_input_grad(edge++)) needs |= int64_t(1) << k;
    return needs;
  }
};

template <class Node>
auto make_node() {
  if constexpr (std::is_same_v<NodePointer, std::shared_ptr<torch::autograd::Node>>)
    return std::shared_ptr<Node>(new Node, [](Node* node) { deleteNode(node); });
  else return c10::make_intrusive<Node>();
}

// The forward pass, and a node that remembers it. torch::autograd::Function::apply would look for inputs among the results and note the shapes of
// both, 3 us that a function of new tensors, without zeros for cotangents that are not there, has no use for.
LayerOutputs record(const Layer& layer, bool plain) {
  if (const auto& functorch = at::functorch::functorchTLSAccessor()) functorch->checkSupportsCppAutogradFunction();
  LayerOutputs o;
  {
    const at::NoGradGuard no_grad;
    const at::AutoDispatchBelowADInplaceOrView below;
    o = plain ? layer_forward(layer, true) : call_train_op(layer);
  }

  const auto node = make_node<CppNode<LayerBackward>>();
  torch::autograd::edge_list edges;
  edges.reserve(argument_count);
  for (const Tensor& t : layer.arguments)
    if (t.defined()) edges.push_back(torch::autograd::impl::gradient_edge(t));
  node->is_variable_input_.assign(edges.size(), true);
  node->set_next_edges(std::move(edges));
  node->set_ctx_grad_fn(node);
  for (const Tensor& t : {o.out, o.h_n, o.c_n, o.c_out})
    if (t.defined()) torch::autograd::set_history(t, node);

  LayerBackward::save(node->ctx_, layer, o);
  node->save_variables_to_ctx();
  return {o.out, o.h_n, o.c_n, o.c_out, {}, {}};
}

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
  return record(l, plain);
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
