// A small SIMT machine on the CPU, so that csrc/cuda's kernels run, and run under sanitizers, where there is no GPU: a
// context of its own (stack and registers; not a thread of the host, of which 512 would spend their time waiting) for
// each CUDA thread of a block, taking turns; the blocks one after another.
//
// What it checks: races between threads (ThreadSanitizer knows the contexts apart, and that only barriers order them: a
// race is reported whatever the turns taken), accesses outside of global or shared memory (AddressSanitizer: each
// buffer is an allocation of its own size), misaligned vector accesses (UndefinedBehaviorSanitizer), reads of shared
// memory nobody wrote (poison, NaN as a number), barriers and collectives not all reach (nobody can go on). What it
// cannot show: speed, warps in lockstep, what the GPU's own arithmetic rounds.
#pragma once

#include <sys/mman.h>
#include <ucontext.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <type_traits>
#include <vector>

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace simt {

constexpr int kWarp = 32;
constexpr int kPoison = 0xff;  // as a float of any size a NaN that no arithmetic makes

// Run only the blocks in the corners of a grid, for batches whose other rows are not there.
inline bool corners_only = false;

struct Index {
  unsigned x = 1, y = 1, z = 1;
};

// What the machine itself shares among contexts is relaxed: no synchronisation in ThreadSanitizer's eyes.
template <class T>
class Relaxed {
 public:
  Relaxed(T value = {}) : value_(value) {}
  operator T() const { return value_.load(std::memory_order_relaxed); }
  void operator=(T value) { value_.store(value, std::memory_order_relaxed); }

 private:
  std::atomic<T> value_;
};

// Memory written before happened() is seen after has_happened().
struct Event {
  char place;
#if defined(__SANITIZE_THREAD__)
  void happened() { __tsan_release(&place); }
  void has_happened() { __tsan_acquire(&place); }
#else
  void happened() {}
  void has_happened() {}
#endif
};

class Context {
 public:
#if defined(__SANITIZE_THREAD__)
  Context() : fiber_(__tsan_get_current_fiber()) {}
  explicit Context(void (*body)()) : fiber_(__tsan_create_fiber(0)) { begin(body); }
#else
  Context() = default;
  explicit Context(void (*body)()) { begin(body); }
#endif
  void switch_to(Context& other) {
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(other.fiber_, __tsan_switch_to_fiber_no_sync);
#endif
    swapcontext(&registers_, &other.registers_);
  }

 private:
  void begin(void (*body)()) {
    constexpr size_t kStack = 64 << 10;  // AddressSanitizer looks after all of it at each switch
    getcontext(&registers_);
    registers_.uc_stack.ss_sp =
        mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    registers_.uc_stack.ss_size = kStack;
    makecontext(&registers_, body, 0);
  }

  ucontext_t registers_;
#if defined(__SANITIZE_THREAD__)
  void* fiber_;
#endif
};

inline Context scheduler;
inline Relaxed<bool> any_progress;

struct Thread;
inline Relaxed<Thread*> running;

class Barrier {
 public:
  explicit Barrier(int threads) : threads_(threads) {}
  // A collective exchanges values but, as CUDA has it, does not order accesses to memory: `orders` is false.
  inline void wait(bool orders);

 private:
  const int threads_;
  Relaxed<int> arrived_;
  Relaxed<unsigned> turn_;
  Event events_[2];  // used in turns: whoever is through may come again before the last has left
};

struct Warp {
  Barrier barrier, collectives;
  // Two sets of slots, used in turns: a lane can be at most one collective ahead of another's reads.
  Relaxed<uint64_t> slots[2][kWarp];

  explicit Warp(int lanes) : barrier(lanes), collectives(lanes) {}
};

struct Block {
  Barrier barrier;
  std::vector<std::unique_ptr<Warp>> warps;
  std::unique_ptr<unsigned char[]> shared;

  Block(int threads, size_t shared_bytes) : barrier(threads), shared(new unsigned char[shared_bytes]) {
    for (int first = 0; first < threads; first += kWarp) {
      warps.push_back(std::make_unique<Warp>(threads - first < kWarp ? threads - first : kWarp));
    }
    std::memset(shared.get(), kPoison, shared_bytes);
  }
};

struct Thread {
  Index thread_index, block_index, block_size, grid_size;
  Block* block = nullptr;
  Warp* warp = nullptr;
  int lane = 0;
  unsigned collectives = 0;
  const std::function<void()>* kernel = nullptr;
  Event begins, ends;
  Relaxed<bool> done;
  Context context{live};

  void pause() { context.switch_to(scheduler); }

 private:
  static void live() {
    for (Thread& self = *running;;) {
      self.begins.has_happened();
      (*self.kernel)();
      self.ends.happened();
      self.done = true;
      any_progress = true;
      self.pause();
    }
  }
};
inline Thread& self() { return *running; }

inline void Barrier::wait(bool orders) {
  const unsigned turn = turn_;
  Event& event = events_[turn % 2];
  if (orders) event.happened();
  arrived_ = arrived_ + 1;
  if (arrived_ == threads_) {
    arrived_ = 0;
    turn_ = turn + 1;
    any_progress = true;
  }
  while (turn_ == turn) self().pause();
  if (orders) event.has_happened();
}

// Every lane leaves its value and sees all.
template <class T, class Read>
auto collective(T value, Read read) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= sizeof(uint64_t));
  Relaxed<uint64_t>(&slots)[kWarp] = self().warp->slots[self().collectives++ % 2];
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  slots[self().lane] = bits;
  self().warp->collectives.wait(false);
  return read([&slots](int lane) {
    const uint64_t bits = slots[lane];
    T seen;
    std::memcpy(&seen, &bits, sizeof seen);
    return seen;
  });
}

inline void check_mask(unsigned mask) {
  if (mask != 0xffffffffu) std::abort();  // no kernel here uses part of a warp
}

inline void run_block(const std::function<void()>& kernel, Index block_index, Index block_size, Index grid_size,
                      size_t shared_bytes) {
  static auto& threads = *new std::vector<std::unique_ptr<Thread>>;  // for every block, and never destroyed
  const unsigned count = block_size.x * block_size.y * block_size.z;
  while (threads.size() < count) threads.push_back(std::make_unique<Thread>());
  Block block(count, shared_bytes);
  for (unsigned t = 0; t < count; ++t) {
    Thread& thread = *threads[t];
    thread.thread_index = {t % block_size.x, t / block_size.x % block_size.y, t / (block_size.x * block_size.y)};
    thread.block_index = block_index;
    thread.block_size = block_size;
    thread.grid_size = grid_size;
    thread.block = &block;
    thread.warp = block.warps[t / kWarp].get();
    thread.lane = t % kWarp;
    thread.collectives = 0;
    thread.kernel = &kernel;
    thread.done = false;
    thread.begins.happened();
  }
  bool all_done = false;
  while (!all_done) {
    any_progress = false;
    all_done = true;
    for (unsigned t = 0; t < count; ++t) {
      if (threads[t]->done) continue;
      running = threads[t].get();
      scheduler.switch_to(threads[t]->context);
      all_done = all_done && threads[t]->done;
    }
    if (!all_done && !any_progress) {
      std::fprintf(stderr, "simt: threads wait at a barrier or a collective that others do not reach\n");
      std::_Exit(3);
    }
  }
  for (unsigned t = 0; t < count; ++t) threads[t]->ends.has_happened();
}

template <class Kernel, class... Args>
void run(Kernel kernel, Index grid, Index block, size_t shared_bytes, const Args&... args) {
  const std::function<void()> body = [&] { kernel(args...); };
  const auto next = [](unsigned i, unsigned end) { return corners_only && i + 1 < end ? end - 1 : i + 1; };
  for (unsigned z = 0; z < grid.z; z = next(z, grid.z)) {
    for (unsigned y = 0; y < grid.y; y = next(y, grid.y)) {
      for (unsigned x = 0; x < grid.x; x = next(x, grid.x)) run_block(body, {x, y, z}, block, grid, shared_bytes);
    }
  }
}

}  // namespace simt
