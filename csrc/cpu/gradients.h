// The gradients that need no recurrence: large products over the tokens of a chunk of steps.
//
//   d_x    = input slots W_ih                    split over the threads by panel and by token
//   d_w_ih = (input slots)^T x                   split by the gradient's rows
//   d_w_hh = (hidden slots)^T h before           likewise; the rows of gated products: with the gated state
//   d_w_hr = D(h)^T (o * tanh(c))                likewise
//   d_b    = slots^T 1                           likewise
// where a cell's slots are its D(pre-activations), see cells/.
//
// No include guard: included once inside each ISA's namespace, after its target pragma (csrc/README.md says why).

// The places of the gates of D(pre-activations) in a token's slots.
RNNK_FN Stretches gate_stretches(const int* slots, int gates, int64_t H, int64_t Hp) {
  Stretches k{gates, H, {}};
  for (int g = 0; g < gates; ++g) k.start[g] = slots[g] * Hp;
  return k;
}

template <class T, class C>
class Gradients {
  using V = Vec<T>;
  static constexpr int64_t most_rows = 96;  // of a product for d_x
  static constexpr int64_t panels_at_once = 8, rows_at_once = 96;  // of a weight's gradient: their operands, packed, stay in the L2

  // What one thread works in.
  struct Scratch {
    const T** rows;  // [chunk_tokens]
    T* product;      // [most_rows, panel width]
    T* panels;       // [panels_at_once, chunk_tokens, panel width]
    T* tiles;        // [rows_at_once / tile_rows, packed_tile]
  };

  const BackwardArgs<T>* a_;
  TokenGradients<T> tokens_;
  int threads_;
  int64_t Hp_;
  Panels<T> w_ih_[2];  // [gates * H, I], for d_x
  PerThread<Scratch> scratch_;

 public:
  Gradients() = default;
  Gradients(const BackwardArgs<T>& args, const TokenGradients<T>& tokens, int threads, Arena& arena)
      : a_(&args), tokens_(tokens), threads_(threads), Hp_(padded_units(args.shape.H)) {
    const Shape& s = args.shape;
    for (int d = 0; d < s.D && args.d_x.data; ++d) w_ih_[d] = Panels<T>(arena, C::gates * s.H, s.I);
    scratch_ = PerThread<Scratch>(arena, threads, [this](Arena& own) { return scratch(own); });
  }

  void pack(int thread) const {
    for (int d = 0; d < a_->shape.D && a_->d_x.data; ++d) {
      const Range mine = share(w_ih_[d].count(), threads_, thread);
      for (int64_t p = mine.begin; p < mine.end; ++p) w_ih_[d].pack(p, a_->weights[d].w_ih);
    }
  }

  // Thread `thread`'s part of everything wanted of both directions' chunks, once the time loop has left them on all threads.
  // Both directions add to d_x, one after the other.
  void operator()(int thread, const Chunk (&chunks)[2], Barrier& all) const {
    const Scratch s = scratch_(thread, [this](Arena& own) { return scratch(own); });
    for (int d = 0; d < a_->shape.D; ++d) {
      if (d == 1) all.wait(threads_);
      if (a_->d_x.data) input_gradient(thread, s, chunks, d);
      weight_gradients(thread, s, chunks[d]);
    }
  }

 private:
  Scratch scratch(Arena& arena) const {
    return {arena.take<const T*>(chunk_tokens), arena.take<T>(most_rows * 4 * V::lanes), arena.take<T>(panels_at_once * chunk_tokens * 4 * V::lanes),
            arena.take<T>(rows_at_once * chunk_tokens + rows_at_once / tile_rows(far_registers) * V::lanes)};
  }

  void input_gradient(int thread, const Scratch& s, const Chunk (&chunks)[2], int d) const {
    const Chunk& c = chunks[d];
    const int64_t blocks = ((c.tokens + most_rows - 1) / most_rows + threads_ - 1) / threads_ * threads_;
    const Range mine = share(w_ih_[d].count() * blocks, threads_, thread);
    for (int64_t i = mine.begin; i < mine.end; ++i) {
      const Range tokens = share(c.tokens, blocks, i % blocks);
      if (tokens.size() > 0) input_gradient(s, chunks, d, i / blocks, {c.first_token + tokens.begin, c.first_token + tokens.end});
    }
  }

  // Panel p of d_x. The direction that comes to a token first overwrites, the other one adds.
  void input_gradient(const Scratch& s, const Chunk (&chunks)[2], int d, int64_t p, const Range& tokens) const {
    const int64_t width = w_ih_[d].width(), columns = std::min(width, a_->shape.I - p * width);
    for (int64_t token = tokens.begin; token < tokens.end; ++token) s.rows[token - tokens.begin] = tokens_.slots(chunks[d], token);
    w_ih_[d].multiply(s.rows, tokens.size(), gate_stretches(C::input_slots, C::gates, a_->shape.H, Hp_), p,
                      Target<T>{s.product, width, nullptr, -p * width, (p + 1) * width});
    TokenCursor at(a_->schedule, a_->shape.T, tokens.begin);
    for (int64_t i = 0; i < tokens.size(); ++i, at.next()) {
      const bool second = a_->shape.D == 2 && (d == 0 ? at.t < a_->shape.T - chunks[1].end : at.t >= chunks[0].begin);
      T* to = a_->d_x.at(a_->schedule, at.t, at.b) + p * width;
      for (int64_t u = 0; u < columns; u += V::lanes) {
        const V product = V::load(s.product + i * width + u);
        store_upto(second ? product + load_upto(to + u, columns - u) : product, to + u, columns - u);
      }
    }
  }

  void weight_gradients(int thread, const Scratch& s, const Chunk& c) const {
    const Shape& shape = a_->shape;
    const WeightGradients<T>& to = a_->d_weights[c.d];
    const T* slots = tokens_.slots(c, c.first_token);
    if (to.w_ih)
      weight_gradient(thread, s, c, slots, tokens_.slots_stride(), gate_stretches(C::input_slots, C::gates, shape.H, Hp_),
                      [&](int64_t, const TokenCursor& at) { return a_->x.at(a_->schedule, at.t, at.b); }, shape.I, to.w_ih);
    constexpr int plain = C::gates - C::gated_products;
    if (to.w_hh)
      weight_gradient(thread, s, c, slots, tokens_.slots_stride(), gate_stretches(C::hidden_slots, plain, shape.H, Hp_),
                      [&](int64_t, const TokenCursor& at) { return state_before(*a_, c.d, at.t, at.b); }, shape.P, to.w_hh);
    if (C::gated_products && to.w_hh)
      weight_gradient(thread, s, c, slots, tokens_.slots_stride(), gate_stretches(C::hidden_slots + plain, C::gated_products, shape.H, Hp_),
                      [&](int64_t token, const TokenCursor&) { return tokens_.hidden(c, token); }, shape.P, to.w_hh + plain * shape.H * shape.P);
    if (to.w_hr)
      weight_gradient(thread, s, c, tokens_.state(c, c.first_token), tokens_.state_stride(), whole_row(shape.P),
                      [&](int64_t token, const TokenCursor&) { return tokens_.hidden(c, token); }, shape.H, to.w_hr);
    if (to.b_ih || to.b_hh) bias_gradient(thread, c, to);
  }

  // Tiles of MR rows of a gradient, as many as are packed at once.
  template <int MR>
  struct RowTiles {
    static constexpr int64_t most = rows_at_once / MR;
    static int64_t of_stretch(const Stretches& m) { return (m.length + MR - 1) / MR; }

    int64_t count, column_of_a[most], row_of_out[most];
    int rows[most];

    RowTiles(const Stretches& m, const Range& tiles) : count(std::min(most, tiles.size())) {
      for (int64_t i = 0; i < count; ++i) {
        const int64_t stretch = (tiles.begin + i) / of_stretch(m), row = (tiles.begin + i) % of_stretch(m) * MR;
        column_of_a[i] = m.start[stretch] + row;
        row_of_out[i] = stretch * m.length + row;
        rows[i] = int(std::min<int64_t>(MR, m.length - row));
      }
    }
  };

  // The loop's first chunk overwrites, those after it add.
  bool is_first(const Chunk& c) const { return c.end == a_->shape.T; }

  // out[m, n] += sum over the chunk's tokens of a(token)[m] b(token)[n]. The rows of a lie a_stride apart, their stretches m are the
  // rows of `out` one after another; b(token) = b_row(token, its cursor).
  template <class BRow>
  void weight_gradient(int thread, const Scratch& s, const Chunk& c, const T* a, int64_t a_stride, const Stretches& m, const BRow& b_row,
                       int64_t columns, T* out) const {
    const Panels<T> panels(chunk_tokens, columns, far_registers);
    with_constant<4>(panels.registers, [&](auto NV) {
      constexpr int MR = tile_rows(NV);
      static_assert(chunk_tokens <= 128 * chains_of_block);
      constexpr bool far = chunk_tokens * NV * V::lanes * int64_t(sizeof(T)) >= far_panel_bytes;
      const Range mine = share(m.count * RowTiles<MR>::of_stretch(m), threads_, thread);
      TokenCursor at(a_->schedule, a_->shape.T, c.first_token);
      for (int64_t begin = 0; begin == 0 || begin < c.tokens; begin += chunk_tokens) {
        const int64_t K = std::min(chunk_tokens, c.tokens - begin);
        Block block;
        for (int64_t k = 0; k == 0 || k < K; k += chain_length(K)) block.add(k, std::min(chain_length(K), K - k));
        const Store store = begin == 0 && is_first(c) ? Store::overwrite : Store::add;
        if (K == 0 && store == Store::add) return;
        for (int64_t k = 0; k < K; ++k, at.next()) s.rows[k] = b_row(c.first_token + begin + k, at);
        for (int64_t p = 0; p < panels.count(); p += panels_at_once) {
          const Range at_once{p, std::min(p + panels_at_once, panels.count())};
          for (int64_t q = at_once.begin; q < at_once.end; ++q)
            for (int64_t k = 0; k < K; ++k) panels.pack_row(s.panels + ((q - p) * K + k) * panels.width(), s.rows[k], q * panels.width());
          for (int64_t first = mine.begin; first < mine.end; first += RowTiles<MR>::most) {
            const RowTiles<MR> tiles(m, {first, mine.end});
            pack_tiles<MR>(a + begin * a_stride, a_stride, K, tiles.column_of_a, tiles.count, s.tiles);
            for (int64_t q = at_once.begin; q < at_once.end; ++q)
              for (int64_t i = 0; i < tiles.count; ++i) {
                const int64_t column = q * panels.width();
                const Target<T> to{out + tiles.row_of_out[i] * columns, columns, nullptr, column, columns - column, store};
                packed_tile_product<NV, far>(s.tiles + i * packed_tile<T>(MR, K), block, s.panels + (q - p) * K * panels.width(), to, tiles.rows[i]);
              }
          }
        }
      }
    });
  }

  // Each slot is summed once, even where it is the gradient of both biases.
  void bias_gradient(int thread, const Chunk& c, const WeightGradients<T>& to) const {
    const int64_t H = a_->shape.H;
    const Range mine = share(C::slots * Hp_ / V::lanes, threads_, thread);
    for (int64_t v = mine.begin; v < mine.end; ++v) {
      const int64_t slot = v * V::lanes / Hp_, u = v * V::lanes % Hp_;
      if (u >= H) continue;
      const V sum = token_sum(c, v * V::lanes, c.first_token, c.first_token + c.tokens);
      const auto put = [&](T* b) { store_upto(is_first(c) ? sum : load_upto(b, H - u) + sum, b, H - u); };
      for (int g = 0; g < C::gates; ++g) {
        if (to.b_ih && C::input_slots[g] == slot) put(to.b_ih + g * H + u);
        if (to.b_hh && C::hidden_slots[g] == slot) put(to.b_hh + g * H + u);
      }
    }
  }

  // Pairwise, down to chains of 16.
  V token_sum(const Chunk& c, int64_t column, int64_t begin, int64_t end) const {
    if (end - begin > 16) {
      const int64_t middle = begin + (end - begin) / 2;
      return token_sum(c, column, begin, middle) + token_sum(c, column, middle, end);
    }
    V sum(0);
    for (int64_t token = begin; token < end; ++token) sum = sum + V::load(tokens_.slots(c, token) + column);
    return sum;
  }
};
