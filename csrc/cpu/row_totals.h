// Rows' losses and weights, and what the batch's loss is made of them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/rows.h"

namespace wassrank::cpu {

// Of a row that does not count both are 0.
struct RowTotal {
  double weighted_loss = 0, weight = 0;
};

class RowTotals {
 public:
  explicit RowTotals(int64_t rows) : loss_(rows), weight_(rows) {}

  // Rows may be set from any thread.
  void set(int64_t row, const RowTotal& total) {
    loss_[row] = total.weighted_loss;
    weight_[row] = total.weight;
  }

  template <class C>
  void reduce(Reduction reduction, C* loss, C* scale) const {
    *scale = C(1);
    if (reduction == Reduction::none) {
      std::copy(loss_.begin(), loss_.end(), loss);
      return;
    }
    double sum = 0, weight = 0;
    for (size_t row = 0; row < loss_.size(); ++row) {
      sum += loss_[row];
      weight += weight_[row];
    }
    if (reduction == Reduction::mean) {
      const double factor = weight == 0 ? 1 : 1 / weight;
      *scale = static_cast<C>(factor);
      sum *= factor;
    }
    *loss = static_cast<C>(sum);
  }

 private:
  std::vector<double> loss_, weight_;
};

}  // namespace wassrank::cpu
