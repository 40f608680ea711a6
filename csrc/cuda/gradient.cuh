// How a row's gradient is written: c e + b + f T, e = e^{(s - max) / temperature}, each thread columns of its own.
#pragma once

#include <cstdint>

#include "common/rows.h"
#include "cuda/columns.cuh"
#include "cuda/rows.cuh"
#include "cuda/scaled_exp.cuh"
#include "cuda/types.cuh"

namespace wassrank::cuda {

// What a row's coefficients are multiplied with. 0 stays 0: whatever comes from above, there is nothing to pass on.
template <class C>
class Upstream {
 public:
  __device__ Upstream(const RowLossesBackward& args, int64_t row)
      : factor_(static_cast<const C*>(args.grad_loss)[args.grad_per_row ? row : 0] *
                *static_cast<const C*>(args.scale)) {}
  __device__ C operator()(C coefficient) const { return coefficient == 0 ? C(0) : factor_ * coefficient; }

 private:
  C factor_;
};

// b only where terms are affine.
template <class C>
struct Coefficients {
  C c, b;
};

template <class S, bool affine>
class GradientWriter {
 public:
  using C = Computing<S>;

  __device__ GradientWriter(const RowLossesBackward& args, const Row<S>& row, const ScaledExp<C>& scaled_exp, C max,
                            C f)
      : row_(row),
        scaled_exp_(scaled_exp),
        max_(max),
        f_(f),
        gradient_(static_cast<S*>(args.grad_scores) + row.begin),
        for_all_(args.target_width == row.rows.N),
        target_(affine && args.target ? static_cast<const C*>(args.target) + (for_all_ ? row.begin : row.own_offset)
                                      : nullptr) {}

  // Other queries' passages; zeros, and no score is looked at, if they take no part.
  __device__ void write_others(const Team& team, bool take_part, const Coefficients<C>& others) const {
    walk<Row<S>::kSlots, Row<S>::kWidth>(
        row_.other_stretches(), team,
        [&](const auto& hand) {
          if (take_part) return row_.load_passages(hand);
          decltype(row_.load_passages(hand)) none;
          for_each(none.score, [&](int u, int w, C) { none.score[u][w] = -kInf<C>; });
          return none;
        },
        [&](const auto& hand, const auto& passages) {
          write(hand, passages.score, for_all_ ? target_ : nullptr, [&](int, int) { return others; });
        });
  }

  // T of the row's own passages, at a column, as far as there is any.
  __device__ const C* target() const { return target_; }

  // factors(u, w): the coefficients of that column in hand. target: null where f is not to be looked at.
  template <class Hand, class Factors>
  __device__ void write(const Hand& hand, const C (&score)[Hand::count][Hand::width], const C* target,
                        Factors factors) const {
#pragma unroll
    for (int u = 0; u < Hand::count; ++u) {
      Run<C, Hand::width> share;
      if constexpr (affine) {
        share.fill(0);
        if (target && hand.has(u)) share.load(target + hand.column(u));
      }
      S result[Hand::width];
#pragma unroll
      for (int w = 0; w < Hand::width; ++w) {
        const Coefficients<C> of = factors(u, w);
        // Rows without coefficients have no maximum either, and s - 0 could overflow.
        C g = of.c == 0 ? C(0) : of.c * scaled_exp_(score[u][w] - max_);
        if constexpr (affine) g += of.b + f_ * share[w];
        result[w] = narrow<S>(score[u][w] == -kInf<C> ? C(0) : g);
      }
      Run<S, Hand::width> run;
      run.assign(result);
      if (hand.has(u)) run.store(gradient_ + hand.column(u));
    }
  }

 private:
  const Row<S>& row_;
  const ScaledExp<C>& scaled_exp_;
  const C max_, f_;
  S* const gradient_;
  const bool for_all_;
  const C* const target_;
};

}  // namespace wassrank::cuda
