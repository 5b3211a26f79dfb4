// The one matrix product of the CPU kernels, C = A B: B packed into panels, A read where it lies or packed for the tile.
//
// A panel holds W = NV * lanes columns of B as [K][W], so that one row of it is NV registers. A register tile keeps MR rows
// times NV registers of C. Every element of C is a sum in an order that k alone decides, whatever MR, NV, the number of rows or
// threads, which makes results independent of the batch and of the number of threads: chains of at most 128 fused multiply-adds,
// added up in order. One long chain would lose a bit or two against torch's BLAS at K = 512; the adds cost 2% there.
//
// No include guard: included once inside each ISA's namespace, after its target pragma (csrc/README.md says why).

// The register tile: MR * NV accumulators, NV registers of B and one broadcast of A.
constexpr int vector_registers = RNNK_VECTOR_BYTES == 64 ? 32 : 16;
constexpr int tile_rows(int NV) {
  return vector_registers == 32 ? (NV == 4 ? 6 : NV == 3 ? 8 : 12) : (NV == 4 ? 3 : NV == 3 ? 4 : 6);
}

constexpr int largest_tile = 12;

// K runs over `count` stretches of `length` elements of a row of A, the s-th starting at `start[s]`: the gates of a backward
// pass lie apart. Panels are packed in the same order.
struct Stretches {
  int count;
  int64_t length;
  int64_t start[4];
};
RNNK_FN Stretches whole_row(int64_t K) { return {1, K, {0}}; }

// Each stretch is cut into even chains, whose length is a multiple of every ISA's lanes.
RNNK_FN int64_t chain_length(int64_t K) {
  const int64_t chains = std::max<int64_t>(1, (K + 127) / 128);
  return std::max<int64_t>(16, ((K + chains - 1) / chains + 15) / 16 * 16);
}

// A as row pointers: element (m, k) is row[m][k].
template <class T, int MR>
struct RowsOfA {
  const T* row[MR];
  RNNK_FN RowsOfA(const T* const* rows, int64_t offset) {
    for (int m = 0; m < MR; ++m) row[m] = rows[m] + offset;
  }
  RNNK_FN T operator()(int m, int64_t k) const { return row[m][k]; }
};

// A packed as [K][MR].
template <class T, int MR>
struct PackedA {
  const T* data;
  RNNK_FN T operator()(int m, int64_t k) const { return data[k * MR + m]; }
};

template <class T, int MR, int NV>
struct Tile {
  using V = Vec<T>;
  V acc[MR][NV];

  template <class F>
  RNNK_FN static void for_each(F f) {
#pragma GCC unroll 16
    for (int m = 0; m < MR; ++m)
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) f(m, v);
  }

  RNNK_FN void clear() {
    for_each([&](int m, int v) { acc[m][v] = V(0); });
  }
  RNNK_FN void add(const Tile& other) {
    for_each([&](int m, int v) { acc[m][v] = other.acc[m][v] + acc[m][v]; });
  }

  template <class A>
  RNNK_FN void multiply(const A& a, int64_t K, const T* panel) {
    for (int64_t k = 0; k < K; ++k, panel += NV * V::lanes) {
      V b[NV];
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) b[v] = V::load(panel + v * V::lanes);
#pragma GCC unroll 16
      for (int m = 0; m < MR; ++m) {
        const V broadcast = V::broadcast(a(m, k));
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) acc[m][v] = fma(broadcast, b[v], acc[m][v]);
      }
    }
  }
};

enum class Store { overwrite, add };

// Where the columns of a panel go: row m at row(m), `columns` of them exist.
template <class T>
struct Target {
  T* base;
  int64_t stride;   // between rows, when `rows` is null
  T* const* rows;   // row pointers, or null
  int64_t offset;   // of the panel's first column in a row
  int64_t columns;  // from there to the end of the row
  Store store = Store::overwrite;

  RNNK_FN T* row(int64_t m) const { return (rows ? rows[m] : base + m * stride) + offset; }
};

// Rows m0 .. m0 + valid of C; make_a(start) gives A from column `start` on.
template <int MR, int NV, class T, class MakeA>
RNNK_FN void tile_product(const MakeA& make_a, const Stretches& k, const T* panel, const Target<T>& c, int64_t m0, int valid) {
  using V = Vec<T>;
  Tile<T, MR, NV> tile, sum;  // `sum` lives in memory, touched once a chain
  tile.clear();
  bool summed = false;
  for (int s = 0; s < k.count; ++s) {
    const int64_t chain = chain_length(k.length);
    for (int64_t first = 0; first < k.length; first += chain) {
      if (s || first) {
        if (summed) tile.add(sum);
        sum = tile;
        summed = true;
        tile.clear();
      }
      const int64_t length = std::min(chain, k.length - first);
      tile.multiply(make_a(k.start[s] + first), length, panel);
      panel += length * NV * V::lanes;
    }
  }
  if (summed) tile.add(sum);
#pragma GCC unroll 16
  for (int m = 0; m < MR; ++m) {
    if (m >= valid) continue;
    T* row = c.row(m0 + m);
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) {
      const int64_t left = c.columns - v * V::lanes;
      V value = tile.acc[m][v];
      if (c.store == Store::add) value = load_upto(row + v * V::lanes, left) + value;
      store_upto(value, row + v * V::lanes, left);
    }
  }
}

template <int MR, int NV, class T>
RNNK_NOINLINE void rows_tile(const T* const* rows, const Stretches& k, const T* panel, const Target<T>& c, int64_t m0) {
  tile_product<MR, NV>([=](int64_t start) { return RowsOfA<T, MR>(rows + m0, start); }, k, panel, c, m0, MR);
}

// C[0..M) of one panel = A times the panel, A as row pointers. Tiles are of even size rather than full ones and a thin rest.
template <int NV, class T>
void rows_product(const T* const* rows, int64_t M, const Stretches& k, const T* panel, const Target<T>& c) {
  constexpr int most = tile_rows(NV);
  const int64_t tiles = (M + most - 1) / most;
  for (int64_t i = 0; i < tiles; ++i) {
    const Range tile = share(M, tiles, i);
    with_constant<most>(int(tile.size()), [&](auto MR) { rows_tile<MR, NV>(rows, k, panel, c, tile.begin); });
  }
}

template <int NV, class T>
RNNK_NOINLINE void packed_tile(const T* a, int64_t K, const T* panel, const Target<T>& c, int64_t m0, int valid) {
  constexpr int MR = tile_rows(NV);
  tile_product<MR, NV>([=](int64_t start) { return PackedA<T, MR>{a + start * MR}; }, whole_row(K), panel, c, m0, valid);
}

// rows[l][0..columns) for l < lanes, transposed: to[k * stride + l].
template <class T>
void transpose_rows(const T* const* rows, int64_t columns, T* to, int64_t stride) {
  using V = Vec<T>;
  for (int64_t k = 0; k < columns; k += V::lanes) {
    V block[V::lanes];
    for (int l = 0; l < V::lanes; ++l) block[l] = load_upto(rows[l] + k, columns - k);
    transpose(block);
    const int64_t valid = std::min<int64_t>(V::lanes, columns - k);
    for (int64_t l = 0; l < valid; ++l) block[l].store(to + (k + l) * stride);
  }
}

// A matrix of `columns` columns cut into panels of `width`: as wide as the register tile, narrower for a narrow matrix.
template <class T>
struct Panels {
  int64_t K, columns;
  int registers;
  T* data;

  static constexpr int lanes = Vec<T>::lanes;
  Panels() = default;
  Panels(int64_t K, int64_t columns)
      : K(K), columns(columns), registers(int(std::min<int64_t>(4, std::max<int64_t>(1, (columns + lanes - 1) / lanes)))), data(nullptr) {}

  int64_t width() const { return registers * lanes; }
  int64_t count() const { return (columns + width() - 1) / width(); }
  int64_t padded_columns() const { return count() * width(); }
  int64_t size() const { return K * padded_columns(); }
  T* panel(int64_t p) const { return data + p * K * width(); }

  // Panel p of a matrix [K][columns].
  void pack(int64_t p, const T* matrix) const {
    for (int64_t k = 0; k < K; ++k) pack_row(panel(p) + k * width(), matrix + k * columns, p * width());
  }

  // Panel p of the transpose of a matrix [columns][K]; its columns past the last are never stored.
  void pack_transposed(int64_t p, const T* matrix) const {
    for (int v = 0; v < registers; ++v) {
      const T* rows[lanes];
      for (int l = 0; l < lanes; ++l) rows[l] = matrix + std::min(p * width() + v * lanes + l, columns - 1) * K;
      transpose_rows(rows, K, panel(p) + v * lanes, width());
    }
  }

  void pack_row(T* to, const T* row, int64_t first) const {
    for (int v = 0; v < registers; ++v) load_upto(row + first + v * lanes, columns - first - v * lanes).store(to + v * lanes);
  }

  // Panel p of C = A times this matrix.
  void multiply(const T* const* rows, int64_t M, const Stretches& k, int64_t p, Target<T> c) const {
    c.offset += p * width();
    c.columns -= p * width();
    with_constant<4>(registers, [&](auto NV) { rows_product<NV>(rows, M, k, panel(p), c); });
  }
};
