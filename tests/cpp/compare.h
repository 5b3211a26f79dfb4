// What a Problem should give, from naive.h, and the comparisons: values within a tolerance, or equal bits.
#pragma once
#include "run.h"

// What every result should be, and NaN where it should be left alone.
struct Expected {
  Tokens<double> out, d_x;
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
Expected expect(const Problem<T>& p) {
  const Case& c = p.c;
  const int64_t P = c.state(), H = c.H;
  const naive::Sizes sizes{c.cell, c.I, H, P};
  Expected e{Tokens<double>(c, p.steps, c.D * P), Tokens<double>(c, p.steps, c.I), Buffer<double>(p.h0.size()), Buffer<double>(p.c0.size()),
             Buffer<double>(p.h0.size()), Buffer<double>(p.c0.size()), Buffer<double>(p.reset_h.size()), Buffer<double>(p.reset_c.size()), {}};
  const auto put = [](const naive::Vector& from, double* to) { std::copy(from.begin(), from.end(), to); };
  for (int d = 0; d < c.D; ++d) {
    const naive::Weights w = p.weights[d].values(c);
    naive::Weights& d_w = e.d_weights[d];
    d_w = {naive::Vector(w.w_ih.size()), naive::Vector(w.w_hh.size()), naive::Vector(w.b_ih.size()), naive::Vector(w.b_hh.size()), naive::Vector(w.w_hr.size())};
    for (int64_t b = 0; b < c.B; ++b) {
      const int64_t length = p.steps.lengths[b], h_at = (d * c.B + b) * P, c_at = (d * c.B + b) * H;
      const auto state = [&](const Buffer<T>& buffer) { return c.is_lstm() ? buffer.values(c_at, H) : naive::Vector(size_t(H)); };
      const auto x = collect(length, d == 1, [&](int64_t t) { return p.x.row(p.steps, t, b, 0, c.I); });
      const auto d_out = collect(length, d == 1, [&](int64_t t) { return p.d_out.row(p.steps, t, b, d * P, P); });
      naive::Resets resets{std::vector<bool>(size_t(length)), naive::Vector(size_t(P)), naive::Vector(size_t(H))};
      if (c.reset) {
        resets.h = p.reset_h.values(h_at, P), resets.c = state(p.reset_c);
        for (int64_t i = 0; i < length; ++i) resets.before[i] = p.resets.data[p.resets.offset(p.steps, d == 1 ? length - 1 - i : i, b)];
      }
      const naive::Trace trace = naive::forward(sizes, w, x, p.h0.values(h_at, P), state(p.c0), resets);
      const auto g = naive::backward(sizes, w, trace, d_out, p.d_h_n.values(h_at, P), state(p.d_c_n), resets, d_w);
      put(trace.h_n, e.h_n.data() + h_at);
      put(g.h0, e.d_h0.data() + h_at);
      if (c.reset) put(g.reset_h, e.d_reset_h.data() + h_at);
      if (c.reset && c.is_lstm()) put(g.reset_c, e.d_reset_c.data() + c_at);
      if (c.is_lstm()) put(trace.c_n, e.c_n.data() + c_at), put(g.c0, e.d_c0.data() + c_at);
      for (int64_t i = 0; i < length; ++i) {
        const int64_t t = d == 1 ? length - 1 - i : i;
        put(trace.next_h[i], e.out.data.data() + e.out.offset(p.steps, t, b) + d * P);
        double* d_x = e.d_x.data.data() + e.d_x.offset(p.steps, t, b);
        for (int64_t k = 0; k < c.I; ++k) d_x[k] = g.x[i][k] + (d ? d_x[k] : 0);
      }
    }
  }
  return e;
}

template <class T>
void compare(const std::string& what, const Buffer<T>& ours, const double* expected) {
  double largest = 0.01, error = 0;
  int64_t where = 0;
  for (int64_t i = 0; i < ours.size(); ++i)
    if (expected[i] == expected[i]) largest = std::max(largest, std::abs(expected[i]));
  for (int64_t i = 0; i < ours.size(); ++i) {
    const bool untouched = expected[i] != expected[i];
    const double off = untouched ? (ours[i] != ours[i] ? 0 : HUGE_VAL) : std::abs(ours[i] - expected[i]);
    if (!(off <= error)) error = off, where = i;
  }
  const double allowed = (sizeof(T) == 4 ? 4e-6 : 1e-13) * largest;
  check(error <= allowed, "%s[%d] is %g, expected %g; allowed error %g", what.c_str(), int(where), ours.size() ? double(ours[where]) : 0,
        ours.size() ? expected[where] : 0, allowed);
}

template <class T>
void compare(const std::string& name, const Expected& e, const Outputs<T>& o) {
  compare(name + " out", o.out.data, e.out.data.data());
  compare(name + " h_n", o.h_n, e.h_n.data());
  compare(name + " c_n", o.c_n, e.c_n.data());
}

template <class T>
void compare(const std::string& name, const Expected& e, const Gradients<T>& g) {
  compare(name + " d_x", g.x.data, e.d_x.data.data());
  compare(name + " d_h0", g.h0, e.d_h0.data());
  compare(name + " d_c0", g.c0, e.d_c0.data());
  compare(name + " d_reset_h", g.reset_h, e.d_reset_h.data());
  compare(name + " d_reset_c", g.reset_c, e.d_reset_c.data());
  for (int d = 0; d < 2; ++d) {
    const std::string of = name + (d ? " reverse" : "");
    compare(of + " d_w_ih", g.weights[d].w_ih, e.d_weights[d].w_ih.data());
    compare(of + " d_w_hh", g.weights[d].w_hh, e.d_weights[d].w_hh.data());
    compare(of + " d_b_ih", g.weights[d].b_ih, e.d_weights[d].b_ih.data());
    compare(of + " d_b_hh", g.weights[d].b_hh, e.d_weights[d].b_hh.data());
    compare(of + " d_w_hr", g.weights[d].w_hr, e.d_weights[d].w_hr.data());
  }
}

template <class T>
void check_same(const std::string& name, const Outputs<T>& a, const Outputs<T>& b) {
  check(a.out.data.same_bits(b.out.data), "%s: out has other bits", name.c_str());
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
  same(31, "d_reset_h or d_reset_c", a.reset_h, b.reset_h), same(31, "d_reset_h or d_reset_c", a.reset_c, b.reset_c);
  for (int d = 0; d < 2; ++d) {
    const LayerWeights<T>&left = a.weights[d], &right = b.weights[d];
    same(6, "d_w_ih", left.w_ih, right.w_ih);
    same(7, "d_w_hh", left.w_hh, right.w_hh);
    same(8, "d_b_ih", left.b_ih, right.b_ih);
    same(9, "d_b_hh", left.b_hh, right.b_hh);
    same(10, "d_w_hr", left.w_hr, right.w_hr);
  }
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
      return !all.width || !std::memcmp(&all.data[all.offset(p.steps, t, row)], &single.data[single.offset(one.steps, t, 0)], size_t(all.width) * sizeof(T));
    };
    check(equal(o.out, alone.out) && equal(g.x, d_alone.x), "%s: out or d_x of row %d step %d has other bits when it runs alone", name.c_str(), int(row), int(t));
  }
}
