// What a type of device brings to the ops: kernels that run a layer on memory that is there.
#pragma once
#include <c10/core/DeviceType.h>

#include <map>
#include <string>
#include <type_traits>

#include "torch/checked.h"

namespace rnnk {

class Ensemble;

struct ForwardPass {
  const Layer& layer;
  const Checked& checked;
  const LayerOutputs& to;  // allocated
  const Ensemble* ensemble = nullptr;  // whose first model this is, where the kernels run all of its models at once
};

struct BackwardPass {
  const Layer& layer;
  const Checked& checked;
  Tensor d_out, d_h_n, d_c_n, d_c_out;  // undefined for zero
  Tensor out, gates, cells;
  std::array<Tensor, argument_count> d;  // allocated, or undefined where not wanted
  const Ensemble* ensemble = nullptr;    // as above
};

struct DeviceKernels {
  void (*forward)(const ForwardPass&);
  void (*backward)(const BackwardPass&);
  std::string toolkit;                                   // for info()
  std::map<std::string, int64_t> (*passes)() = nullptr;  // for info(): how many each kind of kernels has taken
  bool run_ensembles = false;  // all models of a ForwardPass' or BackwardPass' ensemble in one call
};

// The kernels that this build has for a type of device, or null.
const DeviceKernels* device_kernels(c10::DeviceType type);

// Makes them known, from a static initialiser: which files are linked decides which devices there are.
struct RegisterKernels {
  RegisterKernels(c10::DeviceType type, const DeviceKernels& kernels);
};

// Sets a pointer among the kernels' arguments; it stays null where t is undefined. Checked has compared the dtypes.
template <class T>
void point(T*& pointer, const Tensor& t) {
  if (!t.defined()) return;
  if constexpr (std::is_const_v<T>) pointer = static_cast<T*>(t.const_data_ptr());
  else pointer = static_cast<T*>(t.mutable_data_ptr());
}

// What args.h and cuda/args.h name alike: all but the schedule and the tensors of tokens.
template <class Args>
void fill(Args& args, const ForwardPass& pass) {
  const Layer& layer = pass.layer;
  const Checked& c = pass.checked;
  const LayerOutputs& to = pass.to;
  args.cell = layer.cell;
  args.shape = c.shape;
  c.weights(args.weights);
  point(args.h0, c.arguments[H0]);
  point(args.c0, c.arguments[C0]);
  point(args.h_n, to.h_n);
  point(args.c_n, to.c_n);
  if (!layer.recompute) point(args.gates, to.gates);
  point(args.cells, to.cells);
}

template <class Args>
void fill(Args& args, const BackwardPass& pass) {
  const Checked& c = pass.checked;
  args.cell = pass.layer.cell;
  args.shape = c.shape;
  c.weights(args.weights);
  point(args.h0, c.arguments[H0]);
  point(args.c0, c.arguments[C0]);
  if (!pass.layer.recompute) point(args.gates, pass.gates);
  point(args.cells, pass.cells);
  point(args.d_h_n, pass.d_h_n);
  point(args.d_c_n, pass.d_c_n);
  point(args.d_h0, pass.d[H0]);
  point(args.d_c0, pass.d[C0]);
  point(args.d_reset_h, pass.d[RESET_H]);
  point(args.d_reset_c, pass.d[RESET_C]);
  for (int direction = 0; direction < c.shape.D; ++direction) {
    const Tensor* d = &pass.d[direction * direction_stride];
    auto& to = args.d_weights[direction];
    point(to.w_ih, d[W_IH]);
    point(to.w_hh, d[W_HH]);
    point(to.b_ih, d[B_IH]);
    point(to.b_hh, d[B_HH]);
    point(to.w_hr, d[W_HR]);
  }
}

}  // namespace rnnk
