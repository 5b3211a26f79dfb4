// Vec<T>: one register of T (float or double) of the ISA being compiled, RNNK_VECTOR_BYTES wide.
//
// Arithmetic is the compiler's vector extension; what it lacks (fused multiply-add, partial loads, a fast reciprocal) is
// written per ISA below. The build passes -ffp-contract=off, so a product and a sum fuse only where the code says fma: two
// instantiations of one template must round alike.
//
// No include guard: included once inside each ISA's namespace, after its target pragma (csrc/README.md says why).

template <class T>
struct Vec {
  using Scalar = T;
  static constexpr int lanes = RNNK_VECTOR_BYTES / sizeof(T);
  typedef T Raw __attribute__((vector_size(RNNK_VECTOR_BYTES)));
  typedef T Unaligned __attribute__((vector_size(RNNK_VECTOR_BYTES), aligned(sizeof(T)), may_alias));
  using Int = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  typedef Int Bits __attribute__((vector_size(RNNK_VECTOR_BYTES)));
  Raw v;

  Vec() = default;
  RNNK_FN Vec(Raw r) : v(r) {}
  RNNK_FN explicit Vec(double x) : v(T(x) - Raw{}) {}  // x - 0 keeps -0 and compiles to a broadcast

  RNNK_FN static Vec broadcast(T x) { return Vec(x - Raw{}); }
  RNNK_FN static Vec load(const T* p) { return Raw(*reinterpret_cast<const Unaligned*>(p)); }
  RNNK_FN void store(T* p) const { *reinterpret_cast<Unaligned*>(p) = v; }
  RNNK_FN Bits bits() const { return Bits(v); }
  RNNK_FN static Vec from(Bits b) { return Vec(Raw(b)); }
};

template <class V>
using scalar_of = typename V::Scalar;

template <class T> RNNK_FN Vec<T> operator+(Vec<T> a, Vec<T> b) { return a.v + b.v; }
template <class T> RNNK_FN Vec<T> operator-(Vec<T> a, Vec<T> b) { return a.v - b.v; }
template <class T> RNNK_FN Vec<T> operator*(Vec<T> a, Vec<T> b) { return a.v * b.v; }
template <class T> RNNK_FN Vec<T> operator/(Vec<T> a, Vec<T> b) { return a.v / b.v; }
template <class T> RNNK_FN auto operator<(Vec<T> a, Vec<T> b) { return a.v < b.v; }
template <class T> RNNK_FN auto operator<=(Vec<T> a, Vec<T> b) { return a.v <= b.v; }

template <class Mask, class T>
RNNK_FN Vec<T> select(Mask mask, Vec<T> a, Vec<T> b) { return mask ? a.v : b.v; }

template <class T>
RNNK_FN typename Vec<T>::Bits sign_bit() {
  return typename Vec<T>::Bits{} + std::numeric_limits<typename Vec<T>::Int>::min();
}

template <class T> RNNK_FN Vec<T> abs(Vec<T> a) { return Vec<T>::from(a.bits() & ~sign_bit<T>()); }

template <class T>
RNNK_FN Vec<T> copysign(Vec<T> magnitude, Vec<T> sign) {
  return Vec<T>::from((magnitude.bits() & ~sign_bit<T>()) | (sign.bits() & sign_bit<T>()));
}

template <class T>
RNNK_FN Vec<T> load(const T* p) { return Vec<T>::load(p); }
template <class T>
RNNK_FN void store(Vec<T> a, T* p) { a.store(p); }

// The upper half of a float, rounded to nearest even; nothing is computed in it.
struct Bfloat16 {
  uint16_t bits;
  typedef uint16_t Halves __attribute__((vector_size(RNNK_VECTOR_BYTES / 2)));
  typedef uint16_t Unaligned __attribute__((vector_size(RNNK_VECTOR_BYTES / 2), aligned(2), may_alias));
};

RNNK_FN Vec<float> load(const Bfloat16* p) {
  const Bfloat16::Halves halves = *reinterpret_cast<const Bfloat16::Unaligned*>(p);
  return Vec<float>::from(__builtin_convertvector(halves, Vec<float>::Bits) << 16);
}
RNNK_FN void store(Vec<float> a, Bfloat16* p) {
  const Vec<float>::Bits bits = a.bits();
  const auto rounded = Vec<float>::Bits((bits + 0x7fff + (bits >> 16 & 1)) >> 16 & 0xffff);
  const auto nan = a.v != a.v;
  *reinterpret_cast<Bfloat16::Unaligned*>(p) = __builtin_convertvector(nan ? Vec<float>::Bits{} + 0x7fc0 : rounded, Bfloat16::Halves);
}

// Keeps a in a register from here on: where there are few, the compiler would load it again for each use.
template <class T>
RNNK_FN Vec<T> in_register(Vec<T> a) {
  typename Vec<T>::Raw v = a.v;
#if RNNK_VECTOR_BYTES == 64
  asm("" : "+v"(v));
#else
  asm volatile("" : "+x"(v));
#endif
  return v;
}

// Loads what a register tile multiplies by, in the order written: a tile fills 16 registers, and a load that came earlier would spill a sum.
template <class T, class S>
RNNK_FN Vec<T> load_operand(const S* p) {
#if RNNK_VECTOR_BYTES == 32
  if constexpr (std::is_same_v<S, T>) {
    typename Vec<T>::Raw v;
    asm volatile("vmovups %1, %0" : "=x"(v) : "m"(*reinterpret_cast<const typename Vec<T>::Unaligned*>(p)));
    return v;
  }
#endif
  return in_register(load(p));
}

#if RNNK_VECTOR_BYTES == 64

RNNK_FN Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) { return Vec<float>::Raw(_mm512_fmadd_ps(a.v, b.v, c.v)); }
RNNK_FN Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) { return Vec<double>::Raw(_mm512_fmadd_pd(a.v, b.v, c.v)); }

// 14 bits from the table, doubled by one Newton step: below 1 ulp, and a third of the cost of a division.
RNNK_FN Vec<float> recip(Vec<float> a) {
  const Vec<float> y = Vec<float>::Raw(_mm512_rcp14_ps(a.v));
  return fma(Vec<float>::Raw(_mm512_fnmadd_ps(a.v, y.v, Vec<float>(1).v)), y, y);
}
RNNK_FN Vec<double> recip(Vec<double> a) { return Vec<double>(1) / a; }

// Rounded as a division is, but for rare cases in the last bit: the remainder corrects the 14 bits.
RNNK_FN Vec<float> quotient(Vec<float> a, Vec<float> b) {
  const Vec<float> y = Vec<float>::Raw(_mm512_rcp14_ps(b.v)), q = a * y;
  return fma(Vec<float>::Raw(_mm512_fnmadd_ps(q.v, b.v, a.v)), y, q);
}
RNNK_FN Vec<double> quotient(Vec<double> a, Vec<double> b) { return a / b; }

// x86's min and max return their second operand where one is NaN: x.
RNNK_FN Vec<float> at_most(Vec<float> limit, Vec<float> x) { return Vec<float>::Raw(_mm512_min_ps(limit.v, x.v)); }
RNNK_FN Vec<double> at_most(Vec<double> limit, Vec<double> x) { return Vec<double>::Raw(_mm512_min_pd(limit.v, x.v)); }
RNNK_FN Vec<float> at_least(Vec<float> limit, Vec<float> x) { return Vec<float>::Raw(_mm512_max_ps(limit.v, x.v)); }
RNNK_FN Vec<double> at_least(Vec<double> limit, Vec<double> x) { return Vec<double>::Raw(_mm512_max_pd(limit.v, x.v)); }

// The first n lanes; the others read as zero and are not written.
RNNK_FN Vec<float> load_first(const float* p, int64_t n) { return Vec<float>::Raw(_mm512_maskz_loadu_ps((1u << n) - 1, p)); }
RNNK_FN Vec<double> load_first(const double* p, int64_t n) { return Vec<double>::Raw(_mm512_maskz_loadu_pd((1u << n) - 1, p)); }
RNNK_FN void store_first(Vec<float> a, float* p, int64_t n) { _mm512_mask_storeu_ps(p, (1u << n) - 1, a.v); }
RNNK_FN void store_first(Vec<double> a, double* p, int64_t n) { _mm512_mask_storeu_pd(p, (1u << n) - 1, a.v); }

#else

#if RNNK_VECTOR_BYTES == 32
RNNK_FN Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) { return Vec<float>::Raw(_mm256_fmadd_ps(a.v, b.v, c.v)); }
RNNK_FN Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) { return Vec<double>::Raw(_mm256_fmadd_pd(a.v, b.v, c.v)); }
#else
template <class T> RNNK_FN Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) { return a.v * b.v + c.v; }
#endif

template <class T> RNNK_FN Vec<T> recip(Vec<T> a) { return Vec<T>(1) / a; }
template <class T> RNNK_FN Vec<T> quotient(Vec<T> a, Vec<T> b) { return a / b; }
template <class T> RNNK_FN Vec<T> at_most(Vec<T> limit, Vec<T> x) { return limit.v < x.v ? limit.v : x.v; }
template <class T> RNNK_FN Vec<T> at_least(Vec<T> limit, Vec<T> x) { return x.v < limit.v ? limit.v : x.v; }

// The first n lanes; the others read as zero and are not written.
template <class T>
RNNK_FN Vec<T> load_first(const T* p, int64_t n) {
  Vec<T> a(0);
  for (int64_t lane = 0; lane < n; ++lane) a.v[lane] = p[lane];
  return a;
}
template <class T>
RNNK_FN void store_first(Vec<T> a, T* p, int64_t n) {
  for (int64_t lane = 0; lane < n; ++lane) p[lane] = a.v[lane];
}

#endif

// Stores past the caches what nobody reads soon; p is aligned to a register. Ordered before what comes after `end_streaming`.
template <class T>
RNNK_FN void stream(Vec<T> a, T* p) {
#if RNNK_VECTOR_BYTES == 64
  _mm512_stream_si512(reinterpret_cast<__m512i*>(p), reinterpret_cast<__m512i>(a.v));
#elif RNNK_VECTOR_BYTES == 32
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), reinterpret_cast<__m256i>(a.v));
#else
  _mm_stream_si128(reinterpret_cast<__m128i*>(p), reinterpret_cast<__m128i>(a.v));
#endif
}
RNNK_FN void end_streaming() { _mm_sfence(); }

// sum + a b in sum's own register: free to choose, gcc moves accumulators about. With 16 registers in the order written: a tile fills them all,
// and a load that comes early spills.
template <class T>
RNNK_FN Vec<T> accumulate(Vec<T> sum, Vec<T> a, Vec<T> b) {
#if RNNK_VECTOR_BYTES == 16
  return fma(a, b, sum);
#else
  typename Vec<T>::Raw v = sum.v;
#if RNNK_VECTOR_BYTES == 64
  if constexpr (sizeof(T) == 4) asm("vfmadd231ps %2, %1, %0" : "+v"(v) : "v"(a.v), "v"(b.v));
  else asm("vfmadd231pd %2, %1, %0" : "+v"(v) : "v"(a.v), "v"(b.v));
#else
  if constexpr (sizeof(T) == 4) asm volatile("vfmadd231ps %2, %1, %0" : "+x"(v) : "x"(a.v), "x"(b.v));
  else asm volatile("vfmadd231pd %2, %1, %0" : "+x"(v) : "x"(a.v), "x"(b.v));
#endif
  return v;
#endif
}

// n = factor * x rounded to an integer, power = 2^n, for n that an exponent can hold. Adding 1.5 * 2^(mantissa bits) + bias leaves n + bias
// in the low mantissa bits, from where a shift moves it into the exponent.
template <class T>
RNNK_FN void round_to_power(Vec<T> x, double factor, Vec<T>& n, Vec<T>& power) {
  constexpr int mantissa = std::numeric_limits<T>::digits - 1;
  constexpr int bias = std::numeric_limits<T>::max_exponent - 1;
  const Vec<T> magic(1.5 * double(int64_t(1) << mantissa) + bias);
  const Vec<T> shifted = fma(x, Vec<T>(factor), magic);
  n = shifted - magic;
  power = Vec<T>::from(shifted.bits() << mantissa);
}

// n >= lanes means all of them.
template <class T>
RNNK_FN Vec<T> load_upto(const T* p, int64_t n) { return n >= Vec<T>::lanes ? Vec<T>::load(p) : n <= 0 ? Vec<T>(0) : load_first(p, n); }
template <class T>
RNNK_FN void store_upto(Vec<T> a, T* p, int64_t n) {
  if (n >= Vec<T>::lanes) a.store(p);
  else if (n > 0) store_first(a, p, n);
}
