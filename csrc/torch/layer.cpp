#include "torch/layer.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/zeros.h>

#include "cpu/kernels.h"
#include "torch/memory.h"
#include "torch/schedule.h"

namespace rnnk {

namespace {

constexpr const char* names[] = {"x", "h0", "c0", "w_ih", "w_hh", "b_ih", "b_hh", "w_hr", "w_ih_r", "w_hh_r", "b_ih_r", "b_hh_r", "w_hr_r"};

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
  TORCH_CHECK(x.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble, "rnnkernels: expected float32, float64, bfloat16 or float16, got ", x.scalar_type());
  for (int k = 0; k < argument_count; ++k) {
    const Tensor& a = layer[k];
    if (!a.defined()) continue;
    TORCH_CHECK(a.device().is_cpu(), "rnnkernels: expected all tensors on the CPU, but ", names[k], " is on ", a.device());
    TORCH_CHECK(a.layout() == at::kStrided, "rnnkernels: expected a dense tensor, but ", names[k], " has layout ", a.layout());
    TORCH_CHECK(a.scalar_type() == x.scalar_type(), "rnnkernels: expected all tensors of one dtype, but ", names[k], " is ", a.scalar_type(),
                " and x is ", x.scalar_type());
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
  for (int k = W_IH_R; k < argument_count && s.D == 1; ++k)
    TORCH_CHECK(!layer[k].defined(), "rnnkernels: ", names[k], " is given without w_ih_r");
  TORCH_CHECK(!projected || (0 < s.P && s.P <= s.H), "rnnkernels: expected a projection to 1..", s.H, " columns, got ", s.P);
  TORCH_CHECK(projected || s.P == s.H, "rnnkernels: expected w_hh of size ", at::IntArrayRef{G * s.H, s.H}, ", got ", w_hh.sizes());
  check_size(layer, H0, {s.D, s.B, s.P});
  if (layer.cell == Cell::lstm) check_size(layer, C0, {s.D, s.B, s.H});
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

// A call's arguments after all checks, dense where the kernels need it.
struct Checked {
  ScheduleTable schedule;
  Shape shape;
  std::array<Tensor, argument_count> arguments;

  explicit Checked(const Layer& layer) : schedule((check_types(layer), layer)), shape(check_shape(layer, schedule)) {
    arguments[X] = dense_rows(layer[X]);
    for (int k = H0; k < argument_count; ++k)
      if (layer[k].defined()) arguments[k] = layer[k].contiguous();
  }

  static Tensor dense_rows(const Tensor& t) { return t.size(-1) <= 1 || t.stride(-1) == 1 ? t : t.contiguous(); }

  template <class T>
  const T* input(int argument) const {
    return arguments[argument].defined() ? arguments[argument].const_data_ptr<T>() : nullptr;
  }

  template <class T>
  void weights(Weights<T> (&to)[2]) const {
    for (int d = 0; d < shape.D; ++d) {
      const int base = d * direction_stride;
      to[d] = {input<T>(base + W_IH), input<T>(base + W_HH), input<T>(base + B_IH), input<T>(base + B_HH), input<T>(base + W_HR)};
    }
  }

  // [T, B, columns] or, packed, [N, columns].
  std::vector<int64_t> token_sizes(int64_t columns) const {
    if (schedule.packed) return {shape.N, columns};
    return {shape.T, shape.B, columns};
  }

  // Where a row has padding the kernels leave it alone.
  Tensor empty_tokens(int64_t columns) const {
    const auto sizes = token_sizes(columns);
    return schedule.padding ? at::zeros(sizes, arguments[X].options()) : allocate(sizes, arguments[X].options());
  }
};

template <class T, class Pointer>
Rows<T> rows(Pointer data, const Tensor& t) {
  if (t.dim() == 2) return {data, t.stride(0), t.stride(0)};
  return {data, t.stride(0), t.stride(1)};
}
template <class T>
Rows<const T> input_rows(const Tensor& t) {
  return rows<const T>(t.const_data_ptr<T>(), t);
}
template <class T>
Rows<T> output_rows(const Tensor& t) {
  return rows<T>(t.mutable_data_ptr<T>(), t);
}

template <class T>
const cpu::KernelsOf<T>& kernels_of() {
  if constexpr (sizeof(T) == 4) return cpu::kernels().f32;
  else return cpu::kernels().f64;
}

template <class Args>
void run(size_t (*kernel)(const Args&, void*), Args& args) {
  args.threads = at::get_num_threads();
  alignas(64) char small[8 << 10];  // a single step of a small layer takes no longer than an allocation
  const size_t needed = kernel(args, nullptr);
  if (needed <= sizeof(small)) return void(kernel(args, small));
  const Tensor workspace = allocate({int64_t(needed)}, at::kByte);
  kernel(args, workspace.mutable_data_ptr());
}

template <class T>
T* pointer_or_null(const Tensor& t) {
  return t.defined() ? t.mutable_data_ptr<T>() : nullptr;
}
template <class T>
const T* input_or_null(const Tensor& t) {
  return t.defined() ? t.const_data_ptr<T>() : nullptr;
}

template <class T>
LayerOutputs forward(const Layer& layer, const Checked& c, bool save) {
  const Shape& s = c.shape;
  const auto options = c.arguments[X].options();
  const bool lstm = layer.cell == Cell::lstm;
  LayerOutputs to;
  to.out = c.empty_tokens(s.D * s.P);
  to.h_n = allocate({s.D, s.B, s.P}, options);
  if (lstm) to.c_n = allocate({s.D, s.B, s.H}, options);
  if (save && saved_count(layer.cell)) to.gates = allocate({s.D, c.schedule.capacity, saved_count(layer.cell), padded_units(s.H)}, options);
  if (save && lstm) to.cells = allocate({s.D, c.schedule.capacity, padded_units(s.H)}, options);

  ForwardArgs<T> args{};
  args.cell = layer.cell;
  args.shape = s;
  args.schedule = c.schedule.view();
  c.weights(args.weights);
  args.x = input_rows<T>(c.arguments[X]);
  args.h0 = c.input<T>(H0);
  args.c0 = c.input<T>(C0);
  args.out = output_rows<T>(to.out);
  args.h_n = to.h_n.mutable_data_ptr<T>();
  args.c_n = pointer_or_null<T>(to.c_n);
  args.gates = pointer_or_null<T>(to.gates);
  args.cells = pointer_or_null<T>(to.cells);
  run(kernels_of<T>().forward, args);
  return to;
}

void check_saved(const Layer& layer, const Checked& c, const Tensor& out, const Tensor& gates, const Tensor& cells) {
  const Shape& s = c.shape;
  TORCH_CHECK(out.sizes() == at::IntArrayRef(c.token_sizes(s.D * s.P)), "rnnkernels: out does not belong to this layer's forward pass");
  if (saved_count(layer.cell))
    TORCH_CHECK(gates.sizes() == (at::IntArrayRef{s.D, c.schedule.capacity, saved_count(layer.cell), padded_units(s.H)}) && gates.is_contiguous(),
                "rnnkernels: gates do not belong to this layer's forward pass");
  if (layer.cell == Cell::lstm)
    TORCH_CHECK(cells.sizes() == (at::IntArrayRef{s.D, c.schedule.capacity, padded_units(s.H)}) && cells.is_contiguous(),
                "rnnkernels: cells do not belong to this layer's forward pass");
  for (const Tensor& t : {out, gates, cells})
    TORCH_CHECK(!t.defined() || t.scalar_type() == layer[X].scalar_type(), "rnnkernels: saved tensors of another dtype than x");
}

Tensor checked_cotangent(const Tensor& d, const char* name, at::IntArrayRef expected, const Tensor& x) {
  if (!d.defined()) return d;
  TORCH_CHECK(d.sizes() == expected && d.scalar_type() == x.scalar_type() && d.device() == x.device(), "rnnkernels: expected ", name,
              " of size ", expected, " and dtype ", x.scalar_type(), ", got ", d.sizes(), " and ", d.scalar_type());
  return d;
}

template <class T>
void set_weight_gradients(const std::array<Tensor, argument_count>& d, int directions, WeightGradients<T> (&to)[2]) {
  for (int direction = 0; direction < directions; ++direction) {
    const int base = direction * direction_stride;
    to[direction] = {pointer_or_null<T>(d[base + W_IH]), pointer_or_null<T>(d[base + W_HH]), pointer_or_null<T>(d[base + B_IH]),
                     pointer_or_null<T>(d[base + B_HH]), pointer_or_null<T>(d[base + W_HR])};
  }
}

template <class T>
void backward(const Layer& layer, const Checked& c, const Tensor& d_out, const Tensor& d_h_n, const Tensor& d_c_n, const Tensor& out,
              const Tensor& gates, const Tensor& cells, const std::array<Tensor, argument_count>& d) {
  BackwardArgs<T> args{};
  args.cell = layer.cell;
  args.shape = c.shape;
  args.schedule = c.schedule.view();
  c.weights(args.weights);
  args.x = input_rows<T>(c.arguments[X]);
  args.out = input_rows<T>(out);
  args.h0 = c.input<T>(H0);
  args.c0 = c.input<T>(C0);
  args.gates = input_or_null<T>(gates);
  args.cells = input_or_null<T>(cells);
  if (d_out.defined()) args.d_out = input_rows<T>(d_out);
  args.d_h_n = input_or_null<T>(d_h_n);
  args.d_c_n = input_or_null<T>(d_c_n);
  if (d[X].defined()) args.d_x = output_rows<T>(d[X]);
  args.d_h0 = pointer_or_null<T>(d[H0]);
  args.d_c0 = pointer_or_null<T>(d[C0]);
  set_weight_gradients(d, c.shape.D, args.d_weights);
  run(kernels_of<T>().backward, args);
}

}  // namespace

LayerOutputs layer_forward(const Layer& layer, bool save) {
  const Checked c(layer);
  LayerOutputs result;
  AT_DISPATCH_FLOATING_TYPES(layer[X].scalar_type(), "rnnkernels", [&] { result = forward<scalar_t>(layer, c, save); });
  return result;
}

std::array<Tensor, argument_count> layer_backward(const Layer& layer, const Tensor& d_out, const Tensor& d_h_n, const Tensor& d_c_n,
                                                  const Tensor& out, const Tensor& gates, const Tensor& cells, int64_t needs) {
  const Checked c(layer);
  const Shape& s = c.shape;
  check_saved(layer, c, out, gates, cells);
  Tensor cotangent = checked_cotangent(d_out, "d_out", c.token_sizes(s.D * s.P), layer[X]);
  if (cotangent.defined()) cotangent = Checked::dense_rows(cotangent);
  Tensor d_h = checked_cotangent(d_h_n, "d_h_n", {s.D, s.B, s.P}, layer[X]), d_c = checked_cotangent(d_c_n, "d_c_n", {s.D, s.B, s.H}, layer[X]);
  if (d_h.defined()) d_h = d_h.contiguous();
  if (d_c.defined()) d_c = d_c.contiguous();

  std::array<Tensor, argument_count> d;
  for (int k = 0; k < argument_count; ++k)
    if (c.arguments[k].defined() && (needs >> k & 1))
      d[k] = k == X ? c.empty_tokens(s.I) : allocate(c.arguments[k].sizes(), c.arguments[k].options());
  AT_DISPATCH_FLOATING_TYPES(layer[X].scalar_type(), "rnnkernels", [&] {
    backward<scalar_t>(layer, c, cotangent, d_h, d_c, Checked::dense_rows(out), gates, cells, d);
  });
  return d;
}

}  // namespace rnnk
