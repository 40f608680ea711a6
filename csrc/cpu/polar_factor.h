// What follows the eigenvectors in wassrank/gaussian/split_svd.py: singular values of both parts, and of the polar
// factor's two matrices the one that is to be scaled.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "cpu/simd.h"
#include "cpu/small_product.h"
#include "cpu/symmetric_eigen.h"

namespace wassrank::cpu::WASSRANK_ISA {

// (x, y) <- (c x - s y, s x + c y)
inline void rotate(double* x, double* y, int64_t n, double c, double s) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const double was = x[i];
    x[i] = c * was - s * y[i];
    y[i] = s * was + c * y[i];
  }
}

// Rotates rows of X [rows, n] until they are orthogonal, and V's rows alike: one-sided Jacobi, which leaves small
// singular values beside large ones all their digits, and of a few rows is done sooner than LAPACK is called.
inline void orthogonalise(double* X, double* V, int64_t rows, int64_t n, double noise) {
  const double tolerance = std::sqrt(static_cast<double>(n)) * std::numeric_limits<double>::epsilon();
  const double nothing = noise * noise;
  constexpr int kMostSweeps = 40;  // six do, unless a number is none
  bool rotated = true;
  for (int sweep = 0; rotated && sweep < kMostSweeps; ++sweep) {
    rotated = false;
    for (int64_t p = 0; p < rows; ++p) {
      for (int64_t q = p + 1; q < rows; ++q) {
        double *x = X + p * n, *y = X + q * n;
        double xx = 0, yy = 0, xy = 0;
#pragma omp simd reduction(+ : xx) reduction(+ : yy) reduction(+ : xy)
        for (int64_t i = 0; i < n; ++i) {
          xx += x[i] * x[i];
          yy += y[i] * y[i];
          xy += x[i] * y[i];
        }
        if (!(std::abs(xy) > tolerance * std::sqrt(xx * yy)) || (xx <= nothing && yy <= nothing)) continue;
        rotated = true;
        const double zeta = (yy - xx) / (2 * xy);
        const double t = std::copysign(1 / (std::abs(zeta) + std::sqrt(1 + zeta * zeta)), zeta);
        const double c = 1 / std::sqrt(1 + t * t);
        rotate(x, y, n, c, c * t);
        rotate(V + p * n, V + q * n, n, c, c * t);
      }
    }
  }
}

// `V` [n, n]: eigenvectors of A^T A in rows, those of small eigenvalues, the lower part, first; `X` = V A^T. Makes V
// the right singular vectors, and row k of X u_k g(sigma_k) with g(sigma) = sigma / sqrt(sigma^2 + eps), so that the
// polar factor is X^T V. Singular values up to `noise` count as zero. Returns the sum of sqrt(sigma^2 + eps).
inline double polar_factor(double* X, double* V, int64_t n, int64_t lower, double noise, double eps) {
  std::vector<double> sigma(n);
  for (int64_t k = lower; k < n; ++k) {
    const double* u = X + k * n;
    const double squared = dot(u, u, n);
    sigma[k] = std::sqrt(squared);
    // What rounding left of it in the lower part.
    for (int64_t l = 0; l < lower; ++l) {
      double* rest = X + l * n;
      const double factor = dot(u, rest, n) / squared;
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) rest[i] -= factor * u[i];
    }
  }
  // As a whole, not one by one: then it is the null space.
  if (lower && std::sqrt(dot(X, X, lower * n)) > noise) {
    orthogonalise(X, V, lower, n, noise);
    for (int64_t l = 0; l < lower; ++l) sigma[l] = std::sqrt(dot(X + l * n, X + l * n, n));
  }
  double norm = 0;
  for (int64_t k = 0; k < n; ++k) {
    const double root = std::sqrt(sigma[k] * sigma[k] + eps);
    norm += root;
    const double factor = sigma[k] <= noise ? 0 : 1 / root;
    for (int64_t i = 0; i < n; ++i) X[k * n + i] *= factor;
  }
  return norm;
}

// All of it for a small matrix, on one thread: the eigenvectors and the three products around them. W [n, n] is the
// polar factor. False, with nothing written, for one whose lower part has more than `most` rows or does not converge.
inline bool small_polar_factor(const double* A, int64_t n, double split, int64_t most, double noise, double eps,
                               double* norm, double* W) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t k = 0; k < n * n; ++k) sum += A[k];
  if (!std::isfinite(sum)) {
    *norm = std::numeric_limits<double>::quiet_NaN();
    std::fill(W, W + n * n, *norm);
    return true;
  }
  const int64_t size = n * n;
  static thread_local AlignedDoubles room;
  room.resize(4 * size);
  double *V = room.data(), *U = V + size, *turned_V = U + size, *turned_A = turned_V + size;
  transposed_product(A, A, U, n);
  const int64_t lower = gram_eigenvectors(U, n, split, V);
  if (lower < 0 || lower > most) return false;
  transpose(V, turned_V, n);
  transpose(A, turned_A, n);
  transposed_product(turned_V, turned_A, U, n);
  *norm = polar_factor(U, V, n, lower, noise, eps);
  transposed_product(U, V, W, n);
  return true;
}

}  // namespace wassrank::cpu::WASSRANK_ISA
