// What the kernels of the sorted path are told: rows in which every passage is a level of its own, for labels that are
// any floats. Formulas: wassrank/ops/sorted_wasserstein.py.
#pragma once

#include "common/rows.h"

namespace wassrank {

struct SortedForward {
  // As for the level path, but: labels are [Q, K] of C; in_batch is kExcluded, or anything else for "others take part";
  // levels mean nothing.
  Rows rows;
  const int32_t* order;  // [Q, K]: the own passages' places by rising coordinate
  const void* position;  // [Q, K] of C: the coordinates; null: the labels
  double others_label;   // label and coordinate of other queries' passages
  Target target_kind;
  const void* target;              // Target::given: [Q, N] or own passages' [Q, K], of C; packed [N]
  int64_t target_width;            // N or K
  const void* weight;              // [Q] of C, or null
  const void* label_temperatures;  // [Q] of C, in place of label_temperature; or null
  Reduction reduction;
  double p, label_temperature;
  // Outputs.
  void* loss;         // [] or [Q] of C
  void* coefficient;  // [Q, K] of C; packed [N]
  void* state;        // [Q, 2] of C: the other passages' coefficient, the row's maximum
  void* scale;        // [] of C
};

struct GradeOrder {
  const void* values;  // [rows, columns] of float or double; packed [columns]
  const int64_t* offsets;
  int64_t rows, columns;
  bool is_double;
  int32_t* order;  // as values
};

struct SortedBackward {
  Rows rows;
  const void* coefficient;
  const void* grad_loss;  // [] or [Q] of C
  bool grad_per_row;
  const void* state;
  const void* scale;
  void* grad_scores;  // as scores
};

}  // namespace wassrank
