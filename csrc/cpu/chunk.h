// What the backward time loop leaves behind for the large products, a chunk of steps at a time.
//
// The loop's gradients of all tokens would be the largest buffer of a training step, written to memory and read back four
// times. So after each chunk of steps the products over its tokens run, while the chunk is still in the cache, and
// its buffer is used again.
//
// No include guard: included once inside each ISA's namespace, after its target pragma (csrc/README.md says why).

constexpr int64_t chunk_tokens = 256;

// Steps `begin` to `end` of direction d, which the loop takes from the last to the first. Their tokens are consecutive.
struct Chunk {
  int64_t begin = 0, end = 0, first_token = 0, tokens = 0;
  int d = 0, buffer = 0;

  // The chunk that comes after this one in the loop; an empty one when none is left. Cut by the schedule alone, so that every
  // partition adds up the same sums.
  Chunk next(const Schedule& schedule, const Shape& s) const {
    Chunk c{begin, begin, 0, 0, d, 1 - buffer};
    if (begin == 0) return c;
    const Task all{s, schedule, 1, d, 0};
    c.begin -= steps_within(chunk_tokens, begin, [&](int64_t i) { return all.active_rows(all.time(begin - 1 - i)); });
    const int64_t t0 = std::min(all.time(c.begin), all.time(c.end - 1)), t1 = std::max(all.time(c.begin), all.time(c.end - 1));
    c.first_token = schedule.first[t0];
    c.tokens = schedule.first[t1] + schedule.active[t1] - c.first_token;
    return c;
  }
};

// The most tokens a chunk can have: one step is never cut.
inline int64_t tokens_of_chunk(const Shape& s) { return std::min(s.N, std::max(chunk_tokens, s.B)); }

// Two chunks of each direction: while a thread already writes one, another may still read the other.
template <class T>
class TokenGradients {
  static constexpr int64_t line = cache_line / sizeof(T);  // rows a power of two apart would share their cache sets
  T *slots_ = nullptr, *state_ = nullptr, *hidden_ = nullptr;
  int64_t capacity_ = 0, slots_stride_ = 0, state_stride_ = 0, hidden_stride_ = 0;

  int64_t row(const Chunk& c, int64_t token) const { return (c.d * 2 + c.buffer) * capacity_ + token - c.first_token; }

 public:
  TokenGradients() = default;
  TokenGradients(Arena& arena, const Shape& s, int slots, bool projected, bool gated)
      : capacity_(tokens_of_chunk(s)),
        slots_stride_(slots * padded_units(s.H) + line),
        state_stride_(padded_units(s.P) + line),
        hidden_stride_(padded_units(s.H) + line) {
    slots_ = arena.take<T>(s.D * 2 * capacity_ * slots_stride_);
    if (projected) state_ = arena.take<T>(s.D * 2 * capacity_ * state_stride_);
    if (projected || gated) hidden_ = arena.take<T>(s.D * 2 * capacity_ * hidden_stride_);
  }

  // A token's row; those of a chunk lie a stride apart, and a line may be read past their end.
  T* slots(const Chunk& c, int64_t token) const { return slots_ + row(c, token) * slots_stride_; }     // [slots, Hp]
  T* state(const Chunk& c, int64_t token) const { return state_ + row(c, token) * state_stride_; }     // [P padded], D(h)
  T* hidden(const Chunk& c, int64_t token) const { return hidden_ + row(c, token) * hidden_stride_; }  // [Hp], o * tanh(c), or the gated state
  int64_t slots_stride() const { return slots_stride_; }
  int64_t state_stride() const { return state_stride_; }
};
