// Transport between two mass vectors on the levels, a warp a row and one level a lane: csrc/common/level_transport.h
// with its loops over levels turned into running sums over lanes. Derivation: wassrank/reference/transport.py.
#pragma once

#include <cmath>

#include "common/level_transport.h"
#include "cuda/level_tables.cuh"
#include "cuda/warp.cuh"

namespace wassrank::cuda {

struct Transport {
  double cost;       // W_p^p, the same in every lane
  double potential;  // of the lane's level, 0 at level 0
};

// What it costs to move one unit of mass from level j to level k; every lane asks, each for levels of its own.
class LaneGroundCost {
 public:
  __device__ LaneGroundCost(const LevelTables& tables, int lane)
      : even_(tables.even), p_(tables.p), of_lane_(even_ ? tables.ground[lane] : tables.position[lane]) {}

  __device__ double operator()(int j, int k) const {
    if (even_) return at((j > k ? j - k : k - j));
    const double distance = std::abs(at(j) - at(k));
    return std::exp(p_ * std::log(distance));  // of 0: 0. pow() would be a call, with a stack
  }

 private:
  __device__ double at(int lane) const { return __shfl_sync(kAllLanes, of_lane_, lane % kWarp); }

  const bool even_;
  const double p_;
  const double of_lane_;  // the cost of the lane's number as a distance, or else the level's coordinate
};

// m, t: masses of the lane's level, each summing to one over the warp, 0 in lanes that have no level.
__device__ inline Transport level_transport(double m, double t, int levels, const LevelTables& tables, double tie,
                                            int lane) {
  // F - G, summed from differences so that it keeps the masses' relative precision.
  const double gap = warp_running_sum(m - t, lane);
  const double G = warp_running_sum(t, lane), F = G + gap, slack = tie_slack(F, tie);
  double cost = 0, increment = 0;
  if (tables.p == 1) {
    if (lane + 1 < levels) {
      const double step = tables.even ? 1 : tables.position[lane + 1] - tables.position[lane];
      cost = (gap < 0 ? -gap : gap) * step;
      increment = gap > slack ? -step : gap < -slack ? step : 0;
    }
  } else {
    const LaneGroundCost ground(tables, lane);
    const double F_before = warp_shift_up(F, 0.0, lane);
    const int last = warp_highest(t > 0);  // the highest level the target reaches
    // Row `lane` of the coupling gamma_jk = max(0, min(F_j, G_k) - max(F_j-1, G_k-1)), and the quantiles of F in the
    // target: `below` is the first level with G >= F - slack, `above` the first with G > F + slack.
    double G_before = 0;
    int below = 0, above = 0;
#pragma unroll 1
    for (int k = 0; k < levels; ++k) {
      const double G_k = __shfl_sync(kAllLanes, G, k), ground_k = ground(lane, k);
      const double moved = (F < G_k ? F : G_k) - (F_before > G_before ? F_before : G_before);
      if (lane < levels && moved > 0) cost += moved * ground_k;
      if (k < last) {
        below += G_k < F - slack;
        above += G_k <= F + slack;
      }
      G_before = G_k;
    }
#pragma unroll 1
    for (int side = 0; side < 2; ++side) {
      const int k = side == 0 ? below : above;
      increment += 0.5 * (ground(lane + 1, k) - ground(lane, k));
    }
    if (lane + 1 >= levels) increment = 0;
  }
  return {warp_sum(cost), warp_shift_up(warp_running_sum(increment, lane), 0.0, lane)};
}

}  // namespace wassrank::cuda
