// InfoNCE: a row's sums -> its cost and gradient. Formulas: wassrank/reference/info_nce.py.
#pragma once

#include <cmath>

#include "cpu/row_sums.h"

namespace wassrank::cpu::WASSRANK_ISA {

// A row's positives: its own passages of one level, or one of them, which is named.
struct Positives {
  bool named;
  int level;
  double count, logit;  // as in RowSums
};

// Adds to `gradient` the cost's times `factor`, which counts the temperature in. For a named positive b_positive must
// hold what its level has by now.
inline double info_nce(const Levels& row, const Positives& positives, double temperature, double factor,
                       RowGradient& gradient) {
  for (int l = 0; l < row.size; ++l) gradient.c[l] += factor / row.Z;
  (positives.named ? gradient.b_positive : gradient.b[positives.level]) -= factor / positives.count;
  return std::log(row.Z) - positives.logit / (temperature * positives.count);
}

}  // namespace wassrank::cpu::WASSRANK_ISA
