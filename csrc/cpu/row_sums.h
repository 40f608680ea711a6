// What one read of a row's scores leaves of it: sums by level, and the views of them that the losses' epilogues take.
//
// With e = exp((s - max) / temperature), over passages that take part. In double whatever the scores' type: a few
// numbers a level cost nothing.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "common/rows.h"
#include "common/target_gain.h"

namespace wassrank::cpu::WASSRANK_ISA {

// One slot a level, for the row's own passages, and behind them one for other queries'.
constexpr int kMaxSlots = kMaxLevels + 1;

// Arrays are as large as they can be, and cleared and copied whole: that is a few vector instructions, where a loop to
// the number of levels becomes a call.
struct RowSums {
  static constexpr double kNothing = -std::numeric_limits<double>::infinity();

  double max = kNothing;
  double named = kNothing;                  // the score of the passage that is named as positive, if it takes part
  double target_logit = 0, target_log = 0;  // given target: sums of T (s - max), T log T
  double mass[kMaxSlots] = {};              // of e
  double count[kMaxSlots] = {};             // of 1
  double target[kMaxSlots] = {};            // of a given target
  double logit[kMaxSlots] = {};             // of s - max

  void raise_max(double higher, int levels, double temperature) {
    if (std::isfinite(max)) {
      const double rise = higher - max, shrink = std::exp(-rise / temperature);
      for (int i = 0; i <= levels; ++i) {
        mass[i] *= shrink;
        logit[i] -= count[i] * rise;
        target_logit -= target[i] * rise;
      }
    }
    max = higher;
  }

  void add(RowSums other, int levels, double temperature) {
    if (other.max > max)
      raise_max(other.max, levels, temperature);
    else if (max > other.max)
      other.raise_max(max, levels, temperature);
    for (int i = 0; i <= levels; ++i) {
      mass[i] += other.mass[i];
      count[i] += other.count[i];
      target[i] += other.target[i];
      logit[i] += other.logit[i];
    }
    target_logit += other.target_logit;
    target_log += other.target_log;
    if (other.named != kNothing) named = other.named;
  }
};

// What passages ask for by their level, where no target is given.
struct LevelGains {
  double gain[kMaxLevels], gain_log_gain[kMaxLevels];

  LevelGains(Target target, int levels, double label_temperature) {
    for (int l = 0; l < levels; ++l) {
      gain[l] = target_gain(target, l, label_temperature);
      gain_log_gain[l] = wassrank::gain_log_gain(target, l, label_temperature);
    }
  }
};

// A row as Wasserstein and KL see it: levels up to the highest that has passages, other queries' among those of grade
// in_batch.
struct Levels {
  int size = 0;
  double mass[kMaxLevels], count[kMaxLevels], logit[kMaxLevels];
  double Z = 0;  // all mass

  Levels(const RowSums& sums, int levels, int in_batch) {
    std::memcpy(mass, sums.mass, sizeof mass);
    std::memcpy(count, sums.count, sizeof count);
    std::memcpy(logit, sums.logit, sizeof logit);
    if (in_batch != kExcluded) {
      mass[in_batch] += sums.mass[levels];
      count[in_batch] += sums.count[levels];
      logit[in_batch] += sums.logit[levels];
    }
    for (int l = 0; l < levels; ++l) {
      if (count[l] > 0) size = l + 1;
      Z += mass[l];
    }
  }
};

// What a row's labels ask for, before it is normalised.
struct Asked {
  double level[kMaxLevels];    // of a level's passages together
  double passage[kMaxLevels];  // of one of them, where no target is given
  double total = 0;
  double log_sum = 0;  // of T log T over passages

  // From a given target.
  Asked(const RowSums& sums, int levels, int in_batch) : log_sum(sums.target_log) {
    for (int l = 0; l < levels; ++l) level[l] = sums.target[l];
    if (in_batch != kExcluded) level[in_batch] += sums.target[levels];
    for (int l = 0; l < levels; ++l) total += level[l];
  }

  // From grades. A softmax's gains count down from the row's highest level.
  Asked(const Levels& row, const LevelGains& gains, Target target) {
    for (int l = 0; l < row.size; ++l) {
      const int from = target == Target::softmax ? row.size - 1 - l : l;
      passage[l] = gains.gain[from];
      level[l] = row.count[l] * gains.gain[from];
      log_sum += row.count[l] * gains.gain_log_gain[from];
      total += level[l];
    }
  }
};

// A row's gradient before the loss's own is known: c e + b + f T, c by level, b by slot or, for the passage that is
// named as positive, its own.
struct RowGradient {
  double c[kMaxLevels], b[kMaxSlots];  // b only where the state is affine
  double b_positive = 0, f = 0;

  explicit RowGradient(const StateLayout& layout) {
    std::fill_n(c, layout.levels, 0.0);
    if (layout.affine) std::fill_n(b, layout.levels + 1, 0.0);
  }
};

}  // namespace wassrank::cpu::WASSRANK_ISA
