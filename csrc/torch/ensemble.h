// Layers of one shape that need nothing of each other, in one call of an op: any tensor of the call but batch_sizes may have a dimension
// more, in front, one entry for each model. What has none serves all models. Results and gradients always have it, so a
// gradient of what all share is still one for each model.
#pragma once
#include "torch/layer.h"

namespace rnnk {

class Ensemble {
 public:
  // The tensors of a call: a layer's arguments, and
  enum { RESET = argument_count, LENGTHS, OUT, H_N, C_N, C_OUT, GATES, CELLS, D_OUT, D_H_N, D_C_N, D_C_OUT, GRADIENTS,
         tensor_count = GRADIENTS + argument_count };

  // Whether one of the layer's tensors has the dimension, or, for backward, one of those beside it.
  static bool is_one(const Layer& layer);
  static bool is_one(const Layer& layer, const Cotangents& d, const Saved& saved);

  // Throws c10::Error where the numbers of models differ.
  explicit Ensemble(const Layer& layer);
  Ensemble(const Layer& layer, const Cotangents& d, const Saved& saved);

  // What a call returns, the models' results one after the other.
  void add_results(const LayerOutputs& to);
  void add_gradients(const std::array<Tensor, argument_count>& d);

  int64_t models() const { return models_; }
  bool has_own(int which) const { return stacked_[which]; }

  // The e-th model's tensor, undefined where there is none, and everything that is made of them.
  Tensor of(int which, int64_t e) const;
  Layer layer(int64_t e) const;
  LayerOutputs outputs(int64_t e) const { return {of(OUT, e), of(H_N, e), of(C_N, e), of(C_OUT, e), of(GATES, e), of(CELLS, e)}; }
  Cotangents cotangents(int64_t e) const { return {of(D_OUT, e), of(D_H_N, e), of(D_C_N, e), of(D_C_OUT, e)}; }
  Saved saved(int64_t e) const { return {of(OUT, e), of(GATES, e), of(CELLS, e)}; }
  std::array<Tensor, argument_count> gradients(int64_t e) const;

  // How far one model's elements lie from the next one's; 0 where all share them.
  int64_t step(int which) const { return stacked_[which] ? tensors_[which].stride(0) : 0; }

 private:
  const Layer& layer_;
  int64_t models_ = -1;
  std::array<Tensor, tensor_count> tensors_;
  std::array<bool, tensor_count> stacked_{};

  void add(int which, const Tensor& t, int64_t rank);
};

}  // namespace rnnk
