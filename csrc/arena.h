// The one buffer that a call works in, cut into pieces.
#pragma once
#include <cstddef>
#include <cstdint>

namespace rnnk {

// Hands out pieces of one buffer, each at a multiple of `alignment`. With a null base it only counts, so one function both sizes and
// lays out.
class Arena {
 public:
  explicit Arena(void* base, size_t alignment = 64) : base_(reinterpret_cast<uintptr_t>(base)), alignment_(alignment) {}

  template <class T>
  T* take(int64_t count) {
    used_ = (used_ + alignment_ - 1) / alignment_ * alignment_;
    const uintptr_t at = base_ + used_;
    used_ += size_t(count) * sizeof(T);
    return base_ ? reinterpret_cast<T*>(at) : nullptr;
  }
  size_t used() const { return used_; }

 private:
  uintptr_t base_;
  size_t alignment_, used_ = 0;
};

}  // namespace rnnk
