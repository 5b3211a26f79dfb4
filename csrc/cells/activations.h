// sigmoid and tanh on a value type V: a float, a double, or a SIMD vector of either.
//
// V brings (see cpu/simd.h and cells/scalar.h): arithmetic, a < b, a <= b, select(mask, a, b), at_most(limit, x) and
// at_least(limit, x), which keep NaN, fma, abs, copysign, recip, quotient and round_to_power. Everything here is branch-free, so the
// lanes of a vector and a scalar take the same path.
// Errors: sigmoid and tanh below 2.5 ulp, docs/numerics.md.
//
// No include guard: included once inside each ISA's namespace, after its target pragma (csrc/README.md says why).

template <class V, int n>
RNNK_FN V horner(V x, const double (&coefficients)[n]) {
  V sum = V(coefficients[0]);
  for (int k = 1; k < n; ++k) sum = fma(sum, x, V(coefficients[k]));
  return sum;
}

// Within this of zero, exp and its parts are normal numbers.
template <class V>
RNNK_FN V exp_limit() { return V(sizeof(scalar_of<V>) == 4 ? 87.0 : 708.0); }

// exp(x) = 2^n (1 + p), with n = round(x / ln 2), r = x - n ln 2 (ln 2 split in two, so that n * high is exact) and
// p = exp(r) - 1. Returns 2^n and p, for x within exp_limit of zero.
template <class V>
RNNK_FN void split_exp(V x, V& power, V& p) {
  constexpr bool is_float = sizeof(scalar_of<V>) == 4;
  V n;
  round_to_power(x, 1.44269504088896340736, n, power);
  if constexpr (is_float) {
    V r = fma(n, V(-0.693359375), x);
    r = fma(n, V(2.12194440e-4), r);
    constexpr double c[] = {1.388251761722e-3, 8.366547135437e-3, 4.166720069327e-2, 1.666654342426e-1, 4.999999814968e-1};
    p = fma(horner(r, c), r * r, r);
  } else {
    V r = fma(n, V(-6.93145751953125e-1), x);
    r = fma(n, V(-1.42860682030941723212e-6), r);
    constexpr double c[] = {1. / 6227020800, 1. / 479001600, 1. / 39916800, 1. / 3628800, 1. / 362880, 1. / 40320,
                            1. / 5040,       1. / 720,       1. / 120,      1. / 24,      1. / 6,      1. / 2};
    p = fma(horner(r, c), r * r, r);
  }
}

template <class V>
RNNK_FN V sigmoid(V x) {
  V power, p;
  split_exp(at_least(V(0) - exp_limit<V>(), at_most(exp_limit<V>(), V(0) - x)), power, p);
  return recip(fma(power, p, power + V(1)));
}

// (e^2x - 1) / (e^2x + 1), with e^2x - 1 computed as one number: no cancellation near zero. It is 1 long before |x| = 20, and the
// reciprocal of e^2x must not fall among the denormals, which the kernels flush.
template <class V>
RNNK_FN V tanh(V x) {
  V power, p;
  const V magnitude = at_most(V(20), abs(x));
  split_exp(magnitude + magnitude, power, p);
  const V expm1 = fma(power, p, power - V(1));
  return copysign(quotient(expm1, expm1 + V(2)), x);
}
