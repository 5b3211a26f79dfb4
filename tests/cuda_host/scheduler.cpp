#include <algorithm>
#include <list>
#include <random>
#include <unordered_map>

#include "cuda_runtime.h"
#include "report.h"

namespace cuda_host {
namespace {

std::mt19937_64 engine(0);

struct Pending {
  std::function<void()> complete;
  const void* target;
  const char* what;
};

// One running grid.
class Scheduler {
 public:
  Scheduler(const GridShape& shape, const std::function<void()>& kernel) : shape(shape), kernel_(kernel) {
    const unsigned blocks = shape.grid.x * shape.grid.y * shape.grid.z;
    for (unsigned c = 0; c < blocks / shape.cluster; ++c) not_started_.push_back(c);
    std::shuffle(not_started_.begin(), not_started_.end(), engine);
    // What is drawn once a launch, so that launches differ in more than noise.
    candidates_ = draw_one_of({1, 2, 8});
    lateness_ = draw_one_of({2, 16, 0});
    together_ = shape.cooperative ? not_started_.size() : draw_one_of({1, 2, 4});
  }

  void run() {
    while (!not_started_.empty() || !clusters_.empty()) {
      while (!not_started_.empty() && clusters_.size() < together_) start_cluster();
      if (!pending_.empty() && ((lateness_ && draw(lateness_) == 0) || fruitless_ > quite_fruitless)) complete_one();
      if (Thread* next = pick())
        resume(*next);
      else if (!pending_.empty())
        complete_one();
      else
        report_deadlock(clusters_);
    }
  }

  void make_runnable(Thread& thread) { runnable_.push_back(&thread); }
  void sleep(Thread& thread, const void* address) { sleeping_[address].push_back(&thread); }
  void wake(const void* address) {
    const auto found = sleeping_.find(address);
    if (found == sleeping_.end()) return;
    runnable_.insert(runnable_.end(), found->second.begin(), found->second.end());
    sleeping_.erase(found);
  }
  void add(Pending operation) { pending_.push_back(std::move(operation)); }

  // After one more round of a loop that waits for others, whom a preferred loop would starve.
  void count_fruitless(Thread& thread) {
    change_preference(thread);
    if (++fruitless_ > most_fruitless) report_deadlock(clusters_);
  }
  void made_progress() { fruitless_ = 0; }
  // Whether [begin, begin + bytes) is shared memory of a block that has not ended.
  bool lies_in(const Block& block, const void* begin, size_t bytes) const {
    const auto* at = static_cast<const unsigned char*>(begin);
    return block.shared && at >= block.shared && at + bytes <= block.shared + shape.shared_bytes;
  }

  const GridShape& shape;
  Thread* running = nullptr;

 private:
  static constexpr unsigned most_fruitless = 1 << 20, quite_fruitless = 1 << 10;

  static unsigned draw_one_of(std::initializer_list<unsigned> values) { return values.begin()[draw(values.size())]; }

  void start_cluster() {
    const unsigned first = not_started_.back() * shape.cluster;
    not_started_.pop_back();
    Cluster& cluster = clusters_.emplace_back();
    cluster.blocks.resize(shape.cluster);
    const unsigned threads = shape.block.x * shape.block.y * shape.block.z;
    cluster.barrier.expected = shape.cluster * threads;
    for (unsigned rank = 0; rank < shape.cluster; ++rank) {
      Block& block = cluster.blocks[rank];
      block.cluster = &cluster;
      block.rank = rank;
      block.index = unfold(first + rank, shape.grid);
      block.priority = engine();
      block.shared = block.address = fresh_shared_memory();
      block.barrier.expected = threads;
      start_threads(block, threads);
    }
  }

  void start_threads(Block& block, unsigned threads) {
    block.warps.resize((threads + 31) / 32);
    for (Warp& warp : block.warps) warp.priority = engine();
    block.threads.resize(threads);
    for (unsigned i = 0; i < threads; ++i) {
      Thread& thread = block.threads[i];
      thread.block = &block;
      thread.number = i;
      thread.index = unfold(i, shape.block);
      thread.warp().existing |= 1u << thread.lane();
      thread.fiber.start([](void* scheduler) { static_cast<Scheduler*>(scheduler)->kernel_(); }, this);
      make_runnable(thread);
    }
  }

  static uint3 unfold(unsigned i, const dim3& shape) { return {i % shape.x, i / shape.x % shape.y, i / shape.x / shape.y}; }

  // NaN in every floating-point type, and exactly as large as was asked for: AddressSanitizer sees what lies beyond.
  unsigned char* fresh_shared_memory() {
    void* memory = nullptr;
    if (posix_memalign(&memory, 128, shape.shared_bytes)) std::abort();
    std::memset(memory, 0xff, shape.shared_bytes);
    return static_cast<unsigned char*>(memory);
  }

  // A few threads that can run are drawn, and of them the one whose block and warp are preferred goes on. So some launches let all
  // go on at the same pace, and in others some blocks and warps run far ahead.
  Thread* pick() {
    if (runnable_.empty()) return nullptr;
    size_t best = draw(runnable_.size());
    for (unsigned i = 1; i < candidates_; ++i) {
      const size_t other = draw(runnable_.size());
      if (preference(*runnable_[other]) > preference(*runnable_[best])) best = other;
    }
    Thread* thread = runnable_[best];
    runnable_[best] = runnable_.back();
    runnable_.pop_back();
    if (draw(256) == 0) change_preference(*thread);
    return thread;
  }

  static void change_preference(Thread& thread) {
    thread.block->priority = engine();
    thread.warp().priority = engine();
  }

  static std::pair<uint64_t, uint64_t> preference(const Thread& thread) { return {thread.block->priority, thread.warp().priority}; }

  void resume(Thread& thread) {
    running = &thread;
    threadIdx = thread.index;
    blockIdx = thread.block->index;
    if (lateness_ && !thread.copies.empty() && draw(lateness_) == 0) {
      std::swap(thread.copies.back(), thread.copies[draw(thread.copies.size())]);
      thread.copies.back().complete();
      thread.copies.pop_back();
    }
    if (thread.fiber.resume()) end(thread);
    running = nullptr;
  }

  void end(Thread& thread) {
    Block& block = *thread.block;
    Cluster& cluster = *block.cluster;
    made_progress();
    if (shape.dependent && !thread.waited_for_grid) fault("ends without having waited for the grid before");
    if (!thread.copies.empty()) fault("ends with cp.async copies in flight");
    if (block.barrier.arrived) fault("ends while others wait at a barrier of the block: %s", describe_waiting(block.barrier).c_str());
    if (cluster.barrier.arrived) fault("ends while others wait at the cluster's barrier: %s", describe_waiting(cluster.barrier).c_str());
    for (const Collective& c : thread.warp().pending)
      if (c.mask >> thread.lane() & 1) fault("ends while others of its warp wait for it at %s", describe(c.wait).c_str());
    thread.fiber.release();
    thread.exited = true;
    thread.warp().exited |= 1u << thread.lane();
    ++block.exited;
    if (block.exited == block.threads.size()) end(block);
    if (++cluster.exited == cluster.barrier.expected)
      clusters_.remove_if([&](const Cluster& c) { return &c == &cluster; });
  }

  void end(Block& block) {
    for (const Pending& p : pending_)
      if (lies_in(block, p.target, 1)) fault("ends its block while %s to its shared memory is in flight", p.what);
    std::free(block.shared);
    block.shared = nullptr;
  }

  void complete_one() {
    std::swap(pending_.back(), pending_[draw(pending_.size())]);
    const Pending operation = std::move(pending_.back());
    pending_.pop_back();
    made_progress();
    operation.complete();
  }

  const std::function<void()>& kernel_;
  std::vector<unsigned> not_started_;  // clusters
  std::list<Cluster> clusters_;        // that have started and not ended
  std::vector<Thread*> runnable_;
  std::unordered_map<const void*, std::vector<Thread*>> sleeping_;  // until somebody writes there
  std::vector<Pending> pending_;
  unsigned fruitless_ = 0;  // rounds of loops since somebody made progress
  unsigned candidates_, lateness_;
  size_t together_;
};

Scheduler* scheduler;

}  // namespace

uint64_t current_seed;

void set_seed(uint64_t seed) {
  current_seed = seed;
  engine.seed(seed);
}
uint64_t draw(uint64_t below) { return uint64_t((unsigned __int128)engine() * below >> 64); }

Thread& self() { return *scheduler->running; }
Thread* running_thread() { return scheduler ? scheduler->running : nullptr; }
const GridShape& grid() { return scheduler->shape; }
void wrote(const void* address) {
  scheduler->made_progress();
  scheduler->wake(address);
}

bool valid(const GridShape& s) {
  const bool grid = s.grid.x && s.grid.y && s.grid.z && s.grid.x <= 0x7fffffff && s.grid.y <= 65535 && s.grid.z <= 65535;
  const bool block = s.block.x && s.block.y && s.block.z && s.block.z <= 64 && s.block.x * s.block.y * s.block.z <= 1024;
  return grid && block && s.shared_bytes <= 227 * 1024 && s.cluster >= 1 && s.cluster <= 16 && s.grid.x % s.cluster == 0;
}

void run_grid(const GridShape& shape, const std::function<void()>& kernel) {
  Scheduler grid(shape, kernel);
  scheduler = &grid;
  blockDim = shape.block;
  gridDim = shape.grid;
  grid.run();
  scheduler = nullptr;
}

void arrive(Barrier& barrier, const Wait& wait) {
  self().wait = wait;
  Block& block = *self().block;
  const unsigned exited = &barrier == &block.barrier ? block.exited : block.cluster->exited;
  if (exited) fault("waits at %s; %u threads that should come have ended", describe(wait).c_str(), exited);
  if (&barrier == &block.barrier && !barrier.waiting.empty() && barrier.waiting[0]->wait.at.line != wait.at.line)
    fault("is at %s while others of its block wait at %s", describe(wait).c_str(), describe(barrier.waiting[0]->wait).c_str());
  if (++barrier.arrived < barrier.expected) return;
  barrier.arrived = 0;
  ++barrier.phase;
  for (Thread* thread : barrier.waiting) scheduler->make_runnable(*thread);
  barrier.waiting.clear();
  scheduler->made_progress();
}

void wait_for(Barrier& barrier, unsigned phase, const Wait& wait) {
  Thread& me = self();
  me.wait = wait;
  if (barrier.phase == phase)
    barrier.waiting.push_back(&me);
  else
    scheduler->make_runnable(me);
  me.fiber.suspend();
}

void warp_collective(unsigned mask, void* mine, Combine combine, const Wait& wait) {
  Thread& me = self();
  Warp& warp = me.warp();
  me.wait = wait;
  mask &= warp.existing;
  const unsigned bit = 1u << me.lane();
  if (!(mask & bit)) fault("is not in its own mask at %s", describe(wait).c_str());
  if (mask & warp.exited) fault("waits at %s for lanes that have ended", describe(wait).c_str());
  auto c = std::find_if(warp.pending.begin(), warp.pending.end(), [&](const Collective& c) { return (c.mask & mask) != 0; });
  if (c == warp.pending.end()) c = warp.pending.insert(c, Collective{mask, 0, wait, {}, {}});
  if (c->mask != mask || c->wait.at.line != wait.at.line || c->wait.what != wait.what)
    fault("is at %s while others of its warp wait at %s, or their masks differ", describe(wait).c_str(), describe(c->wait).c_str());
  c->arrived |= bit;
  c->lanes[me.lane()] = mine;
  c->threads[me.lane()] = &me;
  if (c->arrived == mask) {
    combine(c->lanes);
    for (Thread* thread : c->threads)
      if (thread) scheduler->make_runnable(*thread);
    warp.pending.erase(c);
    scheduler->made_progress();
  }
  me.fiber.suspend();
}

void full_warp_collective(void* mine, Combine combine, const Wait& wait) {
  if (self().warp().existing != 0xffffffff) fault("is in a warp of less than 32 lanes at %s", describe(wait).c_str());
  warp_collective(0xffffffff, mine, combine, wait);
}

void wait_until(const void* address, const std::function<bool()>& ready, const Wait& wait) {
  Thread& me = self();
  me.wait = wait;
  scheduler->make_runnable(me);  // even where it need not wait, others may come first
  me.fiber.suspend();
  while (!ready()) {  // looked at late: what was true for a moment may be missed, as on a card
    scheduler->sleep(me, address);
    me.fiber.suspend();
  }
}

void yield_in_loop(const Wait& wait) {
  Thread& me = self();
  me.wait = wait;
  scheduler->make_runnable(me);
  scheduler->count_fruitless(me);
  me.fiber.suspend();
}

void later(std::function<void()> complete, const void* target, const char* what) {
  scheduler->add({std::move(complete), target, what});
}

Block& owner_of(const void* to, size_t bytes, const char* what) {
  for (Block& block : self().block->cluster->blocks)
    if (scheduler->lies_in(block, to, bytes)) return block;
  fault("%s: no block of its cluster that has not ended has shared memory at %p", what, to);
}

Block& own_shared(const void* at, size_t bytes, const char* what) {
  Block& owner = owner_of(at, bytes, what);
  if (&owner != self().block) fault("%s with the shared memory of another block", what);
  return owner;
}

}  // namespace cuda_host
