// Purpose: the operands of a chunk's products that do not lie in one piece: the states before, for d_W_hh and recomputation, and x without padding.
// Algorithm: a token's state before is its row's out one step earlier in the direction's time, or h0 at the row's first step, or what it was
// set to. Which that is says a table of moments, passed by value, so that nobody reads host memory later; longer chunks take several launches.
// Threads: one an element of one row of one step (or, for x, of one token); a warp copies 32 neighbouring elements.
// Budget: no shared memory, at most 40 registers; 3.2 KB of kernel parameters of the 4 that any card takes.
#include "cuda/gather.h"

namespace rnnk::cuda {

namespace {

constexpr int64_t most_steps = 128;

// Of times begin - 1 to begin + steps.
struct MomentTable {
  Moment at[most_steps + 2];
};

// A subset of BackwardArgs that leaves room for the table.
template <class T>
struct StatesBefore {
  int64_t B, P, out_stride;
  const int64_t* lengths;
  const bool* resets;
  const T *out, *h0, *reset_h;  // of the direction
  T* to;              // [tokens, P], of the table's first token on
  int earlier;        // the step before is at time + earlier
};

template <class T>
__global__ void states_before_kernel(const StatesBefore<T> k, const MomentTable table) {
  const int64_t u = own_column();
  if (u >= k.P) return;
  const Moment now = table.at[blockIdx.z + 1], before = table.at[int(blockIdx.z) + 1 + k.earlier];
  const int64_t chunk_row = now.first - table.at[1].first;
  for_own_rows(now.active, [&](int64_t row) {
    T state = narrow<T>(0);
    if (starts_anew(now, k.lengths, k.resets, row)) state = k.reset_h[row * k.P + u];
    else if (runs(before, k.lengths, row) && runs(now, k.lengths, row)) state = k.out[(before.first + row) * k.out_stride + u];
    else if (runs(now, k.lengths, row)) state = k.h0[row * k.P + u];
    k.to[(chunk_row + row) * k.P + u] = state;
  });
}

template <class T>
__global__ void inputs_kernel(const T* x, const int64_t* lengths, int64_t B, int64_t I, int64_t first_time, int64_t tokens, T* to) {
  const int64_t u = own_column();
  if (u >= I) return;
  for_own_rows(tokens, [&](int64_t i) {
    const bool runs = first_time + i / B < lengths[i % B];
    to[i * I + u] = runs ? x[(first_time * B + i) * I + u] : narrow<T>(0);
  });
}

}  // namespace

template <class T>
void gather_states_before(Queue& queue, const BackwardArgs<T>& args, int d, const Chunk& times, T* to) {
  const Shape& s = args.shape;
  const Timeline timeline(args);
  StatesBefore<T> k{s.B, s.P, s.D * s.P, args.schedule.lengths, args.reset.mask, args.out + d * s.P, args.h0 + d * s.B * s.P,
                    args.reset.mask ? args.reset.h + d * s.B * s.P : nullptr, to, d ? 1 : -1};
  for (Chunk part{0, times.begin}; part.end < times.end;) {
    part = {part.end, std::min(part.end + most_steps, times.end)};
    MomentTable table{};
    for (int64_t t = part.begin - 1; t <= part.end; ++t) table.at[t - part.begin + 1] = timeline.moment(t);
    k.to = to + (timeline.tokens(part).first - timeline.tokens(times).first) * s.P;
    queue.run(states_before_kernel<T>, over(s.P, table.at[1].active, int(part.end - part.begin)), k, table);
  }
}

template <class T>
void gather_inputs(Queue& queue, const BackwardArgs<T>& args, const Chunk& times, T* to) {
  const Shape& s = args.shape;
  const int64_t tokens = (times.end - times.begin) * s.B;
  queue.run(inputs_kernel<T>, over(s.I, tokens), args.x, args.schedule.lengths, s.B, s.I, times.begin, tokens, to);
}

template void gather_states_before(Queue&, const BackwardArgs<float>&, int, const Chunk&, float*);
template void gather_states_before(Queue&, const BackwardArgs<double>&, int, const Chunk&, double*);
template void gather_states_before(Queue&, const BackwardArgs<__nv_bfloat16>&, int, const Chunk&, __nv_bfloat16*);
template void gather_states_before(Queue&, const BackwardArgs<__half>&, int, const Chunk&, __half*);
template void gather_inputs(Queue&, const BackwardArgs<float>&, const Chunk&, float*);
template void gather_inputs(Queue&, const BackwardArgs<double>&, const Chunk&, double*);
template void gather_inputs(Queue&, const BackwardArgs<__nv_bfloat16>&, const Chunk&, __nv_bfloat16*);
template void gather_inputs(Queue&, const BackwardArgs<__half>&, const Chunk&, __half*);

}  // namespace rnnk::cuda
