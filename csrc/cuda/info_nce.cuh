// The epilogue of InfoNCE: with Z the mass of the passages that compete, c += λ / (t Z) for these, b -= λ / (t n) for
// the n positives, and the loss is log Z less the mean of the positives' x / t, x = s - max. See
// wassrank/reference/info_nce.py.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "cuda/row_loss.cuh"
#include "cuda/rows.cuh"

namespace wassrank::cuda {

// The least that Z is taken to be, for c = λ / (t Z) to be finite. Where all that competes lies so far below the row's
// maximum, which a passage that is left out may be, that exponentials vanish, the positives are still pulled up.
template <class C>
constexpr double kLeastMass = 1e8 * std::numeric_limits<C>::min();

// What InfoNCE adds to a passage's c if it competes, and takes from its b if it is a positive.
struct Contest {
  double push = 0, pull = 0;
  bool competes = false;   // the lane's level; other queries' passages and positives always do
  bool positives = false;  // the lane's level: it is the best, and its passages are the positives
  int level = 0;           // of the positives
};

template <class S>
__device__ Contest add_info_nce(const LevelLossesForward& args, const Row<S>& row, int64_t row_index,
                                const ScaledExp<Computing<S>>& scaled_exp, const LevelSums<Computing<S>, true>& sums,
                                RowLoss& to) {
  using C = Computing<S>;
  const auto& own = sums.level;
  const int lane = threadIdx.x % kWarp;
  const double t = args.rows.temperature, factor = args.terms.info_nce;
  Contest contest;
  bool exist;
  double count = 1, x, beyond = 0;  // beyond: mass that competes though its level does not
  if (args.positives) {
    const int column = row.own_column(args.positives[row_index]);
    const EdgeInHand at{column, column >= 0};
    Passages<C, EdgeInHand> positive;
    row.load_scores(at, positive.score);
    row.load_levels(at, positive.level);
    exist = positive.score[0][0] != -kInf<C>;
    contest.level = positive.level[0][0];
    const C difference = positive.score[0][0] - sums.max;
    x = difference;
    if (contest.level > args.negative_grade) beyond = scaled_exp(difference);
  } else {
    exist = __any_sync(kAllLanes, own.count > 0);
    contest.level = warp_highest(own.count > 0);
    count = __shfl_sync(kAllLanes, own.count, contest.level);
    x = __shfl_sync(kAllLanes, own.sum, contest.level) / count;
    contest.positives = lane == contest.level;
  }
  // A row with a label that is no grade counts, and is NaN.
  if (!exist && !__any_sync(kAllLanes, own.count != own.count)) return {};
  contest.competes = contest.positives || lane <= args.negative_grade;
  const double mass = warp_sum(contest.competes ? own.mass : 0) + sums.others.mass + beyond;
  const double Z = mass < kLeastMass<C> ? kLeastMass<C> : mass;
  contest.push = factor / (t * Z);
  contest.pull = factor / (t * count);
  to.counts = true;
  to.loss += factor * (std::log(Z) - x / t);
  return contest;
}

}  // namespace wassrank::cuda
