// The epilogue of InfoNCE: c += λ / (t Z), b -= λ / (t n) for the n positives, and the loss is log Z less the mean of
// the positives' x / t, x = s - max. See wassrank/reference/info_nce.py.
#pragma once

#include <cmath>
#include <cstdint>

#include "cuda/row_loss.cuh"
#include "cuda/rows.cuh"

namespace wassrank::cuda {

// What InfoNCE takes from a positive's b.
struct Pull {
  double size = 0;
  bool of_level = false;  // the lane's level is the best, and its passages are the positives
  int level = 0;          // of the positives
};

// Z: the mass of all levels, other queries' passages among them.
template <class S>
__device__ Pull add_info_nce(const LevelLossesForward& args, const Row<S>& row, int64_t row_index,
                             const LevelSums<Computing<S>, true>& sums, double Z, RowLoss& to) {
  using C = Computing<S>;
  const auto& own = sums.level;
  const int lane = threadIdx.x % kWarp;
  const double t = args.rows.temperature, factor = args.terms.info_nce;
  Pull pull;
  bool exist;
  double count = 1, x;
  if (args.positives) {
    const int column = row.own_column(args.positives[row_index]);
    const EdgeInHand at{column, column >= 0};
    Passages<C, EdgeInHand> positive;
    row.load_scores(at, positive.score);
    row.load_levels(at, positive.level);
    exist = positive.score[0][0] != -kInf<C>;
    pull.level = positive.level[0][0];
    x = positive.score[0][0] - sums.max;
  } else {
    exist = __any_sync(kAllLanes, own.count > 0);
    pull.level = warp_highest(own.count > 0);
    count = __shfl_sync(kAllLanes, own.count, pull.level);
    x = __shfl_sync(kAllLanes, own.sum, pull.level) / count;
    pull.of_level = lane == pull.level;
  }
  // A row with a label that is no grade counts, and is NaN.
  if (!exist && !__any_sync(kAllLanes, own.count != own.count)) return {};
  pull.size = factor / (t * count);
  to.counts = true;
  to.loss += factor * (std::log(Z) - x / t);
  to.c += factor / (t * Z);
  return pull;
}

}  // namespace wassrank::cuda
