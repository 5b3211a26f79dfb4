// Pieces of one call that need nothing of each other, done by the caller and by those helpers that come in time.
//
// A team (team.h) starts when its last thread has come and ends when all have left. On a busy machine that takes milliseconds, for
// which the time loop has no remedy, but a single time step, of 5 to 200 us, has: nobody waits here but for a piece that
// somebody else has begun. The helpers are threads of our own, since an OpenMP region ends with every one of its threads.
#pragma once
#include <cstdint>

namespace rnnk::cpu {

// Calls body(context, thread, piece) once for each piece in 0 .. count, on up to `threads` threads, with denormals flushed to
// zero. A thread first takes its own share, the same one at every call, from its end if `back`, then what others have left.
using PieceBody = void (*)(void* context, int thread, int64_t piece);
void run_pieces(int threads, int64_t count, bool back, PieceBody body, void* context);

}  // namespace rnnk::cpu
