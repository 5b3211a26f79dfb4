// exp, sigmoid and tanh on a value type V: a float, a double, or a SIMD vector of either.
//
// V brings (see cpu/simd.h and cells/scalar.h): arithmetic, a < b, select(mask, a, b), fma, abs, copysign, recip and
// pow2_of_rounded. Everything here is branch-free, so the lanes of a vector and a scalar take the same path, and keeps
// NaN: a comparison with NaN is false, and each select is written so that false returns the argument itself.
// Errors against the correctly rounded value: exp 1 ulp, sigmoid and tanh below 3 ulp in float, below 4 ulp in double.
//
// No include guard: included once inside each ISA's namespace, after its target pragma (csrc/README.md says why).

template <class V, int n>
RNNK_FN V horner(V x, const double (&coefficients)[n]) {
  V sum = V(coefficients[0]);
  for (int k = 1; k < n; ++k) sum = fma(sum, x, V(coefficients[k]));
  return sum;
}

// exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln(2) / 2; ln 2 is split in two so that n * high is exact.
template <class V>
RNNK_FN V exp(V x) {
  constexpr bool is_float = sizeof(scalar_of<V>) == 4;
  const V largest = V(is_float ? 88.0 : 709.0), smallest = V(is_float ? -87.0 : -708.0);
  x = select(largest < x, largest, x);
  x = select(x < smallest, smallest, x);
  V n, power;
  pow2_of_rounded(x * V(1.44269504088896340736), n, power);
  if constexpr (is_float) {
    V r = fma(n, V(-0.693359375), x);
    r = fma(n, V(2.12194440e-4), r);
    constexpr double p[] = {1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1};
    return fma(horner(r, p), r * r, r + V(1)) * power;
  } else {
    V r = fma(n, V(-6.93145751953125e-1), x);
    r = fma(n, V(-1.42860682030941723212e-6), r);
    constexpr double p[] = {1. / 6227020800, 1. / 479001600, 1. / 39916800, 1. / 3628800, 1. / 362880, 1. / 40320,
                            1. / 5040,       1. / 720,       1. / 120,      1. / 24,      1. / 6,      1. / 2};
    return fma(horner(r, p), r * r, r + V(1)) * power;
  }
}

template <class V>
RNNK_FN V sigmoid(V x) {
  return recip(V(1) + exp(V(0) - x));
}

// Odd polynomial (float) or rational function (double) near zero, where 1 - 2 / (e^2x + 1) would cancel; both from Cephes.
template <class V>
RNNK_FN V tanh(V x) {
  constexpr bool is_float = sizeof(scalar_of<V>) == 4;
  const V magnitude = abs(x), square = x * x;
  const V saturated = V(1) - V(2) * recip(exp(magnitude + magnitude) + V(1));
  V odd;
  if constexpr (is_float) {
    constexpr double p[] = {-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1};
    odd = fma(horner(square, p) * square, x, x);
  } else {
    constexpr double p[] = {-9.64399179425052238628e-1, -9.92877231001918586564e1, -1.61468768441708447952e3};
    constexpr double q[] = {1, 1.12811678491632931402e2, 2.23548839060100448583e3, 4.84406305325125486048e3};
    odd = fma(horner(square, p) / horner(square, q) * square, x, x);
  }
  return select(V(0.625) < magnitude, copysign(saturated, x), odd);
}
