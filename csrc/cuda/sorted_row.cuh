// A row of the sorted path: what its passages add up to, and its passages as points on the line, in order. Formulas:
// wassrank/ops/sorted_losses.py.
//
// Two sweeps, the second of which finds scores and labels in the cache: e and the gains are relative to maxima that
// the first must find. Then points are gathered in their order, e and gains computed anew, cheaper than kept.
#pragma once

#include <climits>
#include <cmath>
#include <cstdint>

#include "common/sorted_rows.h"
#include "common/target_gain.h"
#include "cuda/row_sums.cuh"
#include "cuda/rows.cuh"
#include "cuda/scaled_exp.cuh"
#include "cuda/sorted_transport.cuh"
#include "cuda/team_work.cuh"
#include "cuda/types.cuh"

namespace wassrank::cuda {

// The row's own passages in hand with their labels and one number more.
template <class C, class Hand>
struct LabelledPassages {
  C score[Hand::count][Hand::width];
  Loaded<C, Hand> label, beside;
};

// What a row's passages add up to: in shared memory, for it would take a third of a thread's registers. Own passages
// and others are those that take part.
template <class C>
struct RowFacts {
  bool any_own, any_others;
  bool stray;                                  // a passage has no finite label or no finite place
  C max, best_label;                           // best_label: of own passages
  C top_label;                                 // of all
  C lowest, highest;                           // coordinates of own passages
  int others_rank;                             // where in the order the others' point stands
  double Z, total;                             // sums of e and of gains
  double mass_scale, gain_scale;               // one over them
  double one_other, others_mass, others_gain;  // gain of one of the others, e and gains of all
  double positives, positives_shift;           // how many there are, and their sum of s - max
  double cross, entropy;                       // Σ gain (s - max), Σ gain log gain

  __device__ bool any() const { return any_own || any_others; }
};

template <class S>
class SortedRow {
 public:
  using C = Computing<S>;

  __device__ SortedRow(const SortedForward& args, const Row<S>& row, int64_t row_index, const ScaledExp<C>& scaled_exp,
                       RowFacts<C>& facts)
      : args_(args),
        facts_(facts),
        row_(row),
        scaled_exp_(scaled_exp),
        label_exp_(args.label_temperatures ? static_cast<const C*>(args.label_temperatures)[row_index]
                                           : args.label_temperature),
        labels_(static_cast<const C*>(row.rows.labels) + row.own_offset),
        coordinates_(args.position ? static_cast<const C*>(args.position) + row.own_offset : labels_),
        order_(args.order + row.rows.labels_begin(row_index)),
        others_label_(static_cast<C>(args.others_label)),
        positive_(args.positives ? row.own_column(args.positives[row_index]) : -1) {
    if (args.target_kind != Target::given) return;
    const bool for_all = args.target_width == row.rows.N;  // otherwise others are given nothing
    given_ = static_cast<const C*>(args.target) + (for_all ? row.begin : row.own_offset);
    given_to_others_ = for_all && !all_are_own(row.rows) ? given_ : nullptr;
  }

  // Fills in the facts. For all of the team.
  __device__ void add_up(const Team& team, TeamWork& work) const {
    Reference<C> reference(scaled_exp_);
    Sums<C, true> others{}, given{};
    if (!all_are_own(row_.rows)) {
      others = sum_others<true>(row_, team, scaled_exp_, reference);
      if (given_to_others_) others.share = add_given_to_others(row_, team, given_to_others_, reference, given);
    }
    const int below = survey(reference.top(), others.count != 0, team, work);
    if (facts_.any_others) weigh_others(others, given, reference.up_to(facts_.max), below, team, work);
    weigh_own(team, work);
  }

  // The points are the row's own passages and, where they take part, the others' as one.
  __device__ int points() const { return row_.own.end - row_.own.begin + facts_.any_others; }
  __device__ bool is_others(int rank) const { return rank == facts_.others_rank; }
  // An order of other labels may give another loss, but does not lead out of the row.
  __device__ int column(int rank) const {
    const int place = order_[rank - (rank > facts_.others_rank)], last = row_.own.end - row_.own.begin - 1;
    return row_.own.begin + (place < 0 ? 0 : place < last ? place : last);
  }
  __device__ Point point(int rank) const {
    const RowFacts<C>& f = facts_;
    if (is_others(rank)) return {others_label_, f.others_mass * f.mass_scale, f.others_gain * f.gain_scale};
    const int n = column(rank);
    const C score = row_.score(n), x = coordinates_[n];
    // What takes no part may lie anywhere, or nowhere: clamped, it does not disturb the order.
    const C at = x < f.lowest ? f.lowest : x <= f.highest ? x : f.highest;
    return {at, mass(score) * f.mass_scale, gain(n, score) * f.gain_scale};
  }
  // What the labels ask for a passage of the row's own, before it is normalised.
  __device__ C gain(int column, C score) const { return gain(score, labels_[column], given_ ? given_[column] : C(0)); }
  __device__ bool is_positive(int column, C score) const { return is_positive(column, score, labels_[column]); }

 private:
  __device__ C mass(C score) const { return scaled_exp_(score - facts_.max); }
  __device__ C gain(C score, C label, C given) const {
    if (score == -kInf<C>) return 0;
    switch (args_.target_kind) {
      case Target::given: return given;
      case Target::softmax: return label_exp_(label - facts_.top_label);
      default: return static_cast<C>(label_gain(args_.target_kind, label));
    }
  }
  __device__ bool is_positive(int column, C score, C label) const {
    return score != -kInf<C> && (args_.positives ? column == positive_ : label == facts_.best_label);
  }

  // Calls take(column, score, label, number beside it) for the row's own passages, and with NaN in the place of the
  // latter two, and a score of -inf, where there is none. beside: null for the label.
  template <class Take>
  __device__ void sweep(const Team& team, const C* beside, Take take) const {
    walk<1, Row<S>::kWidth>(
        row_.own_stretch(), team,
        [&](const auto& hand) {
          LabelledPassages<C, std::decay_t<decltype(hand)>> passages;
          row_.load_scores(hand, passages.score);
          passages.label.load(hand, labels_, kNaN<C>);
          if (beside) passages.beside.load(hand, beside, kNaN<C>);
          return passages;
        },
        [&](const auto& hand, const auto& passages) {
          for_each(passages.score, [&](int u, int w, C score) {
            const C label = passages.label.piece[u][w];
            take(hand.column(u) + w, score, label, beside ? passages.beside.piece[u][w] : label);
          });
        });
  }

  // Maxima, and whether there is anything. Returns how many of the own passages the calling thread has lie at or below
  // the others' point.
  __device__ int survey(C others_max, bool others, const Team& team, TeamWork& work) const {
    C max = others_max, label_max = -kInf<C>, x_max = -kInf<C>, minus_x_min = -kInf<C>;
    bool own = false, stray = false;
    int below = 0;
    sweep(team, args_.position ? coordinates_ : nullptr, [&](int, C score, C label, C x) {
      below += x <= others_label_;
      if (score == -kInf<C>) return;
      own = true;
      stray = stray || !(std::fabs(label) < kInf<C>) || !(std::fabs(x) < kInf<C>);
      max = std::fmax(max, score);
      label_max = std::fmax(label_max, label);
      x_max = std::fmax(x_max, x);
      minus_x_min = std::fmax(minus_x_min, -x);
    });
    double found[] = {max, label_max, x_max, minus_x_min, double(own), double(others), double(stray)};
    work.max(found);
    if (team.thread == 0) {
      RowFacts<C>& f = facts_;
      f.max = static_cast<C>(found[0]);
      f.best_label = static_cast<C>(found[1]);
      f.any_own = found[4] != 0;
      f.any_others = found[5] != 0;
      f.stray = found[6] != 0;
      f.highest = f.any_own ? static_cast<C>(found[2]) : others_label_;
      f.lowest = f.any_own ? static_cast<C>(-found[3]) : others_label_;
      f.top_label = f.any_others ? std::fmax(f.best_label, others_label_) : f.best_label;
      f.others_rank = INT_MAX;
      f.one_other = f.others_mass = f.others_gain = f.cross = f.entropy = 0;
    }
    work.sync();
    return below;
  }

  // Sums relative to the maxima. Where there are others theirs come first, and own passages' are added.
  __device__ void weigh_others(Sums<C, true> others, Sums<C, true> given, const Shift<C>& shift, int below,
                               const Team& team, TeamWork& work) const {
    Sums<double, true> all{}, all_given{};
    all.add(others, shift);
    all_given.add(given, shift);
    double sums[] = {all.mass, all.count, all.share, all.sum, all_given.sum, all_given.share, double(below)};
    work.sum(sums);
    if (team.thread == 0) {
      const auto [mass, count, target, x, target_x, target_log, own_below] = sums;
      RowFacts<C>& f = facts_;
      f.others_mass = mass;
      if (args_.target_kind == Target::given) {
        f.one_other = 0;
        f.others_gain = target;
        f.cross = target_x;
        f.entropy = target_log;
      } else {
        f.one_other = gain(0, others_label_, 0);
        f.others_gain = count * f.one_other;
        f.cross = f.one_other * x;
        f.entropy = f.one_other > 0 ? f.others_gain * std::log(f.one_other) : 0;
      }
      // The order knows nothing of masks: what takes no part counts as clamped to where the rest lies.
      f.others_rank = others_label_ >= f.highest ? row_.own.end - row_.own.begin
                      : others_label_ < f.lowest ? 0
                                                 : static_cast<int>(own_below);
    }
    work.sync();
  }

  __device__ void weigh_own(const Team& team, TeamWork& work) const {
    double sums[] = {0, 0};        // of e, of gains
    double more[] = {0, 0, 0, 0};  // of gain (s - max), of gain log gain, of the positives: how many, and s - max
    const bool affine = args_.terms.affine();
    sweep(team, given_, [&](int column, C score, C label, C given) {
      const C asked = gain(score, label, given);
      sums[0] += mass(score);
      sums[1] += asked;
      if (!affine) return;
      const double x = static_cast<double>(score) - facts_.max;
      if (asked > 0) {
        more[0] += asked * x;
        more[1] += asked * std::log(static_cast<double>(asked));
      }
      if (is_positive(column, score, label)) {
        more[2] += 1;
        more[3] += x;
      }
    });
    work.sum(sums);
    if (affine) work.sum(more);
    if (team.thread == 0) {
      RowFacts<C>& f = facts_;
      f.Z = sums[0] + f.others_mass;
      f.total = sums[1] + f.others_gain;
      f.mass_scale = 1 / f.Z;
      f.gain_scale = 1 / f.total;
      f.cross += more[0];
      f.entropy += more[1];
      f.positives = more[2];
      f.positives_shift = more[3];
    }
    work.sync();
  }

  const SortedForward& args_;
  RowFacts<C>& facts_;
  const Row<S>& row_;
  const ScaledExp<C>& scaled_exp_;
  const ScaledExp<C> label_exp_;
  // At a column: labels, coordinates, and what a given target has for the row's own passages and for the others, or
  // null.
  const C *const labels_, *const coordinates_, *given_ = nullptr, *given_to_others_ = nullptr;
  const int32_t* const order_;
  const C others_label_;
  const int positive_;  // the column of the named one; -1: none
};

}  // namespace wassrank::cuda
