// Gated recurrent unit as it was first published (Cho et al. 2014), torch.nn has no such module: the reset gate acts before the
// recurrent product. Keras calls it reset_after=False, ONNX linear_before_reset=0.
//
//   r = sigmoid(W_ir x + W_hr h + b_r)            reset gate     b_* = b_ih + b_hh
//   z = sigmoid(W_iz x + W_hz h + b_z)            update gate
//   s = r * h                                     gated state: what W_hn meets
//   n = tanh(W_in x + W_hn s + b_n)               candidate
//   h' = (1 - z) * n + z * h                      hidden state
//
// A step takes two products, for s needs all of r first; its vjp has two parts likewise.
// Saved for the backward pass: r, z, n. With D(u) the gradient of the loss with respect to u:
//   D(n) = D(h') (1 - z)     D(z) = D(h') (h - n)
//   D(s) = W_hn^T D(n's pre-activation)
//   D(r) = D(s) h            D(h) = D(h') z + D(s) r + what comes back through W_hr and W_hz
// docs/math.md derives it step by step.

template <class V>
struct GruResetBefore {
  static constexpr int gates = 3;  // r z n
  static constexpr int gated_products = 1;  // of the gates, the last so many: their recurrent product is with s
  static constexpr int biases = 3;
  static constexpr int saved = 3;
  static constexpr int slots = 3;
  static constexpr int input_slots[] = {0, 1, 2};
  static constexpr int hidden_slots[] = {0, 1, 2};
  static constexpr bool has_cell_state = false;  // no c beside h
  static constexpr bool blends_state = true;     // whether h enters h' directly

  // b_ih and b_hh, functions of the gate, to what forward() takes.
  template <class Bi, class Bh, class S>
  RNNK_FN static void merge_biases(const Bi& b_ih, const Bh& b_hh, S (&b)[3]) {
    for (int g = 0; g < 3; ++g) b[g] = b_ih(g) + b_hh(g);
  }

  // s, from the products of the gates before the last; carry: h.
  RNNK_FN static V gated_state(const V (&x)[3], const V (&h)[3], const V (&b)[3], V carry) { return sigmoid(x[0] + h[0] + b[0]) * carry; }
  RNNK_FN static V gated_state(const V (&saved)[3], V carry) { return saved[0] * carry; }

  struct Step {
    V h, carry, saved[3];
  };

  // x: the products W_ih x; h: W_hr h, W_hz h, W_hn s; carry: h of the step before.
  RNNK_FN static Step forward(const V (&x)[3], const V (&h)[3], const V (&b)[3], V carry) {
    const V r = sigmoid(x[0] + h[0] + b[0]), z = sigmoid(x[1] + h[1] + b[1]);
    const V n = tanh(x[2] + h[2] + b[2]);
    const V state = fma(z, carry - n, n);
    return {state, state, {r, z, n}};
  }

  struct Gradients {
    V slots[3], carry;
  };

  // previous: h; d_h: D(h') without the carried part; d_carry: D(h') that came past W_hh. Returns the slots but r's, which is 0 until
  // D(s) is known, and the part of D(h) that D(h') brings.
  RNNK_FN static Gradients vjp(const V (&saved)[3], V /*state*/, V previous, V d_h, V d_carry) {
    const V z = saved[1], n = saved[2], one = V(1);
    const V d = d_h + d_carry;
    return {{V(0), d * (previous - n) * (z * (one - z)), d * (one - z) * fma(V(0) - n, n, one)}, d * z};
  }

  struct GatedGradients {
    V slot, carry;
  };

  // r's slot, and D(h) so far, from D(s) and the D(h) of vjp.
  RNNK_FN static GatedGradients vjp_of_gated_state(const V (&saved)[3], V previous, V d_s, V d_carry) {
    const V r = saved[0], one = V(1);
    return {d_s * previous * (r * (one - r)), fma(d_s, r, d_carry)};
  }
};
