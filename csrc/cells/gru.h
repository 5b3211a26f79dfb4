// Gated recurrent unit (Cho et al. 2014) in the form of torch.nn.GRU: the reset gate acts after the recurrent product.
//
//   r = sigmoid(W_ir x + W_hr h + b_r)            reset gate     b_r, b_z = b_ih + b_hh
//   z = sigmoid(W_iz x + W_hz h + b_z)            update gate
//   q = W_hn h + b_hn                             recurrent part of the candidate
//   n = tanh(W_in x + b_in + r * q)               candidate
//   h' = (1 - z) * n + z * h                      hidden state
//
// Saved for the backward pass: r, z, n, q. With D(u) the gradient of the loss with respect to u:
//   D(n) = D(h') (1 - z)     D(z) = D(h') (h - n)     D(h) = D(h') z + what comes back through W_hh
//   D(n's pre-activation) = D(n) (1 - n^2)   meets x, W_in and b_in
//   D(q) = D(n's pre-activation) r           meets h, W_hn and b_hn: the fourth slot
//   D(r) = D(n's pre-activation) q
// docs/math.md derives it step by step.

template <class V>
struct Gru {
  static constexpr int gates = 3;   // r z n
  static constexpr int gated_products = 0;  // all recurrent products are with h
  static constexpr int biases = 4;  // b_r b_z b_in b_hn
  static constexpr int saved = 4;
  static constexpr int slots = 4;   // r, z, n's pre-activation, q
  static constexpr int input_slots[] = {0, 1, 2};
  static constexpr int hidden_slots[] = {0, 1, 3};
  static constexpr bool has_cell_state = false;  // no c beside h
  static constexpr bool blends_state = true;     // whether h enters h' directly

  // b_ih and b_hh, functions of the gate, to what forward() takes.
  template <class Bi, class Bh, class S>
  RNNK_FN static void merge_biases(const Bi& b_ih, const Bh& b_hh, S (&b)[4]) {
    for (int g = 0; g < 2; ++g) b[g] = b_ih(g) + b_hh(g);
    b[2] = b_ih(2);
    b[3] = b_hh(2);
  }

  struct Step {
    V h, carry, saved[4];
  };

  // x, h: the products W_ih x and W_hh h, one per gate; carry: h of the step before.
  RNNK_FN static Step forward(const V (&x)[3], const V (&h)[3], const V (&b)[4], V carry) {
    const V r = sigmoid(x[0] + h[0] + b[0]), z = sigmoid(x[1] + h[1] + b[1]);
    const V q = h[2] + b[3];
    const V n = tanh(fma(r, q, x[2] + b[2]));
    const V state = fma(z, carry - n, n);
    return {state, state, {r, z, n, q}};
  }

  struct Gradients {
    V slots[4], carry;
  };

  // previous: h; d_h: D(h') without the carried part; d_carry: D(h') that came past W_hh. Returns the slots and D(h) past W_hh.
  RNNK_FN static Gradients vjp(const V (&saved)[4], V /*state*/, V previous, V d_h, V d_carry) {
    const V r = saved[0], z = saved[1], n = saved[2], q = saved[3], one = V(1);
    const V d = d_h + d_carry;
    const V d_a = d * (one - z) * fma(V(0) - n, n, one);  // D(n's pre-activation)
    return {{d_a * q * (r * (one - r)), d * (previous - n) * (z * (one - z)), d_a, d_a * r}, d * z};
  }
};
