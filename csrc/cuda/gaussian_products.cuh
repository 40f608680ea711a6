// A row's products with means and targets, for the batch-Gaussian distance. A block a row.
#pragma once

#include <cstdint>

#include "cuda/gaussian_batch.cuh"
#include "cuda/kernels.h"
#include "cuda/team_work.cuh"
#include "cuda/warp.cuh"

namespace wassrank::cuda {

// How a row's columns are gone through: some neighbouring lanes a query's passages, so that their sum needs no memory.
struct QueryLanes {
  int width;  // columns a query has; 1 where no products are asked for
  int lanes;  // a power of two, no more than a warp

  explicit QueryLanes(int64_t columns) : width(static_cast<int>(columns)), lanes(1) {
    while (lanes < kWarp && 2 * lanes <= width) lanes *= 2;
  }
};

// Row sums, and the sums of P times the excess over each query's passages.
template <class S>
__device__ void gaussian_sums(const GaussianBatch& batch, const GaussianSample<S>& row, int64_t index,
                              const GaussianProducts& args, const QueryLanes& by, bool with_products, const Team& team,
                              TeamWork& work) {
  const int queries = static_cast<int>(batch.N) / by.width, at_once = team.threads / by.lanes;
  const int lane = team.thread % by.lanes;
  const double* const mean_P = args.columns + gaussian::kMeanP * batch.N;
  const double* const mean_T = args.columns + gaussian::kMeanT * batch.N;
  const bool is_sample = row.is_sample();
  double sums[gaussian::kSums] = {};
  for (int first = 0; first < queries; first += at_once) {  // the same for all lanes of a warp
    const int query = first + team.thread / by.lanes;
    double product = 0;
    if (query < queries && is_sample) {
      const int end = (query + 1) * by.width;
      for (int n = query * by.width + lane; n < end; n += by.lanes) {
        const double P = row.prediction(row.score(n)), mean = mean_P[n], E = P - mean;
        sums[gaussian::kSquares] += E * E;
        sums[gaussian::kAlongMean] += E * mean;
        sums[gaussian::kApart] += P * (mean - mean_T[n]);
        if (with_products) product += P * args.excess[n];
      }
    }
    if (!with_products) continue;
    product = neighbours_sum(product, by.lanes);
    if (lane == 0 && query < queries) args.products[index * queries + query] = product;
  }
  work.sum(sums);
  if (team.thread != 0) return;
  for (int i = 0; i < gaussian::kSums; ++i) args.sums[index * gaussian::kSums + i] = sums[i];
}

// <P_i, E_T,j> for all j, the long way. A warp each. Of rows that are another process's nothing is known.
template <class S>
__device__ void gaussian_products_in_full(const GaussianBatch& batch, const GaussianSample<S>& row, int64_t index,
                                          const GaussianProducts& args, const ScaledExp<double>& scaled_exp,
                                          const Team& team) {
  const int N = static_cast<int>(batch.N), queries = N / static_cast<int>(batch.K);
  const double* const mean_T = args.columns + gaussian::kMeanT * batch.N;
  const int lane = team.thread % kWarp;
  for (int query = team.thread / kWarp; query < queries; query += team.threads / kWarp) {
    const int64_t there = query - batch.first;
    double product = kNaN<double>;
    if (there >= 0 && there < batch.Q) {
      const GaussianSample<S> other(batch, scaled_exp, args.state, there);
      product = 0;
      for (int n = lane; n < N; n += kWarp) {
        product += row.prediction(row.score(n)) * other.centred_target(n, other.score(n), mean_T[n]);
      }
    }
    product = warp_sum(product);
    if (lane == 0) args.products[index * queries + query] = product;
  }
}

}  // namespace wassrank::cuda
