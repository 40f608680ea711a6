// The CPU kernels' entry points, one table for each instruction set they are compiled for.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <utility>

#include "common/gaussian.h"
#include "common/rows.h"
#include "common/sorted_rows.h"
#include "common/wasserstein_1d.h"

namespace wassrank::cpu {

// Runs body(begin, end) over disjoint pieces of [0, n), each of at least `grain` items; torch's thread pool in
// production.
using ParallelFor = void (*)(int64_t n, int64_t grain, const std::function<void(int64_t begin, int64_t end)>& body);

// Why the sorted path gave up, its outputs meaning nothing: a passage that takes part has a label (or coordinate) that
// is NaN or infinite, or `order` is not the order of these labels, and might lead out of the row.
struct Refusal {
  enum { of_label, of_order } what;
  double label;
};

// Why a pair of point sets was refused, the outputs meaning nothing.
struct PairRefusal {
  enum What { nan_value, improper_weight, massless } what;
  bool of_v;
  int64_t pair;
};

// Some of a batch's scores, of the computing type: rows [row, row + rows), columns [column, column + columns).
struct ScoreTile {
  void* scores;
  int64_t stride;  // from one row to the next
  int64_t row, rows, column, columns;
};

// Numbers a row has between tiles: RowSums' four, and four for each level and for other queries'.
constexpr int64_t sums_width(int levels) { return 4 + 4 * (levels + 1); }

// What the forward of the batch-Gaussian distance leaves: wassrank/gaussian/distance.py's Kept, and the distance.
struct GaussianForward {
  double *row, *excess, *columns, *along, *W, *everywhere, *distance;
  bool* flag;
  double* room;  // 4 (Q^2 + Q + N) for what is in between
};

// Of the batch-Gaussian distance: wassrank/gaussian/passes.py says what each computes.
struct GaussianPasses {
  // Returns a label that cannot be, if a passage that takes part has one; the outputs then mean nothing.
  std::optional<double> (*rows)(const GaussianBatch&, double* row, double* excess, ParallelFor);
  void (*moments)(const GaussianBatch&, const double* row, double* moments, ParallelFor);
  void (*products)(const GaussianBatch&, const double* row, const double* columns, const double* excess, double* sums,
                   double* products, ParallelFor);
  void (*tiles)(const GaussianBatch&, const double* row, const double* columns, int64_t begin, int64_t end, double* P,
                double* E_T, ParallelFor);
  void (*along)(const GaussianBatch&, const double* row, const double* columns, double* along, ParallelFor);
  void (*gradient)(const GaussianBatch&, const double* row, const double* columns, const double* along, double scale,
                   const gaussian::Turned&, int64_t begin, int64_t end, void* gradient, ParallelFor);
  // All of it, for a small batch: wassrank/gaussian/native_step.py. Returns whether it came to the end (a score of
  // -inf, or a factor that is not found this way, leaves it to others), and a label that cannot be.
  std::pair<bool, std::optional<double>> (*small_forward)(const GaussianBatch&, const GaussianForward&, double split,
                                                          double eps, ParallelFor);
};

// And its polar factor: wassrank/gaussian/split_svd.py.
struct PolarFactor {
  int64_t (*gram_eigenvectors)(const double* gram, int64_t n, double split, double* V);
  double (*of_eigenvectors)(double* X, double* V, int64_t n, int64_t lower, double noise, double eps);
  bool (*small)(const double* A, int64_t n, double split, int64_t most, double noise, double eps, double* norm,
                double* W);
};

struct Kernels {
  const char* instruction_set;
  // Returns a grade outside [0, levels) if a passage that takes part has one; the outputs then mean nothing.
  std::optional<int64_t> (*level_losses_forward)(const LevelLossesForward&, ParallelFor);
  void (*level_losses_backward)(const LevelLossesBackward&, ParallelFor);
  // The same by tiles: level_tiles.h. The arguments' scores and gradients are not looked at.
  std::optional<int64_t> (*gather_tile)(const LevelLossesForward&, const ScoreTile&, double* sums, ParallelFor);
  void (*finish_tiles)(const LevelLossesForward&, double* sums, double* losses, double* weights, ParallelFor);
  void (*tile_gradient)(const LevelLossesBackward&, const ScoreTile&, ParallelFor);
  void (*grade_order)(const GradeOrder&, ParallelFor);
  std::optional<Refusal> (*sorted_losses_forward)(const SortedForward&, ParallelFor);
  void (*sorted_losses_backward)(const SortedBackward&, ParallelFor);
  std::optional<PairRefusal> (*wasserstein_1d)(const Wasserstein1d&, ParallelFor);
  const GaussianPasses* gaussian;  // one for each Dtype
  const PolarFactor* polar;
};

// Compiled from the same sources with other flags; see setup.py.
extern const Kernels kernels_baseline;
#if defined(__x86_64__)
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
#endif

// The widest instruction set both compiled and present. The environment variable WASSRANK_CPU_ISA (baseline, avx2,
// avx512) lowers it, for tests. Throws std::invalid_argument for a name that is unknown or not present.
const Kernels& kernels();

}  // namespace wassrank::cpu
