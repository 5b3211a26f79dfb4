// The matrix product for few rows of A: B is not packed but read where it lies, as rows of its transpose.
//
// No include guard: included once inside each ISA's namespace, after its target pragma (csrc/README.md says why).

// MR rows of C times NV registers of its columns. A sum is a chain of fused multiply-adds, each waiting four cycles for the one before it: two
// registers' chains beside each other read nearly twice as fast as one; four would read more rows at once than the L1 has ways for.
template <int MR, int NV, class T>
class DirectTile {
  using V = Vec<T>;
  using Columns = RowsOfColumns<T>;
  using Sums = Tile<T, MR, NV>;
  static constexpr int step = lanes_of_128<T>;
  V acc[MR][NV];

  // Columns k to k + valid of A, `valid` at most a step, times those from `from` on of the rows.
  RNNK_FN void multiply_step(const T* const* a, int64_t k, const Columns* w, int64_t from, int64_t valid = step) {
    V column[NV][step];
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) load_columns(w[v].row, from, column[v]);
#pragma GCC unroll 4
    for (int64_t j = 0; j < step; ++j)
#pragma GCC unroll 8
      for (int m = 0; j < valid && m < MR; ++m) {
        const V broadcast = V::broadcast(a[m][k + j]);
#pragma GCC unroll 2
        for (int v = 0; v < NV; ++v) acc[m][v] = fma(broadcast, column[v][j], acc[m][v]);
      }
  }

  // One chain, K products from column k on.
  RNNK_FN void multiply_chain(const T* const* a, const Columns* w, int64_t k, int64_t K) {
    Sums::for_each([&](int m, int v) { acc[m][v] = V(0); });
    const int64_t end = k + K;
    for (; k + 2 * step <= end; k += 2 * step) multiply_step(a, k, w, k), multiply_step(a, k + step, w, k + step);
    for (; k < end; k += step) {
      const int64_t valid = std::min<int64_t>(step, end - k);
      T copy[NV][V::lanes][step];
      Columns copied[NV];
      for (int v = 0; v < NV; ++v) copied[v] = copy_columns(w[v], k, valid, copy[v]);
      multiply_step(a, k, copied, 0, valid);
    }
  }

  // The chains of one block, added up.
  RNNK_FN void multiply(const T* const* a, const Columns* w, int64_t k, int64_t K, int64_t chain) {
    V sum[MR][NV];
    for (int64_t first = 0; first == 0 || first < K; first += chain) {
      multiply_chain(a, w, k + first, std::min(chain, K - first));
      Sums::for_each([&](int m, int v) { sum[m][v] = first ? sum[m][v] + acc[m][v] : acc[m][v]; });
    }
    Sums::for_each([&](int m, int v) { acc[m][v] = sum[m][v]; });
  }

 public:
  RNNK_NOINLINE static void run(const T* const* a, const Columns* w, int64_t K, T* c, int64_t stride) {
    DirectTile tile;
    V sum[MR][NV];
    const int64_t chain = chain_length(K), block = chains_of_block * chain;
    for (int64_t k = 0; k == 0 || k < K; k += block) {
      tile.multiply(a, w, k, std::min(block, K - k), chain);
      Sums::for_each([&](int m, int v) { sum[m][v] = k ? sum[m][v] + tile.acc[m][v] : tile.acc[m][v]; });
    }
    Sums::for_each([&](int m, int v) { sum[m][v].store(c + m * stride + v * V::lanes); });
  }
};

// C[m][v * lanes + l] = sum over k of a[m][k] w[v].row[l][k] for `registers` registers of columns, in the order of sums of a panel, so with the
// same bits. C's rows lie `stride` apart. Pays as long as A has few rows.
template <int registers, class T>
RNNK_FN void direct_product(const T* const* a, int64_t M, const RowsOfColumns<T> (&w)[registers], int64_t K, T* c, int64_t stride) {
  with_constant<most_direct_rows>(int(M), [&](auto MR) {
    constexpr int NV = 2 * (MR + lanes_of_128<T>) < vector_registers ? 2 : 1;
    int v = 0;
    for (; v + NV <= registers; v += NV) DirectTile<MR, NV, T>::run(a, w + v, K, c + v * Vec<T>::lanes, stride);
    for (; v < registers; ++v) DirectTile<MR, 1, T>::run(a, w + v, K, c + v * Vec<T>::lanes, stride);
  });
}
