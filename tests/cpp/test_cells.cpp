// The equations of csrc/cells as scalars: each forward against the formula of the literature written out again, each vjp against
// central differences of it, merge_biases, and what the cells say about themselves.
#include <array>
#include <string>

#include "cells/scalar.h"
#include "check.h"

namespace rnnk::scalar {
#include "cells/activations.h"
#include "cells/gru.h"
#include "cells/gru_reset_before.h"
#include "cells/lstm.h"
#include "cells/rnn.h"
}  // namespace rnnk::scalar

using namespace rnnk::scalar;
using Real = long double;

// What a cell makes of its products x and h (one per gate), both biases, and the c or h it carries; with `gated`, what the last of its
// products h would be taken with.
struct State {
  Real h, carry, gated = 0;
};
template <int gates>
struct Inputs {
  std::array<Real, gates> x, h, b_ih, b_hh;
  Real carry;

  static Inputs random() {
    Inputs in;
    for (auto* part : {&in.x, &in.h, &in.b_ih, &in.b_hh})
      for (Real& value : *part) value = Real(float(uniform(-2, 2)));  // exact in every type
    in.carry = Real(float(uniform(-2, 2)));
    return in;
  }
};

Real logistic(Real x) { return 1 / (1 + std::exp(-x)); }

// The formulas, from the literature and torch's documentation, not from csrc/cells.
struct LstmFormula {
  static constexpr int gates = 4;
  static State run(const Inputs<4>& in) {
    std::array<Real, 4> a;
    for (int g = 0; g < 4; ++g) a[g] = in.x[g] + in.b_ih[g] + in.h[g] + in.b_hh[g];
    const Real c = logistic(a[1]) * in.carry + logistic(a[0]) * std::tanh(a[2]);
    return {logistic(a[3]) * std::tanh(c), c};
  }
};
struct GruFormula {
  static constexpr int gates = 3;
  static State run(const Inputs<3>& in) {
    const Real r = logistic(in.x[0] + in.b_ih[0] + in.h[0] + in.b_hh[0]), z = logistic(in.x[1] + in.b_ih[1] + in.h[1] + in.b_hh[1]);
    const Real n = std::tanh(in.x[2] + in.b_ih[2] + r * (in.h[2] + in.b_hh[2]));
    const Real h = (1 - z) * n + z * in.carry;
    return {h, h};
  }
};
struct GruResetBeforeFormula {
  static constexpr int gates = 3;
  static State run(const Inputs<3>& in) {
    std::array<Real, 3> a;
    for (int g = 0; g < 3; ++g) a[g] = in.x[g] + in.b_ih[g] + in.h[g] + in.b_hh[g];
    const Real z = logistic(a[1]), h = (1 - z) * std::tanh(a[2]) + z * in.carry;
    return {h, h, logistic(a[0]) * in.carry};
  }
};
struct TanhFormula {
  static constexpr int gates = 1;
  static State run(const Inputs<1>& in) { return {std::tanh(in.x[0] + in.b_ih[0] + in.h[0] + in.b_hh[0]), in.carry}; }
};
struct ReluFormula {
  static constexpr int gates = 1;
  static State run(const Inputs<1>& in) { return {std::max<Real>(0, in.x[0] + in.b_ih[0] + in.h[0] + in.b_hh[0]), in.carry}; }
};
struct SigmoidFormula {
  static constexpr int gates = 1;
  static State run(const Inputs<1>& in) { return {logistic(in.x[0] + in.b_ih[0] + in.h[0] + in.b_hh[0]), in.carry}; }
};

template <class T>
void check_close(const std::string& what, T value, Real expected, Real tolerance) {
  check(std::abs(Real(value) - expected) <= tolerance * (1 + std::abs(expected)), "%s is %.17Lg, expected %.17Lg", what.c_str(), Real(value),
        expected);
}

template <class C, class T, int gates>
typename C::Step forward(const Inputs<gates>& in) {
  T x[gates], h[gates], b[C::biases];
  for (int g = 0; g < gates; ++g) x[g] = T(in.x[g]), h[g] = T(in.h[g]);
  C::merge_biases([&](int g) { return T(in.b_ih[g]); }, [&](int g) { return T(in.b_hh[g]); }, b);
  return C::forward(x, h, b, T(in.carry));
}

template <class C, class T, class Formula>
void test_forward(const std::string& name) {
  for (int i = 0; i < 2000; ++i) {
    const auto in = Inputs<Formula::gates>::random();
    const auto step = forward<C, T>(in);
    const State expected = Formula::run(in);
    const Real tolerance = 8 * std::numeric_limits<T>::epsilon();
    check_close(name + " h'", step.h, expected.h, tolerance);
    if (C::has_cell_state || C::blends_state) check_close(name + " carry", step.carry, expected.carry, tolerance);
  }
}

// d_h h' + d_carry carry' + d_gated gated, differentiated numerically with respect to one input.
template <class Formula, class Input>
Real difference(Inputs<Formula::gates> in, Real d_h, Real d_carry, Real d_gated, Input input) {
  constexpr Real step = 1e-5L;
  const auto loss = [&](Real by) {
    auto moved = in;
    input(moved) += by;
    const State out = Formula::run(moved);
    return d_h * out.h + d_carry * out.carry + d_gated * out.gated;
  };
  return (8 * (loss(step) - loss(-step)) - (loss(2 * step) - loss(-2 * step))) / (12 * step);
}

// The slots that meet W_ih must be the gradients of the products with x, those that meet W_hh of the products with h.
template <class C, class T, class Formula>
void test_vjp(const std::string& name, bool smooth) {
  for (int i = 0; i < 2000; ++i) {
    const auto in = Inputs<Formula::gates>::random();
    if (!smooth && std::abs(in.x[0] + in.h[0] + in.b_ih[0] + in.b_hh[0]) < 0.01L) continue;  // relu's corner
    const auto step = forward<C, T>(in);
    const T d_h = T(float(uniform(-2, 2))), d_carry = T(float(uniform(-2, 2)));
    auto d = C::vjp(step.saved, C::has_cell_state ? step.carry : step.h, T(in.carry), d_h, d_carry);
    T d_gated(0);
    if constexpr (C::gated_products) {
      d_gated = T(float(uniform(-2, 2)));
      const auto rest = C::vjp_of_gated_state(step.saved, T(in.carry), d_gated, d.carry);
      check(d.slots[0] == 0, "%s: the slot of r before D(gated state) is known", name.c_str());
      d.slots[0] = rest.slot, d.carry = rest.carry;
    }
    const Real tolerance = std::max<Real>(1e-12L, 64 * std::numeric_limits<T>::epsilon());
    const auto expect = [&](const std::string& what, T value, auto input) {
      check_close(name + " " + what, value, difference<Formula>(in, d_h, d_carry, d_gated, input), tolerance);
    };
    for (int g = 0; g < C::gates; ++g) {
      const std::string gate = " of gate " + std::to_string(g);
      expect("D(x)" + gate, d.slots[C::input_slots[g]], [g](auto& moved) -> Real& { return moved.x[g]; });
      expect("D(h)" + gate, d.slots[C::hidden_slots[g]], [g](auto& moved) -> Real& { return moved.h[g]; });
      expect("D(b_ih)" + gate, d.slots[C::input_slots[g]], [g](auto& moved) -> Real& { return moved.b_ih[g]; });
      expect("D(b_hh)" + gate, d.slots[C::hidden_slots[g]], [g](auto& moved) -> Real& { return moved.b_hh[g]; });
    }
    expect("D(carry)", d.carry, [](auto& moved) -> Real& { return moved.carry; });
  }
}

// Every slot is used, and no gate has two.
template <class C>
void test_slots(const std::string& name) {
  bool used[C::slots] = {};
  for (const auto& table : {C::input_slots, C::hidden_slots}) {
    for (int g = 0; g < C::gates; ++g) {
      if (!check(0 <= table[g] && table[g] < C::slots, "%s: slot %d of %d", name.c_str(), table[g], C::slots)) continue;
      used[table[g]] = true;
      check(g == 0 || table[g] > table[g - 1], "%s: slots are not in the order of the gates", name.c_str());
    }
  }
  for (int k = 0; k < C::slots; ++k) check(used[k], "%s: slot %d is never used", name.c_str(), k);
}

template <class T, template <class> class C, class Formula>
void test(const std::string& cell, bool smooth = true) {
  const std::string name = cell + (sizeof(T) == 4 ? " float" : " double");
  static_assert(C<T>::gates == Formula::gates);
  test_slots<C<T>>(name);
  test_forward<C<T>, T, Formula>(name);
  test_vjp<C<T>, T, Formula>(name, smooth);
}

// o * tanh(c'), which the backward pass of a projection recomputes, is h' to the bit.
template <class T>
void test_lstm_hidden() {
  for (int i = 0; i < 1000; ++i) {
    const auto step = forward<Lstm<T>, T>(Inputs<4>::random());
    check(Lstm<T>::hidden(step.saved, step.carry) == step.h, "Lstm::hidden is not h'");
  }
}

// The gated state is the same from the products and from what was saved.
template <class T>
void test_gated_state() {
  using C = GruResetBefore<T>;
  for (int i = 0; i < 1000; ++i) {
    const auto in = Inputs<3>::random();
    const auto step = forward<C, T>(in);
    const T x[3] = {T(in.x[0])}, h[3] = {T(in.h[0])}, b[3] = {T(in.b_ih[0]) + T(in.b_hh[0])};
    const T state = C::gated_state(x, h, b, T(in.carry));
    check(state == C::gated_state(step.saved, T(in.carry)), "the saved gates give another gated state");
    check_close("GRU reset before: s", state, GruResetBeforeFormula::run(in).gated, 8 * std::numeric_limits<T>::epsilon());
  }
}

template <class T>
void test_nan_and_corners() {
  const T nan = std::numeric_limits<T>::quiet_NaN(), infinity = std::numeric_limits<T>::infinity();
  using R = ReluActivation<T>;
  check(R::forward(nan) != R::forward(nan), "relu(nan) is a number");
  check(R::forward(-1) == 0 && R::forward(2) == 2 && R::forward(0) == 0 && R::forward(-infinity) == 0, "relu");
  check(R::vjp(0, 3) == 0 && R::vjp(2, 3) == 3, "relu's gradient: 0 at 0, as torch's");
  for (int g = 0; g < 4; ++g) {
    auto in = Inputs<4>::random();
    in.x[g] = nan;
    const auto step = forward<Lstm<T>, T>(in);
    check(step.h != step.h, "the LSTM loses a NaN in gate %d", g);
    if (g == 3) continue;
    auto three = Inputs<3>::random();
    three.x[g] = nan;
    const auto next = forward<Gru<T>, T>(three);
    check(next.h != next.h, "the GRU loses a NaN in gate %d", g);
  }
}

template <class T>
void test_all() {
  test<T, Lstm, LstmFormula>("LSTM");
  test<T, Gru, GruFormula>("GRU");
  test<T, GruResetBefore, GruResetBeforeFormula>("GRU reset before");
  test<T, RnnTanh, TanhFormula>("RNN tanh");
  test<T, RnnRelu, ReluFormula>("RNN relu", false);
  test<T, RnnSigmoid, SigmoidFormula>("RNN sigmoid");
  test_lstm_hidden<T>();
  test_gated_state<T>();
  test_nan_and_corners<T>();
}

int main() {
  test_all<float>();
  test_all<double>();
  return finish("test_cells");
}
