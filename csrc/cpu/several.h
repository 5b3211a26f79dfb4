// Several<V, n>: n registers as one value for the mathematics of cells/. A cell is a long chain of instructions that wait for each
// other; n rows side by side overlap n chains.
//
// No include guard: included once inside each ISA's namespace, after its target pragma (csrc/README.md says why).

// More rows would not fit into the registers.
constexpr int rows_at_once = RNNK_VECTOR_BYTES == 64 ? 4 : 2;

// f(i, count) for rows i to i + count of n.
template <int count = rows_at_once, class F>
RNNK_FN void for_rows(int64_t n, const F& f, int64_t i = 0) {
  for (; i + count <= n; i += count) f(i, std::integral_constant<int, count>{});
  if constexpr (count > 1) for_rows<count / 2>(n, f, i);
}

template <class V, int n>
struct Several {
  using Scalar = typename V::Scalar;
  V part[n];

  Several() = default;
  RNNK_FN explicit Several(double x) {
    for_each([&](int i) { part[i] = V(x); });
  }

  template <class F>
  RNNK_FN static void for_each(const F& f) {
#pragma GCC unroll 4
    for (int i = 0; i < n; ++i) f(i);
  }

  // f(i) makes the i-th part.
  template <class F>
  RNNK_FN static Several of(const F& f) {
    Several all;
    for_each([&](int i) { all.part[i] = f(i); });
    return all;
  }
};

// What a comparison yields.
template <class V, int n>
struct SeveralMasks {
  decltype(V() < V()) part[n];
};

template <class V, int n>
RNNK_FN Several<V, n> operator+(const Several<V, n>& a, const Several<V, n>& b) {
  return Several<V, n>::of([&](int i) { return a.part[i] + b.part[i]; });
}
template <class V, int n>
RNNK_FN Several<V, n> operator-(const Several<V, n>& a, const Several<V, n>& b) {
  return Several<V, n>::of([&](int i) { return a.part[i] - b.part[i]; });
}
template <class V, int n>
RNNK_FN Several<V, n> operator*(const Several<V, n>& a, const Several<V, n>& b) {
  return Several<V, n>::of([&](int i) { return a.part[i] * b.part[i]; });
}
template <class V, int n>
RNNK_FN SeveralMasks<V, n> operator<(const Several<V, n>& a, const Several<V, n>& b) {
  SeveralMasks<V, n> mask;
  Several<V, n>::for_each([&](int i) { mask.part[i] = a.part[i] < b.part[i]; });
  return mask;
}
template <class V, int n>
RNNK_FN SeveralMasks<V, n> operator<=(const Several<V, n>& a, const Several<V, n>& b) {
  SeveralMasks<V, n> mask;
  Several<V, n>::for_each([&](int i) { mask.part[i] = a.part[i] <= b.part[i]; });
  return mask;
}
template <class V, int n>
RNNK_FN Several<V, n> select(const SeveralMasks<V, n>& mask, const Several<V, n>& a, const Several<V, n>& b) {
  return Several<V, n>::of([&](int i) { return select(mask.part[i], a.part[i], b.part[i]); });
}

template <class V, int n>
RNNK_FN Several<V, n> fma(const Several<V, n>& a, const Several<V, n>& b, const Several<V, n>& c) {
  return Several<V, n>::of([&](int i) { return fma(a.part[i], b.part[i], c.part[i]); });
}
template <class V, int n>
RNNK_FN Several<V, n> abs(const Several<V, n>& a) {
  return Several<V, n>::of([&](int i) { return abs(a.part[i]); });
}
template <class V, int n>
RNNK_FN Several<V, n> copysign(const Several<V, n>& magnitude, const Several<V, n>& sign) {
  return Several<V, n>::of([&](int i) { return copysign(magnitude.part[i], sign.part[i]); });
}
template <class V, int n>
RNNK_FN Several<V, n> recip(const Several<V, n>& a) {
  return Several<V, n>::of([&](int i) { return recip(a.part[i]); });
}
template <class V, int n>
RNNK_FN Several<V, n> quotient(const Several<V, n>& a, const Several<V, n>& b) {
  return Several<V, n>::of([&](int i) { return quotient(a.part[i], b.part[i]); });
}
template <class V, int n>
RNNK_FN Several<V, n> at_most(const Several<V, n>& limit, const Several<V, n>& x) {
  return Several<V, n>::of([&](int i) { return at_most(limit.part[i], x.part[i]); });
}
template <class V, int n>
RNNK_FN Several<V, n> at_least(const Several<V, n>& limit, const Several<V, n>& x) {
  return Several<V, n>::of([&](int i) { return at_least(limit.part[i], x.part[i]); });
}
template <class V, int n>
RNNK_FN void round_to_power(const Several<V, n>& x, double factor, Several<V, n>& rounded, Several<V, n>& power) {
  Several<V, n>::for_each([&](int i) { round_to_power(x.part[i], factor, rounded.part[i], power.part[i]); });
}
