// Listwise KL: a row's sums -> its cost and gradient. Formulas: wassrank/reference/listwise_kl.py.
#pragma once

#include <cmath>

#include "cpu/row_sums.h"

namespace wassrank::cpu::WASSRANK_ISA {

// Adds to `gradient` the cost's times `factor`, which counts the temperature in. `asked` is not nothing.
inline double listwise_kl(const RowSums& sums, const Levels& row, const Asked& asked, bool given, double temperature,
                          double factor, RowGradient& gradient) {
  double target_logit = sums.target_logit;  // sum of T (s - max)
  if (given) {
    gradient.f -= factor / asked.total;
  } else {
    for (int l = 0; l < row.size; ++l) {
      target_logit += asked.passage[l] * row.logit[l];
      gradient.b[l] -= factor * asked.passage[l] / asked.total;
    }
  }
  for (int l = 0; l < row.size; ++l) gradient.c[l] += factor / row.Z;
  return std::log(row.Z) - std::log(asked.total) + (asked.log_sum - target_logit / temperature) / asked.total;
}

}  // namespace wassrank::cpu::WASSRANK_ISA
