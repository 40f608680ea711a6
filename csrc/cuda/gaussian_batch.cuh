// A row of the batch of Gaussians: who takes part in it, what its labels ask for, and with its state P and T. The
// letters are wassrank/gaussian/passes.py's. All arithmetic is in double, whatever the scores are stored in.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/gaussian.h"
#include "common/target_gain.h"
#include "cuda/scaled_exp.cuh"
#include "cuda/types.cuh"

namespace wassrank::cuda {

// What is read of a row. Columns are counted in 32 bits, elements in 64. Labels are of one type for the whole launch,
// so that branching to theirs costs no warp two ways.
template <class S>
class GaussianRow {
 public:
  __device__ GaussianRow(const GaussianBatch& batch, int64_t index)
      : batch_(batch),
        index_(index),
        scores_(static_cast<const S*>(batch.scores) + index * batch.N),
        mask_(batch.mask ? batch.mask + index * batch.mask_stride : nullptr),
        own_begin_(batch.dense_labels ? 0 : static_cast<int>((batch.first + index) * batch.K)),
        own_end_(own_begin_ + static_cast<int>(batch.K)) {}

  __device__ int own_begin() const { return own_begin_; }
  __device__ int own_end() const { return own_end_; }
  __device__ bool is_own(int n) const { return n >= own_begin_ && n < own_end_; }

  // Whether the passage takes part, unless its score is -inf.
  __device__ bool asked(int n) const { return (!mask_ || mask_[n]) && (!batch_.others_excluded || is_own(n)); }
  // -inf: takes no part.
  __device__ double score(int n) const { return asked(n) ? stored_score(n) : -kInf<double>; }
  __device__ double stored_score(int n) const { return static_cast<double>(widen(scores_[n])); }

  // Of one of the row's own.
  __device__ double label(int n) const {
    const int64_t at = own_place(n);
    switch (batch_.label_kind) {
      case LabelKind::int8: return static_cast<const int8_t*>(batch_.labels)[at];
      case LabelKind::int16: return static_cast<const int16_t*>(batch_.labels)[at];
      case LabelKind::int32: return static_cast<const int32_t*>(batch_.labels)[at];
      case LabelKind::int64: return static_cast<double>(static_cast<const int64_t*>(batch_.labels)[at]);
      case LabelKind::uint8: return static_cast<const uint8_t*>(batch_.labels)[at];
      case LabelKind::float32: return static_cast<const float*>(batch_.labels)[at];
      case LabelKind::float64: break;
    }
    return static_cast<const double*>(batch_.labels)[at];
  }
  __device__ bool is_stray(double label) const {
    return batch_.levels > 0 ? label < 0 || label >= batch_.levels : !(std::abs(label) < kInf<double>);
  }

  __device__ bool given_to_all() const { return batch_.target && batch_.target_width == batch_.N; }
  // What a passage asks for before the row's gains are normalised; label_top: see Row.LABEL_TOP. Other queries' ask for
  // others_gain each, but for a target that is given to all.
  __device__ double gain(int n, double label_top) const {
    if (!batch_.target) return gain_of(label(n), label_top);
    return batch_.target[given_to_all() ? index_ * batch_.N + n : own_place(n)];
  }
  __device__ double others_gain(double label_top) const {
    return batch_.target ? 0 : gain_of(batch_.in_batch, label_top);
  }

 protected:
  const GaussianBatch& batch_;

 private:
  __device__ int64_t own_place(int n) const { return index_ * batch_.K + (n - own_begin_); }
  __device__ double gain_of(double label, double label_top) const {
    if (batch_.target_kind != Target::softmax) return label_gain(batch_.target_kind, label);
    const double temperature = batch_.label_temperatures ? batch_.label_temperatures[index_] : batch_.label_temperature;
    return std::exp((label - label_top) / temperature);
  }

  const int64_t index_;
  const S* const scores_;
  const bool* const mask_;
  const int own_begin_, own_end_;
};

// With the row's state: what all passes but the first look at.
template <class S>
class GaussianSample : public GaussianRow<S> {
 public:
  __device__ GaussianSample(const GaussianBatch& batch, const ScaledExp<double>& scaled_exp, const double* states,
                            int64_t index)
      : GaussianRow<S>(batch, index), scaled_exp_(scaled_exp), state_(states + index * gaussian::kRowState) {}

  __device__ bool is_sample() const { return state_[gaussian::kInverse] != 0; }
  // Of a passage with that score.
  __device__ double prediction(double score) const {
    const double inverse = state_[gaussian::kInverse];
    return inverse == 0 ? 0 : scaled_exp_(score - state_[gaussian::kTop]) * inverse;
  }
  __device__ double target(int n, double score) const {
    if (score == -kInf<double> || !is_sample()) return 0;
    if (!this->is_own(n) && !this->given_to_all()) return state_[gaussian::kRest];
    return this->gain(n, state_[gaussian::kLabelTop]) * state_[gaussian::kLabelInverse];
  }
  // E_T.
  __device__ double centred_target(int n, double score, double mean) const {
    return is_sample() ? target(n, score) - mean : 0;
  }

 private:
  const ScaledExp<double>& scaled_exp_;
  const double* const state_;
};

}  // namespace wassrank::cuda
