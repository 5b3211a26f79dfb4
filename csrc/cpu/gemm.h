// The one matrix product of the CPU kernels, C = A B: B packed into panels, A read where it lies or packed for the tile.
//
// A panel holds W = NV * lanes columns of B as [K][W], so that one row of it is NV registers. A register tile keeps MR rows
// times NV registers of C. Every element of C is a sum in an order that k alone decides, whatever MR, NV, the number of rows or
// threads, which makes results independent of the batch and of the number of threads: chains of at most 128 fused multiply-adds,
// four of them added up to a block, the blocks in order. One long chain would lose a bit or two against torch's BLAS at K = 512; the adds cost 2%
// there.
//
// S is how a panel stores its numbers: as T, or for T = float as Bfloat16, which the product widens as it loads them.
//
// A far panel is one that does not stay in the L1. Of a far matrix its product fetches what it will need: the next rows into the L1 (where its
// instructions leave room for that), and, a piece with each row, the next panel into the L2. Near panels would only pay for it, and so would one or
// two rows, which read a panel as fast as the caches give it: there the hardware prefetches better (95 against 70 GB/s from the L2).
//
// No include guard: included once inside each ISA's namespace, after its target pragma (csrc/README.md says why).

// The register tile: MR * NV accumulators, a row of the side that has fewer registers (NV of B, or MR broadcasts of A), one register of the other
// side.
constexpr int vector_registers = RNNK_VECTOR_BYTES == 64 ? 32 : 16;
constexpr int tile_rows(int NV) {
  return vector_registers == 32 ? (NV == 4 ? 6 : NV == 3 ? 8 : 12) : (NV == 4 ? 3 : NV == 3 ? 4 : 6);
}

// How many of a far panel's registers a tile takes at once: with 16 registers 6 x 2 read half as much of it as 3 x 4. Up to nine rows are no more
// tiles of three.
constexpr int far_registers = vector_registers == 32 ? 4 : 2;
constexpr int64_t rows_in_whole_panels = 9;

constexpr int64_t far_panel_bytes = vector_registers == 32 ? 64 << 10 : 24 << 10, far_matrix_bytes = vector_registers == 32 ? 0 : 2 << 20;
constexpr int64_t rows_that_stream = 2;
constexpr int64_t rows_ahead = vector_registers == 32 ? 4 : 0;
constexpr int64_t chains_of_block = 4;
constexpr int64_t cache_line = 64;

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

// The chains that a tile adds up before it is stored: of one stretch or of several short ones. Their rows of a panel follow one another.
struct Block {
  int chains = 0;
  int64_t K = 0, start[chains_of_block], length[chains_of_block];

  RNNK_FN void add(int64_t from, int64_t count) {
    start[chains] = from, length[chains] = count;
    ++chains, K += count;
  }
};

// A as row pointers: element (m, k) is row[m][k]. The hardware sees it coming; what is fetched meanwhile is the next panel,
// `step` elements from `next` on for each k. The next chain begins `columns` further on, k rows of the panel after this one.
template <class T, int MR, class S>
struct RowsOfA {
  const T* row[MR];
  const S* next;
  int64_t step;
  RNNK_FN RowsOfA(const T* const* rows, int64_t start, const S* next, int64_t step) : next(next), step(step) {
    for (int m = 0; m < MR; ++m) row[m] = rows[m] + start;
  }
  RNNK_FN T operator()(int m, int64_t k) const { return row[m][k]; }
  RNNK_FN void fetch(int64_t k) const { _mm_prefetch(reinterpret_cast<const char*>(next + k * step), _MM_HINT_T1); }
  RNNK_FN void advance(int64_t columns, int64_t k) {
    for (int m = 0; m < MR; ++m) row[m] += columns;
    next += k * step;
  }
};

// A packed for the tile (pack_tiles): element (m, k) is data[k * MR + m].
template <class T, int MR>
struct PackedA {
  const T* data;
  RNNK_FN T operator()(int m, int64_t k) const { return data[k * MR + m]; }
  RNNK_FN void fetch(int64_t) const {}
  RNNK_FN void advance(int64_t, int64_t k) { data += k * MR; }
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

  // K rows of a panel, `stride` apart, several at a time: the core foresees where a loop of 64 rounds ends, and not one of 128. Four where registers
  // are narrow and a round short; NV = 3 leaves none of 16 over, and gcc would spill a sum.
  template <bool fetch, int64_t stride, class A, class S>
  RNNK_FN void multiply(const A& a, int64_t K, const S* panel) {
    constexpr int unrolled = vector_registers == 32 || NV == 3 ? 2 : 4;
    int64_t k = 0;
    for (; k + unrolled <= K; k += unrolled, panel += unrolled * stride)
#pragma GCC unroll 4
      for (int i = 0; i < unrolled; ++i) multiply_row<fetch, stride>(a, k + i, panel + i * stride);
    for (; k < K; ++k, panel += stride) multiply_row<fetch, stride>(a, k, panel);
  }

 private:
  template <bool fetch, int64_t stride, class A, class S>
  RNNK_FN void multiply_row(const A& a, int64_t k, const S* row) {
    if constexpr (fetch) {
#pragma GCC unroll 8
      for (int64_t i = 0; rows_ahead && i < NV * V::lanes; i += cache_line / sizeof(S))
        _mm_prefetch(reinterpret_cast<const char*>(row + rows_ahead * stride + i), _MM_HINT_T0);
      a.fetch(k);
    }
    if constexpr (MR == 1) {
      const V broadcast = V::broadcast(a(0, k));
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) acc[0][v] = fma(broadcast, load(row + v * V::lanes), acc[0][v]);
    } else if constexpr (MR < NV) {
      V broadcast[MR];
#pragma GCC unroll 16
      for (int m = 0; m < MR; ++m) broadcast[m] = in_register(V::broadcast(a(m, k)));
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) {
        const V b = load_operand<T>(row + v * V::lanes);
#pragma GCC unroll 16
        for (int m = 0; m < MR; ++m) acc[m][v] = accumulate(acc[m][v], broadcast[m], b);
      }
    } else {
      V b[NV];
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) b[v] = load_operand<T>(row + v * V::lanes);
#pragma GCC unroll 16
      for (int m = 0; m < MR; ++m) {
        const V broadcast = in_register(V::broadcast(a(m, k)));
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) acc[m][v] = accumulate(acc[m][v], broadcast, b[v]);
      }
    }
  }
};

enum class Store { overwrite, add };

// The place for a panel's columns: row m lies at row(m), `columns` of them exist.
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

// A sum that is added to memory meets it after K rows of products: by then it is there.
template <int NV, class T>
RNNK_FN void prefetch_rows(const Target<T>& c, int64_t m0, int valid) {
  for (int m = 0; m < valid; ++m)
    for (int64_t i = 0; i < std::min<int64_t>(c.columns, NV * Vec<T>::lanes); i += cache_line / sizeof(T))
      _mm_prefetch(reinterpret_cast<const char*>(c.row(m0 + m) + i), _MM_HINT_T0);
}

// `c` by value: read from memory, it would be read again after every store.
template <bool whole, Store store, int MR, int NV, class T>
RNNK_FN void store_tile(const Tile<T, MR, NV>& tile, const Target<T> c, int64_t m0, int valid) {
  using V = Vec<T>;
#pragma GCC unroll 16
  for (int m = 0; m < MR; ++m) {
    if (!whole && m >= valid) continue;
    T* row = c.row(m0 + m);
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v, row += V::lanes) {
      const int64_t left = whole ? V::lanes : c.columns - v * V::lanes;
      V value = tile.acc[m][v];
      if (store == Store::add) value = load_upto(row, left) + value;
      store_upto(value, row, left);
    }
  }
}

template <int MR, int NV, class T>
RNNK_FN void store_tile(const Tile<T, MR, NV>& tile, const Target<T>& c, int64_t m0, int valid) {
  constexpr Store overwrite = Store::overwrite, add = Store::add;
  const bool whole = valid == MR && c.columns >= NV * Vec<T>::lanes;
  if (c.store == overwrite) whole ? store_tile<true, overwrite>(tile, c, m0, valid) : store_tile<false, overwrite>(tile, c, m0, valid);
  else whole ? store_tile<true, add>(tile, c, m0, valid) : store_tile<false, add>(tile, c, m0, valid);
}

// Rows m0 .. m0 + valid of C = A, which begins with the block's first chain, times NV of a panel's W registers.
template <int MR, int NV, int W, bool fetch, class T, class A, class S>
RNNK_FN void tile_product(A a, const Block& block, const S* panel, const Target<T>& c, int64_t m0, int valid) {
  if (c.store == Store::add) prefetch_rows<NV>(c, m0, valid);
  Tile<T, MR, NV> tile, sum;  // `sum` lives in memory, touched once a chain
  tile.clear();
  for (int i = 0;;) {
    const int64_t length = block.length[i];
    tile.template multiply<fetch, W * Vec<T>::lanes>(a, length, panel);
    if (i) tile.add(sum);
    if (++i == block.chains) break;
    sum = tile;
    tile.clear();
    a.advance(block.start[i] - block.start[i - 1], length);
    panel += length * W * Vec<T>::lanes;
  }
  store_tile(tile, c, m0, valid);
}

template <int MR, int NV, int W, bool fetch, class T, class S>
RNNK_NOINLINE void rows_tile(const T* const* rows, const Block& block, const S* panel, const Target<T>& c, int64_t m0, const S* next, int64_t step) {
  tile_product<MR, NV, W, fetch>(RowsOfA<T, MR, S>(rows + m0, block.start[0], next, step), block, panel, c, m0, MR);
}

// One block of rows of NV of a panel's W registers; `next` comes after it. Tiles are of even size rather than full ones and a thin rest. Inlined,
// as its caller is: a single row of a small panel takes no longer than a few calls.
template <int NV, int W, class T, class S>
RNNK_FN void block_product(const T* const* rows, int64_t M, const Block& block, bool fetch, const S* panel, const S* next, const Target<T>& c) {
  constexpr int most = tile_rows(NV);
  constexpr int64_t width = NV * Vec<T>::lanes;
  const int64_t tiles = (M + most - 1) / most;
  if (tiles == 0) return;
  const int spare = int(tiles * most - M), sharing = int(std::min<int64_t>(tiles, most));  // rows too many, and how many tiles have fewer
  const int rows_of_tile = most - spare / sharing, thinner = spare % sharing;
  const int64_t step = fetch ? (width + tiles - 1) / tiles : 0;
  for (int64_t i = 0, m0 = 0; i < tiles; ++i) {
    const int count = rows_of_tile - (i < thinner);
    const S* piece = next + i * step * block.K;
    with_constant<most>(count, [&](auto MR) {
      if (fetch) rows_tile<MR, NV, W, true>(rows, block, panel, c, m0, piece, step);
      else rows_tile<MR, NV, W, false>(rows, block, panel, c, m0, piece, step);
    });
    m0 += count;
  }
}

// The same for a whole panel, a far one in halves.
template <int W, class T, class S>
RNNK_FN void panel_product(const T* const* rows, int64_t M, const Block& block, bool far, bool fetch, const S* panel, const S* next, Target<T> c) {
  if constexpr (W == 2 * far_registers) {
    if (far && M > (fetch ? tile_rows(W) : rows_in_whole_panels)) {
      constexpr int64_t half = far_registers * Vec<T>::lanes;
      block_product<far_registers, W>(rows, M, block, fetch, panel, next, c);
      if (c.columns <= half) return;
      c.offset += half, c.columns -= half;
      return block_product<far_registers, W>(rows, M, block, fetch, panel + half, next + half * block.K, c);
    }
  }
  block_product<W, W>(rows, M, block, fetch, panel, next, c);
}

// C[0..M) of one panel = A times the panel, A as row pointers, in blocks of k that stay in the L2 while all rows meet them. The
// caller's `next` panel of a far matrix, which has `size` elements, is fetched meanwhile.
template <int NV, class T, class S>
RNNK_FN void rows_product(const T* const* rows, int64_t M, const Stretches& k, const S* panel, const S* next, int64_t size, Target<T> c) {
  constexpr int64_t width = NV * Vec<T>::lanes;
  const bool far = M > rows_that_stream && k.count * k.length * width * int64_t(sizeof(S)) >= far_panel_bytes;
  const bool fetch = far && size * int64_t(sizeof(S)) >= far_matrix_bytes;
  const int64_t chain = chain_length(k.length);
  Block block;
  for (int s = 0; s < k.count; ++s) {
    for (int64_t first = 0; first == 0 || first < k.length; first += chain) {
      block.add(k.start[s] + first, std::min(chain, k.length - first));
      const bool last = s + 1 == k.count && first + chain >= k.length;
      if (block.chains < chains_of_block && !last) continue;
      panel_product<NV>(rows, M, block, far, fetch, panel, last ? next : panel + block.K * width, c);
      panel += block.K * width;
      c.store = Store::add;
      block = {};
    }
  }
}

// A tile whose rows of C are MR columns of A, packed, takes this many elements.
template <class T>
constexpr int64_t packed_tile(int MR, int64_t K) { return K * MR + Vec<T>::lanes; }

// Packs K rows of A, `stride` apart, for `tiles` tiles, the i-th from column[i] on. Reads a whole register from there.
template <int MR, class T>
RNNK_FN void pack_tiles(const T* a, int64_t stride, int64_t K, const int64_t* column, int64_t tiles, T* to) {
  constexpr int lanes = Vec<T>::lanes;
  for (int64_t k = 0; k < K; ++k, a += stride)
    for (int64_t i = 0; i < tiles; ++i)
      for (int m = 0; m < MR; m += lanes) {
        const int first = MR < lanes ? 0 : std::min(m, MR - lanes);
        Vec<T>::load(a + column[i] + first).store(to + i * packed_tile<T>(MR, K) + k * MR + first);
      }
}

// The first `valid` rows of C = a packed tile times a panel.
template <int NV, bool fetch, class T>
RNNK_NOINLINE void packed_tile_product(const T* a, const Block& block, const T* panel, const Target<T>& c, int valid) {
  constexpr int MR = tile_rows(NV);
  tile_product<MR, NV, NV, fetch>(PackedA<T, MR>{a}, block, panel, c, 0, valid);
}

// A matrix of `columns` columns cut into panels of `width`: as wide as the register tile, narrower for a narrow matrix.
template <class T>
struct Panels {
  int64_t K, columns;
  int registers;
  T* data;

  static constexpr int lanes = Vec<T>::lanes;
  Panels() = default;
  Panels(int64_t K, int64_t columns, int most_registers = 4)
      : K(K), columns(columns), registers(int(std::clamp<int64_t>((columns + lanes - 1) / lanes, 1, most_registers))), data(nullptr) {}

  Panels(Arena& arena, int64_t K, int64_t columns) : Panels(K, columns) { data = arena.take<T>(size()); }

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
      RowsOfColumns<T> rows;
      for (int l = 0; l < lanes; ++l) rows.row[l] = matrix + std::min(p * width() + v * lanes + l, columns - 1) * K;
      transpose_rows(rows, K, panel(p) + v * lanes, width());
    }
  }

  void pack_row(T* to, const T* row, int64_t first) const {
    for (int v = 0; v < registers; ++v) load_upto(row + first + v * lanes, columns - first - v * lanes).store(to + v * lanes);
  }

  // Panel p of C = A times this matrix. The caller's next panel is p + ahead.
  void multiply(const T* const* rows, int64_t M, const Stretches& k, int64_t p, Target<T> c, int ahead = 1) const {
    c.offset += p * width();
    c.columns -= p * width();
    with_constant<4>(registers, [&](auto NV) { rows_product<NV>(rows, M, k, panel(p), panel(p + ahead), size(), c); });
  }
};
