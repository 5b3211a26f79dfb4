#include "torch/checked.h"

#include <ATen/ops/zeros.h>

#include "torch/memory.h"

namespace rnnk {

namespace {

constexpr const char* names[] = {"x", "h0", "c0", "w_ih", "w_hh", "b_ih", "b_hh", "w_hr", "w_ih_r", "w_hh_r", "b_ih_r", "b_hh_r", "w_hr_r",
                                  "reset_h", "reset_c"};

void check_size(const Layer& layer, int argument, at::IntArrayRef expected) {
  TORCH_CHECK(layer[argument].sizes() == expected, "rnnkernels: expected ", names[argument], " of size ", expected, ", got ",
              layer[argument].sizes());
}

// No buffer of the kernels is larger than this product, so none of their size computations can wrap around.
void check_no_overflow(const Shape& s) {
  const double rows = double(s.T) * double(s.B + 64) * s.D, columns = 4.0 * double(std::max({s.I, s.H, s.P}) + 64);
  TORCH_CHECK(std::max(rows, columns) * columns * 64 < 0x1p62, "rnnkernels: the layer is too large: T * B * 4 * H overflows");
}

void check_types(const Layer& layer) {
  const Tensor& x = layer[X];
  TORCH_CHECK(x.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble || (is_reduced(x) && !runs_in_float32(x)),
              "rnnkernels: expected x of dtype float32", x.is_cpu() ? " or float64" : ", float64, bfloat16 or float16", " on ", x.device(), ", got ",
              x.scalar_type());
  for (int k = 0; k < argument_count; ++k) {
    const Tensor& a = layer[k];
    if (!a.defined()) continue;
    TORCH_CHECK(a.device() == x.device(), "rnnkernels: expected all tensors on ", x.is_cpu() ? "the CPU" : "x's device ",
                x.is_cpu() ? "" : x.device().str(), ", but ", names[k], " is on ", a.device());
    TORCH_CHECK(a.layout() == at::kStrided, "rnnkernels: expected a dense tensor, but ", names[k], " has layout ", a.layout());
    TORCH_CHECK(a.scalar_type() == x.scalar_type(), "rnnkernels: expected all tensors of one dtype, but ", names[k], " is ", a.scalar_type(),
                " and x is ", x.scalar_type());
    check_memory(a, names[k]);
  }
}

// T and B from x and the schedule, the rest from the weights; everything must agree.
Shape check_shape(const Layer& layer, const ScheduleTable& schedule) {
  const Tensor &x = layer[X], &w_hh = layer[W_HH];
  const int64_t G = gate_count(layer.cell);
  TORCH_CHECK(w_hh.dim() == 2 && w_hh.size(0) % G == 0, "rnnkernels: expected w_hh of size [", G, " * H, P], got ", w_hh.sizes());
  Shape s{schedule.T, schedule.B, schedule.N, x.size(-1), w_hh.size(0) / G, w_hh.size(1), layer.directions()};
  check_no_overflow(s);
  TORCH_CHECK(!schedule.packed || x.size(0) == s.N, "rnnkernels: batch_sizes sum to ", s.N, " but x has ", x.size(0), " rows");
  const bool projected = layer[W_HR].defined();
  for (int k = W_IH_R; k <= W_HR_R && s.D == 1; ++k)
    TORCH_CHECK(!layer[k].defined(), "rnnkernels: ", names[k], " is given without w_ih_r");
  TORCH_CHECK(!projected || (0 < s.P && s.P <= s.H), "rnnkernels: expected a projection to 1..", s.H, " columns, got ", s.P);
  TORCH_CHECK(projected || s.P == s.H, "rnnkernels: expected w_hh of size ", at::IntArrayRef{G * s.H, s.H}, ", got ", w_hh.sizes());
  check_size(layer, H0, {s.D, s.B, s.P});
  if (has_cell_state(layer.cell)) check_size(layer, C0, {s.D, s.B, s.H});
  for (int d = 0; d < s.D; ++d) {
    const int base = d * direction_stride;
    for (int k : {W_IH, W_HH}) TORCH_CHECK(layer[base + k].defined(), "rnnkernels: ", names[base + k], " is missing");
    TORCH_CHECK(layer[base + W_HR].defined() == projected, "rnnkernels: a projection must be given for both directions or none");
    check_size(layer, base + W_IH, {G * s.H, s.I});
    check_size(layer, base + W_HH, {G * s.H, s.P});
    for (int k : {B_IH, B_HH})
      if (layer[base + k].defined()) check_size(layer, base + k, {G * s.H});
    if (projected) check_size(layer, base + W_HR, {s.P, s.H});
  }
  return s;
}

// One truth value for each token.
void check_reset(const Layer& layer, const Shape& s, bool packed) {
  const Tensor& reset = layer.reset;
  if (!reset.defined()) {
    for (int k : {RESET_H, RESET_C}) TORCH_CHECK(!layer[k].defined(), "rnnkernels: ", names[k], " is given without reset");
    return;
  }
  const std::vector<int64_t> expected = packed ? std::vector<int64_t>{s.N} : std::vector<int64_t>{s.T, s.B};
  TORCH_CHECK(reset.scalar_type() == at::kBool && reset.sizes() == at::IntArrayRef(expected) && reset.device() == layer[X].device(),
              "rnnkernels: expected reset of size ", at::IntArrayRef(expected), " and dtype bool on ", layer[X].device(), ", got ", reset.sizes(),
              " and ", reset.scalar_type(), " on ", reset.device());
  check_memory(reset, "reset");
  if (layer[RESET_H].defined()) check_size(layer, RESET_H, {s.D, s.B, s.P});
  if (layer[RESET_C].defined()) check_size(layer, RESET_C, {s.D, s.B, s.H});
}

}  // namespace

Checked::Checked(const Layer& layer) : schedule((check_types(layer), layer)), shape(check_shape(layer, schedule)) {
  arguments[X] = tokens(layer[X]);
  for (int k = H0; k < argument_count; ++k)
    if (layer[k].defined()) arguments[k] = layer[k].contiguous();
  check_reset(layer, shape, schedule.packed);
  if (!layer.reset.defined()) return;
  if (!layer[RESET_H].defined()) arguments[RESET_H] = at::zeros(layer[H0].sizes(), layer[H0].options());
  if (!layer[RESET_C].defined() && has_cell_state(layer.cell)) arguments[RESET_C] = at::zeros(layer[C0].sizes(), layer[C0].options());
}

}  // namespace rnnk
