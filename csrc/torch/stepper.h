// One time step per call: the state and the packed weights stay inside.
#pragma once
#include <atomic>
#include <memory>
#include <optional>
#include <vector>

#include "torch/module_reader.h"

namespace rnnk {

// A stack of layers in one direction. `step` allocates nothing and takes no lock. One call at a time, of whatever method: one that
// comes while another runs is refused.
class Stepper {
 public:
  // The layers' kernels, for one type of arithmetic: torch/stepper.cpp.
  struct Stack {
    virtual ~Stack() = default;
    virtual void step(const Tensor& x, const Tensor& out) = 0;
  };

  // `round_weights` keeps W_ih and W_hh of a float32 module in bfloat16.
  Stepper(const ModuleOptions& options, int64_t batch_size, const Tensors& weights, bool round_weights);

  // Packs other weights. The state stays.
  void refresh(const Tensors& weights);

  // x [B, I] to the top layer's state [B, P], written to `out` or else to the tensor that every such call returns.
  Tensor step(const Tensor& x, const std::optional<Tensor>& out);

  // A copy of the state: h [L, B, P] and, of an LSTM, c [L, B, H]; in float32 for a module of bfloat16 or float16.
  std::vector<Tensor> state();

  // Copies as many tensors of the same shapes into the state, or zeros it.
  void set_state(const std::optional<std::vector<Tensor>>& state);

 private:
  const ModuleOptions options_;
  const int64_t batch_size_;
  const bool round_weights_;
  Tensors state_;  // h and, of an LSTM, c
  at::ScalarType dtype_;  // the module's
  Tensor out_;
  std::unique_ptr<Stack> stack_;
  std::atomic_flag busy_ = ATOMIC_FLAG_INIT;
};

}  // namespace rnnk
