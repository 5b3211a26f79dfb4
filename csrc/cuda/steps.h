// Which rows run when, for host and device. A direction's steps count in its own time: the reverse one's step 0 is at time T - 1.
#pragma once
#include "cells/scalar.h"
#include "cuda/args.h"

namespace rnnk::cuda {

// A time, the token of its row 0, and how many rows have a token then; none, outside 0..T.
struct Moment {
  int64_t time, first, active;
};

// With lengths, some of the tokens are padding.
RNNK_FN bool runs(const Moment& m, const int64_t* lengths, int64_t row) { return row < m.active && (!lengths || m.time < lengths[row]); }

// Whether a row runs and starts anew before it.
RNNK_FN bool starts_anew(const Moment& m, const int64_t* lengths, const bool* mask, int64_t row) {
  return mask && runs(m, lengths, row) && mask[m.first + row];
}

// A step of a direction between its neighbours.
struct Step {
  Moment before, now, after;

  // The rows that may run now, and, where wanted, those that may run at the step after.
  RNNK_FN int64_t rows(bool with_after) const { return with_after && after.active > now.active ? after.active : now.active; }
};

// Steps begin to end.
struct Chunk {
  int64_t begin, end;
};

struct TokenRange {
  int64_t first, count;
};

class Timeline {
  const Shape& shape_;
  const Schedule& schedule_;

 public:
  template <class Args>
  explicit Timeline(const Args& args) : shape_(args.shape), schedule_(args.schedule) {}

  Moment moment(int64_t time) const {
    return time >= 0 && time < shape_.T ? Moment{time, schedule_.first[time], schedule_.active[time]} : Moment{time, 0, 0};
  }
  int64_t time(int d, int64_t step) const { return d ? shape_.T - 1 - step : step; }
  Step step(int d, int64_t i) const { return {moment(time(d, i - 1)), moment(time(d, i)), moment(time(d, i + 1))}; }

  // Its times, rising.
  Chunk times(int d, const Chunk& c) const { return d ? Chunk{shape_.T - c.end, shape_.T - c.begin} : c; }
  TokenRange tokens(const Chunk& times) const {
    if (times.begin == times.end) return {0, 0};
    const Moment first = moment(times.begin), last = moment(times.end - 1);
    return {first.first, last.first + last.active - first.first};
  }
  // Of step i in its chunk's tokens.
  int64_t row_of_chunk(int d, const Chunk& c, int64_t i) const { return moment(time(d, i)).first - tokens(times(d, c)).first; }
};

// As many steps as the bytes allow, at least one.
inline int64_t steps_of_chunk(const Shape& s, size_t bytes_of_step, size_t bytes) {
  const int64_t steps = bytes_of_step ? int64_t(bytes / bytes_of_step) : s.T;
  return steps < 1 ? 1 : steps < s.T ? steps : s.T;
}
inline int64_t tokens_of_chunk(const Shape& s, int64_t steps) { return steps * s.B < s.N ? steps * s.B : s.N; }

}  // namespace rnnk::cuda
