// What a Problem gives, what it should, from naive.h, and the comparisons: values within a tolerance, or equal bits.
#pragma once
#include "problem.h"

// W is the type of what is kept in more bits.
template <class T, class W = T>
struct Outputs {
  Tokens<T> out;
  Buffer<T> h_n, c_n, gates;
  Buffer<W> cells;
  Tokens<T> c_out{};
};

template <class T>
struct Gradients {
  Tokens<T> x;
  Buffer<T> h0, c0;
  LayerWeights<T> weights[2];
  Buffer<T> reset_h{}, reset_c{};
};

// `without` is a bit set of pointers to leave null: 0 d_out, 1 d_h_n, 2 d_c_n, 3 d_x, 4 d_h0, 5 d_c0, 6.. d_weights' five; 11 gates;
// 12 d_reset_h, 13 d_reset_c.
constexpr unsigned without_gates = 1u << 11;
constexpr int gradient_bits[] = {3, 4, 5, 6, 7, 8, 9, 10, 12, 13};

template <class Args, class T>
void leave_out(Args& args, const T*& d_out, T*& d_x, unsigned without) {
  int bit = 0;
  for (const T** pointer : {&d_out, &args.d_h_n, &args.d_c_n})
    if (without >> bit++ & 1) *pointer = nullptr;
  for (T** pointer : {&d_x, &args.d_h0, &args.d_c0})
    if (without >> bit++ & 1) *pointer = nullptr;
  for (rnnk::WeightGradients<T>& g : args.d_weights) {
    bit = 6;
    for (T** pointer : {&g.w_ih, &g.w_hh, &g.b_ih, &g.b_hh, &g.w_hr})
      if (without >> bit++ & 1) *pointer = nullptr;
  }
  if (without & without_gates) args.gates = nullptr;
  if (without >> 12 & 1) args.d_reset_h = nullptr;
  if (without >> 13 & 1) args.d_reset_c = nullptr;
}

// What every result should be, and NaN where it should be left alone.
struct Expected {
  Tokens<double> out, c_out, d_x;
  Buffer<double> h_n, c_n, d_h0, d_c0, d_reset_h, d_reset_c;
  naive::Weights d_weights[2];
};

template <class Row>
std::vector<naive::Vector> collect(int64_t length, bool reverse, Row row) {
  std::vector<naive::Vector> rows;
  for (int64_t t = 0; t < length; ++t) rows.push_back(row(reverse ? length - 1 - t : t));
  return rows;
}

template <class T>
Expected expect(const Problem<T>& p, naive::Round round = naive::exact) {
  const Case& c = p.c;
  const int64_t P = c.state(), H = c.H;
  const naive::Sizes sizes{c.cell, c.I, H, P, round};
  using Values = Buffer<double>;
  Expected e{Tokens<double>(c, p.steps, c.D * P), Tokens<double>(c, p.steps, c.cells * c.D * H), Tokens<double>(c, p.steps, c.I),
             Values(p.h0.size()), Values(p.c0.size()), Values(p.h0.size()), Values(p.c0.size()), Values(p.reset_h.size()),
             Values(p.reset_c.size()), {}};
  const auto put = [](const naive::Vector& from, double* to) { std::copy(from.begin(), from.end(), to); };
  for (int d = 0; d < c.D; ++d) {
    const naive::Weights w = p.weights[d].values(c);
    naive::Weights& d_w = e.d_weights[d];
    d_w = {naive::Vector(w.w_ih.size()), naive::Vector(w.w_hh.size()), naive::Vector(w.b_ih.size()), naive::Vector(w.b_hh.size()),
           naive::Vector(w.w_hr.size())};
    for (int64_t b = 0; b < c.B; ++b) {
      const int64_t length = p.steps.lengths[b], h_at = (d * c.B + b) * P, c_at = (d * c.B + b) * H;
      const auto state = [&](const Buffer<T>& buffer) { return c.is_lstm() ? buffer.values(c_at, H) : naive::Vector(size_t(H)); };
      const auto x = collect(length, d == 1, [&](int64_t t) { return p.x.row(p.steps, t, b, 0, c.I); });
      const auto d_out = collect(length, d == 1, [&](int64_t t) { return p.d_out.row(p.steps, t, b, d * P, P); });
      const auto d_c_out = collect(length * c.cells, d == 1, [&](int64_t t) { return p.d_c_out.row(p.steps, t, b, d * H, H); });
      naive::Resets resets{std::vector<bool>(size_t(length)), naive::Vector(size_t(P)), naive::Vector(size_t(H))};
      if (c.reset) {
        resets.h = p.reset_h.values(h_at, P), resets.c = state(p.reset_c);
        for (int64_t i = 0; i < length; ++i) resets.before[i] = p.resets.data[p.resets.offset(p.steps, d == 1 ? length - 1 - i : i, b)];
      }
      const naive::Trace trace = naive::forward(sizes, w, x, p.h0.values(h_at, P), state(p.c0), resets);
      const auto g = naive::backward(sizes, w, trace, d_out, d_c_out, p.d_h_n.values(h_at, P), state(p.d_c_n), resets, d_w);
      put(trace.h_n, e.h_n.data() + h_at);
      put(g.h0, e.d_h0.data() + h_at);
      if (c.reset) put(g.reset_h, e.d_reset_h.data() + h_at);
      if (c.reset && c.is_lstm()) put(g.reset_c, e.d_reset_c.data() + c_at);
      if (c.is_lstm()) put(trace.c_n, e.c_n.data() + c_at), put(g.c0, e.d_c0.data() + c_at);
      for (int64_t i = 0; i < length; ++i) {
        const int64_t t = d == 1 ? length - 1 - i : i;
        put(trace.next_h[i], e.out.data.data() + e.out.offset(p.steps, t, b) + d * P);
        if (c.cells) put(trace.next_c[i], e.c_out.data.data() + e.c_out.offset(p.steps, t, b) + d * H);
        double* d_x = e.d_x.data.data() + e.d_x.offset(p.steps, t, b);
        for (int64_t k = 0; k < c.I; ++k) d_x[k] = g.x[i][k] + (d ? d_x[k] : 0);
      }
    }
  }
  return e;
}

// The error that is allowed, of the largest number expected.
template <class T>
constexpr double usual_tolerance = sizeof(T) == 4 ? 4e-6 : 1e-13;

struct Difference {
  double error = 0, largest = 0.01;
  int64_t where = 0;
};

// `expected` is NaN where nothing may be written.
template <class T>
Difference difference(const T* ours, const double* expected, int64_t size) {
  Difference d;
  for (int64_t i = 0; i < size; ++i) {
    const bool untouched = expected[i] != expected[i];
    const double off = untouched ? (ours[i] != ours[i] ? 0 : HUGE_VAL) : std::abs(ours[i] - expected[i]);
    if (!(off <= d.error)) d.error = off, d.where = i;
    if (!untouched) d.largest = std::max(d.largest, std::abs(expected[i]));
  }
  return d;
}

template <class T>
void compare(const std::string& what, const Buffer<T>& ours, const double* expected, double tolerance) {
  const Difference d = difference(ours.data(), expected, ours.size());
  check(d.error <= tolerance * d.largest, "%s[%d] is %g, expected %g; allowed error %g", what.c_str(), int(d.where),
        ours.size() ? double(ours[d.where]) : 0, ours.size() ? expected[d.where] : 0, tolerance * d.largest);
}

template <class T>
void compare(const std::string& name, const Expected& e, const Outputs<T>& o, double tolerance = usual_tolerance<T>) {
  compare(name + " out", o.out.data, e.out.data.data(), tolerance);
  compare(name + " h_n", o.h_n, e.h_n.data(), tolerance);
  compare(name + " c_n", o.c_n, e.c_n.data(), tolerance);
  compare(name + " c_out", o.c_out.data, e.c_out.data.data(), tolerance);
}

template <class T>
void compare(const std::string& name, const Expected& e, const Gradients<T>& g, double tolerance = usual_tolerance<T>) {
  compare(name + " d_x", g.x.data, e.d_x.data.data(), tolerance);
  compare(name + " d_h0", g.h0, e.d_h0.data(), tolerance);
  compare(name + " d_c0", g.c0, e.d_c0.data(), tolerance);
  compare(name + " d_reset_h", g.reset_h, e.d_reset_h.data(), tolerance);
  compare(name + " d_reset_c", g.reset_c, e.d_reset_c.data(), tolerance);
  for (int d = 0; d < 2; ++d) {
    const std::string of = name + (d ? " reverse" : "");
    compare(of + " d_w_ih", g.weights[d].w_ih, e.d_weights[d].w_ih.data(), tolerance);
    compare(of + " d_w_hh", g.weights[d].w_hh, e.d_weights[d].w_hh.data(), tolerance);
    compare(of + " d_b_ih", g.weights[d].b_ih, e.d_weights[d].b_ih.data(), tolerance);
    compare(of + " d_b_hh", g.weights[d].b_hh, e.d_weights[d].b_hh.data(), tolerance);
    compare(of + " d_w_hr", g.weights[d].w_hr, e.d_weights[d].w_hr.data(), tolerance);
  }
}

template <class T, class W>
void check_same(const std::string& name, const Outputs<T, W>& a, const Outputs<T, W>& b) {
  check(a.out.data.same_bits(b.out.data) && a.c_out.data.same_bits(b.c_out.data), "%s: out or c_out has other bits", name.c_str());
  check(a.h_n.same_bits(b.h_n) && a.c_n.same_bits(b.c_n), "%s: h_n or c_n has other bits", name.c_str());
}

template <class T>
void check_same(const std::string& name, const Gradients<T>& a, const Gradients<T>& b, unsigned without = 0) {
  const auto same = [&](int bit, const char* what, const Buffer<T>& left, const Buffer<T>& right) {
    check(without >> bit & 1 || left.same_bits(right), "%s: %s has other bits", name.c_str(), what);
  };
  same(3, "d_x", a.x.data, b.x.data);
  same(4, "d_h0", a.h0, b.h0);
  same(5, "d_c0", a.c0, b.c0);
  same(12, "d_reset_h", a.reset_h, b.reset_h);
  same(13, "d_reset_c", a.reset_c, b.reset_c);
  for (int d = 0; d < 2; ++d) {
    const LayerWeights<T>&left = a.weights[d], &right = b.weights[d];
    same(6, "d_w_ih", left.w_ih, right.w_ih);
    same(7, "d_w_hh", left.w_hh, right.w_hh);
    same(8, "d_b_ih", left.b_ih, right.b_ih);
    same(9, "d_b_hh", left.b_hh, right.b_hh);
    same(10, "d_w_hr", left.w_hr, right.w_hr);
  }
}
