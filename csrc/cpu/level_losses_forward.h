// Forward: one read of the scores for each row's sums, then the losses' epilogues, then the reduction over rows.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <optional>
#include <vector>

#include "cpu/grade_wasserstein.h"
#include "cpu/info_nce.h"
#include "cpu/kernels.h"
#include "cpu/labels.h"
#include "cpu/listwise_kl.h"
#include "cpu/pieces.h"
#include "cpu/row_sums.h"
#include "cpu/row_totals.h"
#include "cpu/share.h"
#include "cpu/simd.h"

namespace wassrank::cpu::WASSRANK_ISA {

template <class S, class C>
class Forward {
 public:
  explicit Forward(const LevelLossesForward& args)
      : args_(args),
        rows_(args.rows),
        inverse_temperature_(static_cast<C>(1 / args.rows.temperature)),
        asks_(args.terms.wasserstein != 0 || args.terms.kl != 0),
        given_(asks_ && args.target_kind == Target::given),
        ground_(args.p, args.rows.levels, args.position),
        gains_(args.target_kind, args.rows.levels, args.label_temperature) {}

  // A grade out of range, if a passage that takes part has one.
  std::optional<int64_t> run(ParallelFor parallel_for) {
    RowTotals totals(rows_.Q);
    const std::vector<Long> longs = long_rows();
    std::vector<RowSums> parts(longs.empty() ? 0 : longs.back().first_part + chunks_of(longs.back().row));
    for_each_chunk(rows_, parallel_for, [&](int64_t row, int64_t begin, int64_t end) {
      if (begin == 0 && end == rows_.columns(row)) {
        RowSums sums;
        accumulate(row, begin, end, sums);
        totals.set(row, finish(row, sums));
      } else {
        const auto at = std::lower_bound(longs.begin(), longs.end(), row,
                                         [](const Long& some, int64_t wanted) { return some.row < wanted; });
        accumulate(row, begin, end, parts[at->first_part + begin / kChunk]);
      }
    });
    for (const Long& some : longs) {
      RowSums& sums = parts[some.first_part];
      for (int64_t c = 1; c < chunks_of(some.row); ++c) {
        sums.add(parts[some.first_part + c], rows_.levels, rows_.temperature);
      }
      totals.set(some.row, finish(some.row, sums));
    }
    if (const auto found = stray()) return found;
    totals.reduce(args_.reduction, static_cast<C*>(args_.loss), static_cast<C*>(args_.scale));
    return std::nullopt;
  }

  // A grade out of range, if one was met.
  std::optional<int64_t> stray() const {
    const int64_t found = stray_.load(std::memory_order_relaxed);
    return found == kNoStray ? std::nullopt : std::optional(found);
  }

  // Adds what columns [begin, end) of a row are to its sums.
  void accumulate(int64_t row, int64_t begin, int64_t end, RowSums& sums) {
    if (rows_.in_batch == kExcluded) {
      begin = std::max(begin, rows_.own_begin(row));
      end = std::min(end, rows_.own_end(row));
    }
    const int64_t named = args_.terms.info_nce != 0 ? named_positive(rows_, args_.positives, row) : -1;
    C buffer[kBlock], e[kBlock];
    for (int64_t at = begin; at < end; at += kBlock) {
      const int64_t n = std::min(kBlock, end - at);
      const C* s = load_scores<S>(rows_, row, at, n, buffer);
      const Top<C> top = top_of(s, n);
      if (top.real == 0) continue;
      if (named >= at && named < at + n) sums.named = s[named - at];
      if (top.max > sums.max) sums.raise_max(top.max, rows_.levels, rows_.temperature);
      exp_block(s, n, static_cast<C>(sums.max), inverse_temperature_, e);
      const OwnPiece own = own_piece(rows_, row, at, n);
      const Piece block{row, at, n, s, e, top.real == n};
      add_others(block.part(0, own.begin), sums);
      add_own(block.part(own.begin, own.end), sums);
      add_others(block.part(own.end, n), sums);
    }
  }
  // A row's sums -> its loss and weight, and the state that the backward needs.
  RowTotal finish(int64_t row, const RowSums& sums) const {
    const StateLayout layout{rows_.levels, args_.terms.affine()};
    C* state = static_cast<C*>(args_.state) + row * layout.width();
    std::fill(state, state + layout.width(), C(0));

    const Levels levels(sums, rows_.levels, rows_.in_batch);
    if (levels.size == 0) return {};  // no passage takes part
    const Asked asked = asked_of(row, sums, levels);
    const bool asks = asks_ && asked.total != 0;
    const std::optional<Positives> positives = args_.terms.info_nce != 0 ? positives_of(row, sums) : std::nullopt;
    if (!asks && !positives) return {};  // nothing to compare

    const double weight = args_.weight ? static_cast<const C*>(args_.weight)[row] : 1;
    if (!std::isfinite(levels.Z) || (asks && !std::isfinite(asked.total))) {
      std::fill(state, state + layout.width(), std::numeric_limits<C>::quiet_NaN());
      return {std::numeric_limits<double>::quiet_NaN(), weight};
    }

    RowGradient gradient(layout);
    const double per_loss = weight / rows_.temperature;
    const auto& [wasserstein, info_nce_factor, kl] = args_.terms;
    double cost = 0;
    if (asks && wasserstein != 0) {
      cost += wasserstein * grade_wasserstein(levels, asked, ground_, kTie, wasserstein * per_loss, gradient);
    }
    if (asks && kl != 0) {
      cost += kl * listwise_kl(sums, levels, asked, given_, rows_.temperature, kl * per_loss, gradient);
    }
    if (layout.affine) {
      if (rows_.in_batch != kExcluded) gradient.b[rows_.levels] = gradient.b[rows_.in_batch];
      if (positives) {
        gradient.b_positive = gradient.b[positives->level];
        cost += info_nce_factor * info_nce(levels, *positives, rows_.temperature, info_nce_factor * per_loss, gradient);
      }
    }
    store(gradient, sums.max, layout, state);
    return {weight * cost, weight};
  }

 private:
  static constexpr int64_t kNoStray = std::numeric_limits<int64_t>::min();

  // A row of several chunks, and where in the list of all such rows' chunks its own begin.
  struct Long {
    int64_t row, first_part;
  };

  int64_t chunks_of(int64_t row) const { return (rows_.columns(row) + kChunk - 1) / kChunk; }

  std::vector<Long> long_rows() const {
    std::vector<Long> found;
    if (rows_.N <= kChunk) return found;  // packed, N is all passages
    int64_t parts = 0;
    for (int64_t row = 0; row < rows_.Q; ++row) {
      if (rows_.columns(row) <= kChunk) continue;
      found.push_back({row, parts});
      parts += chunks_of(row);
    }
    return found;
  }

  // Some of a block's passages, in columns [column, column + n) of the row.
  struct Piece {
    int64_t row, column, n;
    const C *s, *e;
    bool all_real;

    Piece part(int64_t from, int64_t to) const { return {row, column + from, to - from, s + from, e + from, all_real}; }
  };

  // Passages of other queries.
  void add_others(const Piece& some, RowSums& sums) {
    if (some.n <= 0) return;
    const int slot = rows_.levels;
    sums.mass[slot] += sum_of(some.e, some.n);
    sums.count[slot] += static_cast<double>(some.all_real ? some.n : count_real(some.s, some.n));
    C values[kBlock];
    if (given_) {
      const C* target = target_at<C>(args_.target, args_.target_width, rows_, some.row, some.column);
      if (!target) return;
      keep_real(some.s, target, some.n, values);
      sums.target[slot] += sum_of(values, some.n);
      add_given(some, values, sums);
    } else if (args_.terms.kl != 0) {
      shift_block(some.s, some.n, static_cast<C>(sums.max), values);
      sums.logit[slot] += sum_of(values, some.n);
    }
  }

  // Passages whose levels the row's labels give.
  void add_own(const Piece& some, RowSums& sums) {
    if (some.n <= 0) return;
    const int64_t n = some.n;
    const C* s = some.s;
    int32_t level[kBlock];
    load_levels(rows_, some.row, some.column, n, level);
    if (!some.all_real) {
#pragma omp simd
      for (int64_t i = 0; i < n; ++i)
        level[i] = s[i] == kNegInf<C> ? 0 : level[i];  // its e is 0; the count is taken back below
    }

    int32_t lowest = 0, highest = 0;
#pragma omp simd reduction(min : lowest) reduction(max : highest)
    for (int64_t i = 0; i < n; ++i) {
      lowest = std::min(lowest, level[i]);
      highest = std::max(highest, level[i]);
    }
    if (lowest < 0 || highest >= rows_.levels) return report_stray(some);

    add_by_level<true>(level, some.e, n, highest + 1, sums.mass, sums.count);
    if (!some.all_real) sums.count[0] -= static_cast<double>(n - count_real(s, n));
    C values[kBlock];
    if (given_) {
      keep_real(s, target_at<C>(args_.target, args_.target_width, rows_, some.row, some.column), n, values);
      add_by_level<false>(level, values, n, highest + 1, sums.target, nullptr);
      add_given(some, values, sums);
    }
    if ((args_.terms.kl != 0 && !given_) || (args_.terms.info_nce != 0 && !args_.positives)) {
      shift_block(s, n, static_cast<C>(sums.max), values);
      add_by_level<false>(level, values, n, highest + 1, sums.logit, nullptr);
    }
  }

  // What KL needs of a given target, 0 where a passage takes no part.
  void add_given(const Piece& some, const C* target, RowSums& sums) {
    if (args_.terms.kl == 0) return;
    C x[kBlock];
    shift_block(some.s, some.n, static_cast<C>(sums.max), x);
    sums.target_logit += dot(target, x, some.n);
    sums.target_log += sum_x_log_x(target, some.n);
  }

  void report_stray(const Piece& some) {
    for (int64_t i = 0; i < some.n; ++i) {
      const int64_t label = label_at(rows_, some.row, some.column + i);
      if (some.s[i] != kNegInf<C> && (label < 0 || label >= rows_.levels)) {
        stray_.store(label, std::memory_order_relaxed);
        return;
      }
    }
  }

  Asked asked_of(int64_t row, const RowSums& sums, const Levels& levels) const {
    if (given_) return Asked(sums, rows_.levels, rows_.in_batch);
    if (args_.label_temperatures && args_.target_kind == Target::softmax) {
      const double temperature = static_cast<const C*>(args_.label_temperatures)[row];
      return Asked(levels, LevelGains(args_.target_kind, levels.size, temperature), args_.target_kind);
    }
    return Asked(levels, gains_, args_.target_kind);
  }

  // The row's positives that take part, if any.
  std::optional<Positives> positives_of(int64_t row, const RowSums& sums) const {
    if (!args_.positives) {
      int best = rows_.levels - 1;
      while (best >= 0 && sums.count[best] == 0) --best;
      if (best < 0) return std::nullopt;
      return Positives{false, best, sums.count[best], sums.logit[best]};
    }
    const int64_t column = named_positive(rows_, args_.positives, row);
    if (column < 0) return std::nullopt;
    const int64_t level = label_at(rows_, row, column);
    const bool stray = level < 0 || level >= rows_.levels;
    if (sums.named == RowSums::kNothing || stray) return std::nullopt;
    return Positives{true, static_cast<int>(level), 1, sums.named - sums.max};
  }

  static void store(const RowGradient& gradient, double max, const StateLayout& layout, C* state) {
    for (int l = 0; l < layout.levels; ++l) state[l] = static_cast<C>(gradient.c[l]);
    state[layout.max()] = static_cast<C>(max);
    if (!layout.affine) return;
    for (int l = 0; l < layout.levels; ++l) state[layout.constant(l)] = static_cast<C>(gradient.b[l]);
    state[layout.others()] = static_cast<C>(gradient.b[layout.levels]);
    state[layout.positive()] = static_cast<C>(gradient.b_positive);
    state[layout.target_factor()] = static_cast<C>(gradient.f);
  }

  static constexpr double kTie = kTieUlps * std::numeric_limits<C>::epsilon();

  const LevelLossesForward& args_;
  const Rows& rows_;
  const C inverse_temperature_;
  const bool asks_;   // whether a loss looks at a target
  const bool given_;  // and that is given
  const GroundCost ground_;
  const LevelGains gains_;
  std::atomic<int64_t> stray_ = kNoStray;
};

}  // namespace wassrank::cpu::WASSRANK_ISA
