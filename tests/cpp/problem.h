// A layer's call with every array on its own heap block of exactly its size, so that ASan sees any access outside, and with NaN
// wherever nothing may be read: outputs, workspace, padding, gaps between rows.
#pragma once
#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "args.h"
#include "check.h"
#include "naive.h"

template <class T>
class Buffer {
  T* data_ = nullptr;
  int64_t size_ = 0;

 public:
  Buffer() = default;
  explicit Buffer(int64_t size, size_t alignment = alignof(std::max_align_t)) : size_(size) {
    void* block = nullptr;
    if (posix_memalign(&block, alignment, size_t(size) * sizeof(T))) std::abort();
    data_ = static_cast<T*>(block);
    std::memset(block, 0xff, size_t(size) * sizeof(T));  // NaN in float and double
  }
  Buffer(const Buffer& other) : Buffer(other.size_) { std::copy_n(other.data_, size_, data_); }
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer other) noexcept { return swap(other), *this; }
  ~Buffer() { std::free(data_); }
  void swap(Buffer& other) { std::swap(data_, other.data_), std::swap(size_, other.size_); }

  static Buffer random(int64_t size, double scale) {
    Buffer b(size);
    for (int64_t i = 0; i < size; ++i) b.data_[i] = T(float(uniform(-scale, scale)));
    return b;
  }

  T* data() const { return size_ ? data_ : nullptr; }
  int64_t size() const { return size_; }
  T& operator[](int64_t i) const { return data_[i]; }
  bool same_bits(const Buffer& other) const {
    return size_ == other.size_ && (!size_ || !std::memcmp(data_, other.data_, size_t(size_) * sizeof(T)));
  }
  naive::Vector values(int64_t from, int64_t count) const { return {data_ + from, data_ + from + count}; }
  naive::Vector values() const { return values(0, size_); }
};

enum class Layout { full, batch_first, lengths, packed, nothing };  // nothing: every length is zero
constexpr const char* layout_names[] = {"full", "batch_first", "lengths", "packed", "nothing"};
constexpr const char* cell_names[] = {"lstm", "gru", "gru_reset_before", "rnn_tanh", "rnn_relu", "rnn_sigmoid"};

struct Case {
  rnnk::Cell cell = rnnk::Cell::lstm;
  int64_t T = 1, B = 1, I = 1, H = 1, P = 0;  // P = 0: no projection
  int D = 1;
  Layout layout = Layout::full;
  bool bias = true, reset = false, cells = false;
  bool idle = false;  // packed: no row reaches the last two steps

  int64_t state() const { return P ? P : H; }
  int64_t gates() const { return gate_count(cell); }
  int64_t saved() const { return saved_count(cell); }
  bool is_lstm() const { return cell == rnnk::Cell::lstm; }
  std::string name() const {
    char text[160];
    std::snprintf(text, sizeof text, "%s T=%d B=%d I=%d H=%d P=%d D=%d %s%s%s%s%s", cell_names[int(cell)], int(T), int(B), int(I), int(H), int(P), D,
                  layout_names[int(layout)], bias ? "" : " no bias", reset ? " reset" : "", cells ? " cells" : "",
                  idle ? " idle" : "");
    return text;
  }
};

// Rows by length, longest first, as csrc/torch/schedule.cpp makes it, but from the definition.
struct Steps {
  Buffer<int64_t> active, first, slot, order;
  std::vector<int64_t> lengths;  // of the caller's rows
  int64_t tokens = 0;

  Steps(const Case& c, const std::vector<int64_t>& lengths) : active(c.T), first(c.T), slot(c.T), order(c.B), lengths(lengths) {
    std::iota(order.data(), order.data() + c.B, 0);
    std::stable_sort(order.data(), order.data() + c.B, [&](int64_t a, int64_t b) { return lengths[a] > lengths[b]; });
    for (int64_t t = 0; t < c.T; ++t) {
      active[t] = std::count_if(lengths.begin(), lengths.end(), [t](int64_t length) { return length > t; });
      first[t] = tokens;
      slot[t] = c.layout == Layout::packed ? tokens : t;
      tokens += active[t];
    }
  }
  rnnk::Schedule view() const { return {active.data(), first.data(), slot.data(), order.data()}; }

  static std::vector<int64_t> draw(const Case& c) {
    std::vector<int64_t> lengths(c.B, c.layout == Layout::nothing ? 0 : c.T);
    if (c.layout == Layout::lengths)
      for (int64_t b = 0; b < c.B; ++b) lengths[b] = b == 1 ? 0 : uniform_integer(0, c.T);
    if (c.layout == Layout::packed) {
      for (int64_t b = 1; b < c.B; ++b) lengths[b] = uniform_integer(1, c.T);
      std::sort(lengths.begin(), lengths.end(), std::greater<>());
      if (c.idle)
        for (int64_t& length : lengths) length = std::min(length, c.T - 2);
    }
    return lengths;
  }
};

// A [T, B, width] tensor in the case's layout; NaN except where set.
template <class T>
struct Tokens {
  static constexpr int64_t gap = 3;  // elements between rows of a batch_first tensor
  int64_t width = 0, step_stride = 0, row_stride = 0;
  Buffer<T> data;

  Tokens() = default;
  Tokens(const Case& c, const Steps& steps, int64_t width) : width(width) {
    const bool batch_first = c.layout == Layout::batch_first;
    step_stride = batch_first ? width + gap : c.layout == Layout::packed ? width : c.B * width;
    row_stride = batch_first ? c.T * (width + gap) : width;
    const int64_t size = batch_first ? c.B * c.T * (width + gap) - gap : (c.layout == Layout::packed ? steps.tokens : c.T * c.B) * width;
    data = Buffer<T>(std::max<int64_t>(0, size));
  }
  int64_t offset(const Steps& steps, int64_t t, int64_t b) const { return steps.slot[t] * step_stride + b * row_stride; }
  naive::Vector row(const Steps& steps, int64_t t, int64_t b, int64_t first, int64_t count) const {
    return data.values(offset(steps, t, b) + first, count);
  }
  void randomize(const Steps& steps) {
    for (size_t b = 0; b < steps.lengths.size(); ++b)
      for (int64_t t = 0; t < steps.lengths[b]; ++t)
        for (int64_t k = 0; k < width; ++k) data[offset(steps, t, int64_t(b)) + k] = T(float(uniform(-1, 1)));
  }
  template <class U>
  rnnk::Rows<U> view() const { return {data.data(), step_stride, row_stride}; }
};

// One direction's weights, or their gradients.
template <class T>
struct LayerWeights {
  Buffer<T> w_ih, w_hh, b_ih, b_hh, w_hr;

  LayerWeights() = default;
  explicit LayerWeights(const Case& c) : w_ih(c.gates() * c.H * c.I), w_hh(c.gates() * c.H * c.state()), w_hr(c.P * c.H) {
    if (c.bias) b_ih = b_hh = Buffer<T>(c.gates() * c.H);
  }
  static LayerWeights random(const Case& c) {
    LayerWeights w(c);
    const auto fill = [](Buffer<T>& b, int64_t K) { b = Buffer<T>::random(b.size(), K ? 0.8 / std::sqrt(double(K)) : 0.5); };
    fill(w.w_ih, c.I), fill(w.w_hh, c.state()), fill(w.b_ih, 0), fill(w.b_hh, 0), fill(w.w_hr, c.H);
    return w;
  }
  template <class View>
  View view() const { return {w_ih.data(), w_hh.data(), b_ih.data(), b_hh.data(), w_hr.data()}; }
  naive::Weights values(const Case& c) const {
    const naive::Vector zero(size_t(c.gates() * c.H));
    return {w_ih.values(), w_hh.values(), c.bias ? b_ih.values() : zero, c.bias ? b_hh.values() : zero, w_hr.values()};
  }
};

// Inputs and cotangents of one call.
template <class T>
struct Problem {
  Case c;
  Steps steps;
  LayerWeights<T> weights[2];
  Tokens<T> x, d_out, d_c_out;
  Buffer<T> h0, c0, d_h_n, d_c_n;
  Tokens<bool> resets;
  Buffer<T> reset_h, reset_c;

  explicit Problem(const Case& c) : Problem(c, Steps::draw(c)) {}
  Problem(const Case& c, const std::vector<int64_t>& lengths)
      : c(c), steps(c, lengths), x(c, steps, c.I), d_out(c, steps, c.D * c.state()), d_c_out(c, steps, c.cells * c.D * c.H),
        h0(Buffer<T>::random(c.D * c.B * c.state(), 1)), d_h_n(Buffer<T>::random(h0.size(), 1)), resets(c, steps, c.reset),
        reset_h(Buffer<T>::random(c.reset * h0.size(), 1)) {
    for (int d = 0; d < c.D; ++d) weights[d] = LayerWeights<T>::random(c);
    x.randomize(steps);
    d_out.randomize(steps);
    for (int64_t b = 0; b < c.B && c.reset; ++b)
      for (int64_t t = 0; t < steps.lengths[b]; ++t) resets.data[resets.offset(steps, t, b)] = uniform(0, 1) < 0.3;
    if (!c.is_lstm()) return;
    reset_c = Buffer<T>::random(c.reset * c.D * c.B * c.H, 1);
    c0 = Buffer<T>::random(c.D * c.B * c.H, 1);
    d_c_n = Buffer<T>::random(c0.size(), 1);
    d_c_out.randomize(steps);
  }

  rnnk::Shape shape() const { return {c.T, c.B, steps.tokens, c.I, c.H, c.state(), c.D}; }

  rnnk::Reset<T> reset() const {
    if (!c.reset) return {};
    return {resets.template view<const bool>(), reset_h.data(), reset_c.data()};
  }

  // The call with only one of the rows.
  Problem only(int64_t row) const {
    Case single = c;
    single.B = 1;
    Problem one(single, {steps.lengths[row]});
    for (int d = 0; d < c.D; ++d) {
      one.weights[d] = weights[d];
      for (auto [to, from] : {std::pair{&one.h0, &h0}, {&one.d_h_n, &d_h_n}, {&one.c0, &c0}, {&one.d_c_n, &d_c_n}, {&one.reset_h, &reset_h},
                              {&one.reset_c, &reset_c}}) {
        const int64_t width = to->size() / c.D;
        std::copy_n(from->data() + (d * c.B + row) * width, width, to->data() + d * width);
      }
    }
    for (auto [to, from] : {std::pair{&one.x, &x}, {&one.d_out, &d_out}, {&one.d_c_out, &d_c_out}})
      for (int64_t t = 0; t < steps.lengths[row]; ++t)
        std::copy_n(from->data.data() + from->offset(steps, t, row), from->width, to->data.data() + to->offset(one.steps, t, 0));
    for (int64_t t = 0; t < steps.lengths[row] && c.reset; ++t)
      one.resets.data[one.resets.offset(one.steps, t, 0)] = resets.data[resets.offset(steps, t, row)];
    return one;
  }
};
