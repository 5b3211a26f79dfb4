// Columns of a row-major matrix as registers: how weights that lie as torch has them, [columns][K], meet a product that wants the column of each k.
//
// A register is filled with the same few k of all its rows, 128 bits of each, which the loads bring to their places; what is left is to transpose
// inside each 128 bits: two shuffles for a register of single precision, where transposing whole registers takes six of 256 bits.
//
// No include guard: included once inside each ISA's namespace, after its target pragma (csrc/README.md says why).

template <class T>
constexpr int lanes_of_128 = 16 / sizeof(T);

// 128 bits of row[0], row[stride], ... from column k on.
template <int stride>
RNNK_FN Vec<float> load_128s(const float* const* row, int64_t k) {
#if RNNK_VECTOR_BYTES == 16
  return Vec<float>::load(row[0] + k);
#elif RNNK_VECTOR_BYTES == 32
  return Vec<float>::Raw(_mm256_loadu2_m128(row[stride] + k, row[0] + k));
#else
  __m512 v = _mm512_castps128_ps512(_mm_loadu_ps(row[0] + k));
  v = _mm512_insertf32x4(v, _mm_loadu_ps(row[stride] + k), 1);
  v = _mm512_insertf32x4(v, _mm_loadu_ps(row[2 * stride] + k), 2);
  return Vec<float>::Raw(_mm512_insertf32x4(v, _mm_loadu_ps(row[3 * stride] + k), 3));
#endif
}
template <int stride>
RNNK_FN Vec<double> load_128s(const double* const* row, int64_t k) {
#if RNNK_VECTOR_BYTES == 16
  return Vec<double>::load(row[0] + k);
#elif RNNK_VECTOR_BYTES == 32
  return Vec<double>::Raw(_mm256_loadu2_m128d(row[stride] + k, row[0] + k));
#else
  __m512d v = _mm512_castpd128_pd512(_mm_loadu_pd(row[0] + k));
  v = _mm512_insertf64x2(v, _mm_loadu_pd(row[stride] + k), 1);
  v = _mm512_insertf64x2(v, _mm_loadu_pd(row[2 * stride] + k), 2);
  return Vec<double>::Raw(_mm512_insertf64x2(v, _mm_loadu_pd(row[3 * stride] + k), 3));
#endif
}

// The two halves of a0 b0 a1 b1 ... in each 128 bits.
template <bool high, class T>
RNNK_FN Vec<T> interleave(Vec<T> a, Vec<T> b) {
  constexpr int n = Vec<T>::lanes, of_128 = lanes_of_128<T>;
  typename Vec<T>::Bits pick;
#pragma GCC unroll 16
  for (int l = 0; l < n; ++l) pick[l] = l / of_128 * of_128 + l % of_128 / 2 + (high ? of_128 / 2 : 0) + (l % 2 ? n : 0);
  return Vec<T>(typename Vec<T>::Raw(__builtin_shuffle(a.v, b.v, pick)));
}

// column[j][l] = row[l][k + j] for all lanes l: as many columns as 128 bits hold, by log2 of their number perfect shuffles.
template <class T>
RNNK_FN void load_columns(const T* const* row, int64_t k, Vec<T> (&column)[lanes_of_128<T>]) {
  constexpr int n = lanes_of_128<T>;
#pragma GCC unroll 4
  for (int j = 0; j < n; ++j) column[j] = load_128s<n>(row + j, k);
#pragma GCC unroll 2
  for (int stage = 1; stage < n; stage *= 2) {
    Vec<T> next[n];
#pragma GCC unroll 2
    for (int j = 0; j < n / 2; ++j) {
      next[2 * j] = interleave<false>(column[j], column[j + n / 2]);
      next[2 * j + 1] = interleave<true>(column[j], column[j + n / 2]);
    }
#pragma GCC unroll 4
    for (int j = 0; j < n; ++j) column[j] = next[j];
  }
}

// The rows behind one register of columns.
template <class T>
struct RowsOfColumns {
  const T* row[Vec<T>::lanes];
};

// Columns k to k + valid of the rows, fewer than a register's 128 bits hold, zeros behind them: copied, for nothing may be read there.
template <class T>
RNNK_FN RowsOfColumns<T> copy_columns(const RowsOfColumns<T>& from, int64_t k, int64_t valid, T (&copy)[Vec<T>::lanes][lanes_of_128<T>]) {
  RowsOfColumns<T> rows;
  for (int l = 0; l < Vec<T>::lanes; ++l) {
    for (int64_t j = 0; j < lanes_of_128<T>; ++j) copy[l][j] = j < valid ? from.row[l][k + j] : T(0);
    rows.row[l] = copy[l];
  }
  return rows;
}

// rows[l][0..columns) for l < lanes, transposed: to[k * stride + l].
template <class T, class S>
void transpose_rows(const RowsOfColumns<T>& rows, int64_t columns, S* to, int64_t stride) {
  constexpr int64_t n = lanes_of_128<T>;
  for (int64_t k = 0; k < columns; k += n) {
    const int64_t valid = std::min(n, columns - k);
    Vec<T> column[n];
    T copy[Vec<T>::lanes][n];
    if (valid == n) load_columns(rows.row, k, column);
    else load_columns(copy_columns(rows, k, valid, copy).row, 0, column);
#pragma GCC unroll 4
    for (int64_t j = 0; j < n; ++j)
      if (j < valid) store(column[j], to + (k + j) * stride);
  }
}
