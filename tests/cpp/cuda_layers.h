// A layer's call of csrc/cuda on the host: every array in its own block of exactly its size, NaN where nothing may be read, and a matrix
// product that loops.
#pragma once
#include "compare.h"
#include "cuda/args.h"
#include "cuda/ptx.cuh"
#include "cuda/regime.h"

namespace cuda = rnnk::cuda;

template <class T>
constexpr const char* type_name = std::is_same_v<T, double> ? "f64" : std::is_same_v<T, float> ? "f32" : std::is_same_v<T, __half> ? "f16" : "bf16";

template <class T>
T stored(double x) { return cuda::narrow<T>(cuda::Wide<T>(x)); }
template <class T>
double rounded(double x) { return cuda::widen(stored<T>(x)); }

// Whether the calls allow TF32, in float.
inline bool tf32 = false;
// Without it products are 3xTF32, where they are ours.
template <class T>
bool is_tf32x3() { return std::is_same_v<T, float> && !tf32; }
// Of R2 and R3, which take long here: bfloat16 and TF32 show all else.
template <class T>
bool shows_products_only() { return std::is_same_v<T, __half> || is_tf32x3<T>(); }
inline double rounded_to_tf32(double x) {
  const uint32_t bits = cuda::ptx::to_tf32(float(x));
  float rounded;
  std::memcpy(&rounded, &bits, 4);
  return rounded;
}
template <class T>
naive::Round rounding() { return tf32 ? rounded_to_tf32 : rounded<T>; }

template <class To, class From, class F>
Buffer<To> map(const Buffer<From>& from, const F& f) {
  Buffer<To> to(from.size());
  for (int64_t i = 0; i < from.size(); ++i) to[i] = f(from[i]);
  return to;
}
template <class T>
Buffer<double> read(const Buffer<T>& b) { return map<double>(b, [](T x) { return double(cuda::widen(x)); }); }

// The products, by the definition.
struct Loop {
  int fails_at = -1, calls = 0;  // the call that fails

  template <class T, class Out>
  static void multiply(const cuda::Product& p, int i) {
    using V = cuda::Wide<T>;
    const auto at = [](const cuda::Product::Matrix& m, int64_t batch, int64_t row, int64_t column) {
      if (m.transposed) std::swap(row, column);
      return cuda::widen(static_cast<const T*>(m.data)[batch * m.batch_stride + row * m.row_stride + column]);
    };
    for (int64_t m = 0; m < p.m; ++m)
      for (int64_t n = 0; n < p.n; ++n) {
        Out& to = static_cast<Out*>(p.c)[i * p.c_batch_stride + m * p.c_row_stride + n];
        V sum = p.add ? V(cuda::widen(to)) : V(0);
        for (int64_t k = 0; k < p.k; ++k) sum += at(p.a, i, m, k) * at(p.b, i, k, n);
        to = cuda::narrow<Out>(sum);
      }
  }

  static cudaError_t enqueue(void* context, const cuda::Product& p) {
    Loop& self = *static_cast<Loop*>(context);
    if (self.calls++ == self.fails_at) return cudaErrorInvalidValue;
    // As cuBLAS wants it: a row does not reach into the next one, and batches lie in order.
    check(p.a.row_stride >= (p.a.transposed ? p.m : p.k) && p.b.row_stride >= (p.b.transposed ? p.k : p.n) && p.c_row_stride >= p.n,
          "a product's rows overlap");
    check(p.batch == 1 || (p.a.batch_stride > 0 && p.b.batch_stride > 0 && p.c_batch_stride >= p.m * p.n), "a product's batches overlap");
    using cuda::Type;
    for (int i = 0; i < p.batch; ++i) {
      if (p.in == Type::f64) multiply<double, double>(p, i);
      else if (p.in == Type::f32) multiply<float, float>(p, i);
      else if (p.in == Type::bf16) p.out == Type::f32 ? multiply<__nv_bfloat16, float>(p, i) : multiply<__nv_bfloat16, __nv_bfloat16>(p, i);
      else p.out == Type::f32 ? multiply<__half, float>(p, i) : multiply<__half, __half>(p, i);
    }
    return cudaSuccess;
  }
  cuda::Gemm gemm() { return {enqueue, this}; }
};

// A Problem's numbers in T, which holds them exactly, and the schedule as the card gets it.
template <class T>
struct Inputs {
  const Case& c;
  int64_t N;
  Buffer<T> x, d_out, d_c_out, h0, c0, d_h_n, d_c_n;
  Buffer<bool> resets;
  Buffer<T> reset_h, reset_c;
  LayerWeights<T> weights[2];
  Buffer<int64_t> active, first, lengths;

  explicit Inputs(const Problem<double>& p)
      : c(p.c), N(c.layout == Layout::packed ? p.steps.tokens : c.T * c.B), x(put(p.x.data)), d_out(put(p.d_out.data)), d_c_out(put(p.d_c_out.data)),
        h0(put(p.h0)), c0(put(p.c0)), d_h_n(put(p.d_h_n)), d_c_n(put(p.d_c_n)), resets(p.resets.data), reset_h(put(p.reset_h)),
        reset_c(put(p.reset_c)), active(c.T), first(c.T) {
    for (int d = 0; d < c.D; ++d) {
      const LayerWeights<double>& w = p.weights[d];
      LayerWeights<T>& to = weights[d];
      to.w_ih = put(w.w_ih), to.w_hh = put(w.w_hh), to.b_ih = put(w.b_ih), to.b_hh = put(w.b_hh), to.w_hr = put(w.w_hr);
    }
    for (int64_t t = 0; t < c.T; ++t) {
      active[t] = c.layout == Layout::packed ? p.steps.active[t] : c.B;
      first[t] = c.layout == Layout::packed ? p.steps.first[t] : t * c.B;
    }
    if (c.layout != Layout::lengths && c.layout != Layout::nothing) return;
    lengths = Buffer<int64_t>(c.B);
    // One outside 0..T counts as the nearest.
    for (int64_t b = 0; b < c.B; ++b) lengths[b] = p.steps.lengths[b] == c.T ? c.T + 7 * b : p.steps.lengths[b] == 0 ? -b : p.steps.lengths[b];
  }

  static Buffer<T> put(const Buffer<double>& b) { return map<T>(b, stored<T>); }
  rnnk::Shape shape() const { return {c.T, c.B, N, c.I, c.H, c.state(), c.D}; }
  cuda::Reset<T> reset() const { return {resets.data(), reset_h.data(), reset_c.data()}; }
  cuda::Schedule schedule() const { return {active.data(), first.data(), lengths.data()}; }
};

// The numbers of `c`, drawn so that T holds them.
template <class T>
Problem<double> draw_any(const Case& c) {
  Problem<double> p(c);
  const auto round = [](Buffer<double>& b) { b = map<double>(b, rounding<T>()); };
  for (Buffer<double>* b : {&p.x.data, &p.d_out.data, &p.d_c_out.data, &p.h0, &p.c0, &p.d_h_n, &p.d_c_n, &p.reset_h, &p.reset_c}) round(*b);
  for (LayerWeights<double>& w : p.weights) round(w.w_ih), round(w.w_hh), round(w.b_ih), round(w.b_hh), round(w.w_hr);
  // The states of a row without steps only pass through; those of a row that never starts anew are not read.
  const auto poison = [&](Buffer<double>& b, auto unread) {
    for (int64_t i = 0, width = c.B ? b.size() / (c.D * c.B) : 0; i < b.size(); ++i)
      if (unread(i / width % c.B)) b[i] = NAN;
  };
  for (Buffer<double>* b : {&p.h0, &p.c0}) poison(*b, [&](int64_t row) { return p.steps.lengths[row] == 0; });
  for (Buffer<double>* b : {&p.reset_h, &p.reset_c})
    poison(*b, [&](int64_t row) {
      for (int64_t t = 0; t < p.steps.lengths[row]; ++t)
        if (p.resets.data[p.resets.offset(p.steps, t, row)]) return false;
      return true;
    });
  return p;
}

// Whether rounding took a unit across relu's kink, where a gradient jumps.
inline bool crosses_kink(const Case& c, const Buffer<double>& out, const Buffer<double>& exact) {
  for (int64_t i = 0; i < exact.size() && c.cell == rnnk::Cell::rnn_relu; ++i)
    if ((exact[i] == 0) != (out[i] == 0)) return true;
  return false;
}

// Where plain rounding takes none across. The numbers depend on the case and on `attempt` alone: one case more changes no other's.
template <class T>
Problem<double> draw(const Case& c, int attempt = 0) {
  const std::string name = c.name() + " " + std::to_string(attempt);
  std::seed_seq seed(name.begin(), name.end());
  generator().seed(seed);
  for (;;) {
    Problem<double> p = draw_any<T>(c);
    const Buffer<double> exact = expect(p).out.data, theirs = expect(p, rounding<T>()).out.data;
    if (!crosses_kink(c, theirs, exact)) return p;
  }
}

// With lengths, out, c_out and d_x have a zero where they have no number.
inline Expected on_card(Expected e, const Case& c) {
  for (Buffer<double>* b : {&e.out.data, &e.c_out.data, &e.d_x.data})
    for (int64_t i = 0; i < b->size() && c.layout != Layout::packed; ++i)
      if ((*b)[i] != (*b)[i]) (*b)[i] = 0;
  return e;
}

// In a workspace of exactly the size that it asks for, full of NaN, at an address that torch would give. cudaErrorNotSupported where no regime may be
// chosen.
template <class Args>
cudaError_t enqueue(cudaError_t (*layer)(const Args&, cuda::Regime, const cuda::Gemm&, void*, size_t&, cudaStream_t, size_t), const Args& args,
                    Loop& loop, size_t chunk_bytes) {
  const auto regime = cuda::choose(cuda::Problem(args));
  if (!regime) return cudaErrorNotSupported;
  size_t bytes = 0;
  if (const cudaError_t error = layer(args, *regime, loop.gemm(), nullptr, bytes, nullptr, chunk_bytes)) return error;
  const Buffer<char> workspace(int64_t(bytes), 256);
  return layer(args, *regime, loop.gemm(), workspace.data(), bytes, nullptr, chunk_bytes);
}

template <class T>
using Saved = Outputs<T, cuda::Wide<T>>;

enum class Save { all, cells, nothing };
constexpr size_t large_chunks = 1 << 20;

template <class T>
cudaError_t forward(const Problem<double>& p, const Inputs<T>& in, Saved<T>& to, Loop& loop, Save save = Save::all,
                    size_t chunk_bytes = large_chunks) {
  const Case& c = p.c;
  const int64_t units = c.D * in.N * rnnk::padded_units(c.H);
  to = {Tokens<T>(c, p.steps, c.D * c.state()), Buffer<T>(in.h0.size()), Buffer<T>(in.c0.size()),
        Buffer<T>(save == Save::all ? units * c.saved() : 0), Buffer<cuda::Wide<T>>(save != Save::nothing && c.is_lstm() ? units : 0),
        Tokens<T>(c, p.steps, c.cells * c.D * c.H)};
  cuda::ForwardArgs<T> args{c.cell, in.shape(), in.schedule(), {}, in.x.data(), in.h0.data(), in.c0.data(), in.reset(), to.out.data.data(),
                            to.c_out.data.data(), to.h_n.data(), to.c_n.data(), to.gates.data(), to.cells.data(), tf32};
  for (int d = 0; d < c.D; ++d) args.weights[d] = in.weights[d].template view<rnnk::Weights<T>>();
  return enqueue(cuda::forward<T>, args, loop, chunk_bytes);
}

// `without` as in compare.h.
template <class T>
cudaError_t backward(const Problem<double>& p, const Inputs<T>& in, const Saved<T>& saved, Gradients<T>& to, Loop& loop, unsigned without = 0,
                     size_t chunk_bytes = large_chunks) {
  const Case& c = p.c;
  to = {Tokens<T>(c, p.steps, c.I), Buffer<T>(in.h0.size()), Buffer<T>(in.c0.size()), {}, Buffer<T>(in.reset_h.size()), Buffer<T>(in.reset_c.size())};
  cuda::BackwardArgs<T> args{c.cell, in.shape(), in.schedule(), {}, in.x.data(), saved.out.data.data(), in.h0.data(), in.c0.data(), in.reset(),
                             saved.gates.data(), saved.cells.data(), in.d_out.data(), in.d_c_out.data(), in.d_h_n.data(), in.d_c_n.data(),
                             to.x.data.data(), to.h0.data(), to.c0.data(), to.reset_h.data(), to.reset_c.data(), {}, tf32};
  for (int d = 0; d < c.D; ++d) {
    to.weights[d] = LayerWeights<T>(c);
    args.weights[d] = in.weights[d].template view<rnnk::Weights<T>>();
    args.d_weights[d] = to.weights[d].template view<rnnk::WeightGradients<T>>();
  }
  leave_out(args, args.d_out, args.d_x, without);
  return enqueue(cuda::backward<T>, args, loop, chunk_bytes);
}

template <class T>
Tokens<double> read(const Tokens<T>& tokens, const Problem<double>& p) {
  Tokens<double> to(p.c, p.steps, tokens.width);
  to.data = read(tokens.data);
  return to;
}
template <class T>
Outputs<double> read(const Saved<T>& o, const Problem<double>& p) {
  return {read(o.out, p), read(o.h_n), read(o.c_n), {}, {}, read(o.c_out, p)};
}
template <class T>
Gradients<double> read(const Gradients<T>& g, const Problem<double>& p) {
  Gradients<double> to{read(g.x, p), read(g.h0), read(g.c0), {}, read(g.reset_h), read(g.reset_c)};
  for (int d = 0; d < 2; ++d) {
    const LayerWeights<T>& w = g.weights[d];
    LayerWeights<double>& t = to.weights[d];
    t.w_ih = read(w.w_ih), t.w_hh = read(w.w_hh), t.b_ih = read(w.b_ih), t.b_hh = read(w.b_hh), t.w_hr = read(w.w_hr);
  }
  return to;
}
