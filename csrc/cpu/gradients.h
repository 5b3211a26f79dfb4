// The gradients that need no recurrence, after the backward time loop: large products over all tokens.
//
//   d_x    = input slots W_ih                    tokens are split over the threads
//   d_w_ih = (input slots)^T x                   the gradient's rows are split over the threads
//   d_w_hh = (hidden slots)^T h before           likewise
//   d_w_hr = D(h)^T (o * tanh(c))                likewise
//   d_b    = slots^T 1                           likewise
// where a cell's slots are its D(pre-activations), see cells/.
// A weight's gradient sums over tokens in chunks, a bias's pairwise: as deterministic as one long chain, with less rounding error.
//
// No include guard: included once inside each ISA's namespace, after its target pragma (csrc/README.md says why).

// The step before t, in the direction's time, at which sorted row b ran; -1 where t is its first.
template <class T>
int64_t step_before(const BackwardArgs<T>& a, int d, int64_t t, int64_t b) {
  if (d == 0) return t - 1;
  return t + 1 < a.shape.T && b < a.schedule.active[t + 1] ? t + 1 : -1;
}

// The state that entered step t of sorted row b.
template <class T>
const T* state_before(const BackwardArgs<T>& a, int d, int64_t t, int64_t b) {
  const int64_t before = step_before(a, d, t, b);
  if (before >= 0) return a.out.at(a.schedule, before, b) + d * a.shape.P;
  return a.h0 + (d * a.shape.B + a.schedule.order[b]) * a.shape.P;
}

// Where the gates of D(pre-activations) lie in a token's slots.
RNNK_FN Stretches gate_stretches(const int* slots, int gates, int64_t H, int64_t Hp) {
  Stretches k{gates, H, {}};
  for (int g = 0; g < gates; ++g) k.start[g] = slots[g] * Hp;
  return k;
}

// What the time loop leaves behind for each token.
template <class T>
class TokenGradients {
  T *slots_ = nullptr, *state_ = nullptr, *hidden_ = nullptr;
  int64_t N_ = 0, slots_stride_ = 0, state_stride_ = 0, hidden_stride_ = 0;

 public:
  TokenGradients() = default;
  TokenGradients(Arena& arena, const Shape& s, int slots, bool projected)
      : N_(s.N), slots_stride_(slots * padded_units(s.H)), state_stride_(padded_units(s.P)), hidden_stride_(padded_units(s.H)) {
    slots_ = arena.take<T>(s.D * N_ * slots_stride_);
    if (!projected) return;
    state_ = arena.take<T>(s.D * N_ * state_stride_);
    hidden_ = arena.take<T>(s.D * N_ * hidden_stride_);
  }

  T* slots(int d, int64_t token) const { return slots_ + (d * N_ + token) * slots_stride_; }     // [slots, Hp]
  T* state(int d, int64_t token) const { return state_ + (d * N_ + token) * state_stride_; }     // [P padded], D(h)
  T* hidden(int d, int64_t token) const { return hidden_ + (d * N_ + token) * hidden_stride_; }  // [Hp], o * tanh(c)
};

// Walks over tokens in order: step t, sorted row b.
struct TokenCursor {
  const Schedule& schedule;
  int64_t t = 0, b = 0;

  TokenCursor(const Schedule& schedule, int64_t T, int64_t token) : schedule(schedule) {
    t = std::upper_bound(schedule.first, schedule.first + T, token) - schedule.first - 1;
    b = token - schedule.first[t];
  }
  void next() {
    if (++b < schedule.active[t]) return;
    ++t;
    b = 0;
  }
};

template <class T, class C>
class Gradients {
  using V = Vec<T>;
  static constexpr int64_t token_chunk = 256;  // of a weight gradient: its operands stay in the L2
  static constexpr int64_t row_chunk = 96;     // of d_x

  const BackwardArgs<T>* a_;
  TokenGradients<T> tokens_;
  int threads_;
  int64_t Hp_;
  Panels<T> w_ih_[2];  // [gates * H, I], for d_x
  char* scratch_;
  size_t scratch_size_;

  struct Scratch {
    const T** a_rows;  // [row_chunk or token_chunk]
    const T** b_rows;  // [token_chunk]
    T** to_rows;       // [row_chunk]
    T* a;              // [tiles, token_chunk, tile rows]
    T* b;              // [token_chunk, panel width]
  };

 public:
  Gradients() = default;
  Gradients(const BackwardArgs<T>& args, const TokenGradients<T>& tokens, int threads, Arena& arena)
      : a_(&args), tokens_(tokens), threads_(threads), Hp_(padded_units(args.shape.H)) {
    const Shape& s = args.shape;
    for (int d = 0; d < s.D && args.d_x.data; ++d) {
      w_ih_[d] = Panels<T>(C::gates * s.H, s.I);
      w_ih_[d].data = arena.take<T>(w_ih_[d].size());
    }
    Arena counting(nullptr);
    scratch(counting);
    scratch_size_ = (counting.used() + 63) / 64 * 64;
    scratch_ = arena.take<char>(int64_t(scratch_size_) * threads);
  }

  void pack(int thread) const {
    for (int d = 0; d < a_->shape.D && a_->d_x.data; ++d) {
      const Range mine = share(w_ih_[d].count(), threads_, thread);
      for (int64_t p = mine.begin; p < mine.end; ++p) w_ih_[d].pack(p, a_->weights[d].w_ih);
    }
  }

  // Thread `thread`'s part of everything wanted, once the time loop is over on all threads.
  void operator()(int thread) const {
    Arena arena(scratch_ + thread * scratch_size_);
    const Scratch s = scratch(arena);
    if (a_->d_x.data) input_gradient(thread, s);
    const Shape& shape = a_->shape;
    for (int d = 0; d < shape.D; ++d) {
      const WeightGradients<T>& to = a_->d_weights[d];
      const auto slots = [&](int64_t token, const TokenCursor&) { return tokens_.slots(d, token); };
      if (to.w_ih)
        weight_gradient(thread, s, gate_stretches(C::input_slots, C::gates, shape.H, Hp_), slots,
                        [&](int64_t, const TokenCursor& at) { return a_->x.at(a_->schedule, at.t, at.b); }, shape.I, to.w_ih);
      if (to.w_hh)
        weight_gradient(thread, s, gate_stretches(C::hidden_slots, C::gates, shape.H, Hp_), slots,
                        [&](int64_t, const TokenCursor& at) { return state_before(*a_, d, at.t, at.b); }, shape.P, to.w_hh);
      if (to.w_hr)
        weight_gradient(thread, s, whole_row(shape.P), [&](int64_t token, const TokenCursor&) { return tokens_.state(d, token); },
                        [&](int64_t token, const TokenCursor&) { return tokens_.hidden(d, token); }, shape.H, to.w_hr);
      if (to.b_ih || to.b_hh) bias_gradient(thread, d, to);
    }
  }

 private:
  Scratch scratch(Arena& arena) const {
    const int64_t own_rows = C::gates * a_->shape.H / threads_ + (C::gates + 1) * largest_tile;
    return {arena.take<const T*>(token_chunk), arena.take<const T*>(token_chunk), arena.take<T*>(row_chunk),
            arena.take<T>(own_rows * token_chunk), arena.take<T>(token_chunk * 4 * V::lanes)};
  }

  void input_gradient(int thread, const Scratch& s) const {
    const Range mine = share(a_->shape.N, threads_, thread);
    for (int64_t begin = mine.begin; begin < mine.end; begin += row_chunk) {
      const int64_t rows = std::min(row_chunk, mine.end - begin);
      TokenCursor at(a_->schedule, a_->shape.T, begin);
      for (int64_t i = 0; i < rows; ++i, at.next()) s.to_rows[i] = a_->d_x.at(a_->schedule, at.t, at.b);
      for (int d = 0; d < a_->shape.D; ++d) {
        for (int64_t i = 0; i < rows; ++i) s.a_rows[i] = tokens_.slots(d, begin + i);
        const Target<T> to{nullptr, 0, s.to_rows, 0, a_->shape.I, d == 0 ? Store::overwrite : Store::add};
        for (int64_t p = 0; p < w_ih_[d].count(); ++p)
          w_ih_[d].multiply(s.a_rows, rows, gate_stretches(C::input_slots, C::gates, a_->shape.H, Hp_), p, to);
      }
    }
  }

  // out[m, n] = sum over tokens of a_row(token)[m] b_row(token)[n], the rows m being the stretches of A one after another.
  template <class ARow, class BRow>
  void weight_gradient(int thread, const Scratch& s, const Stretches& m, ARow a_row, BRow b_row, int64_t columns, T* out) const {
    const Panels<T> panels(token_chunk, columns);
    with_constant<4>(panels.registers, [&](auto NV) {
      constexpr int MR = tile_rows(NV);
      const int64_t tiles = (m.length + MR - 1) / MR;  // per stretch
      const Range mine = share(m.count * tiles, threads_, thread);
      const auto first_row = [&](int64_t tile) { return tile % tiles * MR; };
      if (a_->shape.N == 0) zero_rows(m, tiles, MR, mine, columns, out);
      TokenCursor at(a_->schedule, a_->shape.T, 0);
      for (int64_t begin = 0; begin < a_->shape.N; begin += token_chunk) {
        const int64_t K = std::min(token_chunk, a_->shape.N - begin);
        for (int64_t k = 0; k < K; ++k, at.next()) {
          s.a_rows[k] = a_row(begin + k, at);
          s.b_rows[k] = b_row(begin + k, at);
        }
        for (int64_t tile = mine.begin; tile < mine.end; ++tile)
          pack_tile<MR>(s.a_rows, K, m.start[tile / tiles] + first_row(tile), m.length - first_row(tile), s.a + (tile - mine.begin) * K * MR);
        for (int64_t p = 0; p < panels.count(); ++p) {
          for (int64_t k = 0; k < K; ++k) panels.pack_row(s.b + k * panels.width(), s.b_rows[k], p * panels.width());
          for (int64_t tile = mine.begin; tile < mine.end; ++tile) {
            T* rows = out + (tile / tiles * m.length + first_row(tile)) * columns;
            const Target<T> to{rows, columns, nullptr, p * panels.width(), columns - p * panels.width(), begin ? Store::add : Store::overwrite};
            packed_tile<NV>(s.a + (tile - mine.begin) * K * MR, K, s.b, to, 0, int(std::min<int64_t>(MR, m.length - first_row(tile))));
          }
        }
      }
    });
  }

  // Columns first .. first + MR of K rows of A, `left` of them real, as [K][MR].
  template <int MR>
  static void pack_tile(const T* const* rows, int64_t K, int64_t first, int64_t left, T* to) {
    if (left >= MR) {
      for (int64_t k = 0; k < K; ++k, to += MR) std::copy_n(rows[k] + first, MR, to);
      return;
    }
    for (int64_t k = 0; k < K; ++k, to += MR) {
      std::fill_n(to, MR, T(0));
      std::copy_n(rows[k] + first, left, to);
    }
  }

  static void zero_rows(const Stretches& m, int64_t tiles, int MR, const Range& mine, int64_t columns, T* out) {
    for (int64_t tile = mine.begin; tile < mine.end; ++tile) {
      const int64_t first = tile % tiles * MR, rows = std::min<int64_t>(MR, m.length - first);
      std::fill_n(out + (tile / tiles * m.length + first) * columns, rows * columns, T(0));
    }
  }

  // Each slot is summed once, even where it is the gradient of both biases.
  void bias_gradient(int thread, int d, const WeightGradients<T>& to) const {
    const int64_t H = a_->shape.H;
    const Range mine = share(C::slots * Hp_ / V::lanes, threads_, thread);
    for (int64_t v = mine.begin; v < mine.end; ++v) {
      const int64_t slot = v * V::lanes / Hp_, u = v * V::lanes % Hp_;
      if (u >= H) continue;
      const V sum = token_sum(d, v * V::lanes, 0, a_->shape.N);
      for (int g = 0; g < C::gates; ++g) {
        if (to.b_ih && C::input_slots[g] == slot) store_upto(sum, to.b_ih + g * H + u, H - u);
        if (to.b_hh && C::hidden_slots[g] == slot) store_upto(sum, to.b_hh + g * H + u, H - u);
      }
    }
  }

  // Pairwise, down to chains of 16.
  V token_sum(int d, int64_t column, int64_t begin, int64_t end) const {
    if (end - begin > 16) {
      const int64_t middle = begin + (end - begin) / 2;
      return token_sum(d, column, begin, middle) + token_sum(d, column, middle, end);
    }
    V sum(0);
    for (int64_t token = begin; token < end; ++token) sum = sum + V::load(tokens_.slots(d, token) + column);
    return sum;
  }
};
