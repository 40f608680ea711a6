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
#include "cuda/rows.cuh"
#include "cuda/scaled_exp.cuh"
#include "cuda/warp.cuh"

namespace wassrank::cuda {

// From one reference to a higher one: how much higher, and e^{-drop / temperature}.
template <class C>
struct Shift {
  C drop = 0, scale = 1;

  // Up to `base`; there is nothing to shift where the reference is -inf.
  __device__ static Shift from(C reference, C base, const ScaledExp<C>& scaled_exp) {
    return {reference == -kInf<C> ? C(0) : base - reference, scaled_exp(reference - base)};
  }
};

// Sums over passages, relative to a reference among the scores: of one thread in C, where a count is exact, for a
// thread sees no more than 2^24 columns (cuda/tuning.h, cuda/columns.cuh); of several in double.
template <class T, bool affine>
struct alignas(2 * sizeof(T)) Sums {
  T mass, share;  // of e^{x / temperature}, x = s - reference; of 1, or of what a given target has for them

  __device__ static Sums all(T value) { return {value, value}; }
  __device__ T passages() const { return share; }
  template <class C>
  __device__ void shift(const Shift<C>& by) {
    mass *= by.scale;
  }
  template <class P, class C>
  __device__ void add(const Sums<P, affine>& part, const Shift<C>& by) {
    mass += part.mass * by.scale;
    share += part.share;
  }
  __device__ void sum_lanes(int period) {
    mass = warp_sum(mass, period);
    share = warp_sum(share, period);
  }
};

template <class T>
struct alignas(16) Sums<T, true> {
  T mass, share, count, sum;  // share: as given, or nothing; sum: of x

  __device__ static Sums all(T value) { return {value, value, value, value}; }
  __device__ T passages() const { return count; }
  template <class C>
  __device__ void shift(const Shift<C>& by) {
    mass *= by.scale;
    sum -= count * by.drop;
  }
  template <class P, class C>
  __device__ void add(const Sums<P, true>& part, const Shift<C>& by) {
    mass += part.mass * by.scale;
    share += part.share;
    count += part.count;
    sum += part.sum - static_cast<T>(part.count) * by.drop;
  }
  __device__ void sum_lanes(int period) {
    mass = warp_sum(mass, period);
    share = warp_sum(share, period);
    count = warp_sum(count, period);
    sum = warp_sum(sum, period);
  }
};

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
    Bin sum{};
    walk<Row<S>::kSlots, Row<S>::kWidth>(
        row_.other_stretches(), team_, [&](const auto& hand) { return load<false>(hand); },
        [&](const auto& hand, const auto& passages) {
          sum.shift(raise(passages.score));
          C mass = 0, lowest = kInf<C>, total = 0;
          for_each(passages.score, [&](int, int, C score) {
            const C x = score - base();
            mass += scaled_exp_(x);
            lowest = std::fmin(lowest, score);
            if constexpr (affine) total += x;
          });
          sum.mass += mass;
          int real = hand.count * hand.width;
          if (lowest == -kInf<C>) {
            total = 0;
            for_each(passages.score, [&](int, int, C score) {
              real -= score == -kInf<C>;
              if constexpr (affine) total += score == -kInf<C> ? C(0) : score - base();
            });
          }
          if constexpr (affine) {
            sum.count += static_cast<C>(real);
            sum.sum += total;
          } else {
            sum.share += static_cast<C>(real);
          }
        });
    if constexpr (!affine) sum.share *= share_;
    bin(others_slot(level), thread_) = sum;
  }

  // The row's own passages, whose levels the labels give.
  __device__ void add_own() {
    walk<Row<S>::kLabelledSlots, Row<S>::kWidth>(
        row_.own_stretch(), team_, [&](const auto& hand) { return load<true>(hand); },
        [&](const auto&, const auto& passages) {
          const Shift<C> rise = raise(passages.score);
          if (rise.scale != 1) {
#pragma unroll 1
            for (int l = 0; l < Memory::bin_slots(levels_); ++l) bin(l, thread_).shift(rise);
          }
          for_each(passages.score, [&](int u, int w, C score) {
            Bin& to = bin(passages.level[u][w], thread_);
            Bin sum = to;
            const C x = score - base();
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
    C sum = 0;
    walk<Row<S>::kLabelledSlots, Row<S>::kWidth>(
        row_.other_stretches(), team_, [&](const auto& hand) { return load<false>(hand); },
        [&](const auto& hand, const auto& passages) {
          for_each_share(hand, passages.score, given, [&](int, int, C share) { sum += share; });
        });
    bin(others_slot(level), thread_).share += sum;
  }
  __device__ void add_given_to_own(const C* given) {
    walk<Row<S>::kLabelledSlots, Row<S>::kWidth>(
        row_.own_stretch(), team_, [&](const auto& hand) { return load<true>(hand); },
        [&](const auto& hand, const auto& passages) {
          for_each_share(hand, passages.score, given, [&](int u, int w, C share) {
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
  // How far scores may rise above a thread's reference before its sums are scaled down to a new one: sums may then hold
  // terms up to 2^8 (e^8 in double), far from overflow, and most rows never rescale, which saves work and rounding.
  static constexpr C kSlack = 8;

  __device__ Bin& bin(int level, int thread) const { return memory_.bins[level * threads_ + thread]; }
  __device__ int others_slot(int level) const { return affine ? levels_ + 1 : level; }
  // What scores are taken relative to: finite, or +inf, which makes NaN of a +inf score.
  __device__ C base() const { return reference_ == -kInf<C> ? C(0) : reference_; }

  template <bool with_levels, class Hand>
  __device__ Passages<C, Hand> load(const Hand& hand) const {
    Passages<C, Hand> passages;
    row_.load_scores(hand, passages.score);
    if constexpr (with_levels) row_.load_levels(hand, passages.level);
    return passages;
  }

  // Makes room for scores x; returns what the sums so far must be shifted by. As long as there is no reference they
  // hold zeros and NaNs, and nothing will do.
  template <int count, int width>
  __device__ Shift<C> raise(const C (&x)[count][width]) {
    C highest = -kInf<C>;
    for_each(x, [&](int, int, C score) { highest = std::fmax(highest, score); });
    top_ = std::fmax(top_, highest);
    if (!((highest - reference_) * scaled_exp_.factor > kSlack)) return {};
    const C before = reference_;
    reference_ = highest;
    return before == -kInf<C> ? Shift<C>{} : Shift<C>::from(before, highest, scaled_exp_);
  }

  // Calls body(u, w, share) for the passages that take part.
  template <class Hand, class Body>
  __device__ void for_each_share(const Hand& hand, const C (&score)[Hand::count][Hand::width], const C* given,
                                 Body body) {
    Loaded<C, Hand> share;
    share.load(hand, given, 0);
    for_each(score, [&](int u, int w, C s) {
      if (s == -kInf<C>) return;
      const C T = share.piece[u][w];
      body(u, w, T);
      if constexpr (affine) {
        given_.share += T > 0 ? T * std::log(T) : C(0);
        given_.count += T;
        given_.sum += T * (s - base());
      }
    });
  }

  // Adds the lanes' bins up, relative to the warp's maximum. Lanes are dealt to the levels in groups of `period`; each
  // lane walks its group's threads from a place of its own, so that no two lanes read the same bank.
  __device__ LevelSums<C, affine> sum_warp() {
    const int lane = thread_ % kWarp, first = thread_ - lane;
    const C max = warp_max(top_);
    const auto shift = Shift<C>::from(reference_, max == -kInf<C> ? C(0) : max, scaled_exp_);
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
  const C share_;
  const Memory memory_;
  const int threads_, thread_, levels_;
  C reference_ = -kInf<C>;  // what the thread's sums are relative to
  C top_ = -kInf<C>;        // the highest score it has seen
  Bin given_{};             // LevelSums::given, of the thread
};

}  // namespace wassrank::cuda
