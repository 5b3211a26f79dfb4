// The order in which a thread reads its panels of weights, step after step.
//
// Weights larger than the L2 leave it before their turn comes again, if every step begins where the one before it began. So every
// other step goes back, and begins with what the last one left there: of 2 MB a thread then reads 1 MB from the L2 instead of the
// L3. Weights that stay in the L2 are read forward, which the hardware's prefetching prefers.
#pragma once
#include "cpu/cache.h"
#include "cpu/share.h"

namespace rnnk::cpu {

inline bool walks_back(int64_t bytes_of_thread, int64_t step) { return bytes_of_thread > l2_bytes() && step % 2 != 0; }

// f(panel, ahead): the next panel is panel + ahead.
template <class F>
void for_panels(const Range& panels, bool back, const F& f) {
  if (back)
    for (int64_t p = panels.end; p-- > panels.begin;) f(p, -1);
  else
    for (int64_t p = panels.begin; p < panels.end; ++p) f(p, 1);
}

}  // namespace rnnk::cpu
