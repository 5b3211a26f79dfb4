// The CUDA layers, run on the host, against naive.h: every cell, layout, direction, dtype, with and without projection, biases, saved gates
// and each of the gradients; the same bits for any order of threads and any size of chunks; built with AddressSanitizer, that they touch
// nothing but their arrays (cuda_layers.h). Links csrc/cuda/*.cu as C++, no torch, no CUDA.
//
//   test_cuda_layers [TYPE ...]      f64 f32 bf16 f16
#include "cuda/queue.h"
#include "cuda_layers.h"

using rnnk::Cell;

constexpr Cell cells[] = {Cell::lstm, Cell::gru, Cell::rnn_tanh, Cell::rnn_relu, Cell::rnn_sigmoid};
constexpr Layout layouts[] = {Layout::full, Layout::lengths, Layout::packed, Layout::nothing};

// The largest error of any result, of the largest number there.
double relative_error(const Expected& theirs, const Expected& exact) {
  double relative = 0;
  const auto note = [&](const auto& a, const auto& b) {
    const Difference d = difference(a.data(), b.data(), int64_t(a.size()));
    relative = std::max(relative, d.error / d.largest);
  };
  note(theirs.out.data, exact.out.data), note(theirs.h_n, exact.h_n), note(theirs.c_n, exact.c_n);
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
  if constexpr (sizeof(T) > 2) return usual_tolerance<T>;
  else return (std::is_same_v<T, __half> ? 5e-4 : 4e-3) + 2 * relative_error(on_card(expect(p, rounded<T>), p.c), exact);
}

// Chunks of one step, of some, of all.
constexpr size_t chunk_sizes[] = {0, 2000, 20000, large_chunks};

// c is kept in more bits than T has.
template <class T>
bool holds_more_than(const Buffer<cuda::Wide<T>>& cells) {
  for (int64_t i = 0; i < cells.size(); ++i)
    if (cells[i] == cells[i] && rounded<T>(cells[i]) != cells[i]) return true;
  return false;
}

template <class T>
void test_case(const Case& c) {
  const Problem<double> p = draw<T>(c);
  const Expected expected = on_card(expect(p), c);
  const double t = tolerance<T>(p, expected);
  const std::string name = std::string(type_name<T>) + " " + c.name();
  const Inputs<T> in(p);
  Loop loop;
  Saved<T> o, again;
  Gradients<T> g, g_again;
  cuda_host::set_seed(1);
  check(forward(p, in, o, loop) == cudaSuccess, "%s: forward failed", name.c_str());
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
  check(backward(p, in, o, g, loop) == cudaSuccess, "%s: backward failed", name.c_str());
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
    for (int bit = 3; bit < 11; ++bit) {
      backward(p, in, o, some, loop, 1u << bit, chunk);
      check_same(name + " without result " + std::to_string(bit), all, some, 1u << bit);
    }
    for (unsigned bits : {1u << 8 | 1u << 9, 1u << 4 | 1u << 5, (1u << 11) - (1u << 6), (1u << 11) - (1u << 3)}) {
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
  for (int i = 0; i < std::max(forwards.calls, backwards.calls); ++i) {
    Loop loop{i};
    if (i < forwards.calls) check(forward(p, in, o, loop) == cudaErrorInvalidValue && loop.calls == i + 1, "%s: forward, failure of product %d", c.name().c_str(), i);
    loop = {i};
    if (i < backwards.calls)
      check(backward(p, in, saved, g, loop) == cudaErrorInvalidValue && loop.calls == i + 1, "%s: backward, failure of product %d", c.name().c_str(), i);
  }
}

struct Sizes {
  int64_t T, B, I, H;
};

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
  for (Cell cell : cells) {
    test_null_pointers<T>({cell, 4, 3, 3, 9, 0, 2, Layout::lengths});
    if (cell == Cell::lstm) test_null_pointers<T>({cell, 4, 3, 3, 9, 4, 2, Layout::lengths});
  }
  test_failures<T>({Cell::lstm, 2, 3, 2, 4, 3, 2, Layout::full});
  test_failures<T>({Cell::gru, 3, 2, 2, 4, 0, 1, Layout::lengths});
}

// Shapes that a single type shows: more steps than a table has, more columns than a block, sums in several parts.
void test_large() {
  for (Layout layout : {Layout::lengths, Layout::packed}) {
    test_case<double>({Cell::gru, 140, 2, 2, 3, 0, 2, layout});
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

int main(int count, char** words) {
  const std::vector<std::string> types(words + 1, words + count);
  const auto wanted = [&](const char* type) { return types.empty() || std::find(types.begin(), types.end(), type) != types.end(); };
  if (wanted("f64")) test_rows(), test_type<double>(), test_large();
  if (wanted("f32")) test_type<float>();
  if (wanted("bf16")) test_type<__nv_bfloat16>();
  if (wanted("f16")) test_type<__half>();
  return finish("test_cuda_layers");
}
