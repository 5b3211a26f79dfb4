#include "torch/stepper.h"

#include <ATen/MemoryOverlap.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/InferenceMode.h>

#include "cpu/kernels.h"
#include "cpu/team.h"
#include "torch/checked.h"
#include "torch/memory.h"

namespace rnnk {

namespace {

template <class To, class From>
void copy_rows(int64_t rows, int64_t columns, const From* from, int64_t from_stride, To* to, int64_t to_stride) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) to[i * to_stride + j] = static_cast<To>(from[i * from_stride + j]);
}

// One layer of one step. Its c is read and written in place; h is copied first, for every unit reads all of it. Its output is a
// buffer of its own.
template <class T>
struct StepLayer {
  Checked checked;
  Tensor out, h_before, workspace;
  ForwardArgs<T> args{};
  const int most_threads = cpu::available_threads(at::get_num_threads());  // for which the workspace is large enough

  const cpu::PreparedLayer<T>& kernel;

  StepLayer(const Layer& layer, const cpu::PreparedLayer<T>& kernel)
      : checked(layer), out(at::empty({1, checked.shape.B, checked.shape.P}, layer[X].options())), kernel(kernel) {
    args.cell = layer.cell;
    args.shape = checked.shape;
    args.schedule = checked.schedule.view();
    args.threads = most_threads;
    checked.weights(args.weights);
    args.x = input_rows<T>(checked.arguments[X]);
    h_before = at::empty_like(layer[H0]);
    args.h0 = h_before.const_data_ptr<T>();
    args.h_n = layer[H0].mutable_data_ptr<T>();
    if (has_cell_state(layer.cell)) args.c0 = args.c_n = layer[C0].mutable_data_ptr<T>();
    args.out = output_rows<T>(out);
    workspace = allocate({int64_t(std::max(kernel.pack(args, nullptr), kernel.run(args, nullptr)))}, at::kByte);
    kernel.pack(args, workspace.mutable_data_ptr());
    for (int k = W_IH; k <= W_HR_R; ++k) checked.arguments[k].reset();  // a step reads the packed ones
  }
  StepLayer(const StepLayer&) = delete;  // args point into it

  void step(int threads) {
    args.threads = std::min(most_threads, threads);
    ++args.call_index;
    std::copy_n(args.h_n, h_before.numel(), h_before.mutable_data_ptr<T>());
    kernel.run(args, workspace.mutable_data_ptr());
  }
};

template <class T>
class StackOf : public Stepper::Stack {
  Tensor x_;  // [1, B, I]
  std::vector<std::unique_ptr<StepLayer<T>>> layers_;

  template <class S>
  void step_as(const Tensor& x, const Tensor& out) {
    const Shape& bottom = layers_.front()->args.shape;
    const Shape& top = layers_.back()->args.shape;
    S* const to = out.mutable_data_ptr<S>();  // before a layer moves on: it throws where there is no memory
    copy_rows(bottom.B, bottom.I, x.const_data_ptr<S>(), x.stride(0), x_.mutable_data_ptr<T>(), bottom.I);
    const int threads = at::get_num_threads();
    for (const auto& layer : layers_) layer->step(threads);
    copy_rows(top.B, top.P, layers_.back()->out.template const_data_ptr<T>(), top.P, to, out.stride(0));
  }

 public:
  StackOf(const ModuleOptions& o, const Tensor& x, const Tensors& states, const Tensors& weights, const cpu::PreparedLayer<T>& kernel) : x_(x) {
    for (int64_t l = 0; l < o.num_layers; ++l)
      layers_.push_back(std::make_unique<StepLayer<T>>(layer_at(l, l == 0 ? x : layers_.back()->out, states, weights, o), kernel));
  }

  void step(const Tensor& x, const Tensor& out) override {
    switch (x.scalar_type()) {
      case at::kBFloat16: return step_as<at::BFloat16>(x, out);
      case at::kHalf: return step_as<at::Half>(x, out);
      default: return step_as<T>(x, out);
    }
  }
};

class Turn {
  std::atomic_flag& busy_;

 public:
  explicit Turn(std::atomic_flag& busy) : busy_(busy) {
    TORCH_CHECK(!busy_.test_and_set(std::memory_order_acquire), "rnnkernels: the Stepper is at work in another thread");
  }
  ~Turn() { busy_.clear(std::memory_order_release); }
};

// [rows, columns] of `dtype` on the CPU, each row contiguous.
void check_rows(const Tensor& t, const char* name, int64_t rows, int64_t columns, at::ScalarType dtype) {
  TORCH_CHECK(t.sizes() == (at::IntArrayRef{rows, columns}) && t.scalar_type() == dtype && t.device().is_cpu() && t.layout() == at::kStrided,
              "Stepper: expected ", name, " of size [", rows, ", ", columns, "] and dtype ", dtype, " on the CPU, got ", t.sizes(), " and ",
              t.scalar_type(), " on ", t.device());
  TORCH_CHECK((columns <= 1 || t.stride(1) == 1) && !t.is_neg(), "Stepper: expected ", name, " with contiguous rows, got strides ", t.strides(),
              t.is_neg() ? " and a lazy negation" : "");
  check_memory(t, name);
}

}  // namespace

Stepper::Stepper(const ModuleOptions& options, int64_t batch_size, const Tensors& weights, bool round_weights)
    : options_(options), batch_size_(batch_size), round_weights_(round_weights), dtype_(weights.empty() ? at::kFloat : weights[0].scalar_type()) {
  TORCH_CHECK(!round_weights || dtype_ == at::kFloat, "Stepper: bfloat16 weights are for float32 modules, got ", dtype_);
  const c10::InferenceMode normal(false);  // or the state could not be set outside of inference_mode
  const auto type = at::TensorOptions(dtype_ == at::kDouble ? at::kDouble : at::kFloat);
  state_.push_back(at::zeros({options.num_layers, batch_size, options.state_size()}, type));
  if (has_cell_state(options.cell)) state_.push_back(at::zeros({options.num_layers, batch_size, options.hidden_size}, type));
  out_ = at::empty({batch_size, options.state_size()}, dtype_);
  refresh(weights);
}

void Stepper::refresh(const Tensors& weights) {
  const Turn turn(busy_);
  const c10::InferenceMode normal(false);
  TORCH_CHECK(int64_t(weights.size()) == options_.weight_count(), "Stepper: expected ", options_.weight_count(), " weights, got ", weights.size());
  Tensors wide;
  for (const Tensor& w : weights) {
    TORCH_CHECK(w.scalar_type() == dtype_ && w.device().is_cpu(), "Stepper: expected weights of dtype ", dtype_, " on the CPU, got ",
                w.scalar_type(), " on ", w.device());
    wide.push_back(w.detach().resolve_neg().to(state_[0].scalar_type()));
  }
  const Tensor x = at::zeros({1, batch_size_, options_.input_size}, state_[0].options());
  const auto& [isa, f32, f64] = cpu::kernels();
  if (dtype_ == at::kDouble) stack_ = std::make_unique<StackOf<double>>(options_, x, state_, wide, f64.exact);
  else stack_ = std::make_unique<StackOf<float>>(options_, x, state_, wide, round_weights_ ? f32.rounded : f32.exact);
}

Tensor Stepper::step(const Tensor& x, const std::optional<Tensor>& out) {
  check_rows(x, "x", batch_size_, options_.input_size, dtype_);
  const Tensor& to = out ? *out : out_;
  check_rows(to, "out", batch_size_, options_.state_size(), dtype_);  // even ours: somebody may have reshaped what they got
  at::assert_no_internal_overlap(to);
  TORCH_CHECK(!(to.requires_grad() && at::GradMode::is_enabled()), "Stepper: expected an out that requires no gradient");
  const Turn turn(busy_);
  stack_->step(x, to);
  if (!to.is_inference()) to.unsafeGetTensorImpl()->bump_version();  // who saved it for a backward pass shall hear of it
  return to;
}

std::vector<Tensor> Stepper::state() {
  const Turn turn(busy_);
  std::vector<Tensor> copies;
  for (const Tensor& t : state_) copies.push_back(t.clone());
  return copies;
}

void Stepper::set_state(const std::optional<std::vector<Tensor>>& state) {
  const Turn turn(busy_);
  const at::NoGradGuard no_grad;
  std::vector<Tensor> values;  // all of them before the first is written
  for (size_t i = 0; i < state_.size(); ++i) values.push_back(state ? at::empty_like(state_[i]).copy_(state->at(i)) : at::zeros_like(state_[i]));
  for (size_t i = 0; i < state_.size(); ++i) state_[i].copy_(values[i]);
}

}  // namespace rnnk
