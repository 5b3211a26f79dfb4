// All models of an ensemble on the CPU: one thread a model where there are enough of them, else one model after the other.
#pragma once
#include <ATen/Parallel.h>

#include <atomic>

#include "cpu/kernels.h"
#include "cpu/partition.h"
#include "cpu/pieces.h"
#include "cpu/team.h"
#include "torch/ensemble.h"
#include "torch/memory.h"
#include "torch/schedule.h"

namespace rnnk {

// f(pointer, which) for the pointers that move from model to model.
template <class Args, class F>
void for_inputs(Args& a, const F& f) {
  f(a.x.data, X), f(a.h0, H0), f(a.c0, C0);
  f(a.reset.mask.data, Ensemble::RESET), f(a.reset.h, RESET_H), f(a.reset.c, RESET_C);
  f(a.out.data, Ensemble::OUT), f(a.gates, Ensemble::GATES), f(a.cells, Ensemble::CELLS);
}
template <class Weights, class F>
void for_weights(Weights (&weights)[2], int first, const F& f) {
  for (int d = 0; d < 2; ++d) {
    Weights& w = weights[d];
    const int base = first + d * direction_stride;
    f(w.w_ih, base + W_IH), f(w.w_hh, base + W_HH), f(w.b_ih, base + B_IH), f(w.b_hh, base + B_HH), f(w.w_hr, base + W_HR);
  }
}
template <class T, class F>
void for_pointers(ForwardArgs<T>& a, const F& f) {
  for_inputs(a, f);
  for_weights(a.weights, 0, f);
  f(a.h_n, Ensemble::H_N), f(a.c_n, Ensemble::C_N), f(a.c_out.data, Ensemble::C_OUT);
}
template <class T, class F>
void for_pointers(BackwardArgs<T>& a, const F& f) {
  constexpr int d = Ensemble::GRADIENTS;
  for_inputs(a, f);
  for_weights(a.weights, 0, f);
  f(a.d_out.data, Ensemble::D_OUT), f(a.d_h_n, Ensemble::D_H_N), f(a.d_c_n, Ensemble::D_C_N), f(a.d_c_out.data, Ensemble::D_C_OUT);
  f(a.d_x.data, d + X), f(a.d_h0, d + H0), f(a.d_c0, d + C0), f(a.d_reset_h, d + RESET_H), f(a.d_reset_c, d + RESET_C);
  for_weights(a.d_weights, d, f);
}

template <class Args>
class EnsembleCall {
  using Kernel = cpu::Function<Args>;

  const Kernel kernel_;
  const Ensemble& ensemble_;
  const int threads_;
  const bool apart_;
  Args first_;
  std::vector<ScheduleTable> schedules_;  // of each model, where lengths differ
  size_t needed_ = 0;                     // bytes of workspace for one model
  char* workspace_ = nullptr;
  std::atomic<int64_t> next_{0};

 public:
  // first: the arguments of model 0.
  EnsembleCall(Kernel kernel, const Args& first, const Ensemble& ensemble)
      : kernel_(kernel), ensemble_(ensemble), threads_(cpu::available_threads(at::get_num_threads())), apart_(ensemble.models() >= threads_),
        first_(first) {
    first_.threads = apart_ ? 1 : threads_;
    for (int64_t e = 0; ensemble.has_own(Ensemble::LENGTHS) && e < ensemble.models(); ++e) schedules_.emplace_back(ensemble.layer(e));
  }

  // Every choice gives a model the bits that it has alone.
  void run() {
    for (int64_t e = 0; e < std::max<int64_t>(1, int64_t(schedules_.size())); ++e) needed_ = std::max(needed_, kernel_(args(e), nullptr));
    needed_ = (needed_ + 63) / 64 * 64;
    const Tensor workspace = allocate({int64_t(needed_) * (apart_ ? threads_ : 1)}, at::kByte);
    workspace_ = static_cast<char*>(workspace.mutable_data_ptr());
    if (apart_) return first_.shape.T == 1 ? run_steps() : run_sequences();
    for (int64_t e = 0; e < ensemble_.models(); ++e) run_model(0, e);
  }

 private:
  Args args(int64_t e) const {
    Args own = first_;
    for_pointers(own, [&](auto& pointer, int which) {
      if (pointer) pointer += e * ensemble_.step(which);
    });
    if (!schedules_.empty()) own.schedule = schedules_[e].view(), own.shape.N = schedules_[e].N;
    return own;
  }

  void run_model(int thread, int64_t e) const { kernel_(args(e), workspace_ + thread * needed_); }

  // A step of its own has pieces and no team, and so have many. What wakes a sleeping helper is their weights' bytes at ten a cycle.
  void run_steps() {
    const Shape& s = first_.shape;
    const double bytes = double(ensemble_.models() * s.D * gate_count(first_.cell) * s.H * (s.I + s.P) * int64_t(sizeof(*first_.x.data)));
    const double cycles = bytes / 10 * std::max(1.0, double(s.B) / cpu::most_direct_rows);
    cpu::run_pieces({threads_, ensemble_.models(), false, int(std::min(64., cycles / 50e3))},
                    [](void* call, int thread, int64_t e) { static_cast<EnsembleCall*>(call)->run_model(thread, e); }, this);
  }

  // A thread that comes late leaves its models to the others.
  void run_sequences() {
    cpu::run_team(threads_, [](void* context, int thread, int) {
      auto& call = *static_cast<EnsembleCall*>(context);
      for (int64_t e; (e = call.next_.fetch_add(1, std::memory_order_relaxed)) < call.ensemble_.models();) call.run_model(thread, e);
    }, this);
  }
};

}  // namespace rnnk
