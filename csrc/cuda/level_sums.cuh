// The row pass of the losses on grades: one read of a row's scores, giving for every level the sum of
// e^{(s - max) / temperature} over its passages and what they ask for in the target. An epilogue makes a loss of these.
//
// A row belongs to a team: one warp, or a block of several. Each thread walks its slots of the row with a maximum and
// sums of its own; nothing is exchanged before the end. Other queries' passages are of one level: a register holds
// their sum. The row's own go to the thread's private bins in shared memory, [level][thread], so that no two lanes of a
// warp meet in a bank.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/rows.h"
#include "cuda/rows.cuh"
#include "cuda/scaled_exp.cuh"
#include "cuda/warp.cuh"

namespace wassrank::cuda {

// One level a lane; lanes that have no level hold 0.
template <class C>
struct LevelSums {
  double mass, share;
  C max;  // the row's, the same in every lane
};

template <class C>
struct alignas(2 * sizeof(C)) Bin {
  C mass, share;  // a count in float is exact: a thread sees no more than 2^24 columns (cuda/tuning.h)
};

// A block's shared memory: bins [level][thread], one level more for labels that are no grade, then sums [warp][level]
// and maxima [warp].
template <class C>
struct LevelSumsMemory {
  struct WarpSum {
    double mass, share;
  };
  Bin<C>* bins;
  WarpSum* sums;
  C* maxima;

  static size_t bin_bytes(int threads, int levels) { return sizeof(Bin<C>) * threads * (levels + 1); }
  static size_t bytes(int threads, int levels) {
    return bin_bytes(threads, levels) + threads / kWarp * (levels * sizeof(WarpSum) + sizeof(C));
  }
  __device__ LevelSumsMemory(unsigned char* base, int threads, int levels)
      : bins(reinterpret_cast<Bin<C>*>(base)),
        sums(reinterpret_cast<WarpSum*>(bins + threads * (levels + 1))),
        maxima(reinterpret_cast<C*>(sums + threads / kWarp * levels)) {}
};

template <class S>
class LevelPass {
 public:
  using C = Computing<S>;

  // The calling thread's part of a row, in which a passage counts for `share` of the target (0: the target is given).
  __device__ LevelPass(const Row<S>& row, const Team& team, const ScaledExp<C>& scaled_exp, C share,
                       const LevelSumsMemory<C>& memory)
      : row_(row),
        team_(team),
        scaled_exp_(scaled_exp),
        share_(share),
        memory_(memory),
        threads_(blockDim.x * blockDim.y),
        thread_(threadIdx.y * blockDim.x + threadIdx.x),
        levels_(row.rows.levels) {
#pragma unroll 1
    for (int l = 0; l <= levels_; ++l) bin(l, thread_) = {0, 0};
  }

  // Other queries' passages, all of level `level`. Before add_own: as long as the bins are empty they need no scaling.
  __device__ void add_others(int level) {
    Bin<C> sum{0, 0};
    walk<Row<S>::kSlots, Row<S>::kWidth>(
        row_.other_stretches(), team_, [&](const auto& hand) { return load<false>(hand); },
        [&](const auto& hand, const auto& passages) {
          sum.mass *= raise(passages.score);
          C mass = 0, lowest = kInf<C>;
          for_each(passages.score, [&](int, int, C score) {
            mass += scaled_exp_(score - base());
            lowest = std::fmin(lowest, score);
          });
          sum.mass += mass;
          int real = hand.count * hand.width;
          if (lowest == -kInf<C>) for_each(passages.score, [&](int, int, C score) { real -= score == -kInf<C>; });
          sum.share += static_cast<C>(real);
        });
    sum.share *= share_;
    bin(level, thread_) = sum;
  }

  // The row's own passages, whose levels the labels give.
  __device__ void add_own() {
    walk<Row<S>::kLabelledSlots, Row<S>::kWidth>(
        row_.own_stretch(), team_, [&](const auto& hand) { return load<true>(hand); },
        [&](const auto&, const auto& passages) {
          const C shrink = raise(passages.score);
          if (shrink != 1) {
#pragma unroll 1
            for (int l = 0; l < levels_; ++l) bin(l, thread_).mass *= shrink;
          }
          for_each(passages.score, [&](int u, int w, C score) {
            Bin<C>& to = bin(passages.level[u][w], thread_);
            Bin<C> sum = to;
            sum.mass += scaled_exp_(score - base());
            sum.share += score == -kInf<C> ? C(0) : share_;
            to = sum;
          });
        });
  }

  // Given shares, in walks of their own that find the scores in the cache: together with the exponentials they would
  // not fit the registers. `given` holds a column's share at that column.
  __device__ void add_given_to_others(int level, const C* given) {
    C sum = 0;
    walk<Row<S>::kLabelledSlots, Row<S>::kWidth>(
        row_.other_stretches(), team_, [&](const auto& hand) { return load<false>(hand); },
        [&](const auto& hand, const auto& passages) {
          for_each_share(hand, passages.score, given, [&](int, int, C share) { sum += share; });
        });
    bin(level, thread_).share += sum;
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
  __device__ bool finish(LevelSums<C>& row_sums) {
    // A passage that takes part and has no grade makes the row NaN.
    if (bin(levels_, thread_).share != 0) bin(0, thread_) = {kNaN<C>, kNaN<C>};
    row_sums = sum_warp();
    return team_.threads == kWarp || sum_team(row_sums);
  }

 private:
  // How far scores may rise above a thread's reference before its sums are scaled down to a new one: sums may then hold
  // terms up to 2^8 (e^8 in double), far from overflow, and most rows never rescale, which saves work and rounding.
  static constexpr C kSlack = 8;

  __device__ Bin<C>& bin(int level, int thread) const { return memory_.bins[level * threads_ + thread]; }
  // What scores are taken relative to: finite, or +inf, which makes NaN of a +inf score.
  __device__ C base() const { return reference_ == -kInf<C> ? C(0) : reference_; }

  template <bool with_levels, class Hand>
  __device__ Passages<C, Hand> load(const Hand& hand) const {
    Passages<C, Hand> passages;
    row_.load_scores(hand, passages.score);
    if constexpr (with_levels) row_.load_levels(hand, passages.level);
    return passages;
  }

  // Makes room for scores x; returns what the sums so far must be multiplied with. As long as there is no reference
  // they hold zeros and NaNs, and 1 will do.
  template <int count, int width>
  __device__ C raise(const C (&x)[count][width]) {
    C highest = -kInf<C>;
    for_each(x, [&](int, int, C score) { highest = std::fmax(highest, score); });
    top_ = std::fmax(top_, highest);
    if (!((highest - reference_) * scaled_exp_.factor > kSlack)) return 1;
    const C shrink = reference_ == -kInf<C> ? C(1) : scaled_exp_(reference_ - highest);
    reference_ = highest;
    return shrink;
  }

  // Calls body(u, w, share) for the passages that take part.
  template <class Hand, class Body>
  __device__ static void for_each_share(const Hand& hand, const C (&score)[Hand::count][Hand::width], const C* given,
                                        Body body) {
    Loaded<C, Hand> share;
    share.load(hand, given, 0);
    for_each(score, [&](int u, int w, C s) {
      if (s != -kInf<C>) body(u, w, share.piece[u][w]);
    });
  }

  // Adds the lanes' bins up, relative to the warp's maximum. Lanes are dealt to the levels in groups of `period`; each
  // lane walks its group's threads from a place of its own, so that no two lanes read the same bank.
  __device__ LevelSums<C> sum_warp() {
    const int lane = thread_ % kWarp, first = thread_ - lane;
    const C max = warp_max(top_);
    const C scale = scaled_exp_(reference_ - (max == -kInf<C> ? C(0) : max));
    const int period = levels_ == 1 ? 1 : 1 << (kWarp - __clz(levels_ - 1));  // the power of two that holds the levels
    const int level = lane % period, group = lane - level;
    __syncwarp();
    double mass = 0, share = 0;
#pragma unroll 4
    for (int i = 0; i < period; ++i) {
      const int other = group + (level + i) % period;
      const C other_scale = __shfl_sync(kAllLanes, scale, other);
      if (level < levels_) {
        const Bin<C> sum = bin(level, first + other);
        mass += sum.mass * other_scale;
        share += sum.share;
      }
    }
    mass = warp_sum(mass, period);
    share = warp_sum(share, period);
    return {lane < levels_ ? mass : 0, lane < levels_ ? share : 0, max};
  }

  // The same over the block's warps.
  __device__ bool sum_team(LevelSums<C>& sums) {
    const int lane = thread_ % kWarp, warp = thread_ / kWarp, warps = threads_ / kWarp;
    if (lane < levels_) memory_.sums[warp * levels_ + lane] = {sums.mass, sums.share};
    if (lane == 0) memory_.maxima[warp] = sums.max;
    __syncthreads();
    if (warp != 0) return false;
    sums = {0, 0, warp_max(lane < warps ? memory_.maxima[lane] : -kInf<C>)};
    const C base = sums.max == -kInf<C> ? C(0) : sums.max;
    if (lane < levels_) {
#pragma unroll 1
      for (int w = 0; w < warps; ++w) {
        const auto part = memory_.sums[w * levels_ + lane];
        sums.mass += part.mass * scaled_exp_(memory_.maxima[w] - base);
        sums.share += part.share;
      }
    }
    return true;
  }

  const Row<S>& row_;
  const Team& team_;
  const ScaledExp<C>& scaled_exp_;
  const C share_;
  const LevelSumsMemory<C> memory_;
  const int threads_, thread_, levels_;
  C reference_ = -kInf<C>;  // what the thread's sums are relative to
  C top_ = -kInf<C>;        // the highest score it has seen
};

}  // namespace wassrank::cuda
