// Sorted path: a row is read once, its exponentials kept beside it; then its passages are walked in the order of their
// coordinates. Rows run in parallel, each on one thread. Formulas: wassrank/ops/sorted_losses.py.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <optional>
#include <type_traits>
#include <vector>

#include "common/line_transport.h"
#include "common/sorted_rows.h"
#include "common/target_gain.h"
#include "cpu/grade_order.h"
#include "cpu/kernels.h"
#include "cpu/pieces.h"
#include "cpu/row_totals.h"
#include "cpu/share.h"
#include "cpu/simd.h"

namespace wassrank::cpu::WASSRANK_ISA {

// A thread's room for the longest row it has met.
template <class C>
struct Scratch {
  std::vector<C> score, e, gain;
  std::vector<double> x, m, t, phi, F, G;
  std::vector<int32_t> place;  // of each point among the row's own passages; -1 for the others'
  std::vector<int32_t> quantile;
  std::vector<uint8_t> is_positive;
  // Where no order is given: entries being sorted, and the order they come to.
  std::vector<std::conditional_t<std::is_same_v<C, float>, FloatEntry, DoubleEntry>> entries, other_entries;
  std::vector<int32_t> order;

  void hold(int64_t own) {
    const size_t points = own + 1;
    if (score.size() >= points) return;
    for (std::vector<C>* of : {&score, &e, &gain}) of->resize(points);
    for (std::vector<double>* of : {&x, &m, &t, &phi, &F, &G}) of->resize(points);
    place.resize(points);
    quantile.resize(points);
    is_positive.resize(points);
  }
};

template <class C>
double wide_sum(const C* x, int64_t n) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]);
  return sum;
}

// Other queries' passages: all at one point.
template <class C>
struct Others {
  C max = kNegInf<C>;
  double mass = 0;   // relative to max
  double count = 0;  // that take part
  double shift = 0;  // sum of s - max
  // Sums over a given target T: of T, T (s - max), T log T.
  double target = 0, target_shift = 0, target_log = 0;

  void raise_max(C higher, double temperature) {
    if (count > 0) {
      const double rise = static_cast<double>(higher) - max;
      mass *= std::exp(-rise / temperature);
      shift -= count * rise;
      target_shift -= target * rise;
    }
    max = higher;
  }
};

// What a row's labels ask for: own passages' gains are in Scratch.
struct RowGains {
  double top;                        // of the labels: what softmax gains are relative to
  double one_other = 0, others = 0;  // of one of the others' passages, if it is not given; of all
  double total = 0;
};

template <class S, class C>
class SortedForwardPass {
 public:
  explicit SortedForwardPass(const SortedForward& args)
      : args_(args),
        rows_(args.rows),
        inverse_temperature_(static_cast<C>(1 / args.rows.temperature)),
        tie_(kTieUlps * std::numeric_limits<C>::epsilon()),
        totals_(args.rows.Q) {}

  std::optional<Refusal> run(ParallelFor parallel_for) {
    parallel_for(rows_.Q, rows_a_thread(rows_.begin(rows_.Q), rows_.Q), [&](int64_t first, int64_t last) {
      Scratch<C> scratch;
      for (int64_t row = first; row < last; ++row) compute(row, scratch);
    });
    if (is_stray_.load(std::memory_order_relaxed)) return Refusal{Refusal::of_label, stray_.load()};
    if (is_misordered_.load(std::memory_order_relaxed)) return Refusal{Refusal::of_order, 0};
    totals_.reduce(args_.reduction, static_cast<C*>(args_.loss), static_cast<C*>(args_.scale));
    return std::nullopt;
  }

 private:
  void compute(int64_t row, Scratch<C>& w) {
    const int64_t begin = rows_.own_begin(row), own = rows_.own_end(row) - begin;
    const int64_t labels_begin = rows_.labels_begin(row);
    const C* const labels = static_cast<const C*>(rows_.labels) + labels_begin;
    Gradient to{static_cast<C*>(args_.coefficient) + labels_begin, nullptr,
                static_cast<C*>(args_.state) + SortedState::width * row};
    std::fill_n(to.c, own, C(0));
    if (args_.constant) {
      to.b = static_cast<C*>(args_.constant) + labels_begin;
      std::fill_n(to.b, own, C(0));
    }
    std::fill_n(to.state, SortedState::width, C(0));
    w.hold(own);

    C max = kNegInf<C>;
    int64_t real = 0;
    for (int64_t at = 0; at < own; at += kBlock) {
      const int64_t n = std::min(kBlock, own - at);
      const C* s = load_scores<S>(rows_, row, begin + at, n, w.score.data() + at);
      if (s != w.score.data() + at) std::copy(s, s + n, w.score.data() + at);
      const Top<C> top = top_of(s, n);
      max = std::max(max, top.max);
      real += top.real;
    }
    Others<C> others;
    if (takes_others()) {
      gather_others(row, 0, begin, others);
      gather_others(row, begin + own, rows_.N, others);
    }
    if (real == 0 && others.count == 0) return;  // no passage takes part
    max = std::max(max, others.max);
    if (others.count > 0) others.raise_max(max, rows_.temperature);
    exp_block(w.score.data(), own, max, inverse_temperature_, w.e.data());
    const double Z = others.mass + wide_sum(w.e.data(), own);

    const RowGains gains = fill_gains(row, labels, own, others, w);
    if (is_stray_.load(std::memory_order_relaxed)) return;
    const bool asks = (args_.terms.wasserstein != 0 || args_.terms.kl != 0) && gains.total != 0;
    const int64_t positives = args_.terms.info_nce != 0 ? mark_positives(row, labels, own, w) : 0;
    if (!asks && positives == 0) return;  // nothing to compare

    const double weight = args_.weight ? static_cast<const C*>(args_.weight)[row] : 1;
    to.state[SortedState::max] = max;
    if (!std::isfinite(Z) || (asks && !std::isfinite(gains.total))) {
      constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
      std::fill_n(to.c, own, static_cast<C>(kNaN));
      std::fill_n(to.state, SortedState::width, static_cast<C>(kNaN));
      totals_.set(row, {kNaN, weight});
      return;
    }
    const double per_loss = weight / rows_.temperature;
    double cost = 0, push = 0;  // push: what is added to every passage's c
    if (positives > 0) {
      cost += args_.terms.info_nce * info_nce(own, max, positives, Z, per_loss * args_.terms.info_nce, w, to);
      push += args_.terms.info_nce;
    }
    if (asks && args_.terms.kl != 0) {
      cost += args_.terms.kl * listwise_kl(own, max, others, gains, Z, per_loss * args_.terms.kl, w, to);
      push += args_.terms.kl;
    }
    if (asks && args_.terms.wasserstein != 0) {
      const double factor = per_loss * args_.terms.wasserstein / Z;
      cost += args_.terms.wasserstein *
              distance(row, labels, own, real == own, others, gains, Z, factor, per_loss * push / Z, w, to);
    } else {
      add_push(own, others.count > 0, static_cast<C>(per_loss * push / Z), w, to);
    }
    totals_.set(row, {weight * cost, weight});
  }

  // Where a row's gradient goes: c and b of its own passages (b is null where none has any), and the state.
  struct Gradient {
    C *c, *b, *state;
  };

  // c of every passage that takes part.
  static void add_push(int64_t own, bool others, C push, const Scratch<C>& w, const Gradient& to) {
    for (int64_t i = 0; i < own; ++i) to.c[i] = w.score[i] == kNegInf<C> ? C(0) : push;
    if (others) to.state[SortedState::others_c] = push;
  }

  // W_p^p; writes every c.
  double distance(int64_t row, const C* labels, int64_t own, bool all_real, const Others<C>& others,
                  const RowGains& gains, double Z, double factor, double push, Scratch<C>& w, const Gradient& to) {
    const int64_t points = line_up(row, labels, own, all_real, others.count > 0, others.mass / Z,
                                   gains.others / gains.total, 1 / Z, 1 / gains.total, w);
    if (points == kMisordered) {
      is_misordered_.store(true, std::memory_order_relaxed);
      return 0;
    }
    const double cost = transport(points, w);
    double mean = 0;
#pragma omp simd reduction(+ : mean)
    for (int64_t i = 0; i < points; ++i) mean += w.m[i] * w.phi[i];
    for (int64_t i = 0; i < points; ++i) {
      const C c = static_cast<C>(factor * (w.phi[i] - mean) + push);
      (w.place[i] < 0 ? to.state[SortedState::others_c] : to.c[w.place[i]]) = c;
    }
    return cost;
  }

  // KL(T || P), T = gain / total; adds to b.
  double listwise_kl(int64_t own, C max, const Others<C>& others, const RowGains& gains, double Z, double factor,
                     const Scratch<C>& w, const Gradient& to) const {
    const bool given = args_.target_kind == Target::given;
    double shift = given ? others.target_shift : gains.one_other * others.shift;  // sum of gain (s - max)
    double log_sum = given ? others.target_log : gains.others * log_of(gains.one_other);
    const double pull = factor / gains.total;
    for (int64_t i = 0; i < own; ++i) {
      const double gain = w.gain[i];
      if (gain == 0) continue;  // padding, too
      shift += gain * (static_cast<double>(w.score[i]) - max);
      log_sum += gain * std::log(gain);
      to.b[i] -= static_cast<C>(pull * gain);
    }
    if (others.count > 0) {
      to.state[given ? SortedState::others_f : SortedState::others_b] =
          static_cast<C>(given ? -pull : -pull * gains.one_other);
    }
    return std::log(Z) - std::log(gains.total) + (log_sum - shift / rows_.temperature) / gains.total;
  }

  static double log_of(double gain) { return gain > 0 ? std::log(gain) : 0; }

  // The row's positives that take part, in w.is_positive; returns how many.
  int64_t mark_positives(int64_t row, const C* labels, int64_t own, Scratch<C>& w) const {
    int64_t count = 0;
    C best = kNegInf<C>;
    for (int64_t i = 0; i < own; ++i) {
      if (w.score[i] != kNegInf<C>) best = std::max(best, labels[i]);
    }
    for (int64_t i = 0; i < own; ++i) {
      w.is_positive[i] = w.score[i] != kNegInf<C> && (args_.positives ? args_.positives[row] == i : labels[i] == best);
      count += w.is_positive[i];
    }
    return count;
  }

  // InfoNCE; adds to b.
  double info_nce(int64_t own, C max, int64_t positives, double Z, double factor, const Scratch<C>& w,
                  const Gradient& to) const {
    double shift = 0;  // sum of s - max
    const C pull = static_cast<C>(factor / positives);
    for (int64_t i = 0; i < own; ++i) {
      if (!w.is_positive[i]) continue;
      shift += static_cast<double>(w.score[i]) - max;
      to.b[i] -= pull;
    }
    return std::log(Z) - shift / (rows_.temperature * positives);
  }

  static constexpr int64_t kMisordered = -1;

  bool takes_others() const { return rows_.K != rows_.N && rows_.in_batch != kExcluded; }

  // Columns [from, to), passages of other queries.
  void gather_others(int64_t row, int64_t from, int64_t to, Others<C>& others) {
    C buffer[kBlock], e[kBlock], shift[kBlock];
    const bool given = args_.target_kind == Target::given;
    for (int64_t at = from; at < to; at += kBlock) {
      const int64_t n = std::min(kBlock, to - at);
      const C* s = load_scores<S>(rows_, row, at, n, buffer);
      const Top<C> top = top_of(s, n);
      if (top.real == 0) continue;
      if (top.max > others.max) others.raise_max(top.max, rows_.temperature);
      exp_block(s, n, others.max, inverse_temperature_, e);
      others.mass += sum_of(e, n);
      others.count += static_cast<double>(top.real);
      const C* target = given ? target_at<C>(args_.target, args_.target_width, rows_, row, at) : nullptr;
      if (target) {
        keep_real(s, target, n, e);
        others.target += sum_of(e, n);
      }
      if (args_.terms.kl == 0) continue;
      shift_block(s, n, others.max, shift);
      if (!given) others.shift += sum_of(shift, n);
      if (target) {
        others.target_shift += dot(e, shift, n);
        others.target_log += sum_x_log_x(e, n);
      }
    }
  }

  // Own passages' gains, before they are normalised, in w.gain: 0 for what takes no part.
  RowGains fill_gains(int64_t row, const C* labels, int64_t own, const Others<C>& others, Scratch<C>& w) {
    const C* const x = args_.position ? static_cast<const C*>(args_.position) + rows_.labels_begin(row) : labels;
    C highest = kNegInf<C>, stray = 0;  // stray: NaN if one is, since infinity - infinity is NaN
#pragma omp simd reduction(max : highest) reduction(+ : stray)
    for (int64_t i = 0; i < own; ++i) {
      const bool real = w.score[i] != kNegInf<C>;
      highest = real && labels[i] > highest ? labels[i] : highest;
      stray += real ? (labels[i] - labels[i]) + (x[i] - x[i]) : C(0);
    }
    if (stray != 0) {
      report_stray(labels, x, own, w);
      return {};
    }
    const double top = others.count > 0 ? std::max<double>(highest, args_.others_label) : highest;
    RowGains gains{.top = top};
    switch (args_.target_kind) {
      case Target::softmax: {
        const double temperature =
            args_.label_temperatures ? static_cast<const C*>(args_.label_temperatures)[row] : args_.label_temperature;
        const C inverse = static_cast<C>(1 / temperature);
        map_block(labels, own, w.gain.data(),
                  [=](C y) { return exp_nonpositive((y - static_cast<C>(top)) * inverse); });
        gains.one_other = std::exp((args_.others_label - top) / temperature);
        break;
      }
      case Target::given: {
        const C* given = target_at<C>(args_.target, args_.target_width, rows_, row, rows_.own_begin(row));
        if (own > 0) std::copy(given, given + own, w.gain.data());
        break;
      }
      default:
        for (int64_t i = 0; i < own; ++i) w.gain[i] = static_cast<C>(label_gain(args_.target_kind, labels[i]));
        gains.one_other = label_gain(args_.target_kind, args_.others_label);
    }
#pragma omp simd
    for (int64_t i = 0; i < own; ++i) w.gain[i] = w.score[i] == kNegInf<C> ? C(0) : w.gain[i];
    gains.others = args_.target_kind == Target::given ? others.target : others.count * gains.one_other;
    gains.total = gains.others + wide_sum(w.gain.data(), own);
    return gains;
  }

  void report_stray(const C* labels, const C* x, int64_t own, const Scratch<C>& w) {
    for (int64_t i = 0; i < own; ++i) {
      if (w.score[i] == kNegInf<C> || (std::isfinite(labels[i]) && std::isfinite(x[i]))) continue;
      stray_.store(std::isfinite(x[i]) ? labels[i] : x[i], std::memory_order_relaxed);  // any one will do
    }
    is_stray_.store(true);
  }

  // The passages that take part as points on the line, in order, the others' among them, with their shares of the
  // masses. Returns how many, or kMisordered.
  int64_t line_up(int64_t row, const C* labels, int64_t own, bool all_real, bool others, double others_mass,
                  double others_gain, double mass_scale, double gain_scale, Scratch<C>& w) const {
    const C* const x = args_.position ? static_cast<const C*>(args_.position) + rows_.labels_begin(row) : labels;
    const int32_t* const order =
        args_.order ? args_.order + rows_.labels_begin(row) : order_row(x, own, w.entries, w.other_entries, w.order);
    uint32_t furthest = 0;  // a place below 0 is beyond all others
#pragma omp simd reduction(max : furthest)
    for (int64_t i = 0; i < own; ++i) furthest = std::max(furthest, static_cast<uint32_t>(order[i]));
    if (own > 0 && furthest >= static_cast<uint64_t>(own)) return kMisordered;
    int64_t points = 0;
    const auto put = [&](int64_t point, double at, double m, double t, int32_t place) {
      w.x[point] = at;
      w.m[point] = m;
      w.t[point] = t;
      w.place[point] = place;
    };
    const auto put_own = [&](const int32_t* from, const int32_t* to) {
      if (all_real) {
        const int64_t n = to - from;
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) {
          const int32_t of = from[i];
          put(points + i, x[of], w.e[of] * mass_scale, w.gain[of] * gain_scale, of);
        }
        points += n;
        return;
      }
      for (; from != to; ++from) {
        const int32_t of = *from;
        if (w.score[of] != kNegInf<C>) put(points++, x[of], w.e[of] * mass_scale, w.gain[of] * gain_scale, of);
      }
    };
    const auto if_rising = [&](int64_t points) {
      int falls = 0;
#pragma omp simd reduction(| : falls)
      for (int64_t i = 1; i < points; ++i) falls |= w.x[i] < w.x[i - 1];
      return falls ? kMisordered : points;
    };
    if (!others) {
      put_own(order, order + own);
      return if_rising(points);
    }
    // What takes no part may be NaN, which is last in the order.
    const int32_t* const behind =
        std::partition_point(order, order + own, [&](int32_t n) { return x[n] <= static_cast<C>(args_.others_label); });
    put_own(order, behind);
    put(points++, args_.others_label, others_mass, others_gain, -1);
    put_own(behind, order + own);
    return if_rising(points);
  }

  double transport(int64_t points, Scratch<C>& w) const {
    const double *x = w.x.data(), *m = w.m.data(), *t = w.t.data();
    if (args_.p == 1) return line_distance(x, m, t, points, tie_, w.phi.data());
    const LineScratch scratch{w.F.data(), w.G.data(), w.quantile.data()};
    if (args_.p == 2) return line_transport(x, m, t, points, Square{}, tie_, w.phi.data(), scratch);
    return line_transport(x, m, t, points, Power{args_.p}, tie_, w.phi.data(), scratch);
  }

  const SortedForward& args_;
  const Rows& rows_;
  const C inverse_temperature_;
  const double tie_;
  RowTotals totals_;
  std::atomic<bool> is_stray_ = false, is_misordered_ = false;
  std::atomic<double> stray_ = 0;
};

template <class S, class C>
void backward_row(const SortedBackward& args, int64_t row) {
  const Rows& rows = args.rows;
  const int64_t columns = rows.columns(row), own_begin = rows.own_begin(row), own_end = rows.own_end(row);
  const C* const coefficient = static_cast<const C*>(args.coefficient) + rows.labels_begin(row);
  const C* const constant = args.constant ? static_cast<const C*>(args.constant) + rows.labels_begin(row) : nullptr;
  const C* const state = static_cast<const C*>(args.state) + SortedState::width * row;
  const C inverse_temperature = static_cast<C>(1 / rows.temperature);
  const C upstream =
      static_cast<const C*>(args.grad_loss)[args.grad_per_row ? row : 0] * *static_cast<const C*>(args.scale);
  const C max = state[SortedState::max], f = upstream * state[SortedState::others_f];
  const C others_c = upstream * state[SortedState::others_c], others_b = upstream * state[SortedState::others_b];
  const bool others = state[SortedState::others_c] != 0 || state[SortedState::others_b] != 0 || f != 0;
  S* const gradient = static_cast<S*>(args.grad_scores) + rows.begin(row);
  C buffer[kBlock], result[kBlock];
  for (int64_t at = 0; at < columns; at += kBlock) {
    const int64_t n = std::min(kBlock, columns - at);
    const C* s = load_scores<S>(rows, row, at, n, buffer);
    // Columns [0, from) and [to, n) are other queries'.
    const int64_t from = std::clamp<int64_t>(own_begin - at, 0, n), to = std::clamp<int64_t>(own_end - at, from, n);
    if (others) {
      scaled_exp_block(s, n, max, inverse_temperature, others_c, others_b, result);
      if (args.target && f != 0) {
        const C* target = target_at<C>(args.target, args.target_width, rows, row, at);
        add_scaled(s, target, n, f, result);
      }
    } else {
      std::fill(result, result + n, C(0));
    }
    if (to > from) {
      exp_block(s + from, to - from, max, inverse_temperature, result + from);
      const int64_t first = at + from - own_begin;
      const C* const c = coefficient + first;
      C* const own = result + from;
      // c is 0 all along an empty row, whose exponentials, relative to no maximum, mean nothing.
#pragma omp simd
      for (int64_t i = 0; i < to - from; ++i) {
        const C g = upstream * c[i] * own[i];
        own[i] = c[i] == 0 || s[from + i] == kNegInf<C> ? C(0) : g;
      }
      if (constant) add_scaled(s + from, constant + first, to - from, upstream, own);
    }
    narrow(result, gradient + at, n);
  }
}

template <class S, class C>
void sorted_backward_pass(const SortedBackward& args, ParallelFor parallel_for) {
  const Rows& rows = args.rows;
  parallel_for(rows.Q, rows_a_thread(rows.begin(rows.Q), rows.Q), [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) backward_row<S, C>(args, row);
  });
}

}  // namespace wassrank::cpu::WASSRANK_ISA
