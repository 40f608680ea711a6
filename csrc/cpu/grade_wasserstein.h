// Grade-axis Wasserstein: a row's sums -> its cost and gradient. Derivation: wassrank/reference/transport.py.
#pragma once

#include "common/level_transport.h"
#include "cpu/row_sums.h"

namespace wassrank::cpu::WASSRANK_ISA {

// Adds to `gradient` the cost's times `factor`, which counts the temperature in. `asked` is not nothing.
inline double grade_wasserstein(const Levels& row, const Asked& asked, const GroundCost& ground, double tie,
                                double factor, RowGradient& gradient) {
  double m[kMaxLevels], t[kMaxLevels], phi[kMaxLevels];
  t[0] = 0;  // there is a level, which the compiler cannot know
  for (int l = 0; l < row.size; ++l) {
    m[l] = row.mass[l] / row.Z;
    t[l] = asked.level[l] / asked.total;
  }
  const double cost = level_transport(m, t, row.size, ground, tie, phi);
  double mean_phi = 0;
  for (int l = 0; l < row.size; ++l) mean_phi += m[l] * phi[l];
  for (int l = 0; l < row.size; ++l) gradient.c[l] += factor / row.Z * (phi[l] - mean_phi);
  return cost;
}

}  // namespace wassrank::cpu::WASSRANK_ISA
