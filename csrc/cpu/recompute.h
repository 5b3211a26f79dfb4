// The gates that a forward pass did not save, computed again for a chunk of steps at a time.
//
// The states are known by now, so this needs no recurrence: two products over all tokens of the chunk and the cell's equations, by
// the same code as in the forward pass and therefore with the same bits. A gated state comes first, for all units, and the products
// that lead to it twice.
//
// No include guard: included once inside each ISA's namespace, after its target pragma (csrc/README.md says why).

template <class T, template <class> class CellOf>
class Recompute {
  using V = Vec<T>;
  using C = CellOf<V>;
  using Gates = GateWeights<T, CellOf>;
  static constexpr int64_t most_rows = 64;  // of a product

  // What one thread works in.
  struct Scratch {
    const T **x_rows, **h_rows, **carry_rows;  // [chunk_tokens]
    T **gate_rows, **gated_rows;               // [chunk_tokens]
    T *x_product, *h_product;                  // [most_rows, panel width]
  };

  const BackwardArgs<T>* a_;
  int threads_;
  int64_t capacity_, stride_;
  Gates weights_[2];
  T* gates_ = nullptr;  // [D, capacity, stride]: a token's [saved, Hp]
  PerThread<Scratch> scratch_;

 public:
  Recompute() = default;
  Recompute(Arena& arena, const BackwardArgs<T>& args, int threads)
      : a_(&args), threads_(threads), capacity_(tokens_of_chunk(args.shape)),
        stride_(C::saved * padded_units(args.shape.H) + cache_line / sizeof(T)) {
    for (int d = 0; d < args.shape.D; ++d) weights_[d] = Gates(arena, args.shape, args.weights[d], Packing::now);
    gates_ = arena.take<T>(args.shape.D * capacity_ * stride_);
    scratch_ = PerThread<Scratch>(arena, threads, [this](Arena& own) { return scratch(own); });
  }

  void pack(int thread) const { Gates::pack(weights_, a_->shape, threads_, thread); }

  // Thread `thread`'s panels of both directions' chunks.
  void operator()(int thread, const Chunk (&chunks)[2], const TokenGradients<T>& tokens, Barrier& all) const {
    if constexpr (C::gated_products) {
      for_blocks(thread, chunks, tokens,
                 [this](const Scratch& s, int d, int64_t p, int64_t first, int64_t n) { find_gated_state(s, d, p, first, n); });
      all.wait(threads_);
    }
    for_blocks(thread, chunks, tokens, [this](const Scratch& s, int d, int64_t p, int64_t first, int64_t n) { run_cell(s, d, p, first, n); });
  }

  T* gates(const Chunk& c, int64_t token) const { return gates_ + (c.d * capacity_ + token - c.first_token) * stride_; }

 private:
  static Scratch scratch(Arena& arena) {
    return {arena.take<const T*>(chunk_tokens), arena.take<const T*>(chunk_tokens), arena.take<const T*>(chunk_tokens),
            arena.take<T*>(chunk_tokens),       arena.take<T*>(chunk_tokens),       arena.take<T>(most_rows * Gates::width),
            arena.take<T>(most_rows * Gates::width)};
  }

  // f(scratch, direction, panel, the first of so many rows of the scratch, how many).
  template <class F>
  void for_blocks(int thread, const Chunk (&chunks)[2], const TokenGradients<T>& tokens, const F& f) const {
    const Scratch s = scratch_(thread, [this](Arena& own) { return scratch(own); });
    const Range panels = share(Gates::panels(a_->shape), threads_, thread);
    for (int d = 0; d < a_->shape.D; ++d) {
      TokenCursor at(a_->schedule, a_->shape.T, chunks[d].first_token);
      for (int64_t begin = 0; begin < chunks[d].tokens; begin += chunk_tokens) {
        const int64_t n = std::min(chunk_tokens, chunks[d].tokens - begin);
        find_rows(s, chunks[d], tokens, chunks[d].first_token + begin, n, at);
        for (int64_t p = panels.begin; p < panels.end; ++p)
          for (int64_t first = 0; first < n; first += most_rows) f(s, d, p, first, std::min(most_rows, n - first));
      }
    }
  }

  void find_rows(const Scratch& s, const Chunk& c, const TokenGradients<T>& tokens, int64_t first, int64_t n, TokenCursor& at) const {
    for (int64_t i = 0; i < n; ++i, at.next()) {
      s.x_rows[i] = a_->x.at(a_->schedule, at.t, at.b);
      s.h_rows[i] = state_before(*a_, c.d, at.t, at.b);
      s.carry_rows[i] = C::has_cell_state ? cell_before(*a_, c.d, at.t, at.b, padded_units(a_->shape.H)) : s.h_rows[i];
      s.gate_rows[i] = gates(c, first + i);
      if (C::gated_products) s.gated_rows[i] = tokens.hidden(c, first + i);
    }
  }

  void find_gated_state(const Scratch& s, int d, int64_t p, int64_t first, int64_t n) const {
    const int64_t H = a_->shape.H;
    weights_[d].multiply_w_ih(s.x_rows + first, n, p, s.x_product);
    weights_[d].multiply_w_hh(s.h_rows + first, n, p, s.h_product);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t u = p * Gates::units; u < std::min((p + 1) * Gates::units, H); u += V::lanes) {
        const auto carry = Several<V, 1>::of([&](int) { return load_upto(s.carry_rows[first + i] + u, H - u); });
        weights_[d].template gated_state<1>(s.x_product + i * Gates::width, s.h_product + i * Gates::width, Gates::neighbouring_rows, u, carry)
            .part[0].store(s.gated_rows[first + i] + u);
      }
  }

  void run_cell(const Scratch& s, int d, int64_t p, int64_t first, int64_t n) const {
    const int64_t H = a_->shape.H, Hp = padded_units(H);
    weights_[d].multiply_w_ih(s.x_rows + first, n, p, s.x_product);
    weights_[d].multiply_w_hh(s.h_rows + first, n, p, s.h_product);
    if constexpr (C::gated_products) weights_[d].multiply_w_hh_gated(s.gated_rows + first, n, p, s.h_product);
    for_rows(n, [&](int64_t i, auto count) {
      using W = Several<V, count>;
      for (int64_t u = p * Gates::units; u < std::min((p + 1) * Gates::units, H); u += V::lanes) {
        const W carry = W::of([&](int j) { return load_upto(s.carry_rows[first + i + j] + u, H - u); });
        const int64_t at = i * Gates::width;
        const auto step = weights_[d].template run_cell<count>(s.x_product + at, s.h_product + at, Gates::neighbouring_rows, u, carry);
        W::for_each([&](int j) {
          for (int k = 0; k < C::saved; ++k) step.saved[k].part[j].store(s.gate_rows[first + i + j] + k * Hp + u);
        });
      }
    });
  }
};
