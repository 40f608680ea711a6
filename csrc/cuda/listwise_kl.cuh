// The epilogue of listwise KL: c_l += λ / (t Z), b_l -= λ T_l / t, or of a given target f -= λ / (t ΣT); the loss is
// log Z - Σ T x / t + Σ T log T, x = s - max. See wassrank/reference/listwise_kl.py.
#pragma once

#include <cmath>

#include "cuda/row_loss.cuh"

namespace wassrank::cuda {

// all: the level's passages, other queries' among them. Z: the mass of all levels. given: LevelSums::given.
__device__ inline void add_listwise_kl(const LevelLossesForward& args, const Sums<double, true>& all, double Z,
                                       const Sums<double, true>& given, const RowTarget& target, RowLoss& to) {
  const double factor = args.terms.kl / args.rows.temperature;
  double cross, entropy;  // Σ T x, Σ T log T
  if (args.target_kind == Target::given) {
    cross = given.sum / target.total;
    entropy = given.share / target.total - std::log(target.total);
    to.f -= factor / target.total;
  } else {
    const double T = target.gain / target.total;
    cross = warp_sum(T * all.sum);
    entropy = warp_sum(T > 0 ? all.count * T * std::log(T) : 0);
    to.b -= factor * T;
  }
  to.counts = true;
  to.loss += args.terms.kl * (std::log(Z) + entropy) - factor * cross;
  to.c += factor / Z;
}

}  // namespace wassrank::cuda
