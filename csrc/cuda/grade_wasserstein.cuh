// The epilogue of grade-axis Wasserstein: c_l += λ (φ_l - ⟨P, φ⟩) / (t Z). See wassrank/reference/grade_wasserstein.py.
#pragma once

#include <limits>

#include "cuda/level_transport.cuh"
#include "cuda/row_loss.cuh"

namespace wassrank::cuda {

template <class C>
constexpr double kTie = kTieUlps * std::numeric_limits<C>::epsilon();

// mass: of the lane's level, Z in all.
template <class C>
__device__ void add_grade_wasserstein(const LevelLossesForward& args, const LevelTables& tables, double mass, double Z,
                                      const RowTarget& target, RowLoss& to) {
  const double m = mass / Z;
  const int lane = threadIdx.x % kWarp;
  const Transport transport = level_transport(m, target.share / target.total, args.rows.levels, tables, kTie<C>, lane);
  const double mean_potential = warp_sum(m * transport.potential);
  to.counts = true;
  to.loss += args.terms.wasserstein * transport.cost;
  to.c += args.terms.wasserstein / (args.rows.temperature * Z) * (transport.potential - mean_potential);
}

}  // namespace wassrank::cuda
