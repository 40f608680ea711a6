// The algebra between the passes of the batch-Gaussian distance: wassrank/gaussian/algebra.py says it in torch, in the
// same four functions. Small work, which no threads share.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "common/gaussian.h"
#include "cpu/kernels.h"
#include "cpu/simd.h"

namespace wassrank::cpu::WASSRANK_ISA {

// wassrank/reference/gaussian_wasserstein.py's ROUNDING.
constexpr double kGaussianRounding = 32 * std::numeric_limits<double>::epsilon();

inline bool is_sample(const double* row, int64_t i) { return row[i * gaussian::kRowState + gaussian::kInverse] != 0; }

// y, and the stretch's square, of columns whose deviations are 0 where they are constant but for rounding.
inline double diagonal_columns(const double* moments, const double* means, int64_t N, double n, double f, double* y) {
  const double *squares_P = moments + gaussian::kSquaresP * N, *squares_T = moments + gaussian::kSquaresT * N;
  const auto deviation = [&](double squares, double mean) {
    const bool constant = squares <= kGaussianRounding * kGaussianRounding * (squares + n * mean * mean);
    return constant ? 0.0 : std::sqrt(f * squares);
  };
  double distance = 0;
  for (int64_t c = 0; c < N; ++c) {
    const double sigma_P = deviation(squares_P[c], means[c]), sigma_T = deviation(squares_T[c], means[N + c]);
    distance += (sigma_P - sigma_T) * (sigma_P - sigma_T);
    y[c] = sigma_P != 0 ? 2 * f * (1 - sigma_T / sigma_P) : 0;
  }
  return distance;
}

inline void gaussian_columns(const double* everyone, const double* moments, int64_t Q, int64_t N, bool diagonal,
                             double* columns, double* numbers, bool* impossible) {
  int64_t samples = 0;
  *impossible = false;
  for (int64_t i = 0; i < Q; ++i) {
    samples += is_sample(everyone, i);
    *impossible |= everyone[i * gaussian::kRowState + gaussian::kImpossible] != 0;
  }
  const double n = static_cast<double>(std::max<int64_t>(1, samples)), f = 1 / std::max(1.0, n - 1);
  double *mean_P = columns + gaussian::kMeanP * N, *mean_T = columns + gaussian::kMeanT * N;
  double *x = columns + gaussian::kX * N, *y = columns + gaussian::kY * N;
  const double *sum_P = moments + gaussian::kSumP * N, *sum_T = moments + gaussian::kSumT * N;
  double apart_squared = 0;
#pragma omp simd reduction(+ : apart_squared)
  for (int64_t c = 0; c < N; ++c) {
    mean_P[c] = sum_P[c] / n;
    mean_T[c] = sum_T[c] / n;
    const double apart = mean_P[c] - mean_T[c];
    apart_squared += apart * apart;
    x[c] = apart * (2 / n);
  }
  double noise = 0, distance = apart_squared;
  if (diagonal) {
    distance += diagonal_columns(moments, columns, N, n, f, y);
  } else {
    std::fill(y, y + N, 2 * f);
    const double trace_P = sum_of(moments + gaussian::kSquaresP * N, N);
    const double trace_T = sum_of(moments + gaussian::kSquaresT * N, N);
    const double norm_P = std::sqrt(trace_P + n * dot(mean_P, mean_P, N));
    const double norm_T = std::sqrt(trace_T + n * dot(mean_T, mean_T, N));
    noise = kGaussianRounding * f * (norm_P * std::sqrt(trace_T) + std::sqrt(trace_P) * norm_T);
    distance += f * (trace_P + trace_T);
  }
  numbers[gaussian::kSamples] = n;
  numbers[gaussian::kF] = f;
  numbers[gaussian::kNoise] = noise;
  numbers[gaussian::kDistance] = distance;
}

// b: beta less its mean.
inline std::vector<double> centred_rest(const double* everyone, int64_t Q, double n) {
  std::vector<double> b(Q);
  for (int64_t j = 0; j < Q; ++j) b[j] = everyone[j * gaussian::kRowState + gaussian::kRest];
  const double mean = sum_of(b.data(), Q) / n;
  for (int64_t j = 0; j < Q; ++j) b[j] = is_sample(everyone, j) ? b[j] - mean : 0.0;
  return b;
}

inline void gaussian_centred(const double* R, const double* row, const double* everyone, const double* numbers,
                             int64_t rows, int64_t Q, double* products) {
  const double n = numbers[gaussian::kSamples];
  const std::vector<double> b = centred_rest(everyone, Q, n);
  std::vector<int64_t> others;  // no samples, and most often none
  for (int64_t j = 0; j < Q; ++j) {
    if (!is_sample(everyone, j)) others.push_back(j);
  }
  for (int64_t i = 0; i < rows; ++i, R += Q, products += Q) {
    if (!is_sample(row, i)) {
      std::fill(products, products + Q, 0.0);
      continue;
    }
    const double mean = sum_of(R, Q) / n;
    for (int64_t j = 0; j < Q; ++j) products[j] = R[j] - mean + b[j];
    for (const int64_t j : others) products[j] = 0;
  }
}

inline void gaussian_overlap(const double* products, const double* total, const double* row, const double* numbers,
                             int64_t rows, int64_t Q, double* A) {
  const double n = numbers[gaussian::kSamples], f = numbers[gaussian::kF];
  std::vector<double> mean(total, total + Q);
  for (double& of : mean) of /= n;
  for (int64_t i = 0; i < rows; ++i, products += Q, A += Q) {
    if (!is_sample(row, i)) {
      std::fill(A, A + Q, 0.0);
      continue;
    }
    for (int64_t j = 0; j < Q; ++j) A[j] = (products[j] - mean[j]) * f;
  }
}

inline void gaussian_finish(const double* norm, const double* W, const double* products, const double* sums,
                            const double* everyone, const double* numbers, int64_t rows, int64_t Q, double eps,
                            double* distance, double* scaled_W, double* along, double* everywhere) {
  const double n = numbers[gaussian::kSamples], f = numbers[gaussian::kF];
  const std::vector<double> b = centred_rest(everyone, Q, n);
  double overlap = *norm;
  // Rows that are no samples have no singular value to be added to.
  for (int64_t j = 0; eps != 0 && j < Q; ++j) overlap -= is_sample(everyone, j) ? 0 : std::sqrt(eps);
  *distance = numbers[gaussian::kDistance] - 2 * overlap;
  for (int64_t i = 0; i < rows; ++i, W += Q, products += Q, scaled_W += Q, sums += gaussian::kSums) {
    double with_products = 0, with_b = 0;
#pragma omp simd reduction(+ : with_products) reduction(+ : with_b)
    for (int64_t j = 0; j < Q; ++j) {
      scaled_W[j] = 2 * f * W[j];
      with_products += scaled_W[j] * products[j];
      with_b += scaled_W[j] * b[j];
    }
    along[i] = 2 * f * (sums[gaussian::kSquares] + sums[gaussian::kAlongMean]) + 2 / n * sums[gaussian::kApart] -
               with_products;
    everywhere[i] = with_b;
  }
}

}  // namespace wassrank::cpu::WASSRANK_ISA
