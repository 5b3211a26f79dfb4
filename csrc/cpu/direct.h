// The matrix product for few rows of A: B is not packed but read where it lies, as rows of its transpose.
//
// No include guard: included once inside each ISA's namespace, after its target pragma (csrc/README.md says why).

// C[m][l] = sum over k of a[m][k] w[l][k] for lanes columns l, from the rows w of a matrix that is not packed: blocks of it are
// transposed in registers. The same sums as a panel's, so the same bits; pays as long as A has few rows.
template <int MR, class T>
class DirectTile {
  using V = Vec<T>;
  V acc[MR], block[V::lanes];

  RNNK_FN void load_block(const T* const* w, int64_t k, int64_t left) {
#pragma GCC unroll 16
    for (int l = 0; l < V::lanes; ++l) block[l] = load_upto(w[l] + k, left);
    transpose(block);
  }

  // One chain, K products from column k on.
  RNNK_FN void multiply_chain(const T* const* a, const T* const* w, int64_t k, int64_t K) {
#pragma GCC unroll 8
    for (int m = 0; m < MR; ++m) acc[m] = V(0);
    const int64_t end = k + K;
    for (; k + V::lanes <= end; k += V::lanes) {
      load_block(w, k, V::lanes);
#pragma GCC unroll 16
      for (int j = 0; j < V::lanes; ++j)
#pragma GCC unroll 8
        for (int m = 0; m < MR; ++m) acc[m] = fma(V::broadcast(a[m][k + j]), block[j], acc[m]);
    }
    if (k == end) return;
    load_block(w, k, end - k);
    T rest[V::lanes * V::lanes];
    for (int j = 0; j < V::lanes; ++j) block[j].store(rest + j * V::lanes);
    for (int64_t j = 0; k + j < end; ++j)
      for (int m = 0; m < MR; ++m) acc[m] = fma(V::broadcast(a[m][k + j]), V::load(rest + j * V::lanes), acc[m]);
  }

  // The chains of one block, added up.
  RNNK_FN void multiply(const T* const* a, const T* const* w, int64_t k, int64_t K, int64_t chain) {
    V sum[MR];
    for (int64_t first = 0; first == 0 || first < K; first += chain) {
      multiply_chain(a, w, k + first, std::min(chain, K - first));
      for (int m = 0; m < MR; ++m) sum[m] = first ? sum[m] + acc[m] : acc[m];
    }
    for (int m = 0; m < MR; ++m) acc[m] = sum[m];
  }

 public:
  RNNK_NOINLINE static void run(const T* const* a, const T* const* w, int64_t K, T* c, int64_t stride) {
    DirectTile tile;
    V sum[MR];
    const int64_t chain = chain_length(K), block = chains_of_block * chain;
    for (int64_t k = 0; k == 0 || k < K; k += block) {
      tile.multiply(a, w, k, std::min(block, K - k), chain);
      for (int m = 0; m < MR; ++m) sum[m] = k ? sum[m] + tile.acc[m] : tile.acc[m];
    }
    for (int m = 0; m < MR; ++m) sum[m].store(c + m * stride);
  }
};
