// The simple recurrent network (Elman 1990), as in torch.nn.RNN.
//
//   h' = act(W_ih x + W_hh h + b)      b = b_ih + b_hh, act = tanh, relu or sigmoid
//
// Nothing but the output is saved: D(pre-activation) = D(h') (1 - h'^2) for tanh, D(h') [h' > 0] for relu, D(h') h' (1 - h') for
// sigmoid.
// docs/math.md derives it step by step.

template <class V>
struct TanhActivation {
  RNNK_FN static V forward(V a) { return tanh(a); }
  RNNK_FN static V vjp(V y, V d) { return d * fma(V(0) - y, y, V(1)); }
};

template <class V>
struct ReluActivation {
  // Both written so that NaN passes, as in torch.relu.
  RNNK_FN static V forward(V a) { return select(a < V(0), V(0), a); }
  RNNK_FN static V vjp(V y, V d) { return select(y <= V(0), V(0), d); }
};

template <class V>
struct SigmoidActivation {
  RNNK_FN static V forward(V a) { return sigmoid(a); }
  RNNK_FN static V vjp(V y, V d) { return d * (y * (V(1) - y)); }
};

template <class V, class Activation>
struct Rnn {
  static constexpr int gates = 1;
  static constexpr int gated_products = 0;  // all recurrent products are with h
  static constexpr int biases = 1;
  static constexpr int saved = 0;
  static constexpr int slots = 1;
  static constexpr int input_slots[] = {0};
  static constexpr int hidden_slots[] = {0};
  static constexpr bool has_cell_state = false;  // no c beside h
  static constexpr bool blends_state = false;     // whether h enters h' directly

  // b_ih and b_hh, functions of the gate, to what forward() takes.
  template <class Bi, class Bh, class S>
  RNNK_FN static void merge_biases(const Bi& b_ih, const Bh& b_hh, S (&b)[1]) {
    b[0] = b_ih(0) + b_hh(0);
  }

  struct Step {
    V h, carry, saved[1];
  };

  RNNK_FN static Step forward(const V (&x)[1], const V (&h)[1], const V (&b)[1], V carry) {
    return {Activation::forward(x[0] + h[0] + b[0]), carry, {}};
  }

  struct Gradients {
    V slots[1], carry;
  };

  // state: h'; d_h: D(h').
  RNNK_FN static Gradients vjp(const V (&)[1], V state, V /*previous*/, V d_h, V d_carry) {
    return {{Activation::vjp(state, d_h)}, d_carry};
  }
};

template <class V>
using RnnTanh = Rnn<V, TanhActivation<V>>;
template <class V>
using RnnRelu = Rnn<V, ReluActivation<V>>;
template <class V>
using RnnSigmoid = Rnn<V, SigmoidActivation<V>>;
