// Backward: one read of the scores, and with each row's state the gradient c e + b + f T, times the loss's own.
#pragma once

#include <algorithm>
#include <type_traits>

#include "cpu/kernels.h"
#include "cpu/labels.h"
#include "cpu/pieces.h"
#include "cpu/row_sums.h"
#include "cpu/share.h"
#include "cpu/simd.h"

namespace wassrank::cpu::WASSRANK_ISA {

// A row's state, times the loss's gradient.
template <class C>
struct Coefficients {
  C c[kMaxSlots], b[kMaxSlots];  // by slot, as in RowSums
  C b_positive = 0, f = 0;
  C max;
  bool any = false;  // no: the row is an empty one, which has no maximum, and s - 0 could overflow the exponential

  Coefficients(const C* state, const StateLayout& layout, int in_batch, C upstream) : max(state[layout.max()]) {
    for (int i = 0; i < layout.max(); ++i) any |= state[i] != 0;
    for (int l = 0; l < layout.levels; ++l) c[l] = upstream * state[l];
    c[layout.levels] = in_batch == kExcluded ? C(0) : upstream * state[in_batch];
    if (!layout.affine) {
      b[layout.levels] = 0;  // and no other is looked at
      return;
    }
    for (int l = 0; l < layout.levels; ++l) b[l] = upstream * state[layout.constant(l)];
    b[layout.levels] = upstream * state[layout.others()];
    b_positive = upstream * state[layout.positive()];
    f = upstream * state[layout.target_factor()];
  }
};

template <class S, class C>
class Backward {
 public:
  explicit Backward(const LevelLossesBackward& args)
      : args_(args), rows_(args.rows), inverse_temperature_(static_cast<C>(1 / args.rows.temperature)) {}

  void run(ParallelFor parallel_for) const {
    for_each_chunk(rows_, parallel_for, [&](int64_t row, int64_t begin, int64_t end) { columns(row, begin, end); });
  }

  // The gradient in columns [begin, end) of a row.
  void columns(int64_t row, int64_t begin, int64_t end) const {
    const StateLayout layout{rows_.levels, args_.affine};
    const C upstream = static_cast<const C*>(args_.grad_loss)[args_.grad_per_row ? row : 0];
    const C* state = static_cast<const C*>(args_.state) + row * layout.width();
    const Coefficients<C> of(state, layout, rows_.in_batch, upstream * *static_cast<const C*>(args_.scale));
    if (!of.any) {
      S* const gradient = static_cast<S*>(args_.grad_scores) + rows_.scores_begin(row);
      std::fill(gradient + begin, gradient + end, S{});
      return;
    }
    for (int64_t at = begin; at < end; at += kBlock) block(row, at, std::min(kBlock, end - at), of);
  }

 private:
  void block(int64_t row, int64_t at, int64_t n, const Coefficients<C>& of) const {
    C buffer[kBlock], gradient_buffer[kBlock];
    S* stored = static_cast<S*>(args_.grad_scores) + rows_.scores_begin(row) + at;
    const C* s = load_scores<S>(rows_, row, at, n, buffer);
    C* out = gradient_buffer;
    if constexpr (std::is_same_v<S, C>) {
      out = stored;
      if (s == out) {  // in the scores' place
        std::copy(s, s + n, buffer);
        s = buffer;
      }
    }

    // The whole block as other queries' passages, then the row's own, few where there are others at all: one long loop
    // costs less than the pieces to either side with their ends.
    const OwnPiece own = own_piece(rows_, row, at, n);
    if (rows_.in_batch == kExcluded) {
      std::fill(out, out + n, C(0));
    } else if (own.begin > 0 || own.end < n) {
      scaled_exp_block(s, n, of.max, inverse_temperature_, of.c[rows_.levels], of.b[rows_.levels], out);
    }
    if (own.end > own.begin) own_block(row, at + own.begin, own.end - own.begin, s + own.begin, of, out + own.begin);
    if (args_.target && of.f != 0) {
      // Others have a given target in a dense one alone.
      const bool whole = args_.target_width == rows_.N && rows_.in_batch != kExcluded;
      const int64_t from = whole ? 0 : own.begin, to = whole ? n : own.end;
      if (to > from) {
        const C* target = target_at<C>(args_.target, args_.target_width, rows_, row, at + from);
        add_scaled(s + from, target, to - from, of.f, out + from);
      }
    }
    if constexpr (!std::is_same_v<S, C>) narrow(out, stored, n);
  }

  // The row's own passages in columns [column, column + n), but for a given target's part.
  void own_block(int64_t row, int64_t column, int64_t n, const C* s, const Coefficients<C>& of, C* out) const {
    int32_t level[kBlock];
    load_levels(rows_, row, column, n, level);
    exp_block(s, n, of.max, inverse_temperature_, out);
    const int64_t positive = named_positive(rows_, args_.positives, row) - column;
    const bool has_positive = positive >= 0 && positive < n;
    const C e_positive = has_positive ? out[positive] : C(0);
    const C c_positive = has_positive ? of.c[std::clamp(level[positive], 0, rows_.levels - 1)] : C(0);
    int32_t highest = 0;
    const int32_t levels = rows_.levels;
#pragma omp simd reduction(max : highest)
    for (int64_t i = 0; i < n; ++i) {
      // A label out of range belongs to a passage that takes no part: forward refused all others.
      level[i] = level[i] < 0 || level[i] >= levels ? 0 : level[i];
      highest = std::max(highest, level[i]);
    }
    if (args_.affine) {
      apply_by_level<true>(s, level, n, highest + 1, of.c, of.b, out);
    } else {
      apply_by_level<false>(s, level, n, highest + 1, of.c, of.b, out);
    }
    if (has_positive && s[positive] != kNegInf<C>) out[positive] = c_positive * e_positive + of.b_positive;
  }

  const LevelLossesBackward& args_;
  const Rows& rows_;
  const C inverse_temperature_;
};

}  // namespace wassrank::cpu::WASSRANK_ISA
