// A row of the batch-Gaussian distance, some columns at a time: scores, P and T in double. wassrank/gaussian/passes.py
// has the formulas.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "common/gaussian.h"
#include "cpu/simd.h"

namespace wassrank::cpu::WASSRANK_ISA {

// Columns handled at a time: 4 KiB of double, so that a handful of them stay in the first-level cache.
constexpr int64_t kGaussianBlock = 512;

template <class S>
void widen_to_double(const S* from, double* to, int64_t n) {
  if constexpr (std::is_same_v<S, double> || std::is_same_v<S, float>) {
    for (int64_t i = 0; i < n; ++i) to[i] = from[i];
  } else {
    float wide[kGaussianBlock];
    widen(from, wide, n);
    for (int64_t i = 0; i < n; ++i) to[i] = wide[i];
  }
}

template <class S>
void narrow_from_double(const double* from, S* to, int64_t n) {
  if constexpr (std::is_same_v<S, double> || std::is_same_v<S, float>) {
    for (int64_t i = 0; i < n; ++i) to[i] = static_cast<S>(from[i]);
  } else {
    float wide[kGaussianBlock];
    for (int64_t i = 0; i < n; ++i) wide[i] = static_cast<float>(from[i]);
    narrow(wide, to, n);
  }
}

inline void load_labels(const GaussianBatch& batch, int64_t at, double* to, int64_t n) {
  const auto convert = [&](auto* labels) {
    for (int64_t i = 0; i < n; ++i) to[i] = static_cast<double>(labels[at + i]);
  };
  switch (batch.label_kind) {
    case LabelKind::int8: return convert(static_cast<const int8_t*>(batch.labels));
    case LabelKind::int16: return convert(static_cast<const int16_t*>(batch.labels));
    case LabelKind::int32: return convert(static_cast<const int32_t*>(batch.labels));
    case LabelKind::int64: return convert(static_cast<const int64_t*>(batch.labels));
    case LabelKind::uint8: return convert(static_cast<const uint8_t*>(batch.labels));
    case LabelKind::float32: return convert(static_cast<const float*>(batch.labels));
    case LabelKind::float64: return convert(static_cast<const double*>(batch.labels));
  }
}

// Columns [begin, end).
struct Columns {
  int64_t begin, end;

  int64_t size() const { return end - begin; }
  Columns in(int64_t from, int64_t to) const {
    const int64_t first = std::clamp(begin, from, to);
    return {first, std::clamp(end, first, to)};
  }
};

template <class S>
class GaussianRow {
 public:
  GaussianRow(const GaussianBatch& batch, int64_t row)
      : batch_(batch),
        row_(row),
        own_{batch.dense_labels ? 0 : std::min((batch.first + row) * batch.K, batch.N),
             batch.dense_labels ? batch.N : std::min((batch.first + row + 1) * batch.K, batch.N)},
        per_label_temperature_(1 /
                               (batch.label_temperatures ? batch.label_temperatures[row] : batch.label_temperature)) {}

  // Whose labels the row has.
  Columns own() const { return own_; }
  // Outside of these nobody takes part.
  Columns candidates() const { return batch_.others_excluded ? own_ : Columns{0, batch_.N}; }

  // The following are of columns [begin, begin + n), n <= kGaussianBlock.

  // As stored.
  void raw_scores(int64_t begin, int64_t n, double* s) const { widen_to_double(stored() + begin, s, n); }

  // How many of the candidates the mask has.
  int64_t asked(int64_t begin, int64_t n) const {
    if (!batch_.mask) return n;
    int64_t count = 0;
    const bool* mask = mask_at(begin);
    for (int64_t i = 0; i < n; ++i) count += mask[i];
    return count;
  }

  // -inf where the passage takes no part.
  void scores(int64_t begin, int64_t n, double* s) const {
    raw_scores(begin, n, s);
    keep_asked(begin, n, kNegInf<double>, s);
  }

  // P, given the row's state.
  void predictions(const double* state, int64_t begin, int64_t n, double* P) const {
    const double inverse = state[gaussian::kInverse], top = state[gaussian::kTop];
    if (inverse == 0) return std::fill(P, P + n, 0.0);
    scores(begin, n, P);
    const double per_temperature = 1 / batch_.temperature;
    map_block(P, n, P, [=](double x) { return inverse * exp_nonpositive((x - top) * per_temperature); });
  }

  // T, given the row's state.
  void targets(const double* state, int64_t begin, int64_t n, double* T) const {
    if (state[gaussian::kInverse] == 0) return std::fill(T, T + n, 0.0);
    const bool all_given = batch_.target && batch_.target_width == batch_.N;
    const Columns own = all_given ? Columns{begin, begin + n} : own_.in(begin, begin + n);
    if (own.size() < n) std::fill(T, T + n, state[gaussian::kRest]);
    gains(own.begin, own.size(), state[gaussian::kLabelTop], T + own.begin - begin);
    const double inverse = state[gaussian::kLabelInverse];
    for (int64_t i = own.begin - begin; i < own.end - begin; ++i) T[i] *= inverse;
    keep_asked(begin, n, 0.0, T);
    if (state[gaussian::kImpossible] != 0) {
      double s[kGaussianBlock];
      raw_scores(begin, n, s);
      for (int64_t i = 0; i < n; ++i) T[i] = s[i] == kNegInf<double> ? 0.0 : T[i];
    }
  }

  // Labels of own passages.
  void labels(int64_t begin, int64_t n, double* to) const {
    load_labels(batch_, row_ * batch_.K + begin - own_.begin, to, n);
  }

  // What is asked for, before the row's masses are normalised, of passages whose labels or targets the row has; some
  // number where the passage takes no part.
  void gains(int64_t begin, int64_t n, double label_top, double* to) const {
    if (batch_.target) {
      const int64_t place = batch_.target_width == batch_.N ? begin : begin - own_.begin;
      const double* from = batch_.target + row_ * batch_.target_width + place;
      std::copy(from, from + n, to);
      return;
    }
    labels(begin, n, to);
    gains_of(n, label_top, to);
  }

  // The gain of a label.
  double gain(double label, double label_top) const {
    gains_of(1, label_top, &label);
    return label;
  }

  // values[i] = otherwise where the mask has not, or the passage is another query's and those are left out.
  void keep_asked(int64_t begin, int64_t n, double otherwise, double* values) const {
    if (batch_.mask) {
      const bool* mask = mask_at(begin);
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) values[i] = mask[i] ? values[i] : otherwise;
    }
    if (batch_.others_excluded) {
      const Columns own = own_.in(begin, begin + n);
      std::fill(values, values + (own.begin - begin), otherwise);
      std::fill(values + (own.end - begin), values + n, otherwise);
    }
  }

 private:
  const S* stored() const { return static_cast<const S*>(batch_.scores) + row_ * batch_.N; }
  const bool* mask_at(int64_t column) const { return batch_.mask + row_ * batch_.mask_stride + column; }

  void gains_of(int64_t n, double label_top, double* x) const {
    const double factor = per_label_temperature_;
    switch (batch_.target_kind) {
      case Target::softmax:
        return map_block(x, n, x, [=](double label) { return exp_nonpositive((label - label_top) * factor); });
      case Target::linear:
        for (int64_t i = 0; i < n; ++i) x[i] = x[i] > 0 ? x[i] : 0;
        return;
      case Target::exp2:
        return map_block(x, n, x, [](double label) {
          const double gain = exp2_of(label) - 1;
          return gain > 0 ? gain : 0;
        });
      case Target::given: return;
    }
  }

  const GaussianBatch& batch_;
  const int64_t row_;
  const Columns own_;
  const double per_label_temperature_;
};

}  // namespace wassrank::cpu::WASSRANK_ISA
