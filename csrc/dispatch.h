// A run-time number becomes a template parameter. What is no number has a `with_...` of its own beside its type (cuda/cells.h, cuda/tilings.h).
#pragma once
#include <type_traits>
#include <utility>

namespace rnnk {

// Calls f(std::integral_constant<int, value>{}) for 1 <= value <= largest.
template <int largest, class F>
inline void with_constant(int value, F&& f) {
  if constexpr (largest > 1) {
    if (value < largest) return with_constant<largest - 1>(value, std::forward<F>(f));
  }
  f(std::integral_constant<int, largest>{});
}

}  // namespace rnnk
