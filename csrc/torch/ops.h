// The ops as C++ sees them: how an op's flat argument list becomes a Layer and back, and calling an op with a Layer.
#pragma once
#include <string_view>
#include <tuple>

#include "torch/layer.h"

namespace torch {
class Library;
}

namespace rnnk {

using Optional = const OptionalTensor&;

inline Tensor or_undefined(Optional t) { return t.value_or(Tensor()); }
inline OptionalTensor or_none(const Tensor& t) { return t.defined() ? OptionalTensor(t) : std::nullopt; }

// with_cells: c_out is a result, too.
template <bool with_cells>
struct LstmOpOf {
  static constexpr const char* name = with_cells ? "lstm_with_cells" : "lstm";
  using Outputs = std::conditional_t<with_cells, std::tuple<Tensor, Tensor, Tensor, Tensor>, std::tuple<Tensor, Tensor, Tensor>>;
  using TrainOutputs = decltype(std::tuple_cat(std::declval<Outputs>(), std::declval<std::tuple<Tensor, Tensor>>()));
  using Signature = Outputs(const Tensor& x, const Tensor& h0, const Tensor& c0, const Tensor& w_ih, const Tensor& w_hh, Optional b_ih,
                            Optional b_hh, Optional w_hr, Optional w_ih_r, Optional w_hh_r, Optional b_ih_r, Optional b_hh_r,
                            Optional w_hr_r, Optional reset_h, Optional reset_c, Optional batch_sizes, Optional lengths, Optional reset,
                            bool recompute);

  static Layer layer(const Tensor& x, const Tensor& h0, const Tensor& c0, const Tensor& w_ih, const Tensor& w_hh, Optional b_ih,
                     Optional b_hh, Optional w_hr, Optional w_ih_r, Optional w_hh_r, Optional b_ih_r, Optional b_hh_r, Optional w_hr_r,
                     Optional reset_h, Optional reset_c, Optional batch_sizes, Optional lengths, Optional reset, bool recompute) {
    return {Cell::lstm,
            {x, h0, c0, w_ih, w_hh, or_undefined(b_ih), or_undefined(b_hh), or_undefined(w_hr), or_undefined(w_ih_r), or_undefined(w_hh_r),
             or_undefined(b_ih_r), or_undefined(b_hh_r), or_undefined(w_hr_r), or_undefined(reset_h), or_undefined(reset_c)},
            or_undefined(batch_sizes), or_undefined(lengths), or_undefined(reset), recompute, with_cells};
  }
  static auto arguments(const Layer& l) {
    return std::make_tuple(l[X], l[H0], l[C0], l[W_IH], l[W_HH], or_none(l[B_IH]), or_none(l[B_HH]), or_none(l[W_HR]), or_none(l[W_IH_R]),
                           or_none(l[W_HH_R]), or_none(l[B_IH_R]), or_none(l[B_HH_R]), or_none(l[W_HR_R]), or_none(l[RESET_H]),
                           or_none(l[RESET_C]), or_none(l.batch_sizes), or_none(l.lengths), or_none(l.reset), l.recompute);
  }
};

using LstmOp = LstmOpOf<false>;
using LstmWithCellsOp = LstmOpOf<true>;
template <class Op>
constexpr bool is_lstm = std::is_same_v<Op, LstmOp> || std::is_same_v<Op, LstmWithCellsOp>;

template <Cell cell>
struct GruOpOf {
  static constexpr const char* name = cell == Cell::gru ? "gru" : "gru_reset_before";
  using Outputs = std::tuple<Tensor, Tensor>;
  using TrainOutputs = std::tuple<Tensor, Tensor, Tensor>;
  using Signature = Outputs(const Tensor& x, const Tensor& h0, const Tensor& w_ih, const Tensor& w_hh, Optional b_ih, Optional b_hh,
                            Optional w_ih_r, Optional w_hh_r, Optional b_ih_r, Optional b_hh_r, Optional reset_h, Optional batch_sizes,
                            Optional lengths, Optional reset, bool recompute);

  static Layer layer(const Tensor& x, const Tensor& h0, const Tensor& w_ih, const Tensor& w_hh, Optional b_ih, Optional b_hh,
                     Optional w_ih_r, Optional w_hh_r, Optional b_ih_r, Optional b_hh_r, Optional reset_h, Optional batch_sizes,
                     Optional lengths, Optional reset, bool recompute) {
    return {cell,
            {x, h0, {}, w_ih, w_hh, or_undefined(b_ih), or_undefined(b_hh), {}, or_undefined(w_ih_r), or_undefined(w_hh_r),
             or_undefined(b_ih_r), or_undefined(b_hh_r), {}, or_undefined(reset_h), {}},
            or_undefined(batch_sizes), or_undefined(lengths), or_undefined(reset), recompute};
  }
  static auto tensors(const Layer& l) {
    return std::make_tuple(l[X], l[H0], l[W_IH], l[W_HH], or_none(l[B_IH]), or_none(l[B_HH]), or_none(l[W_IH_R]), or_none(l[W_HH_R]),
                           or_none(l[B_IH_R]), or_none(l[B_HH_R]), or_none(l[RESET_H]), or_none(l.batch_sizes), or_none(l.lengths),
                           or_none(l.reset));
  }
  static auto arguments(const Layer& l) { return std::tuple_cat(tensors(l), std::make_tuple(l.recompute)); }
};

using GruOp = GruOpOf<Cell::gru>;
using GruResetBeforeOp = GruOpOf<Cell::gru_reset_before>;

// The cell of an RNN layer; throws for what is none.
inline Cell rnn_cell(std::string_view nonlinearity) {
  if (nonlinearity == "tanh") return Cell::rnn_tanh;
  if (nonlinearity == "relu") return Cell::rnn_relu;
  TORCH_CHECK(nonlinearity == "sigmoid", "rnnkernels: expected nonlinearity 'tanh', 'relu' or 'sigmoid', got '", nonlinearity, "'");
  return Cell::rnn_sigmoid;
}
inline std::string_view nonlinearity(Cell cell) { return cell == Cell::rnn_tanh ? "tanh" : cell == Cell::rnn_relu ? "relu" : "sigmoid"; }

struct RnnOp {
  static constexpr const char* name = "rnn";
  using Outputs = std::tuple<Tensor, Tensor>;
  using TrainOutputs = Outputs;  // nothing but the output is saved: there is no rnn_train
  using Signature = Outputs(const Tensor& x, const Tensor& h0, const Tensor& w_ih, const Tensor& w_hh, Optional b_ih, Optional b_hh,
                            Optional w_ih_r, Optional w_hh_r, Optional b_ih_r, Optional b_hh_r, Optional reset_h, Optional batch_sizes,
                            Optional lengths, Optional reset, std::string_view nonlinearity);

  static Layer layer(const Tensor& x, const Tensor& h0, const Tensor& w_ih, const Tensor& w_hh, Optional b_ih, Optional b_hh,
                     Optional w_ih_r, Optional w_hh_r, Optional b_ih_r, Optional b_hh_r, Optional reset_h, Optional batch_sizes,
                     Optional lengths, Optional reset, std::string_view nonlinearity) {
    Layer l = GruOp::layer(x, h0, w_ih, w_hh, b_ih, b_hh, w_ih_r, w_hh_r, b_ih_r, b_hh_r, reset_h, batch_sizes, lengths, reset, false);
    l.cell = rnn_cell(nonlinearity);
    return l;
  }
  static auto arguments(const Layer& l) { return std::tuple_cat(GruOp::tensors(l), std::make_tuple(nonlinearity(l.cell))); }
};

// The ops through the dispatcher. Only the outputs that the cell has are defined.
LayerOutputs call_op(const Layer& layer);
LayerOutputs call_train_op(const Layer& layer);
std::array<Tensor, argument_count> call_backward_op(const Layer& layer, const Cotangents& d, const Saved& saved, int64_t needs);

// Whether autograd would record the layer.
bool requires_grad(const Layer& layer);

// What runs under autograd and for dtypes that the kernels do not have: torch/autograd.cpp.
LayerOutputs differentiable_layer(const Layer& layer, bool plain);  // plain: torch/plain_call.h
LayerOutputs layer_in_float32(const Layer& layer);

// Registers the ops for the dispatch key of `m`: the same functions for every device.
void register_kernels(torch::Library& m);

template <class Op>
typename Op::Outputs op_outputs(const LayerOutputs& o) {
  if constexpr (std::is_same_v<Op, LstmWithCellsOp>) return {o.out, o.h_n, o.c_n, o.c_out};
  else if constexpr (is_lstm<Op>) return {o.out, o.h_n, o.c_n};
  else return {o.out, o.h_n};
}

}  // namespace rnnk
