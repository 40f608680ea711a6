// What the losses' epilogues have in common: what they start from and what they add to. For the first warp of a row's
// team, one level a lane; what is of no level is the same in every lane.
#pragma once

#include <cmath>

#include "common/rows.h"
#include "cuda/level_sums.cuh"
#include "cuda/level_tables.cuh"
#include "cuda/warp.cuh"

namespace wassrank::cuda {

// What the labels ask for, before it is normalised by `total`.
struct RowTarget {
  double gain;   // one passage of the lane's level; nothing where the target is given
  double share;  // all of its passages
  double total;
};

// The row's loss and what the backward is to know (wassrank/ops/level_losses.py), without the row's weight.
struct RowLoss {
  bool counts = false;  // there is something to compare for one of the losses
  double loss = 0;
  double c = 0, b = 0;  // of the lane's level, for the losses to which a passage is its level
  double f = 0;
};

// all: the level's passages, other queries' among them.
template <class C, bool affine>
__device__ RowTarget row_target(const LevelLossesForward& args, const LevelTables& tables, int64_t row,
                                const Sums<double, affine>& all, int lane) {
  double gain = 0, share = all.share;
  if (args.target_kind != Target::given) {
    gain = tables.gain[lane];
    if (args.target_kind == Target::softmax) {
      const int highest = warp_highest(all.passages() > 0);
      const int below = highest > lane ? highest - lane : 0;
      gain = args.label_temperatures
                 ? target_gain(Target::softmax, below, static_cast<const C*>(args.label_temperatures)[row])
                 : tables.gain[below];
    }
    share = all.passages() * gain;
  }
  return {gain, share, warp_sum(share)};
}

}  // namespace wassrank::cuda
