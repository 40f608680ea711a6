// The CUDA kernels' entry points. Plain C++: callers need no CUDA header.
#pragma once

#include <cstddef>
#include <vector>

#include "common/gaussian.h"
#include "common/rows.h"
#include "common/sorted_rows.h"
#include "common/wasserstein_1d.h"
#include "cuda/tuning.h"

namespace wassrank::cuda {

struct Extent {
  unsigned x = 1, y = 1, z = 1;
};

// What a kernel is launched with.
struct Shape {
  Extent grid, block;
  size_t shared_bytes = 0;
};

struct Launch {
  const char* kernel;
  Shape shape;
};

// Pairs with their sides' orders: the points' places by rising value, those that take no part as at infinity. As
// PointRows::orders counts them, [orders, columns]; packed [columns].
struct SortedPairs : Wasserstein1d {
  const int32_t *u_order, *v_order;
  void* lines;  // room for what is kept of points
};

// Queue the work on `stream` (a cudaStream_t) of the current device and return nullptr, or the text of the launch's
// error. Throw std::invalid_argument for sizes that no launch covers.
const char* level_losses_forward(const LevelLossesForward& args, const Tuning& tuning, void* stream);
const char* level_losses_backward(const LevelLossesBackward& args, const Tuning& tuning, void* stream);
const char* sorted_losses_forward(const SortedForward& args, const Tuning& tuning, void* stream);
const char* sorted_losses_backward(const SortedBackward& args, const Tuning& tuning, void* stream);
// Of rows side by side, none longer than longest_order().
const char* grade_order(const GradeOrder& args, void* stream);
const char* point_order(const PointRows& side, int64_t pairs, Dtype dtype, int32_t* order, void* stream);
const char* wasserstein_1d(const SortedPairs& args, const Tuning& tuning, void* stream);

// What a block can hold of 4-byte and of 8-byte keys in 48 KiB of shared memory, with threads and values a thread that
// are powers of two. wassrank/arguments.py has the same numbers.
constexpr int64_t longest_order(bool is_double) { return is_double ? 4096 : 8192; }

// The passes of the batch-Gaussian distance: wassrank/gaussian/passes.py says what each computes and has the shapes. A
// launch each, nothing allocated. `state` is the row state, `columns` the columns' state, [2 or more, N].
const char* gaussian_rows(const GaussianBatch& batch, double* state, double* excess, void* stream);  // excess: or null
const char* gaussian_moments(const GaussianBatch& batch, const double* state, double* moments, void* stream);

struct GaussianProducts {
  const double *state, *columns;
  const double* excess;  // [N]: w of the whole batch; null: no products are asked for
  const bool* flag;      // [], or null
  double *sums, *products;
};
const char* gaussian_products(const GaussianBatch& batch, const GaussianProducts& args, void* stream);

const char* gaussian_tiles(const GaussianBatch& batch, const double* state, const double* columns, int64_t begin,
                           int64_t end, double* P, double* E_T, void* stream);
const char* gaussian_along(const GaussianBatch& batch, const double* state, const double* columns, double* along,
                           void* stream);

struct GaussianGradient {
  const double *state, *columns, *along, *scale;
  gaussian::Turned turned;
  int64_t begin, end;
  void* out;  // as scores: columns begin ... end are written
};
const char* gaussian_gradient(const GaussianBatch& batch, const GaussianGradient& args, void* stream);

// Bytes of device memory SortedForward::lines must have for rows of that kind; mostly none.
size_t sorted_losses_workspace(const Rows& rows, double p, const Tuning& tuning);
// And SortedPairs::lines.
size_t wasserstein_1d_workspace(const Wasserstein1d& args, const Tuning& tuning);

// What the two would launch, forward first, for rows of which only whether they are packed is looked at, not what any
// pointer points to. Needs no GPU.
std::vector<Launch> level_losses_launches(const Rows& rows, bool affine, Reduction reduction, const Tuning& tuning);
std::vector<Launch> sorted_losses_launches(const Rows& rows, double p, Reduction reduction, const Tuning& tuning);
// All passes', tiles and gradient over all columns, for a batch of which only sizes and dtype are looked at.
std::vector<Launch> gaussian_wasserstein_launches(const GaussianBatch& batch);
std::vector<Launch> grade_order_launches(bool is_double, int64_t rows, int64_t columns);
std::vector<Launch> wasserstein_1d_launches(const Wasserstein1d& args, const Tuning& tuning);

}  // namespace wassrank::cuda
