// A small SIMT machine on the CPU, so that csrc/cuda's kernels run, and run under sanitizers, where there is no GPU: a
// host thread for each CUDA thread of a block, the blocks one after another.
//
// What it checks: races between threads (ThreadSanitizer: only barriers and collectives order them), accesses outside
// of global or shared memory (AddressSanitizer: each buffer is an allocation of its own size), misaligned vector
// accesses (UndefinedBehaviorSanitizer), reads of shared memory nobody wrote (poison, NaN as a number), collectives not
// all lanes reach (a hang, ended by the caller's time limit). What it cannot show: speed, warps in lockstep, what the
// GPU's own arithmetic rounds.
#pragma once

#include <barrier>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

namespace simt {

constexpr int kWarp = 32;
constexpr int kPoison = 0xff;  // as a float of any size a NaN that no arithmetic makes

struct Index {
  unsigned x = 1, y = 1, z = 1;
};

struct Warp {
  std::barrier<> barrier;
  // Two sets of slots, used in turns: a lane can be at most one collective ahead of another's reads.
  uint64_t slots[2][kWarp];

  explicit Warp(int lanes) : barrier(lanes) {}
};

struct Block {
  std::barrier<> barrier;
  std::vector<std::unique_ptr<Warp>> warps;
  std::unique_ptr<unsigned char[]> shared;
  size_t shared_bytes;

  Block(int threads, size_t shared_bytes)
      : barrier(threads), shared(new unsigned char[shared_bytes]), shared_bytes(shared_bytes) {
    for (int first = 0; first < threads; first += kWarp) {
      warps.push_back(std::make_unique<Warp>(threads - first < kWarp ? threads - first : kWarp));
    }
  }
};

struct Thread {
  Index thread_index, block_index, block_size, grid_size;
  Block* block = nullptr;
  Warp* warp = nullptr;
  int lane = 0;
  unsigned collectives = 0;
};
inline thread_local Thread self;

// Every lane leaves its value and sees all.
template <class T, class Read>
auto collective(T value, Read read) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= sizeof(uint64_t));
  uint64_t (&slots)[kWarp] = self.warp->slots[self.collectives++ % 2];
  std::memcpy(&slots[self.lane], &value, sizeof value);
  self.warp->barrier.arrive_and_wait();
  return read([&slots](int lane) {
    T seen;
    std::memcpy(&seen, &slots[lane], sizeof seen);
    return seen;
  });
}

inline void check_mask(unsigned mask) {
  if (mask != 0xffffffffu) std::abort();  // no kernel here uses part of a warp
}

template <class Kernel, class... Args>
void run(Kernel kernel, Index grid, Index block_size, size_t shared_bytes, const Args&... args) {
  const int threads = block_size.x * block_size.y * block_size.z;
  const int blocks = grid.x * grid.y * grid.z;
  Block block(threads, shared_bytes);
  std::barrier turn(threads, [&]() noexcept { std::memset(block.shared.get(), kPoison, shared_bytes); });
  const auto live = [&](int t) {
    for (int b = 0; b < blocks; ++b) {
      turn.arrive_and_wait();
      const unsigned i = t, j = b;
      self = {{i % block_size.x, i / block_size.x % block_size.y, i / (block_size.x * block_size.y)},
              {j % grid.x, j / grid.x % grid.y, j / (grid.x * grid.y)},
              block_size,
              grid,
              &block,
              block.warps[t / kWarp].get(),
              t % kWarp};
      kernel(args...);
    }
  };
  std::vector<std::thread> team;
  for (int t = 0; t < threads; ++t) team.emplace_back(live, t);
  for (std::thread& thread : team) thread.join();
}

}  // namespace simt
