// Runs a kernel on a Problem, with outputs and a workspace that are full of NaN.
#pragma once
#include "problem.h"

using rnnk::cpu::Kernels;

// Runs a kernel in a workspace of exactly the size it asks for, full of NaN.
template <class Args>
void run(size_t (*kernel)(const Args&, void*), const Args& args) {
  const Buffer<char> workspace(int64_t(kernel(args, nullptr)), 64);
  kernel(args, workspace.data());
}

template <class T>
struct Outputs {
  Tokens<T> out;
  Buffer<T> h_n, c_n, gates, cells;
};

// `prepared`: the weights are packed first, and gone when the layer runs. Every other number of threads walks back over the weights.
template <class T>
Outputs<T> forward(const Kernels& table, const Problem<T>& p, int threads, bool save = true, const rnnk::cpu::PreparedLayer<T>* prepared = nullptr) {
  const Case& c = p.c;
  const int64_t Hp = rnnk::padded_units(c.H), saved = save ? c.D * p.steps.tokens * Hp : 0;
  Outputs<T> to{Tokens<T>(c, p.steps, c.D * c.state()), Buffer<T>(p.h0.size()), Buffer<T>(p.c0.size()), Buffer<T>(saved * c.saved()),
                Buffer<T>(c.is_lstm() ? saved : 0)};
  rnnk::ForwardArgs<T> args{c.cell, p.shape(), p.steps.view(), threads, {}, p.x.template view<const T>(), p.h0.data(), p.c0.data(),
                            p.reset(), to.out.template view<T>(), to.h_n.data(), to.c_n.data(), threads, to.gates.data(), to.cells.data()};
  for (int d = 0; d < c.D; ++d) args.weights[d] = p.weights[d].template view<rnnk::Weights<T>>();
  if (!prepared) return run(table.of<T>().forward, args), std::move(to);
  args.threads = threads + 1;  // may fall after packing
  const Buffer<char> workspace(int64_t(std::max(prepared->pack(args, nullptr), prepared->run(args, nullptr))), 64);
  {
    const LayerWeights<T> copies[2] = {p.weights[0], p.weights[1]};
    for (int d = 0; d < c.D; ++d) args.weights[d] = copies[d].template view<rnnk::Weights<T>>();
    prepared->pack(args, workspace.data());
  }
  args.threads = threads;
  prepared->run(args, workspace.data());
  return to;
}

template <class T>
struct Gradients {
  Tokens<T> x;
  Buffer<T> h0, c0, reset_h, reset_c;
  LayerWeights<T> weights[2];
};

// `without` is a bit set of pointers to leave null: 0 d_out, 1 d_h_n, 2 d_c_n, 3 d_x, 4 d_h0, 5 d_c0, 6.. d_weights' five; 11 gates.
constexpr unsigned without_gates = 1u << 11;

template <class T>
Gradients<T> backward(const Kernels& table, const Problem<T>& p, const Outputs<T>& saved, int threads, unsigned without = 0) {
  const Case& c = p.c;
  Gradients<T> to{Tokens<T>(c, p.steps, c.I), Buffer<T>(p.h0.size()), Buffer<T>(p.c0.size()), Buffer<T>(p.reset_h.size()), Buffer<T>(p.reset_c.size()), {}};
  for (Buffer<T>* added : {&to.reset_h, &to.reset_c}) std::fill_n(added->data(), added->size(), T(0));
  rnnk::BackwardArgs<T> args{c.cell, p.shape(), p.steps.view(), threads, {}, p.x.template view<const T>(), saved.out.template view<const T>(),
                             p.h0.data(), p.c0.data(), p.reset(), saved.gates.data(), saved.cells.data(), p.d_out.template view<const T>(),
                             p.d_h_n.data(), p.d_c_n.data(), to.x.template view<T>(), to.h0.data(), to.c0.data(), to.reset_h.data(), to.reset_c.data(), {}};
  for (int d = 0; d < c.D; ++d) {
    to.weights[d] = LayerWeights<T>(c);
    args.weights[d] = p.weights[d].template view<rnnk::Weights<T>>();
    auto& g = args.d_weights[d] = to.weights[d].template view<rnnk::WeightGradients<T>>();
    int bit = 6;
    for (T** pointer : {&g.w_ih, &g.w_hh, &g.b_ih, &g.b_hh, &g.w_hr})
      if (without >> bit++ & 1) *pointer = nullptr;
  }
  int bit = 0;
  for (const T** pointer : {&args.d_out.data, &args.d_h_n, &args.d_c_n})
    if (without >> bit++ & 1) *pointer = nullptr;
  for (T** pointer : {&args.d_x.data, &args.d_h0, &args.d_c0})
    if (without >> bit++ & 1) *pointer = nullptr;
  if (without & without_gates) args.gates = nullptr;
  run(table.of<T>().backward, args);
  return to;
}
