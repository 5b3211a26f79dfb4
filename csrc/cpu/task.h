// What a team of threads works on at a time: a direction, and every groups-th row of the sorted batch.
#pragma once
#include <algorithm>

#include "args.h"

namespace rnnk::cpu {

struct Task {
  const Shape& shape;
  const Schedule& schedule;
  int64_t groups;
  int d = 0;
  int64_t group = 0;

  // Becomes the i-th of the D * groups tasks.
  void select(int64_t i) {
    d = int(i / groups);
    group = i % groups;
  }

  // The task's i-th row in the sorted batch, and how many rows it has: in all, and at time t.
  int64_t row(int64_t i) const { return group + i * groups; }
  int64_t rows() const { return own(shape.B); }
  int64_t active_rows(int64_t t) const { return own(schedule.active[t]); }

  // The direction's step-th time.
  int64_t time(int64_t step) const { return d == 0 ? step : shape.T - 1 - step; }

  // The i-th row at time t, among all tokens.
  int64_t token(int64_t t, int64_t i) const { return schedule.first[t] + row(i); }

 private:
  int64_t own(int64_t rows) const { return std::max<int64_t>(0, (rows - group + groups - 1) / groups); }
};

// How many of the next `steps` steps have at most `most` rows together, but at least one. rows_of(i): of the i-th from here.
template <class RowsOf>
int64_t steps_within(int64_t most, int64_t steps, const RowsOf& rows_of) {
  int64_t taken = 1;
  for (int64_t rows = rows_of(0); taken < steps && (rows += rows_of(taken)) <= most;) ++taken;
  return taken;
}

}  // namespace rnnk::cpu
