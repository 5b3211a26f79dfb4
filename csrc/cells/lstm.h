// Long short-term memory (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000, as in torch.nn.LSTM).
//
//   i = sigmoid(W_ii x + W_hi h + b_i)      input gate           b_* = b_ih + b_hh
//   f = sigmoid(W_if x + W_hf h + b_f)      forget gate
//   g = tanh   (W_ig x + W_hg h + b_g)      candidate
//   o = sigmoid(W_io x + W_ho h + b_o)      output gate
//   c' = f * c + i * g                      cell state
//   h' = o * tanh(c')                       hidden state; with a projection the layer's state is W_hr h'
//
// Saved for the backward pass: i, f, g, o and c'. With D(u) the gradient of the loss with respect to u:
//   D(o) = D(h') tanh(c')                   D(c') += D(h') o (1 - tanh(c')^2)
//   D(i) = D(c') g     D(g) = D(c') i       D(f) = D(c') c       D(c) = D(c') f
// and through the activations to the pre-activations: sigmoid' = s (1 - s), tanh' = 1 - t^2.
// docs/math.md derives it step by step.

template <class V>
struct Lstm {
  static constexpr int gates = 4;   // blocks of rows in W_ih and W_hh: i f g o
  static constexpr int gated_products = 0;  // all recurrent products are with h
  static constexpr int biases = 4;  // after b_ih and b_hh have been merged
  static constexpr int saved = 4;   // values kept per unit, besides c'
  static constexpr int slots = 4;   // gradients of pre-activations per unit
  static constexpr int input_slots[] = {0, 1, 2, 3};   // which of them meet W_ih's rows
  static constexpr int hidden_slots[] = {0, 1, 2, 3};  // and W_hh's rows
  static constexpr bool has_cell_state = true;  // c travels beside h
  static constexpr bool blends_state = false;   // whether h enters h' directly

  // b_ih and b_hh, functions of the gate, to what forward() takes.
  template <class Bi, class Bh, class S>
  RNNK_FN static void merge_biases(const Bi& b_ih, const Bh& b_hh, S (&b)[4]) {
    for (int g = 0; g < 4; ++g) b[g] = b_ih(g) + b_hh(g);
  }

  struct Step {
    V h, carry, saved[4];
  };

  // x, h: the products W_ih x and W_hh h, one per gate; carry: c.
  RNNK_FN static Step forward(const V (&x)[4], const V (&h)[4], const V (&b)[4], V carry) {
    const V i = sigmoid(x[0] + h[0] + b[0]), f = sigmoid(x[1] + h[1] + b[1]);
    const V g = tanh(x[2] + h[2] + b[2]), o = sigmoid(x[3] + h[3] + b[3]);
    const V c = fma(f, carry, i * g);
    return {o * tanh(c), c, {i, f, g, o}};
  }

  struct Gradients {
    V slots[4], carry;
  };

  // state: c'; previous: c; d_h: D(h'); d_carry: D(c') from the next step. Returns D(pre-activations) and D(c).
  RNNK_FN static Gradients vjp(const V (&saved)[4], V state, V previous, V d_h, V d_carry) {
    const V i = saved[0], f = saved[1], g = saved[2], o = saved[3], one = V(1);
    const V t = tanh(state);
    const V d_c = fma(d_h * o, fma(V(0) - t, t, one), d_carry);
    return {{d_c * g * (i * (one - i)), d_c * previous * (f * (one - f)), d_c * i * fma(V(0) - g, g, one),
             d_h * t * (o * (one - o))},
            d_c * f};
  }

  // h' before the projection, from what was saved.
  RNNK_FN static V hidden(const V (&saved)[4], V state) { return saved[3] * tanh(state); }
};
