// The second pass of the batch-Gaussian distance: sums over the samples of each column of P and T, and of squares about
// their means. Blocks are tiles: a thread for each of some neighbouring columns, and several of those, each with every
// so many rows.
#pragma once

#include <cstdint>

#include "cuda/gaussian_batch.cuh"
#include "cuda/intrinsics.cuh"

namespace wassrank::cuda {

// A warp reads neighbours; a column's rows wait for one another, so many threads share them. With 1024 threads a
// multiprocessor holds one block, and a batch of 4096 passages has one for each of 128.
constexpr int kMomentColumns = 32, kMomentRows = 32;

// Of what the tile's threads have for each column, in a fixed order; to every thread its column's. All must call.
template <int n>
__device__ void sum_rows(double (&x)[n]) {
  double* const memory = reinterpret_cast<double*>(dynamic_shared());
  const int column = static_cast<int>(threadIdx.x), row = static_cast<int>(threadIdx.y);
  __syncthreads();  // what was left for the last sum has been read
#pragma unroll
  for (int i = 0; i < n; ++i) memory[(i * kMomentRows + row) * kMomentColumns + column] = x[i];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < n; ++i) {
    x[i] = 0;
    for (int r = 0; r < kMomentRows; ++r) x[i] += memory[(i * kMomentRows + r) * kMomentColumns + column];
  }
}

constexpr int kMomentSums = 3;  // at a time
constexpr size_t kMomentBytes = kMomentSums * kMomentRows * kMomentColumns * sizeof(double);

template <class S>
__device__ void gaussian_column(const GaussianBatch& batch, const ScaledExp<double>& scaled_exp, const double* states,
                                double* moments) {
  const int n = static_cast<int>(blockIdx.x) * kMomentColumns + static_cast<int>(threadIdx.x);
  const bool exists = n < batch.N;
  // Calls body(P, T) for the thread's samples.
  const auto for_samples = [&](auto body) {
    for (int64_t index = threadIdx.y; exists && index < batch.Q; index += kMomentRows) {
      const GaussianSample<S> sample(batch, scaled_exp, states, index);
      if (!sample.is_sample()) continue;
      const double score = sample.score(n);
      body(sample.prediction(score), sample.target(n, score));
    }
  };
  double sums[kMomentSums] = {0, 0, 0};  // of P, T, 1
  for_samples([&](double P, double T) {
    sums[0] += P;
    sums[1] += T;
    sums[2] += 1;
  });
  sum_rows(sums);
  const double samples = sums[2] > 0 ? sums[2] : 1, mean_P = sums[0] / samples, mean_T = sums[1] / samples;
  double squares[2] = {0, 0};
  for_samples([&](double P, double T) {
    squares[0] += (P - mean_P) * (P - mean_P);
    squares[1] += (T - mean_T) * (T - mean_T);
  });
  sum_rows(squares);
  if (!exists || threadIdx.y != 0) return;
  moments[gaussian::kSumP * batch.N + n] = sums[0];
  moments[gaussian::kSquaresP * batch.N + n] = squares[0];
  moments[gaussian::kSumT * batch.N + n] = sums[1];
  moments[gaussian::kSquaresT * batch.N + n] = squares[1];
}

}  // namespace wassrank::cuda
