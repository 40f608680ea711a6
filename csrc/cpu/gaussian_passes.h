// The passes of the batch-Gaussian distance that follow the first: wassrank/gaussian/passes.py.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "common/gaussian.h"
#include "cpu/gaussian_row.h"
#include "cpu/kernels.h"
#include "cpu/share.h"
#include "cpu/simd.h"

namespace wassrank::cpu::WASSRANK_ISA {

// Calls body(row, state, i) for every row, whole rows a thread.
template <class S, class Body>
void for_each_gaussian_row(const GaussianBatch& batch, const double* row, ParallelFor parallel_for, const Body& body) {
  parallel_for(batch.Q, rows_a_thread(batch.Q * batch.N, batch.Q), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) body(GaussianRow<S>(batch, i), row + i * gaussian::kRowState, i);
  });
}

// ---- moments ----

// Means and squares about them are gathered from blocks of rows: sums of squares less squared sums would lose the
// spread of a column that is nearly constant.
constexpr int64_t kMomentRows = 16, kMomentColumns = 128;

struct ColumnMoments {
  double mean[kMomentColumns] = {}, squares[kMomentColumns] = {};
  int64_t count = 0;

  // Chan, Golub & LeVeque: the squares of two sets about their common mean.
  void add(const double (*X)[kMomentColumns], int64_t rows, int64_t n) {
    const double of_all = static_cast<double>(rows) / static_cast<double>(count + rows);
    const double weight = of_all * static_cast<double>(count), share = 1.0 / static_cast<double>(rows);
    double mean_here[kMomentColumns] = {}, squares_here[kMomentColumns] = {};
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t c = 0; c < n; ++c) mean_here[c] += X[i][c];
    }
    for (int64_t c = 0; c < n; ++c) mean_here[c] *= share;
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t c = 0; c < n; ++c) squares_here[c] += (X[i][c] - mean_here[c]) * (X[i][c] - mean_here[c]);
    }
    for (int64_t c = 0; c < n; ++c) {
      const double apart = mean_here[c] - mean[c];
      squares[c] += squares_here[c] + apart * apart * weight;
      mean[c] += apart * of_all;
    }
    count += rows;
  }
};

template <class S>
void gaussian_moments(const GaussianBatch& batch, const double* row, double* moments, ParallelFor parallel_for) {
  std::vector<int64_t> samples;
  for (int64_t i = 0; i < batch.Q; ++i) {
    if (row[i * gaussian::kRowState + gaussian::kInverse] != 0) samples.push_back(i);
  }
  const int64_t count = static_cast<int64_t>(samples.size()), N = batch.N;
  const int64_t tiles = (N + kMomentColumns - 1) / kMomentColumns;
  const int64_t grain = std::max<int64_t>(1, kGrainScores / (kMomentColumns * std::max<int64_t>(1, count)));
  parallel_for(tiles, grain, [&](int64_t first, int64_t last) {
    double X[kMomentRows][kMomentColumns];
    for (int64_t begin = first * kMomentColumns; begin < std::min(last * kMomentColumns, N); begin += kMomentColumns) {
      const int64_t n = std::min(kMomentColumns, N - begin);
      ColumnMoments P, T;
      for (int64_t at = 0; at < count; at += kMomentRows) {
        const int64_t rows = std::min(kMomentRows, count - at);
        const auto fill = [&](auto pass, ColumnMoments& to) {
          for (int64_t j = 0; j < rows; ++j) {
            const int64_t i = samples[at + j];
            pass(GaussianRow<S>(batch, i), row + i * gaussian::kRowState, X[j]);
          }
          to.add(X, rows, n);
        };
        fill([&](const auto& one, const double* state, double* to) { one.predictions(state, begin, n, to); }, P);
        fill([&](const auto& one, const double* state, double* to) { one.targets(state, begin, n, to); }, T);
      }
      for (int64_t c = 0; c < n; ++c) {
        moments[gaussian::kSumP * N + begin + c] = P.mean[c] * static_cast<double>(count);
        moments[gaussian::kSquaresP * N + begin + c] = P.squares[c];
        moments[gaussian::kSumT * N + begin + c] = T.mean[c] * static_cast<double>(count);
        moments[gaussian::kSquaresT * N + begin + c] = T.squares[c];
      }
    }
  });
}

// ---- products ----

// Calls body(passages of a query), as a constant where that is a small power of two: loops over so few are unrolled,
// and what would take a third of the pass's time takes a tenth.
template <class Body>
void with_passages(int64_t K, const Body& body) {
  switch (K) {
    case 1: return body(std::integral_constant<int64_t, 1>{});
    case 2: return body(std::integral_constant<int64_t, 2>{});
    case 4: return body(std::integral_constant<int64_t, 4>{});
    case 8: return body(std::integral_constant<int64_t, 8>{});
    case 16: return body(std::integral_constant<int64_t, 16>{});
    default: return body(K);
  }
}

// sums[j] += a sum over the K products of query j's passages, for columns [begin, begin + n).
inline void add_by_query(const double* P, const double* w, int64_t begin, int64_t n, int64_t K, double* sums) {
  with_passages(K, [&](auto passages) {
    if constexpr (std::is_same_v<decltype(passages), int64_t>) {
      for (int64_t i = 0; i < n;) {
        const int64_t query = (begin + i) / K, end = std::min(n, (query + 1) * K - begin);
        sums[query] += dot(P + i, w + i, end - i);
        i = end;
      }
    } else {
      static_assert(kGaussianBlock % passages() == 0);
      double* to = sums + begin / passages();
#pragma omp simd
      for (int64_t query = 0; query < n / passages(); ++query) {
        double sum = 0;
        for (int64_t k = 0; k < passages(); ++k) sum += P[query * passages() + k] * w[query * passages() + k];
        to[query] = sum;
      }
    }
  });
}

// `excess` null: no `products` are asked for.
template <class S>
void gaussian_products(const GaussianBatch& batch, const double* row, const double* columns, const double* excess,
                       double* sums, double* products, ParallelFor parallel_for) {
  const double *mean_P = columns + gaussian::kMeanP * batch.N, *mean_T = columns + gaussian::kMeanT * batch.N;
  const int64_t queries = excess ? batch.N / batch.K : 0;
  for_each_gaussian_row<S>(batch, row, parallel_for, [&](const GaussianRow<S>& one, const double* state, int64_t i) {
    double* R = products + i * queries;
    std::fill(R, R + queries, 0.0);
    double squares = 0, along_mean = 0, apart = 0, P[kGaussianBlock];
    if (state[gaussian::kInverse] != 0) {
      for (int64_t at = 0; at < batch.N; at += kGaussianBlock) {
        const int64_t n = std::min(kGaussianBlock, batch.N - at);
        one.predictions(state, at, n, P);
        const double *m = mean_P + at, *t = mean_T + at;
#pragma omp simd reduction(+ : squares) reduction(+ : along_mean) reduction(+ : apart)
        for (int64_t c = 0; c < n; ++c) {
          const double centred = P[c] - m[c];
          squares += centred * centred;
          along_mean += centred * m[c];
          apart += P[c] * (m[c] - t[c]);
        }
        if (excess) add_by_query(P, excess + at, at, n, batch.K, R);
      }
    }
    double* of_row = sums + i * gaussian::kSums;
    of_row[gaussian::kSquares] = squares;
    of_row[gaussian::kAlongMean] = along_mean;
    of_row[gaussian::kApart] = apart;
  });
}

// ---- tiles ----

template <class S>
void gaussian_tiles(const GaussianBatch& batch, const double* row, const double* columns, int64_t begin, int64_t end,
                    double* P, double* E_T, ParallelFor parallel_for) {
  const double* mean = columns + gaussian::kMeanT * batch.N;
  const int64_t width = end - begin;
  parallel_for(batch.Q, rows_a_thread(batch.Q * width, batch.Q), [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const GaussianRow<S> one(batch, i);
      const double* state = row + i * gaussian::kRowState;
      for (int64_t at = begin; at < end; at += kGaussianBlock) {
        const int64_t n = std::min(kGaussianBlock, end - at);
        one.predictions(state, at, n, P + i * width + at - begin);
        double* E = E_T + i * width + at - begin;
        one.targets(state, at, n, E);
        if (state[gaussian::kInverse] == 0) continue;
        for (int64_t c = 0; c < n; ++c) E[c] -= mean[at + c];
      }
    }
  });
}

// ---- along ----

template <class S>
void gaussian_along(const GaussianBatch& batch, const double* row, const double* columns, double* along,
                    ParallelFor parallel_for) {
  const double *mean = columns + gaussian::kMeanP * batch.N, *x = columns + gaussian::kX * batch.N,
               *y = columns + gaussian::kY * batch.N;
  for_each_gaussian_row<S>(batch, row, parallel_for, [&](const GaussianRow<S>& one, const double* state, int64_t i) {
    double sum = 0, P[kGaussianBlock];
    for (int64_t at = 0; at < batch.N; at += kGaussianBlock) {
      const int64_t n = std::min(kGaussianBlock, batch.N - at);
      one.predictions(state, at, n, P);
#pragma omp simd reduction(+ : sum)
      for (int64_t c = 0; c < n; ++c) sum += P[c] * (x[at + c] + y[at + c] * (P[c] - mean[at + c]));
    }
    along[i] = sum;
  });
}

// ---- gradient ----

// W E_T of columns [begin, begin + n) of a row, less what is the same everywhere.
inline void spread_by_query(const double* W, const double* w, int64_t begin, int64_t n, int64_t K, double* turned) {
  with_passages(K, [&](auto passages) {
    for (int64_t i = 0; i < n;) {
      const int64_t query = (begin + i) / passages;
      const int64_t end = std::min(n, (query + 1) * passages - begin);
      const double factor = W[query];
      if (end - i == passages) {  // as a constant
        for (int64_t k = 0; k < passages; ++k) turned[i + k] = factor * w[i + k];
      } else {
        for (int64_t at = i; at < end; ++at) turned[at] = factor * w[at];
      }
      i = end;
    }
  });
}

template <class S>
void gaussian_gradient(const GaussianBatch& batch, const double* row, const double* columns, const double* along,
                       double scale, const gaussian::Turned& turned, int64_t begin, int64_t end, void* gradient,
                       ParallelFor parallel_for) {
  const double *mean = columns + gaussian::kMeanP * batch.N, *x = columns + gaussian::kX * batch.N,
               *y = columns + gaussian::kY * batch.N;
  const int64_t width = end - begin;
  parallel_for(batch.Q, rows_a_thread(batch.Q * width, batch.Q), [&](int64_t first, int64_t last) {
    double P[kGaussianBlock], spread[kGaussianBlock];
    for (int64_t i = first; i < last; ++i) {
      const GaussianRow<S> one(batch, i);
      const double* state = row + i * gaussian::kRowState;
      S* const out = static_cast<S*>(gradient) + i * batch.N;
      if (state[gaussian::kInverse] == 0) {
        std::fill(out + begin, out + end, S{});
        continue;
      }
      const double constant = along[i] + (turned.W ? turned.everywhere[i] : 0.0);
      for (int64_t at = begin; at < end; at += kGaussianBlock) {
        const int64_t n = std::min(kGaussianBlock, end - at);
        one.predictions(state, at, n, P);
        const double* off = spread;
        if (turned.W) {
          spread_by_query(turned.W + i * (batch.N / batch.K), turned.excess + at, at, n, batch.K, spread);
        } else if (turned.tile) {
          off = turned.tile + i * width + at - begin;
        } else {
          std::fill(spread, spread + n, 0.0);
        }
        const double *m = mean + at, *x_at = x + at, *y_at = y + at;
#pragma omp simd
        for (int64_t c = 0; c < n; ++c) {
          const double G = x_at[c] + y_at[c] * (P[c] - m[c]) - off[c] - constant;
          P[c] = P[c] != 0 ? scale * P[c] * G : 0.0;  // who takes no part has none, whatever G is
        }
        narrow_from_double(P, out + at, n);
      }
    }
  });
}

}  // namespace wassrank::cpu::WASSRANK_ISA
