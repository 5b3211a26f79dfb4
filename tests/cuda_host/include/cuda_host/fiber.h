// A function with a stack of its own, which may stop in the middle and go on later.
#pragma once
#include <cstddef>

namespace cuda_host {

class Fiber {
 public:
  // `run` may only be left by returning; it is called with `argument` at the first resume().
  void start(void (*run)(void*), void* argument);
  // Runs the fiber until it calls suspend() or ends; from outside of any fiber. True when it has ended.
  bool resume();
  // Back to who called resume().
  void suspend() { leave(false); }
  // Gives the stack to the next fiber.
  void release();

 private:
  static void enter();
  void leave(bool last);

  void (*run_)(void*);
  void* argument_;
  bool ended_;
  char* stack_ = nullptr;
  void* sp_;         // while it does not run
  void* fake_stack_;  // AddressSanitizer's
};

}  // namespace cuda_host
