// The ops: schemas, kernels, and calling them through the dispatcher. Flat schemas, because a Tensor[] argument breaks the
// batching fallback of vmap. Fakes and the autograd of the backward ops are in rnnkernels/autograd.py.
#include "torch/ops.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <string>

namespace rnnk {

namespace {

// Bit k of an op's `needs` is its k-th differentiable argument; in a Layer, bits are numbered as Argument.
template <size_t n>
int64_t needs_of_layer(int64_t needs, const std::array<int, n>& arguments) {
  int64_t result = 0;
  for (size_t k = 0; k < n; ++k) result |= (needs >> k & 1) << arguments[k];
  return result;
}
template <size_t n>
int64_t needs_of_op(int64_t needs, const std::array<int, n>& arguments) {
  int64_t result = 0;
  for (size_t k = 0; k < n; ++k) result |= (needs >> arguments[k] & 1) << k;
  return result;
}

// An op returns tensors, never None: an empty one stands for a gradient that was not asked for.
template <const auto& arguments, size_t... k>
auto gradient_tuple(const std::array<Tensor, argument_count>& d, const Tensor& x, std::index_sequence<k...>) {
  const auto get = [&](int argument) { return d[argument].defined() ? d[argument] : at::empty({0}, x.options()); };
  return std::make_tuple(get(arguments[k])...);
}
auto lstm_gradients(const std::array<Tensor, argument_count>& d, const Tensor& x) {
  return gradient_tuple<lstm_arguments>(d, x, std::make_index_sequence<lstm_arguments.size()>{});
}
auto gru_gradients(const std::array<Tensor, argument_count>& d, const Tensor& x) {
  return gradient_tuple<gru_arguments>(d, x, std::make_index_sequence<gru_arguments.size()>{});
}

// What runs an op on any device, spelled once for each list of arguments.
template <class Op, class Signature = typename Op::Signature>
struct Kernel;
template <class Op, class R, class... Args>
struct Kernel<Op, R(Args...)> {
  static R infer(Args... args) {
    const Layer layer = Op::layer(args...);
    return op_outputs<Op>(runs_in_float32(layer[X]) ? layer_in_float32(layer) : layer_forward(layer, false));
  }

  static typename Op::TrainOutputs train(Args... args) {
    const LayerOutputs o = layer_forward(Op::layer(args...), true);
    if constexpr (is_lstm<Op>) return std::tuple_cat(op_outputs<Op>(o), std::make_tuple(o.gates, o.cells));
    else return std::tuple_cat(op_outputs<Op>(o), std::make_tuple(o.gates));
  }

  static auto lstm_with_cells_backward(Optional d_out, Optional d_h_n, Optional d_c_n, Optional d_c_out, Args... args, const Tensor& out,
                                       const Tensor& gates, const Tensor& cells, int64_t needs) {
    const Layer layer = Op::layer(args...);
    const Cotangents d{or_undefined(d_out), or_undefined(d_h_n), or_undefined(d_c_n), or_undefined(d_c_out)};
    return lstm_gradients(layer_backward(layer, d, {out, gates, cells}, needs), layer[X]);
  }

  static auto lstm_backward(Optional d_out, Optional d_h_n, Optional d_c_n, Args... args, const Tensor& out, const Tensor& gates,
                            const Tensor& cells, int64_t needs) {
    return lstm_with_cells_backward(d_out, d_h_n, d_c_n, std::nullopt, args..., out, gates, cells, needs);
  }

  static auto gru_backward(Optional d_out, Optional d_h_n, Args... args, const Tensor& out, const Tensor& gates, int64_t needs) {
    const Layer layer = Op::layer(args...);
    return gru_gradients(
        layer_backward(layer, {or_undefined(d_out), or_undefined(d_h_n), {}, {}}, {out, gates, {}}, needs_of_layer(needs, gru_arguments)), layer[X]);
  }

  static auto rnn_backward(Optional d_out, Optional d_h_n, Args... args, const Tensor& out, int64_t needs) {
    return gru_backward(d_out, d_h_n, args..., out, Tensor(), needs);
  }
};

// Calls f(Op{}) with the op of a layer.
template <class F>
auto with_op(const Layer& layer, const F& f) {
  switch (layer.cell) {
    case Cell::lstm: return layer.with_cells ? f(LstmWithCellsOp{}) : f(LstmOp{});
    case Cell::gru: return f(GruOp{});
    case Cell::gru_reset_before: return f(GruResetBeforeOp{});
    default: return f(RnnOp{});
  }
}

// Calls the op `name` + `suffix`, of the type of the kernel behind it.
template <auto* kernel, class Tuple>
auto call(const char* name, const char* suffix, Tuple&& arguments) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow(("rnnkernels::" + std::string(name) + suffix).c_str(), "")
                             .typed<std::remove_pointer_t<decltype(kernel)>>();
  return std::apply([](const auto&... a) { return op.call(a...); }, arguments);
}

// What an op or its *_train op returned.
template <class Op, class... T>
LayerOutputs layer_outputs(const std::tuple<T...>& o) {
  constexpr size_t results = std::tuple_size_v<typename Op::Outputs>;
  LayerOutputs to{std::get<0>(o), std::get<1>(o), {}, {}, {}, {}};
  if constexpr (results > 2) to.c_n = std::get<2>(o);
  if constexpr (results > 3) to.c_out = std::get<3>(o);
  if constexpr (sizeof...(T) > results) to.gates = std::get<results>(o);
  if constexpr (sizeof...(T) > results + 1) to.cells = std::get<results + 1>(o);
  return to;
}

template <size_t n, class Tuple, size_t... k>
std::array<Tensor, argument_count> defined_gradients(const Tuple& d, const std::array<int, n>& arguments, int64_t needs, std::index_sequence<k...>) {
  std::array<Tensor, argument_count> result;
  ((needs >> arguments[k] & 1 ? void(result[arguments[k]] = std::get<k>(d)) : void()), ...);
  return result;
}

}  // namespace

LayerOutputs call_op(const Layer& layer) {
  return with_op(layer, [&](auto op) {
    using Op = decltype(op);
    return layer_outputs<Op>(call<&Kernel<Op>::infer>(Op::name, "", Op::arguments(layer)));
  });
}

LayerOutputs call_train_op(const Layer& layer) {
  return with_op(layer, [&](auto op) {
    using Op = decltype(op);
    if constexpr (std::is_same_v<Op, RnnOp>) return call_op(layer);
    else return layer_outputs<Op>(call<&Kernel<Op>::train>(Op::name, "_train", Op::arguments(layer)));
  });
}

std::array<Tensor, argument_count> call_backward_op(const Layer& layer, const Cotangents& d, const Saved& saved, int64_t needs) {
  const auto& [out, gates, cells] = saved;
  return with_op(layer, [&](auto op) {
    using Op = decltype(op);
    const auto cotangents = std::make_tuple(or_none(d.out), or_none(d.h_n));
    const auto arguments = Op::arguments(layer);
    if constexpr (is_lstm<Op>) {
      const auto rest = std::tuple_cat(arguments, std::make_tuple(out, gates, cells, needs_of_op(needs, lstm_arguments)));
      const auto gradients = [&] {
        if constexpr (std::is_same_v<Op, LstmOp>)
          return call<&Kernel<Op>::lstm_backward>(Op::name, "_bwd", std::tuple_cat(cotangents, std::make_tuple(or_none(d.c_n)), rest));
        else
          return call<&Kernel<Op>::lstm_with_cells_backward>(
              Op::name, "_bwd", std::tuple_cat(cotangents, std::make_tuple(or_none(d.c_n), or_none(d.c_out)), rest));
      }();
      return defined_gradients(gradients, lstm_arguments, needs, std::make_index_sequence<lstm_arguments.size()>{});
    } else {
      const int64_t op_needs = needs_of_op(needs, gru_arguments);
      const auto gradients = [&] {
        if constexpr (std::is_same_v<Op, RnnOp>)
          return call<&Kernel<Op>::rnn_backward>(Op::name, "_bwd", std::tuple_cat(cotangents, arguments, std::make_tuple(out, op_needs)));
        else return call<&Kernel<Op>::gru_backward>(Op::name, "_bwd", std::tuple_cat(cotangents, arguments, std::make_tuple(out, gates, op_needs)));
      }();
      return defined_gradients(gradients, gru_arguments, needs, std::make_index_sequence<gru_arguments.size()>{});
    }
  });
}

TORCH_LIBRARY(rnnkernels, m) {
  const std::string lstm =
      "Tensor x, Tensor h0, Tensor c0, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, Tensor? w_hr, "
      "Tensor? w_ih_r, Tensor? w_hh_r, Tensor? b_ih_r, Tensor? b_hh_r, Tensor? w_hr_r, Tensor? reset_h, Tensor? reset_c, "
      "Tensor? batch_sizes, Tensor? lengths, Tensor? reset, bool recompute";
  const std::string one_state =
      "Tensor x, Tensor h0, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, "
      "Tensor? w_ih_r, Tensor? w_hh_r, Tensor? b_ih_r, Tensor? b_hh_r, Tensor? reset_h, "
      "Tensor? batch_sizes, Tensor? lengths, Tensor? reset";
  const std::string gru = one_state + ", bool recompute", rnn = one_state + ", str nonlinearity";
  const std::string lstm_gradients =
      "(Tensor d_x, Tensor d_h0, Tensor d_c0, Tensor d_w_ih, Tensor d_w_hh, Tensor d_b_ih, Tensor d_b_hh, Tensor d_w_hr, "
      "Tensor d_w_ih_r, Tensor d_w_hh_r, Tensor d_b_ih_r, Tensor d_b_hh_r, Tensor d_w_hr_r, Tensor d_reset_h, Tensor d_reset_c)";
  const std::string gru_gradients =
      "(Tensor d_x, Tensor d_h0, Tensor d_w_ih, Tensor d_w_hh, Tensor d_b_ih, Tensor d_b_hh, "
      "Tensor d_w_ih_r, Tensor d_w_hh_r, Tensor d_b_ih_r, Tensor d_b_hh_r, Tensor d_reset_h)";

  const auto def = [&](const std::string& schema) { m.def(schema.c_str()); };
  def("lstm(" + lstm + ") -> (Tensor out, Tensor h_n, Tensor c_n)");
  def("lstm_train(" + lstm + ") -> (Tensor out, Tensor h_n, Tensor c_n, Tensor gates, Tensor cells)");
  def("lstm_bwd(Tensor? d_out, Tensor? d_h_n, Tensor? d_c_n, " + lstm + ", Tensor out, Tensor gates, Tensor cells, int needs) -> " +
        lstm_gradients);
  def("lstm_with_cells(" + lstm + ") -> (Tensor out, Tensor h_n, Tensor c_n, Tensor c_out)");
  def("lstm_with_cells_train(" + lstm + ") -> (Tensor out, Tensor h_n, Tensor c_n, Tensor c_out, Tensor gates, Tensor cells)");
  def("lstm_with_cells_bwd(Tensor? d_out, Tensor? d_h_n, Tensor? d_c_n, Tensor? d_c_out, " + lstm +
        ", Tensor out, Tensor gates, Tensor cells, int needs) -> " + lstm_gradients);
  for (const std::string name : {"gru", "gru_reset_before"}) {
    def(name + "(" + gru + ") -> (Tensor out, Tensor h_n)");
    def(name + "_train(" + gru + ") -> (Tensor out, Tensor h_n, Tensor gates)");
    def(name + "_bwd(Tensor? d_out, Tensor? d_h_n, " + gru + ", Tensor out, Tensor gates, int needs) -> " + gru_gradients);
  }
  def("rnn(" + rnn + ") -> (Tensor out, Tensor h_n)");
  def("rnn_bwd(Tensor? d_out, Tensor? d_h_n, " + rnn + ", Tensor out, int needs) -> " + gru_gradients);
}

void register_kernels(torch::Library& m) {
  m.impl("lstm", &Kernel<LstmOp>::infer);
  m.impl("lstm_train", &Kernel<LstmOp>::train);
  m.impl("lstm_bwd", &Kernel<LstmOp>::lstm_backward);
  m.impl("lstm_with_cells", &Kernel<LstmWithCellsOp>::infer);
  m.impl("lstm_with_cells_train", &Kernel<LstmWithCellsOp>::train);
  m.impl("lstm_with_cells_bwd", &Kernel<LstmWithCellsOp>::lstm_with_cells_backward);
  m.impl("gru", &Kernel<GruOp>::infer);
  m.impl("gru_train", &Kernel<GruOp>::train);
  m.impl("gru_bwd", &Kernel<GruOp>::gru_backward);
  m.impl("gru_reset_before", &Kernel<GruResetBeforeOp>::infer);
  m.impl("gru_reset_before_train", &Kernel<GruResetBeforeOp>::train);
  m.impl("gru_reset_before_bwd", &Kernel<GruResetBeforeOp>::gru_backward);
  m.impl("rnn", &Kernel<RnnOp>::infer);
  m.impl("rnn_bwd", &Kernel<RnnOp>::rnn_backward);
}

TORCH_LIBRARY_IMPL(rnnkernels, CPU, m) { register_kernels(m); }

}  // namespace rnnk
