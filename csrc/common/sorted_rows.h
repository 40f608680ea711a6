// What the kernels of the sorted path are told: rows in which every passage is a level of its own, for labels that are
// any floats. Formulas: wassrank/ops/sorted_losses.py.
#pragma once

#include "common/rows.h"

namespace wassrank {

// Where a row's numbers lie in its state: the other passages' c, b and f (one for all of them), the row's maximum.
struct SortedState {
  static constexpr int others_c = 0, others_b = 1, others_f = 2, max = 3, width = 4;
};

// As for the level path, but: labels are [Q, K] of C; in_batch is kExcluded, or anything else for "others take part";
// levels mean nothing. state: [Q, SortedState::width].
struct SortedForward : RowLossesForward {
  const int32_t* order;  // [Q, K]: the own passages' places by rising coordinate; on the CPU null: to be found
  const void* position;  // [Q, K] of C: the coordinates; null: the labels
  double others_label;   // label and coordinate of other queries' passages
  // Outputs, as labels: own passages' c and, where terms are affine, b.
  void* coefficient;
  void* constant;
  // CUDA only: room for what is kept of points (cuda/kernels.h says how much), as `workspace` is for the rows.
  void* lines;
};

struct SortedBackward : RowLossesBackward {
  const void* coefficient;
  const void* constant;  // null: all 0
};

struct GradeOrder {
  const void* values;  // [rows, columns] of float or double; packed [columns]
  const int64_t* offsets;
  int64_t rows, columns;
  bool is_double;
  int32_t* order;  // as values
};

}  // namespace wassrank
