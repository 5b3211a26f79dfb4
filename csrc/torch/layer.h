// One recurrent layer on tensors: what the ops of all cells have in common. Shapes as in args.h.
#pragma once
#include <ATen/core/Tensor.h>

#include <array>
#include <optional>
#include <vector>

#include "args.h"

namespace rnnk {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// The differentiable arguments of an LSTM layer, in the ops' order. GRU and RNN layers have no c0, w_hr and reset_c.
enum Argument { X, H0, C0, W_IH, W_HH, B_IH, B_HH, W_HR, W_IH_R, W_HH_R, B_IH_R, B_HH_R, W_HR_R, RESET_H, RESET_C };
constexpr int argument_count = 15;
constexpr int direction_stride = W_IH_R - W_IH;
constexpr std::array<int, argument_count> lstm_arguments{X,      H0,     C0,     W_IH,   W_HH,   B_IH,    B_HH,   W_HR,
                                                         W_IH_R, W_HH_R, B_IH_R, B_HH_R, W_HR_R, RESET_H, RESET_C};
constexpr std::array<int, 11> gru_arguments{X, H0, W_IH, W_HH, B_IH, B_HH, W_IH_R, W_HH_R, B_IH_R, B_HH_R, RESET_H};  // and the RNN's

inline bool is_reduced(const Tensor& x) { return x.scalar_type() == at::kBFloat16 || x.scalar_type() == at::kHalf; }
// What the CPU's kernels do not have: the whole layer runs in float32, torch/autograd.cpp.
inline bool runs_in_float32(const Tensor& x) { return is_reduced(x) && !x.is_cuda(); }

// A layer's arguments; an undefined tensor stands for None.
struct Layer {
  Cell cell;
  std::array<Tensor, argument_count> arguments;
  Tensor batch_sizes, lengths, reset;
  bool recompute = false;       // keep no gates for the backward pass, which computes them again
  bool with_cells = false;      // an LSTM's c of every step is a result, too
  bool rounds_weights = false;  // W_ih and W_hh are kept in bfloat16: float32 layers on the CPU, without gradients

  const Tensor& operator[](int argument) const { return arguments[argument]; }
  int directions() const { return arguments[W_IH_R].defined() ? 2 : 1; }
};

// Undefined where not asked for or not part of the cell.
struct LayerOutputs {
  Tensor out, h_n, c_n, c_out;
  Tensor gates, cells;  // what is saved
};

// The gradients of the results; an undefined one means zero.
struct Cotangents {
  Tensor out, h_n, c_n, c_out;
};

// What a forward pass leaves for the backward one.
struct Saved {
  Tensor out, gates, cells;
};

// Runs the layer, or all layers of an ensemble (torch/ensemble.h), likewise below; `save` keeps what layer_backward needs, without the gates
// (an empty tensor) where the layer recomputes. Throws c10::Error on anything that does not fit together.
LayerOutputs layer_forward(const Layer& layer, bool save);

// The gradients whose bit of `needs` is set, in Argument order.
std::array<Tensor, argument_count> layer_backward(const Layer& layer, const Cotangents& d, const Saved& saved, int64_t needs);

}  // namespace rnnk
