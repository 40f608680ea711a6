// The first pass of the batch-Gaussian distance: what each row's P and T are normalised with. A block a row.
#pragma once

#include <cmath>
#include <cstdint>

#include "cuda/gaussian_batch.cuh"
#include "cuda/team_work.cuh"

namespace wassrank::cuda {

// What a row's passages come to.
struct GaussianTotals {
  double top = -kInf<double>, label_top = -kInf<double>;  // -inf where no passage takes part
  double total = 0, others = 0;  // of exp((s - top) / temperature); how many are other queries'
  bool stray = false, impossible = false;
};

// In every thread. A NaN among the scores, or +inf, makes the total NaN.
template <class S>
__device__ GaussianTotals gaussian_totals(const GaussianBatch& batch, const GaussianRow<S>& row,
                                          const ScaledExp<double>& scaled_exp, const Team& team, TeamWork& work) {
  constexpr int kAtOnce = 4;  // scores asked for before any is waited for
  const int N = static_cast<int>(batch.N);
  GaussianTotals found;
  for (int first = team.thread; first < N; first += kAtOnce * team.threads) {
    double score[kAtOnce], highest = found.top;
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) {
      const int n = first + u * team.threads;
      const bool asked = n < N && row.asked(n);
      score[u] = asked ? row.stored_score(n) : -kInf<double>;
      found.impossible |= asked && score[u] == -kInf<double>;
      highest = std::fmax(highest, score[u]);
    }
    if (highest > found.top) {
      found.total *= scaled_exp(found.top - highest);
      found.top = highest;
    }
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) {
      const int n = first + u * team.threads;
      if (score[u] == -kInf<double>) continue;
      found.total += scaled_exp(score[u] - found.top);
      if (row.is_own(n)) {
        const double label = row.label(n);
        found.stray |= row.is_stray(label);
        found.label_top = std::fmax(found.label_top, label);
      } else {
        found.others += 1;
      }
    }
  }
  const double reference = found.top;
  double highest[4] = {found.top, found.label_top, found.stray ? 1.0 : 0.0, found.impossible ? 1.0 : 0.0};
  work.max(highest);
  found.top = highest[0];
  // A thread that has seen no score, or none but NaN, holds 0 or NaN, which nothing needs to scale.
  if (reference != -kInf<double>) found.total *= scaled_exp(reference - found.top);
  double sums[2] = {found.total, found.others};
  work.sum(sums);
  found.total = sums[0];
  found.others = sums[1];
  found.label_top = found.others > 0 ? std::fmax(highest[1], batch.in_batch) : highest[1];
  found.stray = highest[2] != 0;
  found.impossible = highest[3] != 0;
  return found;
}

template <class S>
__device__ void gaussian_row(const GaussianBatch& batch, int64_t index, const ScaledExp<double>& scaled_exp,
                             const Team& team, TeamWork& work, double* states, double* excess) {
  const GaussianRow<S> row(batch, index);
  const GaussianTotals found = gaussian_totals(batch, row, scaled_exp, team, work);
  const bool is_softmax = batch.target_kind == Target::softmax;
  const double label_top = is_softmax && found.label_top != -kInf<double> ? found.label_top : 0;

  const bool for_all = row.given_to_all();
  const int begin = for_all ? 0 : row.own_begin(), end = for_all ? static_cast<int>(batch.N) : row.own_end();
  double gains[1] = {0};
  for (int n = begin + team.thread; n < end; n += team.threads) {
    if (row.score(n) != -kInf<double>) gains[0] += row.gain(n, label_top);
  }
  work.sum(gains);
  const double others_gain = found.others > 0 ? row.others_gain(label_top) : 0;
  const double mass = gains[0] + found.others * others_gain;

  const bool sample = found.total != 0 && mass != 0;
  const double label_inverse = sample ? 1 / mass : 0, rest = others_gain * label_inverse;
  if (excess) {
    for (int n = row.own_begin() + team.thread; n < row.own_end(); n += team.threads) {
      double w = 0;
      if (sample && row.asked(n)) {
        w = (row.stored_score(n) == -kInf<double> ? 0 : row.gain(n, label_top) * label_inverse) - rest;
      }
      excess[index * batch.K + (n - row.own_begin())] = w;
    }
  }
  if (team.thread != 0) return;
  double* const state = states + index * gaussian::kRowState;
  state[gaussian::kTop] = found.top == -kInf<double> ? 0 : found.top;
  state[gaussian::kInverse] = found.stray ? kNaN<double> : sample ? 1 / found.total : 0;
  state[gaussian::kLabelTop] = label_top;
  state[gaussian::kLabelInverse] = label_inverse;
  state[gaussian::kRest] = rest;
  state[gaussian::kImpossible] = found.impossible ? 1 : 0;
}

}  // namespace wassrank::cuda
