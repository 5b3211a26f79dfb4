#include "cpu/cache.h"

#include <unistd.h>

namespace rnnk::cpu {

int64_t l2_bytes() {
  static const int64_t bytes = [] {
    const int64_t size = sysconf(_SC_LEVEL2_CACHE_SIZE);
    return (size > 0 ? size : 1 << 20) * 6 / 7;
  }();
  return bytes;
}

}  // namespace rnnk::cpu
