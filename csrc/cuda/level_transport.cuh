// Transport between two mass vectors on the grades, a warp a row and one level a lane: csrc/common/level_transport.h
// with its loops over levels turned into running sums over lanes. Derivation: wassrank/reference/transport.py.
#pragma once

#include "common/level_transport.h"
#include "common/rows.h"
#include "common/target_gain.h"
#include "cuda/warp.cuh"

namespace wassrank::cuda {

// What depends on the level alone, made on the host: 64 numbers against a pow() in every lane.
struct LevelTables {
  double ground[kMaxLevels] = {};  // |d|^p
  double gain[kMaxLevels] = {};    // target_gain
  bool is_distance;                // p == 1

  LevelTables(const GradeWassersteinForward& args) : is_distance(args.p == 1) {
    const GroundCost cost(args.p, args.rows.levels);
    for (int l = 0; l < args.rows.levels; ++l) {
      ground[l] = cost.of[l];
      gain[l] = target_gain(args.target_kind, l, args.label_temperature);
    }
  }
};

struct Transport {
  double cost;       // W_p^p, the same in every lane
  double potential;  // of the lane's level, 0 at level 0
};

// m, t: masses of the lane's level, each summing to one over the warp, 0 in lanes that have no level.
__device__ inline Transport level_transport(double m, double t, int levels, const LevelTables& tables, double tie,
                                            int lane) {
  // F - G, summed from differences so that it keeps the masses' relative precision.
  const double gap = warp_running_sum(m - t, lane);
  const double G = warp_running_sum(t, lane), F = G + gap, slack = tie_slack(F, tie);
  double cost = 0, increment = 0;
  if (tables.is_distance) {
    if (lane + 1 < levels) {
      cost = gap < 0 ? -gap : gap;
      increment = gap > slack ? -1 : gap < -slack ? 1 : 0;
    }
  } else {
    const double F_before = warp_shift_up(F, 0.0, lane);
    const double ground = tables.ground[lane];
    const int last = warp_highest(t > 0);  // the highest level the target reaches
    // Row `lane` of the coupling gamma_jk = max(0, min(F_j, G_k) - max(F_j-1, G_k-1)), and the quantiles of F in the
    // target: `below` is the first level with G >= F - slack, `above` the first with G > F + slack.
    double G_before = 0;
    int below = 0, above = 0;
#pragma unroll 1
    for (int k = 0; k < levels; ++k) {
      const double G_k = __shfl_sync(kAllLanes, G, k);
      const double ground_k = __shfl_sync(kAllLanes, ground, lane > k ? lane - k : k - lane);
      const double moved = (F < G_k ? F : G_k) - (F_before > G_before ? F_before : G_before);
      if (lane < levels && moved > 0) cost += moved * ground_k;
      if (k < last) {
        below += G_k < F - slack;
        above += G_k <= F + slack;
      }
      G_before = G_k;
    }
    const auto distance = [&](int j, int k) { return __shfl_sync(kAllLanes, ground, (j > k ? j - k : k - j) % kWarp); };
    const double left = distance(lane + 1, below) - distance(lane, below);
    const double right = distance(lane + 1, above) - distance(lane, above);
    if (lane + 1 < levels) increment = 0.5 * (left + right);
  }
  return {warp_sum(cost), warp_shift_up(warp_running_sum(increment, lane), 0.0, lane)};
}

}  // namespace wassrank::cuda
