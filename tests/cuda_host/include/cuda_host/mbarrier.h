// The 8 bytes of an mbarrier, as the host keeps them; a card's layout is its own.
#pragma once
#include <cstdint>
#include <cstring>

#include "scheduler.h"

namespace cuda_host::mbarrier {

struct State {
  uint64_t arrivals : 20;  // that a phase takes
  uint64_t pending : 20;   // that this phase still needs
  int64_t bytes : 22;      // that this phase still needs; below zero while they come before their announcement
  uint64_t phase : 1;
  uint64_t unset : 1;  // as fresh shared memory has it
};
static_assert(sizeof(State) == 8);

inline State load(const uint64_t* barrier) {
  State state;
  std::memcpy(&state, barrier, 8);
  if (state.unset) fault("uses an mbarrier that nobody has initialised");
  return state;
}

inline void store(uint64_t* barrier, State state) {
  const bool over = state.pending == 0 && state.bytes == 0;
  if (over) {
    state.phase ^= 1;
    state.pending = state.arrivals;
  }
  std::memcpy(barrier, &state, 8);
  if (over) wrote(barrier);
}

inline void init(uint64_t* barrier, uint32_t arrivals) {
  if (arrivals == 0 || arrivals >= 1 << 20) fault("initialises an mbarrier with %u arrivals", arrivals);
  store(barrier, {arrivals, arrivals, 0, 0, 0});
}

inline void arrive(uint64_t* barrier, uint32_t announced_bytes) {
  State state = load(barrier);
  if (state.pending == 0) fault("arrives at an mbarrier more often than its phase takes");
  --state.pending;
  state.bytes += announced_bytes;
  store(barrier, state);
}

inline void complete(uint64_t* barrier, uint32_t bytes) {
  State state = load(barrier);
  state.bytes -= bytes;
  store(barrier, state);
}

inline unsigned phase(const uint64_t* barrier) { return load(barrier).phase; }

}  // namespace cuda_host::mbarrier
