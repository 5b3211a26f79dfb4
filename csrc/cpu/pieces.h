// Work stealing: pieces of one call that need nothing of each other, done by the caller and by those helpers that come in time.
//
// A team (team.h) starts when its last thread has come and ends when all have left. On a busy machine that takes milliseconds, for
// which the time loop has no remedy, but a single time step, of 5 to 200 us, has: nobody waits here but for a piece that
// somebody else has begun. The helpers are threads of our own, since an OpenMP region ends with every one of its threads. They never
// end; they have the default scheduling policy, whatever their caller's.
#pragma once
#include <cstdint>

namespace rnnk::cpu {

struct Pieces {
  int threads;    // at most
  int64_t count;
  bool back;      // from the last to the first
  int wakes;      // sleeping helpers that are worth it, at some 5 us of the caller's time each; in a row of close calls all are
};

// Calls body(context, thread, piece) once for each piece, with denormals flushed to zero. A thread first takes its own share, the
// same one at every call, then what others have left.
using PieceBody = void (*)(void* context, int thread, int64_t piece);
void run_pieces(const Pieces& pieces, PieceBody body, void* context);

}  // namespace rnnk::cpu
