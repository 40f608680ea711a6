// What the passes of the batch-Gaussian distance are told: wassrank/gaussian/passes.py says what each computes, has the
// letters, and names the columns of the row state, the moments and the sums. All results are double.
#pragma once

#include <cstdint>

#include "common/rows.h"

namespace wassrank {

enum class LabelKind : int { int8, int16, int32, int64, uint8, float32, float64 };

// A batch, or this process's rows of it. A passage takes part ("is real") if its mask is true, its score is not -inf,
// and, where others are excluded, it is the row's own.
struct GaussianBatch {
  const void* scores;                // [Q, N] of dtype
  const void* labels;                // [Q, K] of label_kind; [Q, N] where dense_labels
  const double* target;              // [Q, target_width], N or K; null: from the labels
  const bool* mask;                  // element (row, n) at row * mask_stride + n; mask_stride is N, or 0; may be null
  const double* label_temperatures;  // [Q], in place of label_temperature; or null
  int64_t Q, N, K;
  int64_t first;  // with labels of own passages: columns (first + i) * K ... are row i's own
  int64_t target_width, mask_stride;
  Dtype dtype;
  LabelKind label_kind;
  Target target_kind;
  bool dense_labels;     // labels are [Q, N]: every passage is the row's own
  bool others_excluded;  // other queries' passages take no part
  double in_batch;       // or else their label
  int levels;            // grades lie in [0, levels); 0: labels may be any finite floats
  double temperature, label_temperature;
};

// Columns of the row state [Q, kRowState], rows of the moments [kMoments, N], columns of the sums [Q, kSums], rows of
// the columns' state [kColumns, N]: wassrank/gaussian/passes.py's Row, Moment, Sum, Column.
namespace gaussian {
enum Row { kTop, kInverse, kLabelTop, kLabelInverse, kRest, kImpossible, kRowState };
enum Moment { kSumP, kSquaresP, kSumT, kSquaresT, kMoments };
enum Sum { kSquares, kAlongMean, kApart, kSums };
enum Column { kMeanP, kMeanT, kX, kY, kColumns };

// What W E_T takes off the gradient (passes.py's `turned`): nothing, where all are null; a tile; or its parts.
struct Turned {
  const double* tile;        // [Q, end - begin]
  const double* W;           // [Q, N / K]
  const double* everywhere;  // [Q]
  const double* excess;      // [N]
  const bool* flag;          // []; null on the CPU, where it is known before
};
}  // namespace gaussian

}  // namespace wassrank
