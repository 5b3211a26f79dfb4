#include "cpu/pieces.h"

#include <immintrin.h>
#include <omp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>

#include "cpu/denormals.h"
#include "cpu/futex.h"
#include "cpu/share.h"

namespace rnnk::cpu {

namespace {

constexpr int most_threads = 64;
constexpr uint64_t cycles_between_close_calls = 2'000'000;
constexpr int close_calls_in_a_row = 16;  // more than the layers of one lonely step

// One call's pieces. A thread's share is counted where no other thread's count lies.
struct Job {
  PieceBody body;
  void* context;
  int threads;
  bool back;
  struct alignas(64) Share {
    Range pieces;
    std::atomic<int64_t> taken;
  } shares[most_threads];

  void work(int thread) {
    const FlushDenormals flush;
    for (int i = 0; i < threads; ++i) {
      Share& s = shares[(thread + i) % threads];
      for (int64_t n; (n = s.taken.fetch_add(1, std::memory_order_relaxed)) < s.pieces.size();)
        body(context, thread, back ? s.pieces.end - 1 - n : s.pieces.begin + n);
    }
  }
};

// A thread that sleeps, unless it was called within the last 200 us. It works on another core than its caller: left to
// themselves, schedulers of virtual machines wake it on the caller's, and take 10 ms to move it.
class alignas(64) Helper {
  std::atomic<uint32_t> calls_{0};
  std::atomic<bool> asleep_{false}, kept_off_{false};
  std::atomic<int> id_{0}, core_{0};
  cpu_set_t home_;

 public:
  bool started = false;

  // Returns whether a sleeper was woken.
  bool call(int callers_core, bool may_wake) {
    const bool asleep = asleep_.load();
    if (asleep && !may_wake) return false;
    if ((asleep || core_.load(std::memory_order_relaxed) == callers_core) && !keep_off(callers_core)) return false;
    calls_.fetch_add(1);
    if (!asleep_.load()) return false;
    wake(calls_, 1);
    return true;
  }

  // The helper's own part.

  void begin() {
    sched_getaffinity(0, sizeof(home_), &home_);
    if (omp_get_proc_bind() != omp_proc_bind_false) add_openmp_places();
    id_.store(int(syscall(SYS_gettid)));
  }

  // Returns the number of calls, once it is not `heard` any more.
  uint32_t await(uint32_t heard) {
    for (int spin = 0; spin < long_spin && calls_.load() == heard; ++spin) _mm_pause();
    if (calls_.load() == heard) {
      asleep_.store(true);
      while (calls_.load() == heard) sleep_while(calls_, heard);
      asleep_.store(false);
    }
    if (kept_off_.exchange(false)) sched_setaffinity(0, sizeof(home_), &home_);
    core_.store(sched_getcpu(), std::memory_order_relaxed);
    return calls_.load();
  }

 private:
  // OpenMP binds the program's first thread to one core, and with it whoever that thread creates.
  void add_openmp_places() {
    int cores[CPU_SETSIZE];
    for (int place = 0; place < omp_get_num_places(); ++place) {
      const int count = omp_get_place_num_procs(place);
      if (count > CPU_SETSIZE) continue;
      omp_get_place_proc_ids(place, cores);
      for (int i = 0; i < count; ++i) CPU_SET(cores[i], &home_);
    }
    sched_setaffinity(0, sizeof(home_), &home_);
  }

  // Keeps it off the core until it has come. False if it may run nowhere else.
  bool keep_off(int core) {
    if (id_.load() == 0) return true;  // just created
    cpu_set_t others = home_;
    CPU_CLR(core, &others);
    if (CPU_COUNT(&others) == 0) return false;
    sched_setaffinity(id_.load(), sizeof(others), &others);
    kept_off_.store(true);
    return true;
  }
};

// The process's helpers and the one job they may have. Nothing here has a destructor: helpers outlive main.
class Crew {
  static constexpr uint32_t open = 1u << 31, waited_for = 1u << 30;
  std::atomic<bool> busy_{false};    // somebody's call has the crew
  std::atomic<uint32_t> door_{0};    // `open` while the job may be entered, `waited_for` where the caller sleeps, plus the number of helpers inside
  uint64_t last_call_ = 0;           // in cycles
  int close_calls_ = 0;              // in a row
  Job job_{};
  Helper helpers_[most_threads];     // the first is the caller's place

 public:
  // False if another call has the crew.
  bool run(int threads, const Pieces& pieces, PieceBody body, void* context) {
    if (busy_.exchange(true, std::memory_order_acquire)) return false;
    job_.body = body, job_.context = context, job_.threads = threads, job_.back = pieces.back;
    for (int i = 0; i < threads; ++i) {
      job_.shares[i].pieces = share(pieces.count, threads, i);
      job_.shares[i].taken.store(0, std::memory_order_relaxed);
    }
    door_.store(open, std::memory_order_release);
    const uint64_t now = __rdtsc();
    close_calls_ = now - last_call_ < cycles_between_close_calls ? std::min(close_calls_ + 1, close_calls_in_a_row) : 0;
    last_call_ = now;
    int wakes = close_calls_ == close_calls_in_a_row ? threads : pieces.wakes;
    for (int i = 1, core = sched_getcpu(); i < threads; ++i)
      if (start(i) && helpers_[i].call(core, wakes > 0)) --wakes;
    job_.work(0);
    door_.fetch_and(~open, std::memory_order_relaxed);
    wait_for_helpers();
    busy_.store(false, std::memory_order_release);
    return true;
  }

 private:
  // Waits until those inside have left; nobody can enter any more.
  void wait_for_helpers() {
    for (int spin = 0; spin < long_spin && door_.load(std::memory_order_acquire) != 0; ++spin) _mm_pause();
    if (door_.load(std::memory_order_acquire) == 0) return;
    door_.fetch_or(waited_for);
    for (uint32_t inside; (inside = door_.load(std::memory_order_acquire)) != waited_for;) sleep_while(door_, inside);
  }

  bool enter() {
    uint32_t inside = door_.load(std::memory_order_relaxed);
    while (inside & open)
      if (door_.compare_exchange_weak(inside, inside + 1, std::memory_order_acquire, std::memory_order_relaxed)) return true;
    return false;
  }

  void help(int thread) {
    helpers_[thread].begin();
    for (uint32_t heard = 0;;) {
      heard = helpers_[thread].await(heard);
      if (!enter()) continue;
      if (thread < job_.threads) job_.work(thread);
      if (door_.fetch_sub(1, std::memory_order_release) == (waited_for | 1)) wake(door_, 1);
    }
  }

  // False if the system gives no thread; the next call asks again.
  bool start(int thread);
};

Crew crew;

bool Crew::start(int thread) {
  if (helpers_[thread].started) return true;
  sigset_t others, before;  // signals are for the threads of the program, but for a helper's own faults
  sigfillset(&others);
  for (int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) sigdelset(&others, fault);
  pthread_attr_t attributes;
  if (pthread_attr_init(&attributes)) return false;
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setinheritsched(&attributes, PTHREAD_EXPLICIT_SCHED);
  pthread_sigmask(SIG_SETMASK, &others, &before);
  pthread_t id;
  const auto main = [](void* number) -> void* {
    crew.help(int(reinterpret_cast<intptr_t>(number)));
    return nullptr;
  };
  helpers_[thread].started = pthread_create(&id, &attributes, main, reinterpret_cast<void*>(intptr_t(thread))) == 0;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_attr_destroy(&attributes);
  return helpers_[thread].started;
}

}  // namespace

void run_pieces(const Pieces& pieces, PieceBody body, void* context) {
  const int threads = int(std::min<int64_t>({pieces.threads, most_threads, pieces.count}));
  if (threads > 1 && crew.run(threads, pieces, body, context)) return;
  const FlushDenormals flush;
  for (int64_t i = 0; i < pieces.count; ++i) body(context, 0, pieces.back ? pieces.count - 1 - i : i);
}

}  // namespace rnnk::cpu
