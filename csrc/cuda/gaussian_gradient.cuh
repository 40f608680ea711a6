// The gradient of the batch-Gaussian distance, element by element: scale * P (x + y (P - mean) - turned - along).
#pragma once

#include <cstdint>

#include "cuda/gaussian_batch.cuh"
#include "cuda/kernels.h"
#include "cuda/types.cuh"

namespace wassrank::cuda {

constexpr int kElementsAThread = 4;

// Calls body(n, score) for columns [begin, end) that are the calling thread's: gridDim.y blocks share a row's. A few
// scores are asked for before any is waited for.
template <class S, class Body>
__device__ void for_columns(const GaussianRow<S>& row, int begin, int end, Body body) {
  const int threads = static_cast<int>(blockDim.x), chunk = kElementsAThread * threads;
  for (int start = begin + static_cast<int>(blockIdx.y) * chunk; start < end;
       start += static_cast<int>(gridDim.y) * chunk) {
    const int first = start + static_cast<int>(threadIdx.x);
    double score[kElementsAThread];
#pragma unroll
    for (int u = 0; u < kElementsAThread; ++u) {
      const int n = first + u * threads;
      score[u] = n < end ? row.score(n) : 0;
    }
#pragma unroll
    for (int u = 0; u < kElementsAThread; ++u) {
      const int n = first + u * threads;
      if (n < end) body(n, score[u]);
    }
  }
}

// turned(n): what W E_T subtracts.
template <class S, class Turned>
__device__ void write_gradient(const GaussianBatch& batch, const GaussianSample<S>& row, int64_t index,
                               const GaussianGradient& args, Turned turned) {
  const double along = args.along[index], scale = *args.scale;
  const double* const mean = args.columns + gaussian::kMeanP * batch.N;
  const double* const x = args.columns + gaussian::kX * batch.N;
  const double* const y = args.columns + gaussian::kY * batch.N;
  S* const out = static_cast<S*>(args.out) + index * batch.N;
  for_columns(row, static_cast<int>(args.begin), static_cast<int>(args.end), [&](int n, double score) {
    const double P = row.prediction(score);
    double gradient = 0;
    if (P != 0) gradient = scale * (P * (x[n] + y[n] * (P - mean[n]) - along - turned(n)));
    out[n] = narrow<S>(static_cast<Computing<S>>(gradient));
  });
}

template <class S>
__device__ void gaussian_row_gradient(const GaussianBatch& batch, const GaussianGradient& args,
                                      const ScaledExp<double>& scaled_exp, int64_t index) {
  const GaussianSample<S> row(batch, scaled_exp, args.state, index);
  const gaussian::Turned& turned = args.turned;
  if (turned.tile) {
    const int64_t start = index * (args.end - args.begin) - args.begin;
    return write_gradient(batch, row, index, args, [&](int n) { return turned.tile[start + n]; });
  }
  if (!turned.W) return write_gradient(batch, row, index, args, [](int) { return 0.0; });
  const int K = static_cast<int>(batch.K), queries = static_cast<int>(batch.N) / K;
  const double* const W = turned.W + index * queries;
  if (!turned.flag || !*turned.flag) {
    const double everywhere = turned.everywhere[index];
    return write_gradient(batch, row, index, args, [&](int n) { return everywhere + W[n / K] * turned.excess[n]; });
  }
  // The long way. Where there is a flag all rows are here.
  const double* const mean_T = args.columns + gaussian::kMeanT * batch.N;
  write_gradient(batch, row, index, args, [&](int n) {
    double sum = 0;
    for (int query = 0; query < queries; ++query) {
      const GaussianSample<S> other(batch, scaled_exp, args.state, query);
      sum += W[query] * other.centred_target(n, other.score(n), mean_T[n]);
    }
    return sum;
  });
}

}  // namespace wassrank::cuda
