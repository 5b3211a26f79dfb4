// What a backward pass finds for each token: the state that entered its step.
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
  const int64_t before = step_before(a, d, t, b), row = d * a.shape.B + a.schedule.order[b];
  if (a.reset.at(a.schedule, t, b)) return a.reset.h + row * a.shape.P;
  if (before >= 0) return a.out.at(a.schedule, before, b) + d * a.shape.P;
  return a.h0 + row * a.shape.P;
}

// The cell state that entered step t of sorted row b: what was saved, or one of the caller's [H].
template <class T>
const T* cell_before(const BackwardArgs<T>& a, int d, int64_t t, int64_t b, int64_t Hp) {
  const int64_t before = step_before(a, d, t, b), row = d * a.shape.B + a.schedule.order[b];
  if (a.reset.at(a.schedule, t, b)) return a.reset.c + row * a.shape.H;
  if (before >= 0) return a.cells + (d * a.shape.N + a.schedule.first[before] + b) * Hp;
  return a.c0 + row * a.shape.H;
}

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
