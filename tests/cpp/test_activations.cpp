// sigmoid and tanh of csrc/cells/activations.h against long double: as scalars and as the vectors of every ISA this CPU
// runs. Prints the largest errors against the exact value, which docs/numerics.md quotes, and holds them to its bounds.
#include <string>
#include <vector>

#include "cells/scalar.h"
#include "check.h"
#include "cpu/system.h"

enum Function { sigmoid_, tanh_ };
constexpr const char* names[] = {"sigmoid", "tanh"};

// Instantiated inside each namespace and target, and called through pointers, so that no ISA's code reaches another.
#define RNNK_TEST_EVALUATE(Value, lanes, load, store)                                                                       \
  template <class T>                                                                                                        \
  void evaluate(Function function, const T* x, T* y, size_t n) {                                                            \
    for (size_t i = 0; i < n; i += lanes) {                                                                                 \
      const Value a = load(x + i);                                                                                          \
      const Value value = function == sigmoid_ ? sigmoid(a) : tanh(a);                                                      \
      store(value, y + i);                                                                                                  \
    }                                                                                                                       \
  }                                                                                                                         \
  template void evaluate(Function, const float*, float*, size_t);                                                           \
  template void evaluate(Function, const double*, double*, size_t);
#define RNNK_TEST_STORE(value, to) (value).store(to)
#define RNNK_TEST_EVALUATE_VECTORS RNNK_TEST_EVALUATE(Vec<T>, Vec<T>::lanes, Vec<T>::load, RNNK_TEST_STORE)

namespace rnnk::scalar {
#include "cells/activations.h"
#define RNNK_TEST_LOAD(from) *(from)
#define RNNK_TEST_ASSIGN(value, to) *(to) = value
RNNK_TEST_EVALUATE(T, 1, RNNK_TEST_LOAD, RNNK_TEST_ASSIGN)
}  // namespace rnnk::scalar

#define RNNK_VECTOR_BYTES 16
namespace baseline {
#include "cpu/simd.h"
#include "cells/activations.h"
RNNK_TEST_EVALUATE_VECTORS
}  // namespace baseline
#undef RNNK_VECTOR_BYTES

#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define RNNK_VECTOR_BYTES 32
namespace avx2 {
#include "cpu/simd.h"
#include "cells/activations.h"
RNNK_TEST_EVALUATE_VECTORS
}  // namespace avx2
#undef RNNK_VECTOR_BYTES
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")
#define RNNK_VECTOR_BYTES 64
namespace avx512 {
#include "cpu/simd.h"
#include "cells/activations.h"
RNNK_TEST_EVALUATE_VECTORS
}  // namespace avx512
#pragma GCC pop_options

template <class T>
using Evaluate = void (*)(Function, const T*, T*, size_t);

long double exact(Function function, long double x) {
  return function == sigmoid_ ? 1 / (1 + std::exp(-x)) : std::tanh(x);
}

template <class T>
struct Limits {
  static constexpr bool single = sizeof(T) == 4;
  static constexpr T smallest = T(single ? -87 : -708);  // where a sigmoid saturates, near the smallest normal number
  static constexpr double bound[] = {2.5, 3};            // in ulp, of sigmoid and tanh
};

// The distance in units of the last place of the exact value.
template <class T>
double ulps(T value, long double exact) {
  const int exponent = std::max(std::ilogb(exact), std::numeric_limits<T>::min_exponent - 1);
  return double(std::abs(value - exact) / std::ldexp(1.0L, exponent - std::numeric_limits<T>::digits + 1));
}

// All magnitudes, denormals included, the working range densely, and both sides of tanh's seam.
template <class T>
std::vector<T> arguments(Function function) {
  std::vector<T> x;
  const double low = Limits<T>::smallest, high = -low;
  for (int i = 0; i < 1 << 16; ++i) {
    x.push_back(T(uniform(low, high)));
    x.push_back(T(uniform(-10, 10)));
    x.push_back(T(uniform(-1, 1)));
    const T magnitude = T(std::exp2(uniform(std::numeric_limits<T>::min_exponent - 20, 6)));
    x.push_back(i % 2 ? magnitude : -magnitude);
  }
  T up = T(0.625), down = T(0.625);
  for (int i = 0; i < 512; ++i) {
    x.insert(x.end(), {up, -up, down, -down});
    up = std::nextafter(up, T(1));
    down = std::nextafter(down, T(0));
  }
  for (T value : {T(0), -T(0), std::numeric_limits<T>::denorm_min(), -std::numeric_limits<T>::denorm_min(), T(low), T(high)})
    x.push_back(value);
  if (function == tanh_)
    for (T value : {T(100), T(-1000), std::numeric_limits<T>::max(), std::numeric_limits<T>::lowest()}) x.push_back(value);
  while (x.size() % 16) x.push_back(T(0.5));
  return x;
}

template <class T>
T at(Evaluate<T> evaluate, Function function, T x) {
  T in[16], out[16];
  std::fill_n(in, 16, x);
  evaluate(function, in, out, 16);
  for (T y : out) check(y == out[0] || (y != y && out[0] != out[0]), "%s(%g): the lanes differ", names[function], double(x));
  return out[0];
}

template <class T>
void test_errors(const std::string& name, Evaluate<T> evaluate) {
  for (Function function : {sigmoid_, tanh_}) {
    const std::vector<T> x = arguments<T>(function);
    std::vector<T> y(x.size());
    evaluate(function, x.data(), y.data(), x.size());
    double worst = 0;
    T where = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      const double error = ulps(y[i], exact(function, x[i]));
      if (!(error <= worst)) worst = error, where = x[i];
    }
    std::printf("%-16s %-8s %5.2f ulp, at %.9g\n", name.c_str(), names[function], worst, double(where));
    check(worst <= Limits<T>::bound[function], "%s %s(%.17g) is %.3f ulp off, allowed is %g", name.c_str(), names[function],
          double(where), worst, Limits<T>::bound[function]);
  }
}

template <class T>
void test_ends(const std::string& name, Evaluate<T> evaluate) {
  const auto f = [&](Function function, T x) { return at(evaluate, function, x); };
  const T infinity = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN();
  const auto expect = [&](Function function, T x, T expected) {
    const T y = f(function, x);
    check(y == expected && std::signbit(y) == std::signbit(expected), "%s %s(%g) = %.17g, expected %.17g", name.c_str(), names[function],
          double(x), double(y), double(expected));
  };
  for (Function function : {sigmoid_, tanh_}) check(f(function, nan) != f(function, nan), "%s %s(nan) is a number", name.c_str(), names[function]);
  expect(sigmoid_, 0, T(0.5));
  expect(sigmoid_, -T(0), T(0.5));
  for (T x : {T(0), std::numeric_limits<T>::denorm_min(), std::numeric_limits<T>::min()}) expect(tanh_, x, x), expect(tanh_, -x, -x);
  for (T x : {T(50), T(1e30), infinity}) {
    expect(sigmoid_, x, 1);
    expect(tanh_, x, 1);
    expect(tanh_, -x, -1);
  }
  for (T x : {Limits<T>::smallest - 2, T(-1e30), -infinity})
    check(f(sigmoid_, x) >= 0 && f(sigmoid_, x) < 2 * std::numeric_limits<T>::min(), "%s sigmoid(%g) = %g", name.c_str(), double(x),
          double(f(sigmoid_, x)));
}

// The kernels run with denormals flushed to zero, where a reciprocal may vanish and take a whole quotient with it.
template <class T>
void test_flushed(const std::string& name, Evaluate<T> evaluate) {
  const unsigned saved = _mm_getcsr();
  _mm_setcsr(saved | 0x8040);
  for (double x = 0.5; x < 2000; x *= 1.01) {
    const T y = at(evaluate, tanh_, T(x)), s = at(evaluate, sigmoid_, T(x));
    check(ulps(y, exact(tanh_, T(x))) <= 3 && at(evaluate, tanh_, T(-x)) == -y, "%s tanh(%g) = %g with denormals flushed", name.c_str(), x,
          double(y));
    check(ulps(s, exact(sigmoid_, T(x))) <= 3, "%s sigmoid(%g) = %g with denormals flushed", name.c_str(), x, double(s));
  }
  _mm_setcsr(saved);
}

template <class T>
void test(const char* isa, Evaluate<T> evaluate) {
  const std::string name = std::string(isa) + (sizeof(T) == 4 ? " float" : " double");
  test_errors(name, evaluate);
  test_ends(name, evaluate);
  test_flushed(name, evaluate);
}

#define RNNK_TEST(isa, space)                \
  test<float>(isa, space::evaluate<float>);  \
  test<double>(isa, space::evaluate<double>)

int main() {
  __builtin_cpu_init();
  RNNK_TEST("scalar", rnnk::scalar);
  RNNK_TEST("baseline", baseline);
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    RNNK_TEST("avx2", avx2);
  }
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq")) {
    RNNK_TEST("avx512", avx512);
  }
  return finish("test_activations");
}
