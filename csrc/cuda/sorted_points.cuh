// One side of a pair of point sets in rising order: its points by rank, and their running masses laid out for the
// threads of the pair's team to search.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "common/wasserstein_1d.h"
#include "cuda/sorted_transport.cuh"
#include "cuda/team_work.cuh"
#include "cuda/types.cuh"

namespace wassrank::cuda {

// A side's points, and where what is found out about each goes. Those that take no part come last, unless one that does
// has no finite value.
template <class S>
class SortedPoints {
 public:
  using C = Computing<S>;

  __device__ SortedPoints(const PointRows& side, const int32_t* order, int64_t pair)
      : points(static_cast<int>(side.points(pair))),
        values_(static_cast<const S*>(side.values) + side.begin(pair, side.values_shared)),
        weights_(side.weights ? static_cast<const C*>(side.weights) + side.begin(pair, side.weights_shared) : nullptr),
        mask_(side.mask ? side.mask + side.begin(pair, side.mask_shared) : nullptr),
        order_(order + side.begin(pair, side.order_shared())),
        slope_(side.slope ? static_cast<C*>(side.slope) + side.begin(pair) : nullptr),
        potential_(side.potential ? static_cast<C*>(side.potential) + side.begin(pair) : nullptr) {}

  const int points;

  __device__ int place(int rank) const { return order_[rank]; }
  __device__ C value(int place) const { return widen(values_[place]); }
  __device__ bool is_weighted() const { return weights_ != nullptr; }
  __device__ C weight(int place) const { return weights_[place]; }
  __device__ bool takes_part(int place) const { return !mask_ || mask_[place]; }
  __device__ bool wants_slope() const { return slope_ != nullptr; }
  __device__ bool wants_potential() const { return potential_ != nullptr; }
  __device__ void set_slope(int place, double slope) const { slope_[place] = static_cast<C>(slope); }
  __device__ void set_potential(int place, double potential) const { potential_[place] = static_cast<C>(potential); }

 private:
  const S* const values_;
  const C* const weights_;
  const bool* const mask_;
  const int32_t* const order_;
  C *const slope_, *const potential_;
};

// What a side comes to; the same in every thread of the team.
struct SideFacts {
  int count;     // points that take part
  double total;  // of their weights
  bool proper;   // all finite, and where there are weights none below 0 and not all 0
};

// Sets the values by rank, and the running masses: 1 from the last point with mass on. Every point's are left to the
// thread that has its run until the team's next barrier.
template <class S>
__device__ SideFacts line_up(const SortedPoints<S>& side, const Team& team, TeamWork& work, double* height,
                             Computing<S>* x) {
  using C = Computing<S>;
  double so_far[1] = {}, top[1] = {};
  double counts[2] = {};  // points that take part; such as may not
  double last[1] = {};    // 1 + the rank of the last with mass
  const int points = side.points;
  for_each_run(points, team, [&](int first) {
    double weight[kRun] = {}, run[1] = {};
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      const int rank = first + i;
      if (rank >= points) break;
      const int place = side.place(rank);
      const C value = side.value(place);
      x[rank] = value;
      if (!side.takes_part(place)) continue;
      counts[0] += 1;
      bool proper = std::fabs(value) < kInf<C>;
      if (side.is_weighted()) {
        const C given = side.weight(place);
        proper = proper && given >= 0 && given < kInf<C>;
        weight[i] = given;
        if (given > 0) last[0] = rank + 1;
      }
      if (!proper) counts[1] += 1;
    }
    if (!side.is_weighted()) return;
#pragma unroll
    for (int i = 0; i < kRun; ++i) run[0] += weight[i];
    work.run(run, so_far);
    // Threads' sums are brought together in a tree, whose rounding may let one that is further on come out lower; but
    // who searches the heights needs them to rise.
    double reached[1] = {run[0]};
#pragma unroll
    for (int i = 0; i < kRun; ++i) reached[0] += weight[i];
    work.run_max(reached, top);
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      if (first + i >= points) break;
      run[0] += weight[i];
      height[first + i] = std::fmax(run[0], reached[0]);
    }
  });
  work.sum(counts);
  const SideFacts facts{static_cast<int>(counts[0]), side.is_weighted() ? top[0] : counts[0],
                        counts[1] == 0 && (!side.is_weighted() || top[0] > 0)};
  if (side.is_weighted()) work.max(last);
  for_each_run(points, team, [&](int first) {
    for (int rank = first; rank < first + kRun && rank < points; ++rank) {
      // To the last bit 1 from the last point with mass on, or rounding would send some to points behind it.
      if (!side.is_weighted()) {
        height[rank] = (rank + 1) / facts.total;
      } else {
        height[rank] = rank + 1 >= last[0] ? 1 : height[rank] / facts.total;
      }
    }
  });
  return facts;
}

}  // namespace wassrank::cuda
