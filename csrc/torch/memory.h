// Memory for the kernels: outputs, what is saved, and the workspace; whether arguments still have theirs.
#pragma once
#include <ATen/EmptyTensor.h>
#include <ATen/ops/empty.h>
#include <sys/mman.h>

namespace rnnk {

// An empty tensor. On the CPU without a way through the dispatcher, and with huge pages asked for where they count: a fresh buffer is
// touched once from end to end, and thousands of page faults a call cost up to a sixth of a training step.
inline at::Tensor allocate(at::IntArrayRef sizes, const at::TensorOptions& options) {
  if (!options.device().is_cpu()) return at::empty(sizes, options);
  at::Tensor t = at::detail::empty_cpu(sizes, c10::typeMetaToScalarType(options.dtype()));
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t huge_page = 2 << 20, page = 4096;
  if (t.nbytes() >= 2 * huge_page) {
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(t.data_ptr()) + page - 1) / page * page;
    const uintptr_t end = (reinterpret_cast<uintptr_t>(t.data_ptr()) + t.nbytes()) / page * page;
    madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // a hint: where it fails, nothing changes
  }
#endif
  return t;
}

// Throws where t reaches beyond its storage, which somebody may have freed or cut since (sharding, offloading).
inline void check_memory(const at::Tensor& t, const char* name) {
  const size_t needed = t.is_contiguous() ? size_t(t.numel() ? t.storage_offset() + t.numel() : 0) * t.itemsize()
                                          : at::detail::computeStorageNbytes(t.sizes(), t.strides(), t.itemsize(), t.storage_offset());
  TORCH_CHECK(needed <= t.storage().nbytes(), "rnnkernels: ", name, " needs ", needed, " bytes, but its storage has ", t.storage().nbytes());
}

}  // namespace rnnk
