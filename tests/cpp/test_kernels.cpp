// The CPU kernels of every ISA this CPU runs against naive.h: values, equal bits for any number of threads and any batch, and,
// built with AddressSanitizer, that they touch nothing but their arrays (problem.h). Links csrc/cpu/*.cpp only, no torch.
// `test_kernels quick` is the small selection for ThreadSanitizer.
#include "cpu/partition.h"
#include "cpu/walk.h"
#include "run.h"

using rnnk::Cell;
using rnnk::cpu::Kernels;

// How the calls were split over threads, to see that the cases reach every way of doing it.
struct Coverage {
  bool members = false, teams = false, groups = false, pieces = false, back = false;

  template <class T>
  void note(const Case& c, const std::string& isa, int threads) {
    using namespace rnnk::cpu;
    const int lanes = (isa == "avx512" ? 64 : isa == "avx2" ? 32 : 16) / int(sizeof(T)), gates = int(c.gates());
    const int tile_rows = (isa == "avx512" ? 24 : 12) / panel_registers(gates);
    const Packing packing = reads_unpacked(c.T, c.B) ? Packing::never : Packing::now;
    const LayerCost cost{c.T, c.B, gates, c.H, c.I, c.state(), c.D, lanes, tile_rows, int(sizeof(T)), packing,
                         c.T == 1 && !c.P && c.cell != Cell::gru_reset_before && packing == Packing::never};
    const Partition p = choose_partition(cost, threads);
    members |= p.members > 1;
    teams |= p.teams() > 1;
    groups |= p.groups > 1;
    pieces |= cost.independent_panels && p.threads > 1;
    back |= p.members > 1 && walks_back(gates * c.H * cost.K * int64_t(sizeof(T)) / p.members, 1);
  }
} coverage;

std::vector<Kernels> tables() {
#ifdef RNNK_ONE_ISA
  return {rnnk::cpu::kernels()};
#else
  __builtin_cpu_init();
  std::vector<Kernels> all = {rnnk::cpu::baseline::table()};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) all.push_back(rnnk::cpu::avx2::table());
  if (std::string(rnnk::cpu::kernels().isa) == "avx512") all.push_back(rnnk::cpu::avx512::table());
  return all;
#endif
}

// W_ih and W_hh as bfloat16 holds them: 8 significant bits, rounded to nearest even.
template <class T>
Problem<T> with_rounded_weights(Problem<T> p) {
  for (LayerWeights<T>& w : p.weights)
    for (Buffer<T>* matrix : {&w.w_ih, &w.w_hh})
      for (int64_t i = 0; i < matrix->size(); ++i) {
        int exponent;
        const double fraction = std::frexp(double((*matrix)[i]), &exponent);
        (*matrix)[i] = T(std::ldexp(std::nearbyint(fraction * 256), exponent - 8));
      }
  return p;
}

template <class T>
void test_case(const Case& c, const Kernels& table, const Problem<T>& p, const Expected& expected, bool rows) {
  const std::string name = std::string(table.isa) + (sizeof(T) == 4 ? " float " : " double ") + c.name();
  const Outputs<T> outputs = forward(table, p, 1);
  compare(name, expected, outputs);
  check_same(name + " without saving", outputs, forward(table, p, 1, false));
  const auto& kernels = table.of<T>();
  for (int threads : {1, 2}) check_same(name + " packed before", outputs, forward(table, p, threads, true, &kernels.exact));
  if (kernels.rounded.run) check_same(name + " rounded", forward(table, with_rounded_weights(p), 1), forward(table, p, 2, true, &kernels.rounded));
  const Outputs<T> saved = outputs;
  const Gradients<T> gradients = backward(table, p, saved, 1);
  compare(name, expected, gradients);
  check(saved.gates.same_bits(outputs.gates) && saved.cells.same_bits(outputs.cells) && saved.out.data.same_bits(outputs.out.data),
        "%s: the backward pass wrote into what was saved", name.c_str());
  for (int threads : {1, 2, 3}) check_same(name + " recomputing", gradients, backward(table, p, saved, threads, without_gates));
  for (int threads : {2, 3, 4}) {
    coverage.note<T>(c, table.isa, threads);
    const std::string with = name + " with " + std::to_string(threads) + " threads";
    const Outputs<T> again = forward(table, p, threads);
    check_same(with, outputs, again);
    check(outputs.gates.size() == again.gates.size() && outputs.cells.size() == again.cells.size(), "%s: saved sizes", with.c_str());
    check_same(with, gradients, backward(table, p, again, threads));
  }
  if (rows)
    for (int64_t row : {int64_t(0), c.B / 2, c.B - 1}) check_row(name, table, p, row, outputs, gradients);
}

// Missing cotangents count as zero; a gradient that is not wanted changes no other.
template <class T>
void test_null_pointers(const Case& c, const Kernels& table) {
  const Problem<T> p(c);
  const std::string name = std::string(table.isa) + " " + c.name();
  const Outputs<T> outputs = forward(table, p, 2);
  const Gradients<T> all = backward(table, p, outputs, 2);
  for (int bit : gradient_bits)
    check_same(name + " without result " + std::to_string(bit), all, backward(table, p, outputs, 2, 1u << bit), 1u << bit);
  for (unsigned bits = 1; bits < 8; ++bits) {
    Problem<T> zeroed = p;
    const auto clear = [](const Buffer<T>& b) { std::fill_n(b.data(), b.size(), T(0)); };
    if (bits & 1) clear(zeroed.d_out.data);
    if (bits & 2) clear(zeroed.d_h_n);
    if (bits & 4) clear(zeroed.d_c_n);
    compare(name + " without cotangents " + std::to_string(bits), expect(zeroed), backward(table, p, outputs, 2, bits));
  }
}

template <class T>
void test_all_tables(const Case& c, bool rows = false) {
  const Problem<T> p(c);
  const Expected expected = expect(p);
  for (const Kernels& table : tables()) test_case<T>(c, table, p, expected, rows);
}

constexpr Cell cells[] = {Cell::lstm, Cell::gru, Cell::gru_reset_before, Cell::rnn_tanh, Cell::rnn_relu, Cell::rnn_sigmoid};

void test_shapes(Case c) {
  struct Sizes { int64_t T, B, I, H; };
  constexpr Sizes sizes[] = {{1, 1, 1, 1},  {1, 1, 5, 3},   {4, 1, 7, 17}, {5, 3, 2, 16}, {3, 5, 9, 33}, {2, 0, 3, 4},  {6, 7, 4, 8},
                             {3, 17, 20, 40}, {2, 100, 3, 5}, {70, 9, 6, 20}, {4, 3, 0, 5}, {130, 1, 3, 2}, {2, 13, 65, 127}};
  for (const Sizes& s : sizes) {
    c.T = s.T, c.B = s.B, c.I = s.I, c.H = s.H;
    test_all_tables<float>(c, c.B > 1);
    test_all_tables<double>(c, c.B > 1);
  }
}

void test_layouts() {
  for (Cell cell : cells)
    for (int D : {1, 2})
      for (Layout layout : {Layout::full, Layout::batch_first, Layout::lengths, Layout::packed, Layout::nothing})
        test_shapes({cell, 0, 0, 0, 0, 0, D, layout, layout != Layout::packed});
}

// Up to P = H; torch.nn allows P < H.
void test_projections() {
  for (Layout layout : {Layout::full, Layout::lengths, Layout::batch_first})
    for (auto [T, B, I, H, P] : {std::array<int64_t, 5>{1, 1, 1, 2, 1}, {5, 3, 4, 17, 5}, {3, 8, 3, 70, 33}, {130, 2, 2, 5, 5}, {2, 0, 3, 4, 2}}) {
      const Case c{Cell::lstm, T, B, I, H, P, 2, layout};
      test_all_tables<float>(c, B > 1);
      test_all_tables<double>(c, B > 1);
    }
}

// Layers large enough to be split over threads: by columns, by rows, by direction.
void test_teams() {
  for (Cell cell : cells)
    for (auto [T, B, H] : {std::array<int64_t, 3>{12, 1, 160}, {6, 16, 96}, {3, 200, 48}})
      for (Layout layout : {Layout::full, Layout::lengths}) {
        test_all_tables<float>({cell, T, B, 24, H, 0, 1, layout}, true);
        test_all_tables<double>({cell, T, B, 24, H, 0, 2, layout});
        if (cell == Cell::lstm) test_all_tables<float>({cell, T, B, 24, H, H / 3, 2, layout}, true);
      }
}

// Single steps that are shared as pieces, and weights that do not stay in the L2.
void test_steps() {
  for (Cell cell : cells)
    for (auto [T, B, H] : {std::array<int64_t, 3>{1, 1, 300}, {1, 5, 170}, {1, 20, 170}, {3, 1, 560}})
      for (int D : {1, 2}) test_all_tables<float>({cell, T, B, 24, H, 0, D, Layout::full}, B > 1);
}

// States set anew within a sequence: with rows that end, projections, teams of threads, chunks of steps, a single step.
void test_resets() {
  for (Cell cell : cells)
    for (Layout layout : {Layout::full, Layout::batch_first, Layout::lengths, Layout::packed})
      for (auto [T, B, H] : {std::array<int64_t, 3>{1, 1, 5}, {1, 3, 300}, {9, 1, 17}, {6, 7, 33}, {70, 9, 20}, {12, 5, 160}})
        for (int64_t P : {int64_t(0), H / 3}) {
          if (P && cell != Cell::lstm) continue;
          const Case c{cell, T, B, 6, H, P, 2, layout, true, true};
          test_all_tables<float>(c, B > 1);
          test_all_tables<double>(c, B > 1);
        }
}

// The c of every step, with all that an LSTM can have.
void test_cells() {
  for (Layout layout : {Layout::full, Layout::batch_first, Layout::lengths, Layout::packed, Layout::nothing})
    for (auto [T, B, H] : {std::array<int64_t, 3>{1, 1, 5}, {1, 3, 300}, {9, 1, 17}, {6, 7, 33}, {70, 9, 20}, {12, 5, 160}, {2, 0, 4}})
      for (bool resets : {false, true})
        for (int64_t P : {int64_t(0), H / 3}) {
          const Case c{Cell::lstm, T, B, 6, H, P, 2, layout, true, resets, true};
          test_all_tables<float>(c, B > 1);
          test_all_tables<double>(c, B > 1);
        }
}

void test_quick() {
  for (Cell cell : cells)
    for (Layout layout : {Layout::full, Layout::lengths})
      for (auto [T, B, H, D] : {std::array<int64_t, 4>{10, 1, 160, 1}, {5, 16, 64, 2}, {3, 3, 19, 2}, {30, 12, 33, 2}, {1, 2, 300, 2}}) {
        const Case c{cell, T, B, 9, H, 0, int(D), layout};
        test_all_tables<float>(c);
        if (cell == Cell::lstm) test_all_tables<double>({cell, T, B, 9, H, H / 3, int(D), layout, true, true, true});
      }
}

int main(int count, char** words) {
  if (count > 1 && std::string(words[1]) == "quick") {
    test_quick();
  } else {
    test_layouts();
    test_projections();
    test_teams();
    test_steps();
    test_resets();
    test_cells();
    for (Cell cell : cells)
      for (const Kernels& table : tables()) {
        test_null_pointers<double>({cell, 4, 5, 3, 19, 0, 2, Layout::lengths}, table);
        if (cell == Cell::lstm) test_null_pointers<double>({cell, 4, 5, 3, 19, 7, 2, Layout::lengths, true, true, true}, table);
      }
    check(coverage.groups, "no case had several groups of rows");
    check(coverage.back, "no case had weights larger than the L2");
  }
  check(coverage.members && coverage.teams, "no case had a team of several threads, or several teams");
  check(coverage.pieces, "no case was shared in pieces");
  return finish("test_kernels");
}
