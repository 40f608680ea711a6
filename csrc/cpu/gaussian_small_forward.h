// The batch-Gaussian distance of a small batch, forward: the passes, and between them in C++ what
// wassrank/gaussian/algebra.py says in torch, where the whole batch is here, targets are blocks and the covariance is
// whole. No threads share the algebra.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "common/gaussian.h"
#include "cpu/gaussian_passes.h"
#include "cpu/gaussian_rows.h"
#include "cpu/kernels.h"
#include "cpu/polar_factor.h"
#include "cpu/simd.h"

namespace wassrank::cpu::WASSRANK_ISA {

template <class S>
class GaussianSmallForward {
 public:
  GaussianSmallForward(const GaussianBatch& batch, const GaussianForward& to)
      : batch_(batch),
        to_(to),
        Q_(batch.Q),
        N_(batch.N),
        moments_(to.room),
        R_(moments_ + gaussian::kMoments * N_),
        products_(R_ + Q_ * Q_),
        A_(products_ + Q_ * Q_),
        factor_(A_ + Q_ * Q_),
        sums_(factor_ + Q_ * Q_) {}

  std::pair<bool, std::optional<double>> run(double split, double eps, ParallelFor parallel_for) {
    if (const auto stray = gaussian_rows<S>(batch_, to_.row, to_.excess, parallel_for)) return {false, stray};
    gaussian_moments<S>(batch_, to_.row, moments_, parallel_for);
    find_samples();
    if (*to_.flag) return {false, std::nullopt};
    find_columns();
    gaussian_products<S>(batch_, to_.row, to_.columns, to_.excess, sums_, R_, parallel_for);
    centre();
    double norm = 0;
    if (!small_polar_factor(A_, Q_, split, Q_ / 2, noise_, eps, &norm, factor_)) return {false, std::nullopt};
    finish(norm, eps);
    return {true, std::nullopt};
  }

 private:
  bool is_sample(int64_t i) const { return state(i, gaussian::kInverse) != 0; }
  double state(int64_t i, gaussian::Row column) const { return to_.row[i * gaussian::kRowState + column]; }
  double* column(gaussian::Column row) const { return to_.columns + row * N_; }

  void find_samples() {
    int64_t samples = 0;
    *to_.flag = false;
    for (int64_t i = 0; i < Q_; ++i) {
      samples += is_sample(i);
      *to_.flag |= state(i, gaussian::kImpossible) != 0;
    }
    n_ = static_cast<double>(std::max<int64_t>(1, samples));
    f_ = 1 / std::max(1.0, n_ - 1);
  }

  void find_columns() {
    double *mean_P = column(gaussian::kMeanP), *mean_T = column(gaussian::kMeanT), *x = column(gaussian::kX);
    const double *sum_P = moments_ + gaussian::kSumP * N_, *sum_T = moments_ + gaussian::kSumT * N_;
    double apart_squared = 0;
#pragma omp simd reduction(+ : apart_squared)
    for (int64_t c = 0; c < N_; ++c) {
      mean_P[c] = sum_P[c] / n_;
      mean_T[c] = sum_T[c] / n_;
      const double apart = mean_P[c] - mean_T[c];
      apart_squared += apart * apart;
      x[c] = apart * (2 / n_);
    }
    std::fill_n(column(gaussian::kY), N_, 2 * f_);
    const double trace_P = sum_of(moments_ + gaussian::kSquaresP * N_, N_);
    const double trace_T = sum_of(moments_ + gaussian::kSquaresT * N_, N_);
    const double norm_P = std::sqrt(trace_P + n_ * dot(mean_P, mean_P, N_));
    const double norm_T = std::sqrt(trace_T + n_ * dot(mean_T, mean_T, N_));
    noise_ = kRounding * f_ * (norm_P * std::sqrt(trace_T) + std::sqrt(trace_P) * norm_T);
    distance_ = apart_squared + f_ * (trace_P + trace_T);
  }

  // <P_i, E_T,j> from R, and A from these less their mean over i.
  void centre() {
    b_.resize(Q_);
    for (int64_t j = 0; j < Q_; ++j) b_[j] = state(j, gaussian::kRest);
    const double mean_rest = sum_of(b_.data(), Q_) / n_;
    for (int64_t j = 0; j < Q_; ++j) b_[j] = is_sample(j) ? b_[j] - mean_rest : 0.0;
    std::vector<int64_t> others;  // no samples, and most often none
    for (int64_t j = 0; j < Q_; ++j) {
      if (!is_sample(j)) others.push_back(j);
    }
    std::vector<double> mean(Q_);
    for (int64_t i = 0; i < Q_; ++i) {
      const double* R = R_ + i * Q_;
      double* products = products_ + i * Q_;
      if (!is_sample(i)) {
        std::fill_n(products, Q_, 0.0);
        continue;
      }
      const double mean_R = sum_of(R, Q_) / n_;
      for (int64_t j = 0; j < Q_; ++j) products[j] = R[j] - mean_R + b_[j];
      for (const int64_t j : others) products[j] = 0;
      for (int64_t j = 0; j < Q_; ++j) mean[j] += products[j];
    }
    for (double& of : mean) of /= n_;
    for (int64_t i = 0; i < Q_; ++i) {
      const double factor = is_sample(i) ? f_ : 0;
      for (int64_t j = 0; j < Q_; ++j) A_[i * Q_ + j] = (products_[i * Q_ + j] - mean[j]) * factor;
    }
  }

  void finish(double norm, double eps) {
    // Rows that are no samples have no singular value to be added to.
    for (int64_t j = 0; eps != 0 && j < Q_; ++j) norm -= is_sample(j) ? 0 : std::sqrt(eps);
    *to_.distance = distance_ - 2 * norm;
    for (int64_t i = 0; i < Q_; ++i) {
      const double *factor = factor_ + i * Q_, *products = products_ + i * Q_, *sums = sums_ + i * gaussian::kSums;
      double *W = to_.W + i * Q_, with_products = 0, with_b = 0;
#pragma omp simd reduction(+ : with_products) reduction(+ : with_b)
      for (int64_t j = 0; j < Q_; ++j) {
        W[j] = 2 * f_ * factor[j];
        with_products += W[j] * products[j];
        with_b += W[j] * b_[j];
      }
      to_.along[i] = 2 * f_ * (sums[gaussian::kSquares] + sums[gaussian::kAlongMean]) +
                     2 / n_ * sums[gaussian::kApart] - with_products;
      to_.everywhere[i] = with_b;
    }
  }

  // wassrank/reference/gaussian_wasserstein.py's ROUNDING.
  static constexpr double kRounding = 32 * std::numeric_limits<double>::epsilon();

  const GaussianBatch& batch_;
  const GaussianForward& to_;
  const int64_t Q_, N_;
  double *const moments_, *const R_, *const products_, *const A_, *const factor_, *const sums_;
  double n_ = 1, f_ = 1, noise_ = 0, distance_ = 0;
  std::vector<double> b_;  // beta less its mean
};

template <class S>
std::pair<bool, std::optional<double>> gaussian_small_forward(const GaussianBatch& batch, const GaussianForward& to,
                                                              double split, double eps, ParallelFor parallel_for) {
  return GaussianSmallForward<S>(batch, to).run(split, eps, parallel_for);
}

}  // namespace wassrank::cpu::WASSRANK_ISA
