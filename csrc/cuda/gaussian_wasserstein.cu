// The passes of the batch-Gaussian distance on CUDA: wassrank/gaussian/passes.py says what each is to compute, and
// wassrank/gaussian/distance.py what is made of it.
//
// A launch a pass; no atomics, so the same bits each run; nothing is allocated and nobody waits, so a CUDA graph can
// hold them. Arithmetic is in double, which the data centre's GPUs do at half the rate of float.
#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/gaussian.h"
#include "cuda/columns.cuh"
#include "cuda/gaussian_batch.cuh"
#include "cuda/gaussian_columns.cuh"
#include "cuda/gaussian_gradient.cuh"
#include "cuda/gaussian_products.cuh"
#include "cuda/gaussian_rows.cuh"
#include "cuda/intrinsics.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "cuda/shapes.cuh"
#include "cuda/team_work.cuh"
#include "cuda/types.cuh"

namespace wassrank::cuda {
namespace {

// The largest blocks, and how many a multiprocessor is to hold: told so, the compiler finds the registers that make it
// spill nothing, 64 and 80 a thread. A row has threads enough that a batch of 64 keeps a chip busy.
constexpr int kRowThreads = 512, kRowBlocks = 2;
constexpr int kElementThreads = 256, kElementBlocks = 3;

__device__ Team row_team() { return {static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x)}; }

template <class S>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    gaussian_rows_kernel(const __grid_constant__ GaussianBatch batch, const ScaledExp<double> scaled_exp,
                         double* states, double* excess) {
  const Team team = row_team();
  TeamWork work(team, dynamic_shared());
  gaussian_row<S>(batch, blockIdx.x, scaled_exp, team, work, states, excess);
}

template <class S>
__global__ void __launch_bounds__(kMomentColumns* kMomentRows)
    gaussian_moments_kernel(const __grid_constant__ GaussianBatch batch, const ScaledExp<double> scaled_exp,
                            const double* states, double* moments) {
  gaussian_column<S>(batch, scaled_exp, states, moments);
}

template <class S>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    gaussian_products_kernel(const __grid_constant__ GaussianBatch batch, const ScaledExp<double> scaled_exp,
                             const __grid_constant__ GaussianProducts args, const QueryLanes by) {
  const Team team = row_team();
  TeamWork work(team, dynamic_shared());
  const int64_t index = blockIdx.x;
  const GaussianSample<S> row(batch, scaled_exp, args.state, index);
  const bool in_full = args.excess && args.flag && *args.flag;
  gaussian_sums(batch, row, index, args, by, args.excess && !in_full, team, work);
  if (in_full) gaussian_products_in_full(batch, row, index, args, scaled_exp, team);
}

template <class S>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    gaussian_along_kernel(const __grid_constant__ GaussianBatch batch, const ScaledExp<double> scaled_exp,
                          const double* states, const double* columns, double* along) {
  const Team team = row_team();
  TeamWork work(team, dynamic_shared());
  const GaussianSample<S> row(batch, scaled_exp, states, blockIdx.x);
  const double* const mean = columns + gaussian::kMeanP * batch.N;
  const double* const x = columns + gaussian::kX * batch.N;
  const double* const y = columns + gaussian::kY * batch.N;
  double sum[1] = {0};
  for (int n = team.thread; n < batch.N; n += team.threads) {
    const double P = row.prediction(row.score(n));
    sum[0] += P * (x[n] + y[n] * (P - mean[n]));
  }
  work.sum(sum);
  if (team.thread == 0) along[blockIdx.x] = sum[0];
}

template <class S>
__global__ void __launch_bounds__(kElementThreads, kElementBlocks)
    gaussian_tiles_kernel(const __grid_constant__ GaussianBatch batch, const ScaledExp<double> scaled_exp,
                          const double* states, const double* mean_T, int begin, int end, double* P, double* E_T) {
  const int64_t index = blockIdx.x, start = index * (end - begin) - begin;
  const GaussianSample<S> row(batch, scaled_exp, states, index);
  for_columns(row, begin, end, [&](int n, double score) {
    P[start + n] = row.prediction(score);
    E_T[start + n] = row.centred_target(n, score, mean_T[n]);
  });
}

template <class S>
__global__ void __launch_bounds__(kElementThreads, kElementBlocks)
    gaussian_gradient_kernel(const __grid_constant__ GaussianBatch batch, const ScaledExp<double> scaled_exp,
                             const __grid_constant__ GaussianGradient args) {
  gaussian_row_gradient<S>(batch, args, scaled_exp, blockIdx.x);
}

void check(const GaussianBatch& batch) {
  if (batch.N >= kMaxColumns) {
    throw std::invalid_argument("rows of " + std::to_string(batch.N) + " scores: 2^30 or more are not supported");
  }
}

// A block a row, and no more threads than there are columns to go round.
Shape rows_shape(const GaussianBatch& batch) {
  unsigned threads = kWarp;
  while (threads < kRowThreads && threads < batch.N) threads *= 2;
  return {{blocks_of(batch.Q)}, {threads}, TeamWork::bytes(static_cast<int>(threads))};
}

Shape columns_shape(const GaussianBatch& batch) {
  return {{blocks_of(batch.N, kMomentColumns)}, {kMomentColumns, kMomentRows}, kMomentBytes};
}

Shape elements_shape(const GaussianBatch& batch, int64_t columns) {
  unsigned threads = kWarp;
  while (threads < kElementThreads && kElementsAThread * threads < columns) threads *= 2;
  const int64_t chunk = kElementsAThread * threads, chunks = std::min(kMaxGridY, (columns + chunk - 1) / chunk);
  return {{blocks_of(batch.Q), static_cast<unsigned>(chunks)}, {threads}};
}

// Queues the kernel that `kernel_of` has for scores of the batch's type; nothing where there is nothing to do.
template <class KernelOf, class... Args>
const char* run(const GaussianBatch& batch, const Shape& shape, void* stream, KernelOf kernel_of, const Args&... args) {
  check(batch);
  if (shape.grid.x == 0 || shape.grid.y == 0) return nullptr;
  return with_stored_type(batch.dtype, [&](auto stored) {
    return launch(kernel_of(stored), shape, stream, batch, ScaledExp<double>(batch.temperature), args...);
  });
}

}  // namespace

// Bytes of each pass: Q * N scores, and the mask; rows and gradient also read labels (a given target), twice, and write
// Q * K of w and Q * N gradients; means, moments and R are small. Temporaries: none. Operations: an exponential in
// double, some 40, a score; moments two, and two more for targets that are written out.
const char* gaussian_rows(const GaussianBatch& batch, double* state, double* excess, void* stream) {
  return run(
      batch, rows_shape(batch), stream, [](auto S) { return &gaussian_rows_kernel<decltype(S)>; }, state, excess);
}

const char* gaussian_moments(const GaussianBatch& batch, const double* state, double* moments, void* stream) {
  return run(
      batch, columns_shape(batch), stream, [](auto S) { return &gaussian_moments_kernel<decltype(S)>; }, state,
      moments);
}

const char* gaussian_products(const GaussianBatch& batch, const GaussianProducts& args, void* stream) {
  return run(
      batch, rows_shape(batch), stream, [](auto S) { return &gaussian_products_kernel<decltype(S)>; }, args,
      QueryLanes(args.excess ? batch.K : 1));
}

const char* gaussian_tiles(const GaussianBatch& batch, const double* state, const double* columns, int64_t begin,
                           int64_t end, double* P, double* E_T, void* stream) {
  return run(
      batch, elements_shape(batch, end - begin), stream, [](auto S) { return &gaussian_tiles_kernel<decltype(S)>; },
      state, columns + gaussian::kMeanT * batch.N, static_cast<int>(begin), static_cast<int>(end), P, E_T);
}

const char* gaussian_along(const GaussianBatch& batch, const double* state, const double* columns, double* along,
                           void* stream) {
  return run(
      batch, rows_shape(batch), stream, [](auto S) { return &gaussian_along_kernel<decltype(S)>; }, state, columns,
      along);
}

const char* gaussian_gradient(const GaussianBatch& batch, const GaussianGradient& args, void* stream) {
  return run(
      batch, elements_shape(batch, args.end - args.begin), stream,
      [](auto S) { return &gaussian_gradient_kernel<decltype(S)>; }, args);
}

std::vector<Launch> gaussian_wasserstein_launches(const GaussianBatch& batch) {
  check(batch);
  if (batch.Q == 0 || batch.N == 0) return {};
  const Shape rows = rows_shape(batch), elements = elements_shape(batch, batch.N);
  return {{"gaussian_rows_kernel", rows},      {"gaussian_moments_kernel", columns_shape(batch)},
          {"gaussian_products_kernel", rows},  {"gaussian_along_kernel", rows},
          {"gaussian_tiles_kernel", elements}, {"gaussian_gradient_kernel", elements}};
}

}  // namespace wassrank::cuda
