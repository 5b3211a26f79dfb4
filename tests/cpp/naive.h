// One row of one direction, step by step in double precision with plain loops: what the kernels are compared with. Written from
// the formulas, sharing nothing with csrc but the cells' names and numbers of gates.
#pragma once
#include <cmath>
#include <cstdint>
#include <vector>

#include "args.h"

namespace naive {

using rnnk::Cell;
using Vector = std::vector<double>;

// Also their gradients. w_hr is empty without a projection, the biases are zero where there are none.
struct Weights {
  Vector w_ih, w_hh, b_ih, b_hh, w_hr;
};

// What a result becomes where it is stored. With a 16-bit type's rounding this is a plain implementation in that type, and its error what
// one may expect of any.
using Round = double (*)(double);
inline double exact(double x) { return x; }

struct Sizes {
  Cell cell;
  int64_t I, H, P;  // P = H without a projection
  Round round = exact;
};

inline void round_all(const Sizes& s, Vector& v) {
  for (double& x : v) x = s.round(x);
}

// What a row does. Index t of x, h and c is what enters step t, of all others what it makes.
struct Trace {
  std::vector<Vector> x, h, c;
  std::vector<Vector> next_h, next_c, hidden, gates;  // hidden: before the projection; gates: after the activations
  std::vector<Vector> q;                              // GRU: W_hn h + b_hn; with the reset gate before: r * h
  Vector h_n, c_n;
};

// The steps before which the state becomes h and c.
struct Resets {
  std::vector<bool> before;
  Vector h, c;
};

inline double logistic(double x) { return 1 / (1 + std::exp(-x)); }

// y[m] += sum_k w[m, k] x[k]
inline void multiply(const Vector& w, const Vector& x, Vector& y) {
  for (size_t m = 0; m < y.size(); ++m)
    for (size_t k = 0; k < x.size(); ++k) y[m] += w[m * x.size() + k] * x[k];
}
// x[k] += sum_m w[m, k] y[m]
inline void multiply_transposed(const Vector& w, const Vector& y, Vector& x) {
  for (size_t m = 0; m < y.size(); ++m)
    for (size_t k = 0; k < x.size(); ++k) x[k] += w[m * x.size() + k] * y[m];
}
// w[m, k] += y[m] x[k]
inline void add_outer(const Vector& y, const Vector& x, Vector& w) {
  for (size_t m = 0; m < y.size(); ++m)
    for (size_t k = 0; k < x.size(); ++k) w[m * x.size() + k] += y[m] * x[k];
}
inline void add(Vector& to, const Vector& from) {
  for (size_t i = 0; i < to.size(); ++i) to[i] += from[i];
}

inline void step(const Sizes& s, const Weights& w, Trace& trace, const Vector& x) {
  const int64_t H = s.H;
  const Vector &h = trace.h.back(), &c = trace.c.back();
  Vector a = w.b_ih, b = w.b_hh, hidden(H), next_c(H), q(H);
  multiply(w.w_ih, x, a);
  multiply(w.w_hh, h, b);
  round_all(s, a), round_all(s, b);
  for (int64_t u = 0; u < H; ++u) {
    if (s.cell == Cell::lstm) {
      for (int g : {0, 1, 3}) a[g * H + u] = logistic(a[g * H + u] + b[g * H + u]);
      a[2 * H + u] = std::tanh(a[2 * H + u] + b[2 * H + u]);
      next_c[u] = a[H + u] * c[u] + a[u] * a[2 * H + u];
      hidden[u] = a[3 * H + u] * std::tanh(next_c[u]);
    } else if (s.cell == Cell::gru) {
      for (int g : {0, 1}) a[g * H + u] = logistic(a[g * H + u] + b[g * H + u]);
      q[u] = b[2 * H + u];
      a[2 * H + u] = std::tanh(a[2 * H + u] + a[u] * q[u]);
      hidden[u] = (1 - a[H + u]) * a[2 * H + u] + a[H + u] * h[u];
    } else if (s.cell == Cell::gru_reset_before) {
      for (int g : {0, 1}) a[g * H + u] = logistic(a[g * H + u] + b[g * H + u]);
      q[u] = a[u] * h[u];
    } else {
      a[u] += b[u];
      hidden[u] = s.cell == Cell::rnn_tanh ? std::tanh(a[u]) : s.cell == Cell::rnn_relu ? std::max(0.0, a[u]) : logistic(a[u]);
    }
  }
  if (s.cell == Cell::gru_reset_before) {
    round_all(s, q);
    multiply(w.w_hh, q, b = w.b_hh);
    round_all(s, b);
    for (int64_t u = 0; u < H; ++u) {
      a[2 * H + u] = std::tanh(a[2 * H + u] + b[2 * H + u]);
      hidden[u] = (1 - a[H + u]) * a[2 * H + u] + a[H + u] * h[u];
    }
  }
  round_all(s, a), round_all(s, next_c), round_all(s, hidden);
  Vector state = hidden;
  if (!w.w_hr.empty()) multiply(w.w_hr, hidden, state = Vector(s.P)), round_all(s, state);
  trace.x.push_back(x);
  trace.next_h.push_back(state);
  trace.next_c.push_back(next_c);
  trace.hidden.push_back(hidden);
  trace.gates.push_back(a);
  trace.q.push_back(q);
}

inline Trace forward(const Sizes& s, const Weights& w, const std::vector<Vector>& x, const Vector& h0, const Vector& c0, const Resets& resets) {
  Trace trace;
  trace.h_n = h0, trace.c_n = c0;
  for (size_t t = 0; t < x.size(); ++t) {
    trace.h.push_back(resets.before[t] ? resets.h : trace.h_n);
    trace.c.push_back(resets.before[t] ? resets.c : trace.c_n);
    step(s, w, trace, x[t]);
    trace.h_n = trace.next_h[t], trace.c_n = trace.next_c[t];
  }
  return trace;
}

struct InputGradients {
  std::vector<Vector> x;
  Vector h0, c0, reset_h, reset_c;
};

// The rows of gate n alone, or of all others.
inline Vector rows_of_n(const Vector& a, bool only) {
  Vector part = a;
  for (size_t i = 0; i < a.size(); ++i)
    if ((i >= a.size() / 3 * 2) != only) part[i] = 0;
  return part;
}

// D(pre-activations) that meet x and those that meet h, from D(hidden); d_h gets what passes by W_hh, d_c becomes D(c).
inline void cell_backward(const Sizes& s, const Trace& trace, size_t t, const Vector& d_hidden, Vector& a, Vector& b, Vector& d_h, Vector& d_c) {
  const int64_t H = s.H;
  const Vector &gates = trace.gates[t], &h = trace.h[t], &c = trace.c[t];
  for (int64_t u = 0; u < H; ++u) {
    const double d = d_hidden[u];
    if (s.cell == Cell::lstm) {
      const double i = gates[u], f = gates[H + u], g = gates[2 * H + u], o = gates[3 * H + u], tanh_c = std::tanh(trace.next_c[t][u]);
      const double d_next = d_c[u] + d * o * (1 - tanh_c * tanh_c);
      a[u] = d_next * g * i * (1 - i);
      a[H + u] = d_next * c[u] * f * (1 - f);
      a[2 * H + u] = d_next * i * (1 - g * g);
      a[3 * H + u] = d * tanh_c * o * (1 - o);
      d_c[u] = d_next * f;
    } else if (s.cell == Cell::gru || s.cell == Cell::gru_reset_before) {
      const double r = gates[u], z = gates[H + u], n = gates[2 * H + u];
      const double d_n = d * (1 - z) * (1 - n * n);
      a[u] = s.cell == Cell::gru ? d_n * trace.q[t][u] * r * (1 - r) : 0;
      a[H + u] = d * (h[u] - n) * z * (1 - z);
      a[2 * H + u] = d_n;
      d_h[u] += d * z;
    } else {
      const double y = trace.hidden[t][u];
      a[u] = s.cell == Cell::rnn_tanh ? d * (1 - y * y) : s.cell == Cell::rnn_sigmoid ? d * y * (1 - y) : y > 0 ? d : 0;
    }
  }
  b = a;
  if (s.cell == Cell::gru)
    for (int64_t u = 0; u < H; ++u) b[2 * H + u] = a[2 * H + u] * gates[u];
  round_all(s, a), round_all(s, b), round_all(s, d_c);
}

// Adds to d_w; d_h and d_c come in as the gradients of h_n and c_n. d_c_out: of the c of every step, or empty.
inline InputGradients backward(const Sizes& s, const Weights& w, const Trace& trace, const std::vector<Vector>& d_out,
                               const std::vector<Vector>& d_c_out, Vector d_h, Vector d_c, const Resets& resets, Weights& d_w) {
  InputGradients result;
  result.reset_h = Vector(s.P), result.reset_c = Vector(s.H);
  result.x.resize(trace.x.size());
  for (size_t t = trace.x.size(); t-- > 0;) {
    add(d_h, d_out[t]);
    if (!d_c_out.empty()) add(d_c, d_c_out[t]);
    round_all(s, d_h), round_all(s, d_c);
    Vector d_hidden = d_h;
    if (!w.w_hr.empty()) {
      add_outer(d_h, trace.hidden[t], d_w.w_hr);
      multiply_transposed(w.w_hr, d_h, d_hidden = Vector(s.H));
      round_all(s, d_hidden);
    }
    const size_t rows = size_t(gate_count(s.cell) * s.H);
    Vector a(rows), b;
    d_h = Vector(s.P);
    cell_backward(s, trace, t, d_hidden, a, b, d_h, d_c);
    if (s.cell == Cell::gru_reset_before) {
      const Vector& r = trace.gates[t];
      Vector d_gated(s.P);
      multiply_transposed(w.w_hh, rows_of_n(a, true), d_gated);
      for (int64_t u = 0; u < s.H; ++u) {
        a[u] = d_gated[u] * trace.h[t][u] * r[u] * (1 - r[u]);
        d_h[u] += d_gated[u] * r[u];
      }
      add_outer(rows_of_n(a, true), trace.q[t], d_w.w_hh);
      add(d_w.b_hh, rows_of_n(a, true));
      b = rows_of_n(a, false);
    }
    add_outer(a, trace.x[t], d_w.w_ih);
    add_outer(b, trace.h[t], d_w.w_hh);
    add(d_w.b_ih, a);
    add(d_w.b_hh, b);
    multiply_transposed(w.w_ih, a, result.x[t] = Vector(s.I));
    multiply_transposed(w.w_hh, b, d_h);
    round_all(s, result.x[t]), round_all(s, d_h);
    if (!resets.before[t]) continue;
    add(result.reset_h, d_h), add(result.reset_c, d_c);
    d_h = Vector(s.P), d_c = Vector(s.H);
  }
  result.h0 = d_h;
  result.c0 = d_c;
  return result;
}

}  // namespace naive
