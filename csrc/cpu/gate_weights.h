// The weights of one direction, arranged so that all gates of a unit come out of one product.
//
// A panel of W_ih or W_hh holds a block of units with all their gates, [K][G][units]; of a cell with gated products the panel of W_hh has
// their gates apart, [K][G - gated][units] and then [K][gated][units]. Where a call has too few rows to repay packing,
// the products read the weights where they lie, in the same order of sums. S as in gemm.h.
//
// No include guard: included once inside each ISA's namespace, after its target pragma (csrc/README.md says why).

template <class T, template <class> class CellOf, class S = T>
class GateWeights {
  using V = Vec<T>;
  using C = CellOf<V>;
  static constexpr int registers = panel_registers(C::gates);
  static constexpr int per_gate = registers / C::gates;           // of them, per gate
  static constexpr int gated_registers = C::gated_products * per_gate, plain_registers = registers - gated_registers;

  Weights<T> w_;
  int64_t H_, I_, P_;
  S *w_ih_, *w_hh_;  // [panels, K, width], or null: read where they lie
  T* bias_;          // [C::biases, panels * units]

 public:
  static constexpr int units = per_gate * V::lanes;   // of a panel
  static constexpr int width = registers * V::lanes;  // columns of a panel
  static int64_t panels(const Shape& s) { return (s.H + units - 1) / units; }

  GateWeights() = default;
  GateWeights(Arena& arena, const Shape& s, const Weights<T>& w, Packing packing)
      : w_(w),
        H_(s.H),
        I_(s.I),
        P_(s.P),
        w_ih_(packing == Packing::never ? nullptr : arena.take<S>(panels(s) * width * s.I)),
        w_hh_(packing == Packing::never ? nullptr : arena.take<S>(panels(s) * width * s.P)),
        bias_(arena.take<T>(C::biases * padded_units())) {}

  // Thread i packs the i-th share of the panels of all directions: with one team these are the ones it will use.
  static void pack(const GateWeights (&directions)[2], const Shape& s, int threads, int thread) {
    const Range mine = share(s.D * panels(s), threads, thread);
    for (int64_t i = mine.begin; i < mine.end; ++i) directions[i / panels(s)].pack(i % panels(s));
  }

  void pack_bias(int64_t p) const {
    for (int64_t u = p * units; u < (p + 1) * units; ++u) {
      T b[C::biases];
      C::merge_biases([&](int g) { return u < H_ && w_.b_ih ? w_.b_ih[g * H_ + u] : T(0); },
                      [&](int g) { return u < H_ && w_.b_hh ? w_.b_hh[g * H_ + u] : T(0); }, b);
      for (int k = 0; k < C::biases; ++k) bias_[k * padded_units() + u] = b[k];
    }
  }

  bool packed() const { return w_hh_; }

  // Panel p of x W_ih^T and of h W_hh^T for M rows, to[m * width]. The caller's next panel is p + ahead.
  void multiply_w_ih(const T* const* x, int64_t M, int64_t p, T* to, int ahead = 1) const {
    multiply<0, registers>(x, M, I_, w_.w_ih, w_ih_, p, to, ahead);
  }
  void multiply_w_hh(const T* const* h, int64_t M, int64_t p, T* to, int ahead = 1) const {
    multiply<0, plain_registers>(h, M, P_, w_.w_hh, w_hh_, p, to, ahead);
  }
  // The gates whose product is with the gated state s.
  void multiply_w_hh_gated(const T* const* s, int64_t M, int64_t p, T* to, int ahead = 1) const {
    multiply<plain_registers, gated_registers>(s, M, P_, w_.w_hh, w_hh_, p, to, ahead);
  }

  // How far apart what the cell runs on side by side lies: the same units of several rows, or one row's units of several panels.
  struct Neighbours {
    int64_t row, unit, x_product, h_product;
  };
  static constexpr Neighbours neighbouring_rows{1, 0, width, width};

  // The cell's equations for units u .. u + lanes of a row and `count` - 1 beside them, from the products of u's panel.
  template <int count>
  RNNK_FN auto run_cell(const T* x_product, const T* h_product, const Neighbours& neighbours, int64_t u,
                        const Several<V, count>& carry) const {
    Several<V, count> x[C::gates], h[C::gates], b[C::biases];
    load_products(x_product, h_product, neighbours, u, x, h, b);
    return CellOf<Several<V, count>>::forward(x, h, b, carry);
  }

  // The gated state likewise, before the gated products are there.
  template <int count>
  RNNK_FN auto gated_state(const T* x_product, const T* h_product, const Neighbours& neighbours, int64_t u,
                           const Several<V, count>& carry) const {
    Several<V, count> x[C::gates], h[C::gates], b[C::biases];
    load_products(x_product, h_product, neighbours, u, x, h, b);
    return CellOf<Several<V, count>>::gated_state(x, h, b, carry);
  }

 private:
  template <class W>
  RNNK_FN void load_products(const T* x_product, const T* h_product, const Neighbours& neighbours, int64_t u, W (&x)[C::gates], W (&h)[C::gates],
                             W (&b)[C::biases]) const {
    for (int g = 0; g < C::gates; ++g) {
      const int64_t column = g * units + u % units;
      x[g] = W::of([&](int j) { return V::load(x_product + j * neighbours.x_product + column); });
      h[g] = W::of([&](int j) { return V::load(h_product + j * neighbours.h_product + column); });
    }
    for (int k = 0; k < C::biases; ++k) b[k] = W::of([&](int j) { return V::load(bias_ + k * padded_units() + u + j * neighbours.unit); });
  }

  void pack(int64_t p) const {
    if (w_ih_) pack_registers<0, registers>(w_.w_ih, I_, p, w_ih_);
    if (w_hh_) pack_registers<0, plain_registers>(w_.w_hh, P_, p, w_hh_), pack_registers<plain_registers, gated_registers>(w_.w_hh, P_, p, w_hh_);
    pack_bias(p);
  }

  int64_t padded_units() const { return (H_ + units - 1) / units * units; }

  // Registers `first` to first + count of panel p lie together, [K][count * lanes].
  template <int first>
  static int64_t offset(int64_t p, int64_t K) { return (p * width + first * V::lanes) * K; }

  template <int first, int count>
  void pack_registers(const T* w, int64_t K, int64_t p, S* packed) const {
    for (int v = 0; v < count; ++v)
      transpose_rows(weight_rows(w, K, p, first + v), K, packed + offset<first>(p, K) + v * V::lanes, count * V::lanes);
  }

  // The rows of W_ih or W_hh behind register v of panel p. Past the last unit there is nothing to read: any row will do, for no
  // one looks at what becomes of it.
  RowsOfColumns<T> weight_rows(const T* w, int64_t K, int64_t p, int v) const {
    const int gate = v / per_gate;
    const int64_t first = p * units + v % per_gate * V::lanes;
    RowsOfColumns<T> rows;
    for (int l = 0; l < V::lanes; ++l) rows.row[l] = w + (gate * H_ + std::min(first + l, H_ - 1)) * K;
    return rows;
  }

  template <int first, int count>
  void multiply(const T* const* rows, int64_t M, int64_t K, const T* w, const S* packed, int64_t p, T* to, int ahead) const {
    if (packed)
      return rows_product<count>(rows, M, whole_row(K), packed + offset<first>(p, K), packed + offset<first>(p + ahead, K), C::gates * H_ * K,
                                 Target<T>{to, width, nullptr, first * V::lanes, width - first * V::lanes});
    if (M == 0) return;
    RowsOfColumns<T> columns[count];
    for (int v = 0; v < count; ++v) columns[v] = weight_rows(w, K, p, first + v);
    direct_product(rows, M, columns, K, to + first * V::lanes, width);
  }
};
