// The CUDA layers, run on the host, against naive.h: every cell, layout, direction, dtype, with and without projection, biases, saved gates
// and each of the gradients; the same bits for any order of threads and any size of chunks; built with AddressSanitizer, that they touch
// nothing but their arrays (cuda_layers.h). Links csrc/cuda/*.cu as C++, no torch, no CUDA.
//
//   test_cuda_layers TYPE [REGIME]      f64 f32 tf32 bf16 f16; R0 R1 R2 R3 R4
#include "cuda/queue.h"
#include "cuda/regime.h"
#include "cuda_layers.h"

using rnnk::Cell;

constexpr Cell cells[] = {Cell::lstm, Cell::gru, Cell::gru_reset_before, Cell::rnn_tanh, Cell::rnn_relu, Cell::rnn_sigmoid};
constexpr Layout layouts[] = {Layout::full, Layout::lengths, Layout::packed, Layout::nothing};

// The largest error of any result, of the largest number there.
double relative_error(const Expected& theirs, const Expected& exact) {
  double relative = 0;
  const auto note = [&](const auto& a, const auto& b) {
    const Difference d = difference(a.data(), b.data(), int64_t(a.size()));
    relative = std::max(relative, d.error / d.largest);
  };
  note(theirs.out.data, exact.out.data), note(theirs.h_n, exact.h_n), note(theirs.c_n, exact.c_n);
  note(theirs.c_out.data, exact.c_out.data), note(theirs.d_reset_h, exact.d_reset_h), note(theirs.d_reset_c, exact.d_reset_c);
  note(theirs.d_x.data, exact.d_x.data), note(theirs.d_h0, exact.d_h0), note(theirs.d_c0, exact.d_c0);
  for (int d = 0; d < 2; ++d) {
    const naive::Weights &a = theirs.d_weights[d], &b = exact.d_weights[d];
    note(a.w_ih, b.w_ih), note(a.w_hh, b.w_hh), note(a.b_ih, b.b_ih), note(a.b_hh, b.b_hh), note(a.w_hr, b.w_hr);
  }
  return relative;
}

// Of the 16-bit types by tests/conftest.py's rule, where naive.h with their rounding stands for torch.nn: its error in the worst result, for
// with a handful of numbers each a single one may be exact by luck.
template <class T>
double tolerance(const Problem<double>& p, const Expected& exact) {
  if (sizeof(T) > 2 && !tf32) return usual_tolerance<T>;
  return (std::is_same_v<T, __nv_bfloat16> ? 4e-3 : 5e-4) + 2 * relative_error(on_card(expect(p, rounding<T>()), p.c), exact);
}

// Chunks of one step, of some, of all.
constexpr size_t chunk_sizes[] = {0, 2000, 20000, large_chunks};

// Whether the forced regime takes a pass of the layer; what it does not is tested to say so.
template <class T, template <class> class Args>
bool supported(const Case& c) {
  Args<T> args{};
  T projection;
  args.cell = c.cell, args.shape = {c.T, c.B, c.T * c.B, c.I, c.H, c.state(), c.D}, args.tf32 = tf32;
  if (c.P) args.weights[0].w_hr = &projection;
  bool mask;
  if (c.reset) args.reset.mask = &mask;
  if constexpr (std::is_same_v<Args<T>, cuda::ForwardArgs<T>>) args.c_out = c.cells ? &projection : nullptr;
  else args.d_c_out = c.cells ? &projection : nullptr;
  return cuda::choose(cuda::Problem(args)).has_value();
}

// c is kept in more bits than T has.
template <class T>
bool holds_more_than(const Buffer<cuda::Wide<T>>& cells) {
  for (int64_t i = 0; i < cells.size(); ++i)
    if (cells[i] == cells[i] && rounded<T>(cells[i]) != cells[i]) return true;
  return false;
}

template <class T>
void test_case(const Case& c, int attempt = 0) {
  const Problem<double> p = draw<T>(c, attempt);
  const Expected expected = on_card(expect(p), c);
  const double t = tolerance<T>(p, expected);
  const std::string name = std::string(type_name<T>) + " " + c.name();
  const Inputs<T> in(p);
  Loop loop;
  Saved<T> o, again;
  Gradients<T> g, g_again;
  cuda_host::set_seed(1);
  const cudaError_t error = forward(p, in, o, loop);
  if (!supported<T, cuda::ForwardArgs>(c)) return void(check(error == cudaErrorNotSupported, "%s: forward does not refuse", name.c_str()));
  check(error == cudaSuccess, "%s: forward failed", name.c_str());
  compare(name, expected, read(o, p), t);
  if (sizeof(T) == 2 && c.is_lstm() && p.steps.tokens) check(holds_more_than<T>(o.cells), "%s: c is rounded", name.c_str());
  for (Save save : {Save::cells, Save::nothing}) {
    forward(p, in, again, loop, save);
    check_same(name + " without saving", o, again);
  }
  for (size_t chunk : chunk_sizes) {
    cuda_host::set_seed(2 + chunk);
    forward(p, in, again, loop, Save::all, chunk);
    check_same(name + " in chunks of " + std::to_string(chunk), o, again);
    check(o.gates.same_bits(again.gates) && o.cells.same_bits(again.cells), "%s: saved tensors have other bits", name.c_str());
  }
  // What is right so far may still be on the other side of the kink: then there is nothing to compare.
  if (!failures && crosses_kink(c, read(o.out.data), expected.out.data)) return test_case<T>(c, attempt + 1);
  const cudaError_t backward_error = backward(p, in, o, g, loop);
  if (!supported<T, cuda::BackwardArgs>(c)) return void(check(backward_error == cudaErrorNotSupported, "%s: backward does not refuse", name.c_str()));
  check(backward_error == cudaSuccess, "%s: backward failed", name.c_str());
  compare(name, expected, read(g, p), t);
  for (size_t chunk : chunk_sizes)
    for (unsigned without : {0u, without_gates}) {
      const std::string with = name + " in chunks of " + std::to_string(chunk) + (without ? " recomputing" : "");
      cuda_host::set_seed(3);
      backward(p, in, o, g, loop, without, chunk);
      compare(with, expected, read(g, p), t);
      if (chunk == large_chunks) continue;
      cuda_host::set_seed(4);
      backward(p, in, o, g_again, loop, without, chunk);
      check_same(with, g, g_again);
    }
  check(o.gates.same_bits(again.gates) && o.cells.same_bits(again.cells) && o.out.data.same_bits(again.out.data),
        "%s: the backward pass wrote into what was saved", name.c_str());
}

// Missing cotangents count as zero; a gradient that is not wanted changes no other.
template <class T>
void test_null_pointers(const Case& c) {
  Problem<double> p = draw<T>(c);
  const std::string name = std::string(type_name<T>) + " " + c.name();
  const Inputs<T> in(p);
  Loop loop;
  Saved<T> o;
  Gradients<T> all, some;
  forward(p, in, o, loop);
  for (size_t chunk : {size_t(0), large_chunks}) {
    backward(p, in, o, all, loop, 0, chunk);
    for (int bit : gradient_bits) {
      backward(p, in, o, some, loop, 1u << bit, chunk);
      check_same(name + " without result " + std::to_string(bit), all, some, 1u << bit);
    }
    for (unsigned bits : {1u << 8 | 1u << 9, 1u << 4 | 1u << 5, 3u << 12, 3u << 12 | 3u << 4, (1u << 11) - (1u << 6), (1u << 11) - (1u << 3)}) {
      backward(p, in, o, some, loop, bits, chunk);
      check_same(name + " without results " + std::to_string(bits), all, some, bits);
    }
  }
  for (unsigned bits = 1; bits < 8; ++bits) {
    Problem<double> zeroed = p;
    const auto clear = [](const Buffer<double>& b) { std::fill_n(b.data(), b.size(), 0.0); };
    if (bits & 1) clear(zeroed.d_out.data);
    if (bits & 2) clear(zeroed.d_h_n);
    if (bits & 4) clear(zeroed.d_c_n);
    const Expected expected = on_card(expect(zeroed), c);
    backward(p, in, o, some, loop, bits);
    compare(name + " without cotangents " + std::to_string(bits), expected, read(some, p), tolerance<T>(zeroed, expected));
  }
}

// A product that fails is the last thing that happens.
template <class T>
void test_failures(const Case& c) {
  const Problem<double> p = draw<T>(c);
  const Inputs<T> in(p);
  Saved<T> o, saved;
  Gradients<T> g;
  Loop forwards, backwards;
  forward(p, in, saved, forwards);
  backward(p, in, saved, g, backwards);
  const auto fails = [&](int i, auto run) {
    Loop loop{i};
    check(run(loop) == cudaErrorInvalidValue && loop.calls == i + 1, "%s: failure of product %d", c.name().c_str(), i);
  };
  for (int i = 0; i < forwards.calls; ++i) fails(i, [&](Loop& loop) { return forward(p, in, o, loop); });
  for (int i = 0; i < backwards.calls; ++i) fails(i, [&](Loop& loop) { return backward(p, in, saved, g, loop); });
}

// The same bits in any order of threads and messages; of the forward pass alone where the regime takes no backward one.
template <class T>
void test_orders(const Case& c, int orders = shows_products_only<T>() ? 2 : 4) {
  const Problem<double> p = draw<T>(c);
  const Expected expected = on_card(expect(p), c);
  const std::string name = std::string(type_name<T>) + " " + c.name() + " in any order";
  const bool both = supported<T, cuda::BackwardArgs>(c);
  const Inputs<T> in(p);
  Loop loop;
  Saved<T> o, again;
  Gradients<T> g, g_again;
  for (int seed = 0; seed < orders; ++seed) {
    cuda_host::set_seed(uint64_t(10 + seed));
    check(forward(p, in, again, loop) == cudaSuccess, "%s: forward failed", name.c_str());
    if (seed) check_same(name, o, again);
    else compare(name, expected, read(o = again, p), tolerance<T>(p, expected));
    if (!both) continue;
    check(backward(p, in, again, g_again, loop) == cudaSuccess, "%s: backward failed", name.c_str());
    if (seed) check_same(name, g, g_again);
    else compare(name, expected, read(g = g_again, p), tolerance<T>(p, expected));
  }
}

struct Sizes {
  int64_t T, B, I, H;
};

// States set anew and the c of every step: rows that begin and end at other times than those beside them, directions, projections.
template <class T>
void test_extras() {
  for (Layout layout : layouts)
    for (int D : {1, 2})
      for (Cell cell : cells) {
        const bool lstm = cell == Cell::lstm;
        for (const Sizes& s : {Sizes{1, 3, 4, 5}, {7, 5, 2, 9}, {6, 3, 0, 4}})
          test_case<T>({cell, s.T, s.B, s.I, s.H, 0, D, layout, true, true, lstm});
        if (lstm) test_case<T>({cell, 7, 5, 3, 9, 4, D, layout, true, true, true});
        if (lstm) test_case<T>({cell, 4, 3, 3, 17, 0, D, layout, true, false, true});
      }
}

template <class T>
void test_type() {
  for (Cell cell : cells)
    for (int D : {1, 2})
      for (Layout layout : layouts) {
        // A single number of 16 bits says nothing about an error.
        const Sizes smallest = sizeof(T) > 2 ? Sizes{1, 1, 1, 1} : Sizes{1, 1, 9, 6};
        for (const Sizes& s : {smallest, {4, 3, 5, 17}, {7, 5, 2, 3}, {3, 2, 0, 4}, {2, 0, 3, 4}})
          if (s.B || layout != Layout::packed) test_case<T>({cell, s.T, s.B, s.I, s.H, 0, D, layout, layout != Layout::packed});
      }
  for (Layout layout : layouts)
    for (int D : {1, 2}) {
      test_case<T>({Cell::lstm, 5, 4, 3, 17, 6, D, layout, D == 2});
      test_case<T>({Cell::lstm, 2, 2, 3, 5, 5, D, layout});
    }
  test_extras<T>();
  for (Cell cell : cells) {
    for (bool resets : {false, true})
      if (const Case c{cell, 4, 3, 3, 9, 0, 2, Layout::lengths, true, resets}; supported<T, cuda::BackwardArgs>(c)) test_null_pointers<T>(c);
    const Case projected{cell, 4, 3, 3, 9, 4, 2, Layout::lengths, true, true, true};
    if (cell == Cell::lstm && supported<T, cuda::BackwardArgs>(projected)) test_null_pointers<T>(projected);
  }
  if (const Case projected{Cell::lstm, 2, 3, 2, 4, 3, 2, Layout::full}; supported<T, cuda::BackwardArgs>(projected)) test_failures<T>(projected);
  test_failures<T>({Cell::gru, 3, 2, 2, 4, 0, 1, Layout::lengths});
}

// Shapes that a single type shows: more steps than a table has, more columns than a block, sums in several parts.
void test_large() {
  for (Layout layout : {Layout::lengths, Layout::packed}) {
    test_case<double>({Cell::gru, 140, 2, 2, 3, 0, 2, layout, true, true});
    test_case<double>({Cell::gru_reset_before, 5, 40, 2, 150, 0, 2, layout});
    test_case<double>({Cell::lstm, 3, 2, 2, 150, 140, 2, layout});
    test_case<double>({Cell::rnn_tanh, 5, 70, 2, 40, 0, 1, layout});
  }
}

__global__ void visit_kernel(int* visits, int64_t rows) {
  cuda::for_own_rows(rows, [&](int64_t row) { ++visits[row * 40 + cuda::own_column()]; });
}

// More rows than a grid has: every thread takes several.
void test_rows() {
  check(cuda::over(40, int64_t(1) << 33).grid.y == 65535, "a grid of too many rows");
  constexpr int64_t rows = 23;
  std::vector<int> visits(size_t(rows * 64));
  check(!cuda::launch(visit_kernel, {dim3(2, 3), dim3(20, 2)}, nullptr, visits.data(), rows), "launch");
  for (int64_t i = 0; i < int64_t(visits.size()); ++i) check(visits[i] == (i < rows * 40), "element %d visited %d times", int(i), visits[i]);
}

// R1: every tiling, the last one at its capacity and beyond it, a full and a started tile of rows.
template <class T>
void test_tilings() {
  constexpr int words = int(sizeof(T)) / 2;
  for (Cell cell : cells)
    for (int64_t H : {20, 50, 64, 128, 160, 192, 256})
      for (Layout layout : {Layout::lengths, Layout::packed}) {
        const int64_t units = H / words;
        test_case<T>({cell, 3, units > 64 ? 2 : 9, 2, units - (H == 50), 0, 2 - int(units > 32), layout});
      }
}

// R2: two and four ranks, and more, with the weights of one part of K in shared memory; two tiles of rows; rows that end early.
template <class T>
void test_clusters() {
  constexpr int words = int(sizeof(T)) / 2;
  for (Cell cell : cells)
    for (Layout layout : {Layout::lengths, Layout::packed})
      for (int64_t H : {40, 100})
        if (!shows_products_only<T>())
          test_case<T>({cell, 4, H == 40 ? 9 : 2, 2, cell < Cell::rnn_tanh ? H : 2 * H / words, 0, 2 - int(H > 40), layout});
  test_orders<T>({Cell::lstm, 6, 9, 2, 72, 0, 2, Layout::lengths});
  test_orders<T>({Cell::gru, 6, 3, 2, 72, 0, 1, Layout::packed});
  test_orders<T>({Cell::rnn_tanh, 6, 3, 2, 140, 0, 1, Layout::packed});
  test_orders<T>({Cell::lstm, 2, 2, 2, 260 / words, 0, 1, Layout::packed});  // more shapes than these take minutes here
  if (!std::is_same_v<T, __half>) test_orders<T>({Cell::gru, 2, 2, 2, 520 / words, 0, 1, Layout::packed});
  if (!std::is_same_v<T, __half>) test_orders<T>({Cell::rnn_relu, 2, 2, 2, 520 / words, 0, 1, Layout::packed});
}

// R3, on a card with 6 SMs: several teams and one; one tile of rows and two by turns, and more rounds of them; the directions in one launch and one
// after the other.
template <class T>
void test_teams() {
  for (Cell cell : cells)
    for (Layout layout : {Layout::lengths, Layout::packed}) {
      if (shows_products_only<T>()) continue;
      test_case<T>({cell, 4, 27, 2, 41, 0, 1 + int(layout == Layout::packed), layout});
      test_case<T>({cell, 5, 9, 2, cell < Cell::rnn_tanh ? 72 : 140, 0, 2, layout});
    }
  test_orders<T>({Cell::lstm, 6, 19, 2, 80, 0, 2, Layout::lengths});
  test_orders<T>({Cell::gru, 6, 17, 2, 90, 0, 1, Layout::packed});
  test_orders<T>({Cell::rnn_tanh, 6, 19, 2, 90, 0, 2, Layout::packed});
}

// Many ranks, and weights in shared memory: one order, and as few steps as have a message in each place, for they take long here.
template <class T>
void test_whole_card() {
  if (sizeof(T) == 2) return test_orders<T>({Cell::lstm, 3, 9, 2, 1026, 0, 1, Layout::lengths}, 1);
  const int steps = is_tf32x3<T>() ? 2 : 3, D = is_tf32x3<T>() ? 1 : 2;
  test_orders<T>({Cell::gru, steps, 2, 2, 513, 0, D, Layout::packed}, 1);
  test_orders<T>({Cell::rnn_relu, steps, 2, 2, 850, 0, 1, Layout::lengths}, 1);
}

// R4: one, two, four and eight ranks of unequal parts of K, several tiles of units; both shapes of tile, two tiles of rows; rows of whole 16
// bytes and others; rows that begin and end early; steps that no row has, which launch nothing.
template <class T>
void test_fused() {
  constexpr int words = int(sizeof(T)) / 2;
  cudaSetDevice(1);  // no clusters, no dependent launches
  test_orders<T>({Cell::lstm, 4, 3, 2, 72 / words, 0, 2, Layout::packed});
  cudaSetDevice(0);
  test_orders<T>({Cell::rnn_tanh, 4, 3, 2, 264 / words, 0, 1, Layout::packed});
  test_orders<T>({Cell::gru, 4, 3, 2, 72, 0, 1, Layout::packed});
  test_case<T>({Cell::lstm, 6, 3, 2, 72 / words, 0, 1, Layout::packed, true, false, false, true});
  test_orders<T>({Cell::rnn_sigmoid, 3, 2, 2, 250 / words, 0, 2, Layout::lengths});
  test_orders<T>({Cell::lstm, 4, 67, 2, 40, 0, 2, Layout::lengths});
  for (Cell cell : {Cell::lstm, Cell::gru, Cell::rnn_tanh})
    for (Layout layout : {Layout::lengths, Layout::packed}) {
      test_case<T>({cell, 3, 3, 2, 72 / words, 0, 2, layout});
      test_case<T>({cell, 3, cell == Cell::gru ? 70 : 130, 2, cell == Cell::gru ? 32 : 17, 0, 1, layout});
    }
}

// Which regime is chosen, and that a forced one that does not fit is refused.
void test_choice() {
  const auto choice = [](const char* forced, int64_t H, auto type, bool allow_tf32, int64_t B = 8, bool projected = false, int64_t T_ = 8) {
    using T = decltype(type);
    forced ? setenv("RNNKERNELS_CUDA_REGIME", forced, 1) : unsetenv("RNNKERNELS_CUDA_REGIME");
    cuda::ForwardArgs<T> args{};
    args.shape = {T_, B, T_ * B, 3, H, H, 1}, args.tf32 = allow_tf32, args.weights[0].w_hr = projected ? &type : nullptr;
    const auto regime = cuda::choose(cuda::Problem(args));
    return regime ? std::string(cuda::regime_names[int(*regime)]) : std::string("none");
  };
  const auto is = [](const std::string& chosen, const char* expected, const char* what) {
    check(chosen == expected, "%s: %s, expected %s", what, chosen.c_str(), expected);
  };
  const __half half{};
  is(choice(nullptr, 128, half, false), "R1", "f16"), is(choice(nullptr, 129, half, false), "R2", "f16, too large for R1");
  is(choice(nullptr, 768, half, false), "R2", "f16"), is(choice(nullptr, 769, half, false), "R3", "f16, too large for R2");
  is(choice(nullptr, 2048, half, false), "R3", "f16"), is(choice(nullptr, 2049, half, false), "R0", "f16, too large for R3");
  is(choice(nullptr, 129, half, false, 8, false, 2), "R0", "few steps");
  is(choice(nullptr, 80, 0.f, false), "R1", "f32"), is(choice(nullptr, 80, 0.f, true), "R1", "tf32"), is(choice(nullptr, 64, 0., true), "R0", "f64");
  is(choice(nullptr, 512, 0.f, true), "R2", "tf32"), is(choice(nullptr, 513, 0.f, true), "R3", "tf32, too large for R2");
  is(choice(nullptr, 512, 0.f, false), "R2", "f32"), is(choice(nullptr, 513, 0.f, false), "R3", "f32, too large for R2");
  is(choice(nullptr, 1024, 0.f, true), "R3", "tf32"), is(choice(nullptr, 1025, 0.f, true), "R0", "tf32, too large for R3");
  is(choice(nullptr, 64, half, false, 100000), "R0", "a large batch"), is(choice(nullptr, 64, half, false, 8, true), "R0", "a projection");
  is(choice(nullptr, 512, half, false, 192), "R2", "as many rows as pay"), is(choice(nullptr, 512, half, false, 193), "R4", "more rows than pay");
  is(choice(nullptr, 1024, half, false, 64), "R3", "as many rows as pay"), is(choice(nullptr, 1024, half, false, 65), "R4", "more rows than pay");
  is(choice(nullptr, 1024, half, false, 64, false, 4), "R4", "64 rows"), is(choice(nullptr, 1024, half, false, 63, false, 4), "R0", "fewer rows");
  is(choice(nullptr, 1020, half, false, 65), "R0", "rows that are no multiple of 16 bytes"), is(choice(nullptr, 1020, 0.f, true, 65), "R4", "of 4");
  is(choice(nullptr, 2048, half, false, 64), "R0", "too much for mma.sync"), is(choice(nullptr, 1024, half, false, 64, false, 1), "R0", "one step");
  is(choice(nullptr, 1024, 0.f, false, 65), "R0", "f32 at more rows than pay"), is(choice("R4", 17, half, false, 1, false, 1), "R4", "R4 forced");
  constexpr int64_t most_rows = int64_t(65535) * 128;
  is(choice(nullptr, 4, 0.f, true, most_rows, false, 2), "R4", "as many rows as a grid has tiles for");
  is(choice(nullptr, 4, 0.f, true, most_rows + 1, false, 2), "R0", "a row more");
  is(choice("R4", 8, half, false, most_rows + 1), "none", "R4 forced");
  is(choice("R4", 64, 0., true), "none", "f64 for R4"), is(choice("R4", 64, half, false, 64, true), "none", "a projection for R4");
  is(choice("R0", 64, half, false), "R0", "R0 forced"), is(choice("R1", 64, half, false, 100000), "R1", "R1 forced");
  is(choice("R2", 64, half, false, 100000, false, 1), "R2", "R2 forced"), is(choice("R4", 64, 0.f, false), "none", "f32 for R4");
  is(choice("R1", 129, half, false), "none", "too large for R1"), is(choice("R1", 81, 0.f, false), "none", "f32, too large for R1");
  setenv("RNNKERNELS_CUDA_REGIME", "", 1);
  const auto with = [](auto change) {
    cuda::ForwardArgs<__half> args{};
    args.shape = {4, 8, 32, 3, 64, 64, 1};
    change(args);
    return std::string(cuda::regime_names[int(*cuda::choose(cuda::Problem(args)))]);
  };
  bool mask;
  __half cells_out;
  is(with([](auto&) {}), "R1", "nothing else"), is(with([&](auto& a) { a.reset.mask = &mask; }), "R0", "resets");
  is(with([&](auto& a) { a.c_out = &cells_out; }), "R0", "cells"), is(with([](auto& a) { a.cell = Cell::gru_reset_before; }), "R0", "a gated state");
  is(choice("", 64, half, false), "R1", "an empty word"), is(choice("r1", 64, half, false), "none", "no regime");
  cudaSetDevice(1);
  is(choice(nullptr, 512, half, false, 64, false, 4), "R4", "64 rows on a card without clusters");
  is(choice(nullptr, 512, half, false), "R3", "a card without clusters"), is(choice("R2", 512, half, false), "none", "R2 without clusters");
  cudaSetDevice(2);
  is(choice(nullptr, 256, half, false), "R2", "8 ranks"), is(choice(nullptr, 257, half, false), "R3", "a card that takes no 16 ranks");
  cudaSetDevice(0);
}

int main(int count, char** words) {
  const std::string type = count > 1 ? words[1] : "f64", regime = count > 2 ? words[2] : "R0";
  if (type == "f64") test_rows(), test_choice();
  setenv("RNNKERNELS_CUDA_REGIME", regime.c_str(), 1);
  tf32 = type == "tf32";
  const auto test = [&](auto zero) {
    if (regime == "R1") test_tilings<decltype(zero)>();
    if (regime == "R2") test_clusters<decltype(zero)>();
    if (regime == "R3") test_whole_card<decltype(zero)>(), cudaSetDevice(3), test_teams<decltype(zero)>();
    if (regime == "R4") test_fused<decltype(zero)>();
    if ((regime != "R2" && regime != "R3") || !shows_products_only<decltype(zero)>()) test_type<decltype(zero)>();
  };
  if (type == "f64") test(0.), test_large();
  if (type == "f32" || tf32) test(0.f);
  if (type == "bf16") test(__nv_bfloat16{});
  if (type == "f16") test(__half{});
  return finish("test_cuda_layers");
}
