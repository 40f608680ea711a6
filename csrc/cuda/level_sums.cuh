// The row pass of the losses on grades: one read of a row's scores, giving for every level the sum of
// e^{(s - max) / temperature} over its passages and what they ask for in the target. Affine terms (common/rows.h) also
// want the sum of s - max, and other queries' passages apart from the row's own. Epilogues make losses of these.
//
// A row belongs to a team: one warp, or a block of several. Each thread walks its slots of the row with a maximum and
// sums of its own; nothing is exchanged before the end. Other queries' passages are of one level: registers hold
// their sums. The row's own go to the thread's private bins in shared memory, [level][thread], so that no two lanes of
// a warp meet in a bank.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "common/rows.h"
#include "cuda/row_sums.cuh"
#include "cuda/rows.cuh"
#include "cuda/scaled_exp.cuh"
#include "cuda/warp.cuh"

namespace wassrank::cuda {

// Of a row, relative to its maximum.
template <class C, bool affine>
struct LevelSums {
  Sums<double, affine> level;  // the lane's; lanes that have no level hold 0
  // The same in every lane, where terms are affine; otherwise others are in their level's.
  Sums<double, affine> others;
  Sums<double, affine> given;  // of a given target T: share is the sum of T log T, count of T, sum of T x
  C max;                       // the same in every lane
};

// A block's shared memory: bins [level][thread], with one level more for labels that are no grade and, where terms are
// affine, one for others; then sums [warp][level] (affine: and others, given) and maxima [warp].
template <class C, bool affine>
struct LevelSumsMemory {
  using Bin = Sums<C, affine>;
  using WarpSum = Sums<double, affine>;
  Bin* bins;
  WarpSum* sums;
  C* maxima;

  __host__ __device__ static int bin_slots(int levels) { return levels + (affine ? 2 : 1); }
  __host__ __device__ static int sum_slots(int levels) { return levels + (affine ? 2 : 0); }
  static size_t bin_bytes(int threads, int levels) { return sizeof(Bin) * threads * bin_slots(levels); }
  static size_t bytes(int threads, int levels) {
    return bin_bytes(threads, levels) + threads / kWarp * (sum_slots(levels) * sizeof(WarpSum) + sizeof(C));
  }
  __device__ LevelSumsMemory(unsigned char* base, int threads, int levels)
      : bins(reinterpret_cast<Bin*>(base)),
        sums(reinterpret_cast<WarpSum*>(bins + threads * bin_slots(levels))),
        maxima(reinterpret_cast<C*>(sums + threads / kWarp * sum_slots(levels))) {}
};

template <class S, bool affine>
class LevelPass {
 public:
  using C = Computing<S>;
  using Memory = LevelSumsMemory<C, affine>;
  using Bin = typename Memory::Bin;

  // The calling thread's part of a row, in which a passage counts for `share` of the target (0: the target is given).
  __device__ LevelPass(const Row<S>& row, const Team& team, const ScaledExp<C>& scaled_exp, C share,
                       const Memory& memory)
      : row_(row),
        team_(team),
        scaled_exp_(scaled_exp),
        reference_(scaled_exp),
        share_(share),
        memory_(memory),
        threads_(blockDim.x * blockDim.y),
        thread_(threadIdx.y * blockDim.x + threadIdx.x),
        levels_(row.rows.levels) {
#pragma unroll 1
    for (int l = 0; l < Memory::bin_slots(levels_); ++l) bin(l, thread_) = {};
  }

  // Other queries' passages, all of level `level`. Before add_own: as long as the bins are empty they need no scaling.
  __device__ void add_others(int level) {
    Bin sum = sum_others<affine>(row_, team_, scaled_exp_, reference_);
    if constexpr (!affine) sum.share *= share_;
    bin(others_slot(level), thread_) = sum;
  }

  // The row's own passages, whose levels the labels give.
  __device__ void add_own() {
    walk<Row<S>::kLabelledSlots, Row<S>::kWidth>(
        row_.own_stretch(), team_, [&](const auto& hand) { return load(hand); },
        [&](const auto&, const auto& passages) {
          const Shift<C> rise = reference_.raise(passages.score);
          if (rise.scale != 1) {
#pragma unroll 1
            for (int l = 0; l < Memory::bin_slots(levels_); ++l) bin(l, thread_).shift(rise);
          }
          for_each(passages.score, [&](int u, int w, C score) {
            Bin& to = bin(passages.level[u][w], thread_);
            Bin sum = to;
            const C x = score - reference_.base();
            sum.mass += scaled_exp_(x);
            if constexpr (affine) {
              sum.count += score == -kInf<C> ? C(0) : C(1);
              sum.sum += score == -kInf<C> ? C(0) : x;
            } else {
              sum.share += score == -kInf<C> ? C(0) : share_;
            }
            to = sum;
          });
        });
  }

  // Given shares, in walks of their own that find the scores in the cache: together with the exponentials they would
  // not fit the registers. `given` holds a column's share at that column. After add_own: the reference is the last one.
  __device__ void add_given_to_others(int level, const C* given) {
    bin(others_slot(level), thread_).share += cuda::add_given_to_others(row_, team_, given, reference_, given_);
  }
  __device__ void add_given_to_own(const C* given) {
    walk<Row<S>::kLabelledSlots, Row<S>::kWidth>(
        row_.own_stretch(), team_, [&](const auto& hand) { return load(hand); },
        [&](const auto& hand, const auto& passages) {
          add_given(hand, passages.score, given, reference_, given_, [&](int u, int w, C share) {
            const int level = passages.level[u][w];
            bin(level, thread_).share += level < levels_ ? share : C(1);  // whatever is given, it is seen
          });
        });
  }

  // The row's sums, in the team's first warp; false in the others. Every thread of the team must call it.
  __device__ bool finish(LevelSums<C, affine>& row_sums) {
    // A passage that takes part and has no grade makes the row NaN.
    if (bin(levels_, thread_).passages() != 0) bin(0, thread_) = Bin::all(kNaN<C>);
    row_sums = sum_warp();
    return team_.threads == kWarp || sum_team(row_sums);
  }

 private:
  __device__ Bin& bin(int level, int thread) const { return memory_.bins[level * threads_ + thread]; }
  __device__ int others_slot(int level) const { return affine ? levels_ + 1 : level; }

  template <class Hand>
  __device__ Passages<C, Hand> load(const Hand& hand) const {
    Passages<C, Hand> passages = row_.load_passages(hand);
    row_.load_levels(hand, passages.level);
    return passages;
  }

  // Adds the lanes' bins up, relative to the warp's maximum. Lanes are dealt to the levels in groups of `period`; each
  // lane walks its group's threads from a place of its own, so that no two lanes read the same bank.
  __device__ LevelSums<C, affine> sum_warp() {
    const int lane = thread_ % kWarp, first = thread_ - lane;
    const C max = warp_max(reference_.top());
    const auto shift = reference_.up_to(max);
    const int period = levels_ == 1 ? 1 : 1 << (kWarp - __clz(levels_ - 1));  // the power of two that holds the levels
    const int level = lane % period, group = lane - level;
    __syncwarp();
    LevelSums<C, affine> sums{.max = max};
#pragma unroll 4
    for (int i = 0; i < period; ++i) {
      const int other = group + (level + i) % period;
      Shift<C> by{.scale = __shfl_sync(kAllLanes, shift.scale, other)};
      if constexpr (affine) by.drop = __shfl_sync(kAllLanes, shift.drop, other);
      if (level < levels_) sums.level.add(bin(level, first + other), by);
    }
    sums.level.sum_lanes(period);
    if (lane >= levels_) sums.level = {};
    if constexpr (affine) {
      sums.others.add(bin(others_slot(0), thread_), shift);
      sums.others.sum_lanes(1);
      sums.given.add(given_, shift);
      sums.given.sum_lanes(1);
    }
    return sums;
  }

  // The same over the block's warps.
  __device__ bool sum_team(LevelSums<C, affine>& sums) {
    const int lane = thread_ % kWarp, warp = thread_ / kWarp, warps = threads_ / kWarp;
    const int slots = Memory::sum_slots(levels_);
    auto* const of_warp = memory_.sums + warp * slots;
    if (lane < levels_) of_warp[lane] = sums.level;
    if (lane == 0) {
      if constexpr (affine) {
        of_warp[levels_] = sums.others;
        of_warp[levels_ + 1] = sums.given;
      }
      memory_.maxima[warp] = sums.max;
    }
    __syncthreads();
    if (warp != 0) return false;
    sums = {.max = warp_max(lane < warps ? memory_.maxima[lane] : -kInf<C>)};
    const C base = sums.max == -kInf<C> ? C(0) : sums.max;
    const auto add = [&](auto& to, int slot) {
#pragma unroll 1
      for (int w = 0; w < warps; ++w) {
        to.add(memory_.sums[w * slots + slot], Shift<C>::from(memory_.maxima[w], base, scaled_exp_));
      }
    };
    if (lane < levels_) add(sums.level, lane);
    if constexpr (affine) {
      add(sums.others, levels_);
      add(sums.given, levels_ + 1);
    }
    return true;
  }

  const Row<S>& row_;
  const Team& team_;
  const ScaledExp<C>& scaled_exp_;
  Reference<C> reference_;
  const C share_;
  const Memory memory_;
  const int threads_, thread_, levels_;
  Bin given_{};  // LevelSums::given, of the thread
};

}  // namespace wassrank::cuda
