// The first pass of the batch-Gaussian distance: each row's maximum and masses, and w. wassrank/gaussian/passes.py.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <utility>

#include "common/gaussian.h"
#include "cpu/gaussian_row.h"
#include "cpu/kernels.h"
#include "cpu/share.h"
#include "cpu/simd.h"

namespace wassrank::cpu::WASSRANK_ISA {

template <class S>
class GaussianRows {
 public:
  // `excess` [Q, K], or null where arguments are not of the form of blocks.
  GaussianRows(const GaussianBatch& batch, double* row, double* excess)
      : batch_(batch),
        state_(row),
        excess_(excess),
        all_given_(batch.target && batch.target_width == batch.N),
        softmax_(batch.target_kind == Target::softmax) {}

  // A label that cannot be, the first there is.
  std::optional<double> run(ParallelFor parallel_for) {
    parallel_for(batch_.Q, rows_a_thread(batch_.Q * batch_.N, batch_.Q), [this](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        if (!one(row)) lower_to(row);
      }
    });
    const int64_t row = stray_.load(std::memory_order_relaxed);
    if (row == kNoStray) return std::nullopt;
    return stray_of(row);
  }

 private:
  static constexpr int64_t kNoStray = std::numeric_limits<int64_t>::max();

  // What a first look at the row finds.
  struct Found {
    double top = kNegInf<double>, label_top = kNegInf<double>;
    int64_t real = 0, own_real = 0;
    bool impossible = false, stray = false;
  };

  // False for a row with a label that cannot be.
  bool one(int64_t i) {
    const GaussianRow<S> row(batch_, i);
    Found found = look(row);
    if (found.stray) return false;
    const bool others = found.real > found.own_real;
    if (others) found.label_top = std::max(found.label_top, batch_.in_batch);
    const double top = found.top == kNegInf<double> ? 0 : found.top;
    const double label_top = softmax_ && found.label_top != kNegInf<double> ? found.label_top : 0;

    auto [total, mass] = masses(row, top, label_top);
    const double gain_of_others = others && !batch_.target ? row.gain(batch_.in_batch, label_top) : 0;
    mass += static_cast<double>(found.real - found.own_real) * gain_of_others;
    const bool sample = total != 0 && mass != 0;  // NaN is one

    double* state = state_ + i * gaussian::kRowState;
    state[gaussian::kTop] = top;
    state[gaussian::kInverse] = sample ? 1 / total : 0;
    state[gaussian::kLabelTop] = label_top;
    state[gaussian::kLabelInverse] = sample ? 1 / mass : 0;
    state[gaussian::kRest] = gain_of_others * state[gaussian::kLabelInverse];
    state[gaussian::kImpossible] = found.impossible;
    if (excess_) excess_of(row, state, sample, excess_ + i * batch_.K);
    return true;
  }

  template <class Body>
  static void for_each_block(Columns columns, const Body& body) {
    for (int64_t at = columns.begin; at < columns.end; at += kGaussianBlock) {
      body(at, std::min(kGaussianBlock, columns.end - at));
    }
  }

  Found look(const GaussianRow<S>& row) const {
    Found found;
    double s[kGaussianBlock], labels[kGaussianBlock];
    for_each_block(row.candidates(), [&](int64_t at, int64_t n) {
      row.scores(at, n, s);
      const Top<double> top = top_of(s, n);
      found.top = std::max(found.top, top.max);
      found.real += top.real;
      if (top.real < n) found.impossible |= top.real < row.asked(at, n);

      const Columns own = row.own().in(at, at + n);
      if (own.size() == 0) return;
      const double* own_s = s + own.begin - at;
      row.labels(own.begin, own.size(), labels);
      double label_top = kNegInf<double>;
      int64_t real = 0, strays = 0;
      const double below = batch_.levels;
      const bool floats = batch_.levels == 0;
#pragma omp simd reduction(max : label_top) reduction(+ : real) reduction(+ : strays)
      for (int64_t j = 0; j < own.size(); ++j) {
        const bool takes_part = own_s[j] != kNegInf<double>;
        const bool fits = floats ? labels[j] - labels[j] == 0 : labels[j] >= 0 && labels[j] < below;
        const double label = takes_part ? labels[j] : kNegInf<double>;
        label_top = label > label_top ? label : label_top;
        real += takes_part;
        strays += takes_part && !fits;
      }
      found.label_top = std::max(found.label_top, label_top);
      found.own_real += real;
      found.stray |= strays != 0;
    });
    return found;
  }

  // Sums of exponentials, and of the gains of passages whose labels or targets the row has.
  std::pair<double, double> masses(const GaussianRow<S>& row, double top, double label_top) const {
    double total = 0, mass = 0, s[kGaussianBlock], e[kGaussianBlock];
    const double per_temperature = 1 / batch_.temperature;
    for_each_block(row.candidates(), [&](int64_t at, int64_t n) {
      row.scores(at, n, s);
      exp_block(s, n, top, per_temperature, e);
      total += sum_of(e, n);
      const Columns own = all_given_ ? Columns{at, at + n} : row.own().in(at, at + n);
      if (own.size() == 0) return;
      row.gains(own.begin, own.size(), label_top, e);
      const double* own_s = s + own.begin - at;
      double sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t j = 0; j < own.size(); ++j) sum += own_s[j] == kNegInf<double> ? 0.0 : e[j];
      mass += sum;
    });
    return {total, mass};
  }

  // w = T less what other queries' passages have; 0 where the mask has not.
  void excess_of(const GaussianRow<S>& row, const double* state, bool sample, double* w) const {
    const Columns own = row.own();
    if (!sample) return std::fill(w, w + own.size(), 0.0);
    double s[kGaussianBlock];
    for_each_block(own, [&](int64_t at, int64_t n) {
      double* some = w + at - own.begin;
      row.gains(at, n, state[gaussian::kLabelTop], some);
      row.raw_scores(at, n, s);
      for (int64_t j = 0; j < n; ++j) {
        const double gain = s[j] == kNegInf<double> ? 0 : some[j];
        some[j] = gain * state[gaussian::kLabelInverse] - state[gaussian::kRest];
      }
      row.keep_asked(at, n, 0.0, some);
    });
  }

  void lower_to(int64_t row) {
    int64_t known = stray_.load(std::memory_order_relaxed);
    while (row < known && !stray_.compare_exchange_weak(known, row, std::memory_order_relaxed)) {
    }
  }

  double stray_of(int64_t i) const {
    const GaussianRow<S> row(batch_, i);
    std::optional<double> stray;
    double s[kGaussianBlock], labels[kGaussianBlock];
    for_each_block(row.own(), [&](int64_t at, int64_t n) {
      row.scores(at, n, s);
      row.labels(at, n, labels);
      for (int64_t j = 0; j < n && !stray; ++j) {
        const bool fits = batch_.levels == 0 ? std::isfinite(labels[j]) : labels[j] >= 0 && labels[j] < batch_.levels;
        if (s[j] != kNegInf<double> && !fits) stray = labels[j];
      }
    });
    return *stray;
  }

  const GaussianBatch& batch_;
  double* const state_;
  double* const excess_;
  const bool all_given_;
  const bool softmax_;
  std::atomic<int64_t> stray_ = kNoStray;
};

template <class S>
std::optional<double> gaussian_rows(const GaussianBatch& batch, double* row, double* excess, ParallelFor parallel_for) {
  return GaussianRows<S>(batch, row, excess).run(parallel_for);
}

}  // namespace wassrank::cpu::WASSRANK_ISA
