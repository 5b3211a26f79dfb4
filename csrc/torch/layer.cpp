#include "torch/layer.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/zeros.h>

#include <atomic>

#include "cpu/kernels.h"
#include "torch/checked.h"
#include "torch/memory.h"

namespace rnnk {

namespace {

// Where a row has padding the kernels leave it alone.
Tensor empty_tokens(const Checked& c, int64_t columns) {
  const Tensor& x = c.arguments[X];
  return c.schedule.padding ? at::zeros(c.token_sizes(columns), x.options()) : allocate(c.token_sizes(columns), x.scalar_type());
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

std::vector<int64_t> gate_sizes(const Layer& layer, const Checked& c) {
  if (layer.recompute) return {0};
  return {c.shape.D, c.schedule.capacity, saved_count(layer.cell), padded_units(c.shape.H)};
}

template <class T>
LayerOutputs forward(const Layer& layer, const Checked& c, bool save) {
  const Shape& s = c.shape;
  const at::ScalarType type = c.arguments[X].scalar_type();
  const bool lstm = layer.cell == Cell::lstm;
  LayerOutputs to;
  to.out = empty_tokens(c, s.D * s.P);
  to.h_n = allocate({s.D, s.B, s.P}, type);
  if (lstm) to.c_n = allocate({s.D, s.B, s.H}, type);
  if (save && saved_count(layer.cell)) to.gates = allocate(gate_sizes(layer, c), type);
  if (save && lstm) to.cells = allocate({s.D, c.schedule.capacity, padded_units(s.H)}, type);

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
  if (!layer.recompute) args.gates = pointer_or_null<T>(to.gates);
  args.cells = pointer_or_null<T>(to.cells);
  static std::atomic<int64_t> calls{0};  // of all layers: where several take turns, the cache seldom holds what each read last
  args.turn = calls.fetch_add(1, std::memory_order_relaxed);
  run(cpu::kernels().of<T>().forward, args);
  return to;
}

void check_saved(const Layer& layer, const Checked& c, const Tensor& out, const Tensor& gates, const Tensor& cells) {
  const Shape& s = c.shape;
  TORCH_CHECK(out.sizes() == at::IntArrayRef(c.token_sizes(s.D * s.P)), "rnnkernels: out does not belong to this layer's forward pass");
  if (saved_count(layer.cell))
    TORCH_CHECK(gates.sizes() == at::IntArrayRef(gate_sizes(layer, c)) && gates.is_contiguous(),
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
  if (!layer.recompute) args.gates = input_or_null<T>(gates);
  args.cells = input_or_null<T>(cells);
  if (d_out.defined()) args.d_out = input_rows<T>(d_out);
  args.d_h_n = input_or_null<T>(d_h_n);
  args.d_c_n = input_or_null<T>(d_c_n);
  if (d[X].defined()) args.d_x = output_rows<T>(d[X]);
  args.d_h0 = pointer_or_null<T>(d[H0]);
  args.d_c0 = pointer_or_null<T>(d[C0]);
  set_weight_gradients(d, c.shape.D, args.d_weights);
  run(cpu::kernels().of<T>().backward, args);
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
      d[k] = k == X ? empty_tokens(c, s.I) : allocate(c.arguments[k].sizes(), c.arguments[k].scalar_type());
  AT_DISPATCH_FLOATING_TYPES(layer[X].scalar_type(), "rnnkernels", [&] {
    backward<scalar_t>(layer, c, cotangent, d_h, d_c, Checked::dense_rows(out), gates, cells, d);
  });
  return d;
}

}  // namespace rnnk
