// Sums over a row's passages that no label tells apart, and what all such sums are relative to: the pieces of the level
// path's row pass (level_sums.cuh) that the sorted path has too.
#pragma once

#include <cmath>

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

// What a thread's sums are relative to: a score that rises with those it sees.
template <class C>
class Reference {
 public:
  __device__ explicit Reference(const ScaledExp<C>& scaled_exp) : scaled_exp_(scaled_exp) {}

  __device__ C top() const { return top_; }  // the highest score seen
  // What scores are taken relative to: finite, or +inf, which makes NaN of a +inf score.
  __device__ C base() const { return reference_ == -kInf<C> ? C(0) : reference_; }
  // Of the sums so far, to the row's maximum.
  __device__ Shift<C> up_to(C max) const {
    return Shift<C>::from(reference_, max == -kInf<C> ? C(0) : max, scaled_exp_);
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

 private:
  // How far scores may rise above a thread's reference before its sums are scaled down to a new one: sums may then hold
  // terms up to 2^8 (e^8 in double), far from overflow, and most rows never rescale, which saves work and rounding.
  static constexpr C kSlack = 8;

  const ScaledExp<C>& scaled_exp_;
  C reference_ = -kInf<C>, top_ = -kInf<C>;
};

// Over other queries' passages, those of the calling thread; where terms are plain `share` counts them.
template <bool affine, class S, class C>
__device__ Sums<C, affine> sum_others(const Row<S>& row, const Team& team, const ScaledExp<C>& scaled_exp,
                                      Reference<C>& reference) {
  Sums<C, affine> sum{};
  walk<Row<S>::kSlots, Row<S>::kWidth>(
      row.other_stretches(), team, [&](const auto& hand) { return row.load_passages(hand); },
      [&](const auto& hand, const auto& passages) {
        sum.shift(reference.raise(passages.score));
        C mass = 0, lowest = kInf<C>, total = 0;
        for_each(passages.score, [&](int, int, C score) {
          const C x = score - reference.base();
          mass += scaled_exp(x);
          lowest = std::fmin(lowest, score);
          if constexpr (affine) total += x;
        });
        sum.mass += mass;
        int real = hand.count * hand.width;
        if (lowest == -kInf<C>) {
          total = 0;
          for_each(passages.score, [&](int, int, C score) {
            real -= score == -kInf<C>;
            if constexpr (affine) total += score == -kInf<C> ? C(0) : score - reference.base();
          });
        }
        if constexpr (affine) {
          sum.count += static_cast<C>(real);
          sum.sum += total;
        } else {
          sum.share += static_cast<C>(real);
        }
      });
  return sum;
}

// Calls body(u, w, T) with the given target's mass T of each passage in hand that takes part, and, where terms are
// affine, adds to `sums`: share is the sum of T log T, count of T, sum of T x. `given` holds a column's T at that
// column.
template <bool affine, class C, class Hand, class Body>
__device__ void add_given(const Hand& hand, const C (&score)[Hand::count][Hand::width], const C* given,
                          const Reference<C>& reference, Sums<C, affine>& sums, Body body) {
  Loaded<C, Hand> share;
  share.load(hand, given, 0);
  for_each(score, [&](int u, int w, C s) {
    if (s == -kInf<C>) return;
    const C T = share.piece[u][w];
    body(u, w, T);
    if constexpr (affine) {
      sums.share += T > 0 ? T * std::log(T) : C(0);
      sums.count += T;
      sums.sum += T * (s - reference.base());
    }
  });
}

// Returns the sum of T over the calling thread's part of other queries' passages.
template <bool affine, class S, class C>
__device__ C add_given_to_others(const Row<S>& row, const Team& team, const C* given, const Reference<C>& reference,
                                 Sums<C, affine>& sums) {
  C sum = 0;
  walk<Row<S>::kLabelledSlots, Row<S>::kWidth>(
      row.other_stretches(), team, [&](const auto& hand) { return row.load_passages(hand); },
      [&](const auto& hand, const auto& passages) {
        add_given(hand, passages.score, given, reference, sums, [&](int, int, C T) { sum += T; });
      });
  return sum;
}

}  // namespace wassrank::cuda
