// What the kernels of wassrank::wasserstein_1d are told: pairs of weighted point sets on a line. Formulas:
// wassrank/ops/wasserstein_1d.py.
#pragma once

#include "common/rows.h"

namespace wassrank {

// How near running masses count as equal (reference: TIE).
constexpr double kTiedMasses = 1e-14;

// One side of all pairs. What is given is [pairs, columns], or [1, columns] where all pairs share it; packed [columns].
struct PointRows {
  const void* values;   // of dtype
  const void* weights;  // of C; null: all alike
  const bool* mask;     // false: takes no part; null: all do
  bool values_shared, weights_shared, mask_shared;
  const int64_t* offsets;  // [pairs + 1], from 0 to columns; null: not packed
  int64_t columns;
  // Outputs, [pairs, columns] of C, packed [columns]; null where they are not wanted.
  void* slope;
  void* potential;

  // Whether all pairs have the same points in the same order, and how many orders there are.
  WASSRANK_HOST_DEVICE bool order_shared() const { return !offsets && values_shared && (!mask || mask_shared); }
  WASSRANK_HOST_DEVICE int64_t orders(int64_t pairs) const { return offsets || order_shared() ? 1 : pairs; }

  // Where a pair's values (weights, mask) begin, and how many points it has.
  WASSRANK_HOST_DEVICE int64_t begin(int64_t pair, bool shared = false) const {
    return offsets ? offsets[pair] : shared ? 0 : pair * columns;
  }
  WASSRANK_HOST_DEVICE int64_t points(int64_t pair) const {
    return offsets ? offsets[pair + 1] - offsets[pair] : columns;
  }
};

struct Wasserstein1d {
  PointRows u, v;
  int64_t pairs;
  Dtype dtype;
  double p;
  void* loss;  // [pairs] of C
};

}  // namespace wassrank
