// Runs a CPU kernel on a Problem, with outputs and a workspace that are full of NaN.
#pragma once
#include "compare.h"
#include "cpu/kernels.h"

using rnnk::cpu::Kernels;

// Runs a kernel in a workspace of exactly the size it asks for, full of NaN.
template <class Args>
void run(size_t (*kernel)(const Args&, void*), const Args& args) {
  const Buffer<char> workspace(int64_t(kernel(args, nullptr)), 64);
  kernel(args, workspace.data());
}

// `prepared`: the weights are packed first, and gone when the layer runs. Every other number of threads walks back over the weights.
template <class T>
Outputs<T> forward(const Kernels& table, const Problem<T>& p, int threads, bool save = true, const rnnk::cpu::PreparedLayer<T>* prepared = nullptr) {
  const Case& c = p.c;
  const int64_t Hp = rnnk::padded_units(c.H), saved = save ? c.D * p.steps.tokens * Hp : 0;
  Outputs<T> to{Tokens<T>(c, p.steps, c.D * c.state()), Buffer<T>(p.h0.size()), Buffer<T>(p.c0.size()), Buffer<T>(saved * c.saved()),
                Buffer<T>(c.is_lstm() ? saved : 0), Tokens<T>(c, p.steps, c.cells * c.D * c.H)};
  rnnk::ForwardArgs<T> args{c.cell, p.shape(), p.steps.view(), threads, {}, p.x.template view<const T>(), p.h0.data(), p.c0.data(),
                            p.reset(), to.out.template view<T>(), {}, to.h_n.data(), to.c_n.data(), threads, to.gates.data(), to.cells.data()};
  if (c.cells) args.c_out = to.c_out.template view<T>();
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
Gradients<T> backward(const Kernels& table, const Problem<T>& p, const Outputs<T>& saved, int threads, unsigned without = 0) {
  const Case& c = p.c;
  Gradients<T> to{Tokens<T>(c, p.steps, c.I), Buffer<T>(p.h0.size()), Buffer<T>(p.c0.size()), {},
                  Buffer<T>(p.reset_h.size()), Buffer<T>(p.reset_c.size())};
  for (Buffer<T>* added : {&to.reset_h, &to.reset_c}) std::fill_n(added->data(), added->size(), T(0));
  rnnk::BackwardArgs<T> args{c.cell, p.shape(), p.steps.view(), threads, {}, p.x.template view<const T>(), saved.out.template view<const T>(),
                             p.h0.data(), p.c0.data(), p.reset(), saved.gates.data(), saved.cells.data(), p.d_out.template view<const T>(), {},
                             p.d_h_n.data(), p.d_c_n.data(), to.x.template view<T>(), to.h0.data(), to.c0.data(), to.reset_h.data(),
                             to.reset_c.data(), {}};
  if (c.cells) args.d_c_out = p.d_c_out.template view<const T>();
  for (int d = 0; d < c.D; ++d) {
    to.weights[d] = LayerWeights<T>(c);
    args.weights[d] = p.weights[d].template view<rnnk::Weights<T>>();
    args.d_weights[d] = to.weights[d].template view<rnnk::WeightGradients<T>>();
  }
  leave_out(args, args.d_out.data, args.d_x.data, without);
  run(table.of<T>().backward, args);
  return to;
}

// A row's results do not depend on the rows beside it.
template <class T>
void check_row(const std::string& name, const Kernels& table, const Problem<T>& p, int64_t row, const Outputs<T>& o, const Gradients<T>& g) {
  const Problem<T> one = p.only(row);
  const Outputs<T> alone = forward(table, one, 1);
  const Gradients<T> d_alone = backward(table, one, alone, 1);
  const auto same = [&](const char* what, const Buffer<T>& all, const Buffer<T>& single) {
    const int64_t width = single.size() / p.c.D;
    for (int d = 0; d < p.c.D; ++d)
      check(!width || !std::memcmp(all.data() + (d * p.c.B + row) * width, single.data() + d * width, size_t(width) * sizeof(T)),
            "%s: %s of row %d has other bits when it runs alone", name.c_str(), what, int(row));
  };
  same("h_n", o.h_n, alone.h_n), same("c_n", o.c_n, alone.c_n), same("d_h0", g.h0, d_alone.h0), same("d_c0", g.c0, d_alone.c0);
  same("d_reset_h", g.reset_h, d_alone.reset_h), same("d_reset_c", g.reset_c, d_alone.reset_c);
  for (int64_t t = 0; t < p.steps.lengths[row]; ++t) {
    const auto equal = [&](const Tokens<T>& all, const Tokens<T>& single) {
      const size_t bytes = size_t(all.width) * sizeof(T);
      return !bytes || !std::memcmp(&all.data[all.offset(p.steps, t, row)], &single.data[single.offset(one.steps, t, 0)], bytes);
    };
    check(equal(o.out, alone.out) && equal(o.c_out, alone.c_out) && equal(g.x, d_alone.x),
          "%s: out, c_out or d_x of row %d step %d has other bits when it runs alone", name.c_str(), int(row), int(t));
  }
}
