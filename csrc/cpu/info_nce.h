// InfoNCE: a row's sums -> its cost and gradient. Formulas: wassrank/reference/info_nce.py.
#pragma once

#include <algorithm>
#include <cmath>

#include "cpu/row_sums.h"

namespace wassrank::cpu::WASSRANK_ISA {

// A row's positives: its own passages of one level, or one of them, which is named.
struct Positives {
  bool named;
  int level;
  double count, mass, logit;  // as in RowSums
};

// Adds to `gradient` the cost's times `factor`, which counts the temperature in. For a named positive c_positive and
// b_positive must hold what its level has by now.
//
// least_mass: with all contestants so far below a passage that is left out that their exponentials are nothing, the
// cost is that of this mass: finite, and the gradient raises the positives until they are seen.
inline double info_nce(const RowSums& sums, const Positives& positives, int levels, int negative_grade,
                       double temperature, double least_mass, double factor, RowGradient& gradient) {
  const bool apart = positives.level > negative_grade;  // from the level's other passages, or from the levels below
  const int negatives = std::min(negative_grade + 1, levels);
  double Z = sums.mass[levels] + (apart ? positives.mass : 0);
  for (int l = 0; l < negatives; ++l) Z += sums.mass[l];
  Z = std::max(Z, least_mass);

  const double c = factor / Z, b = -factor / positives.count;
  for (int l = 0; l < negatives; ++l) gradient.c[l] += c;
  gradient.c[levels] += c;
  if (positives.named) {
    gradient.c_positive += c;
    gradient.b_positive += b;
  } else {
    if (apart) gradient.c[positives.level] += c;
    gradient.b[positives.level] += b;
  }
  return std::log(Z) - positives.logit / (temperature * positives.count);
}

}  // namespace wassrank::cpu::WASSRANK_ISA
