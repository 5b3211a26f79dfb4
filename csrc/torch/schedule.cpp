#include "torch/schedule.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "torch/memory.h"

namespace rnnk {

namespace {

void check_integers(const Tensor& t, const char* name) {
  TORCH_CHECK(t.scalar_type() == at::kLong && t.dim() == 1, "rnnkernels: expected ", name, " to be a 1-D int64 tensor, got ", t.dim(), "-D ",
              t.scalar_type());
  check_memory(t, name);
}

// Values are looked at on the CPU only: to read them elsewhere is to wait for the device.
void check_lengths(const Tensor& lengths, const Tensor& x, int64_t T, int64_t B) {
  check_integers(lengths, "lengths");
  const at::Device device = lengths.device();
  TORCH_CHECK(device.is_cpu() || device == x.device(), "rnnkernels: expected lengths on the CPU", x.is_cpu() ? "" : " or on x's device", ", got ",
              device);
  TORCH_CHECK(lengths.numel() == B, "rnnkernels: expected lengths of size [", B, "], got ", lengths.sizes());
  if (!device.is_cpu()) return;
  const int64_t* length = lengths.const_data_ptr<int64_t>();
  for (int64_t b = 0; b < B; ++b) TORCH_CHECK(0 <= length[b] && length[b] <= T, "rnnkernels: expected every length in 0..", T, ", got ", length[b]);
}

}  // namespace

ScheduleTable::ScheduleTable(const Layer& layer) {
  const Tensor& x = layer[X];
  packed = layer.batch_sizes.defined();
  TORCH_CHECK(!(packed && layer.lengths.defined()), "rnnkernels: lengths cannot be given together with batch_sizes");
  TORCH_CHECK(x.dim() == (packed ? 2 : 3), "rnnkernels: expected x to be ", packed ? 2 : 3, "-D, got ", x.dim(), "-D");
  T = packed ? layer.batch_sizes.numel() : x.size(0);
  TORCH_CHECK(T > 0, "Expected sequence length to be larger than 0 in RNN");
  TORCH_CHECK(T < int64_t(1) << 40, "rnnkernels: the layer is too large: ", T, " steps");
  if (packed) fill_packed(layer.batch_sizes.contiguous(), x.size(0));
  else fill_full(x.size(1));
  if (!layer.lengths.defined()) return;
  const Tensor lengths = layer.lengths.contiguous();
  check_lengths(lengths, x, T, B);
  if (x.is_cpu()) fill_lengths(lengths.const_data_ptr<int64_t>());  // other devices compare t with a row's length
}

void ScheduleTable::allocate_table() {
  const int64_t numbers = 3 * T + B;
  TORCH_CHECK(numbers <= std::numeric_limits<uint32_t>::max(), "rnnkernels: the layer is too large: ", T, " steps of ", B, " rows");
  storage_.resize(numbers);
}

void ScheduleTable::fill_full(int64_t rows) {
  B = rows;
  TORCH_CHECK(!__builtin_mul_overflow(T, B, &N), "rnnkernels: the layer is too large: T * B overflows");
  capacity = N;
  allocate_table();
  for (int64_t t = 0; t < T; ++t) active()[t] = B, first()[t] = t * B, slot()[t] = t;
  std::iota(order(), order() + B, 0);
}

void ScheduleTable::fill_packed(const Tensor& batch_sizes, int64_t rows) {
  check_integers(batch_sizes, "batch_sizes");
  TORCH_CHECK(batch_sizes.is_cpu(), "rnnkernels: expected batch_sizes on the CPU, got ", batch_sizes.device());
  const int64_t* sizes = batch_sizes.const_data_ptr<int64_t>();
  B = sizes[0];
  TORCH_CHECK(0 <= B && B <= rows, "rnnkernels: batch_sizes start with ", B, " but x has ", rows, " rows");
  allocate_table();
  for (int64_t t = 0; t < T; ++t) {
    TORCH_CHECK(sizes[t] >= 0 && (t == 0 || sizes[t] <= sizes[t - 1]), "rnnkernels: batch_sizes must be non-increasing and not negative");
    active()[t] = sizes[t];
    first()[t] = slot()[t] = N;
    TORCH_CHECK(!__builtin_add_overflow(N, sizes[t], &N), "rnnkernels: the sum of batch_sizes overflows");
  }
  std::iota(order(), order() + B, 0);
  capacity = N;
}

void ScheduleTable::fill_lengths(const int64_t* length) {
  padding = true;
  std::fill_n(active(), T, 0);
  for (int64_t b = 0; b < B; ++b)
    if (length[b] > 0) ++active()[length[b] - 1];
  std::stable_sort(order(), order() + B, [length](int64_t a, int64_t b) { return length[a] > length[b]; });
  for (int64_t t = T - 2; t >= 0; --t) active()[t] += active()[t + 1];
  N = 0;
  for (int64_t t = 0; t < T; ++t) first()[t] = N, N += active()[t];
}

}  // namespace rnnk
