// Grade-axis Wasserstein, sorted path, forward and backward. Formulas: wassrank/ops/sorted_wasserstein.py and
// wassrank/reference/transport.py.
//
// A row is read once, its exponentials kept beside it; then its passages are walked in the order of their coordinates.
// Rows run in parallel, each on one thread.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <optional>
#include <vector>

#include "common/line_transport.h"
#include "common/sorted_rows.h"
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
  std::vector<double> x, m, t, phi;
  std::vector<int32_t> place;  // of each point among the row's own passages; -1 for the others'

  void hold(int64_t own) {
    const size_t points = own + 1;
    if (score.size() >= points) return;
    for (std::vector<C>* of : {&score, &e, &gain}) of->resize(points);
    for (std::vector<double>* of : {&x, &m, &t, &phi}) of->resize(points);
    place.resize(points);
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
  double mass = 0;    // relative to max
  double count = 0;   // that take part
  double target = 0;  // given
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

  std::optional<double> run(ParallelFor parallel_for) {
    parallel_for(rows_.Q, rows_a_thread(rows_.begin(rows_.Q), rows_.Q), [&](int64_t first, int64_t last) {
      Scratch<C> scratch;
      for (int64_t row = first; row < last; ++row) compute(row, scratch);
    });
    if (stray_.load(std::memory_order_relaxed)) return stray_label_;
    totals_.reduce(args_.reduction, static_cast<C*>(args_.loss), static_cast<C*>(args_.scale));
    return std::nullopt;
  }

 private:
  void compute(int64_t row, Scratch<C>& w) {
    const int64_t begin = rows_.own_begin(row), own = rows_.own_end(row) - begin;
    const int64_t labels_begin = rows_.labels_begin(row);
    const C* const labels = static_cast<const C*>(rows_.labels) + labels_begin;
    C* const coefficient = static_cast<C*>(args_.coefficient) + labels_begin;
    C* const state = static_cast<C*>(args_.state) + 2 * row;
    std::fill(coefficient, coefficient + own, C(0));
    state[0] = state[1] = 0;
    w.hold(own);

    C max = kNegInf<C>;
    for (int64_t at = 0; at < own; at += kBlock) {
      const int64_t n = std::min(kBlock, own - at);
      const C* s = load_scores<S>(rows_, row, begin + at, n, w.score.data() + at);
      if (s != w.score.data() + at) std::copy(s, s + n, w.score.data() + at);
      max = std::max(max, top_of(s, n).max);
    }
    Others<C> others;
    if (takes_others()) {
      gather_others(row, 0, begin, others);
      gather_others(row, begin + own, rows_.N, others);
    }
    max = std::max(max, others.max);
    exp_block(w.score.data(), own, max, inverse_temperature_, w.e.data());

    const double label_temperature =
        args_.label_temperatures ? static_cast<const C*>(args_.label_temperatures)[row] : args_.label_temperature;
    const double top_label = fill_gains(row, labels, own, others, label_temperature, w);
    if (stray_.load(std::memory_order_relaxed)) return;

    double others_mass = 0, others_gain = 0;
    if (others.count > 0) {
      others_mass = others.mass * std::exp((static_cast<double>(others.max) - max) / rows_.temperature);
      others_gain = others.count * gain_of_others(others, top_label, label_temperature);
    }
    const double Z = others_mass + wide_sum(w.e.data(), own), total = others_gain + wide_sum(w.gain.data(), own);
    if (Z == 0 || total == 0) return;  // nothing to compare

    const int64_t points =
        line_up(row, labels, own, others.count > 0, others_mass / Z, others_gain / total, 1 / Z, 1 / total, w);
    double cost = transport(points, w);
    const bool finite = std::isfinite(Z) && std::isfinite(total);
    if (!finite) cost = std::numeric_limits<double>::quiet_NaN();
    const double weight = args_.weight ? static_cast<const C*>(args_.weight)[row] : 1;
    double mean = 0;
    for (int64_t i = 0; i < points; ++i) mean += w.m[i] * w.phi[i];
    const double factor = finite ? weight / (rows_.temperature * Z) : cost;
    for (int64_t i = 0; i < points; ++i) {
      const C c = static_cast<C>(factor * (w.phi[i] - mean));
      (w.place[i] < 0 ? state[0] : coefficient[w.place[i]]) = c;
    }
    state[1] = max;
    totals_.set(row, weight * cost, weight);
  }

  bool takes_others() const { return rows_.K != rows_.N && rows_.in_batch != kExcluded; }

  // Columns [from, to), passages of other queries.
  void gather_others(int64_t row, int64_t from, int64_t to, Others<C>& others) {
    C buffer[kBlock], e[kBlock];
    const bool given = args_.target_kind == Target::given;
    for (int64_t at = from; at < to; at += kBlock) {
      const int64_t n = std::min(kBlock, to - at);
      const C* s = load_scores<S>(rows_, row, at, n, buffer);
      const Top<C> top = top_of(s, n);
      if (top.real == 0) continue;
      if (top.max > others.max) {
        if (others.mass != 0) {
          others.mass *= std::exp((static_cast<double>(others.max) - top.max) / rows_.temperature);
        }
        others.max = top.max;
      }
      exp_block(s, n, others.max, inverse_temperature_, e);
      others.mass += sum_of(e, n);
      others.count += static_cast<double>(top.real);
      const C* target = given ? target_at<C>(args_.target, args_.target_width, rows_, row, at) : nullptr;
      if (target) {
        for (int64_t i = 0; i < n; ++i) others.target += s[i] == kNegInf<C> ? C(0) : target[i];
      }
    }
  }

  // Each own passage's gain, before it is normalised; returns the label that softmax gains are relative to.
  double fill_gains(int64_t row, const C* labels, int64_t own, const Others<C>& others, double label_temperature,
                    Scratch<C>& w) {
    const C* const x = args_.position ? static_cast<const C*>(args_.position) + rows_.labels_begin(row) : labels;
    double top = others.count > 0 ? args_.others_label : -std::numeric_limits<double>::infinity();
    for (int64_t i = 0; i < own; ++i) {
      if (w.score[i] == kNegInf<C>) continue;
      if (!std::isfinite(labels[i]) || !std::isfinite(x[i]))
        return report_stray(std::isfinite(x[i]) ? labels[i] : x[i]);
      top = std::max<double>(top, labels[i]);
    }
    switch (args_.target_kind) {
      case Target::softmax: {
        const C inverse = static_cast<C>(1 / label_temperature);
        map_block(labels, own, w.gain.data(),
                  [=](C y) { return exp_nonpositive((y - static_cast<C>(top)) * inverse); });
        break;
      }
      case Target::given: {
        const C* given = target_at<C>(args_.target, args_.target_width, rows_, row, rows_.own_begin(row));
        if (own > 0) std::copy(given, given + own, w.gain.data());
        break;
      }
      default:
        for (int64_t i = 0; i < own; ++i) w.gain[i] = static_cast<C>(plain_gain(labels[i]));
    }
#pragma omp simd
    for (int64_t i = 0; i < own; ++i) w.gain[i] = w.score[i] == kNegInf<C> ? C(0) : w.gain[i];
    return top;
  }

  double plain_gain(double y) const {
    return std::max(0.0, args_.target_kind == Target::linear ? y : std::exp2(y) - 1);
  }

  double report_stray(double label) {
    stray_label_ = label;  // any one will do
    stray_.store(true, std::memory_order_relaxed);
    return label;
  }

  double gain_of_others(const Others<C>& others, double top_label, double label_temperature) const {
    if (args_.target_kind == Target::given) return others.target / others.count;
    if (args_.target_kind == Target::softmax) return std::exp((args_.others_label - top_label) / label_temperature);
    return plain_gain(args_.others_label);
  }

  // The passages that take part as points on the line, in order, the others' among them, with their shares of the
  // masses.
  int64_t line_up(int64_t row, const C* labels, int64_t own, bool waiting, double others_mass, double others_gain,
                  double mass_scale, double gain_scale, Scratch<C>& w) const {
    const C* const x = args_.position ? static_cast<const C*>(args_.position) + rows_.labels_begin(row) : labels;
    const int32_t* const order = args_.order + rows_.labels_begin(row);
    int64_t points = 0;
    const auto put = [&](double at, double m, double t, int32_t place) {
      w.x[points] = at;
      w.m[points] = m;
      w.t[points] = t;
      w.place[points++] = place;
    };
    for (int64_t i = 0; i < own; ++i) {
      const int32_t n = order[i];
      if (w.score[n] == kNegInf<C>) continue;
      if (waiting && x[n] > args_.others_label) {
        put(args_.others_label, others_mass, others_gain, -1);
        waiting = false;
      }
      put(x[n], w.e[n] * mass_scale, w.gain[n] * gain_scale, n);
    }
    if (waiting) put(args_.others_label, others_mass, others_gain, -1);
    return points;
  }

  double transport(int64_t points, Scratch<C>& w) const {
    const double *x = w.x.data(), *m = w.m.data(), *t = w.t.data();
    if (args_.p == 1) return line_distance(x, m, t, points, tie_, w.phi.data());
    if (args_.p == 2) return line_transport(x, m, t, points, Square{}, tie_, w.phi.data());
    return line_transport(x, m, t, points, Power{args_.p}, tie_, w.phi.data());
  }

  const SortedForward& args_;
  const Rows& rows_;
  const C inverse_temperature_;
  const double tie_;
  RowTotals totals_;
  std::atomic<bool> stray_ = false;
  double stray_label_ = 0;
};

template <class S, class C>
void backward_row(const SortedBackward& args, int64_t row) {
  const Rows& rows = args.rows;
  const int64_t columns = rows.columns(row), own_begin = rows.own_begin(row), own_end = rows.own_end(row);
  const C* const coefficient = static_cast<const C*>(args.coefficient) + rows.labels_begin(row);
  const C* const state = static_cast<const C*>(args.state) + 2 * row;
  const C inverse_temperature = static_cast<C>(1 / rows.temperature);
  const C upstream =
      static_cast<const C*>(args.grad_loss)[args.grad_per_row ? row : 0] * *static_cast<const C*>(args.scale);
  S* const gradient = static_cast<S*>(args.grad_scores) + rows.begin(row);
  C buffer[kBlock], result[kBlock];
  for (int64_t at = 0; at < columns; at += kBlock) {
    const int64_t n = std::min(kBlock, columns - at);
    const C* s = load_scores<S>(rows, row, at, n, buffer);
    // Columns [0, from) and [to, n) are other queries'.
    const int64_t from = std::clamp<int64_t>(own_begin - at, 0, n), to = std::clamp<int64_t>(own_end - at, from, n);
    if (state[0] != 0) {
      scaled_exp_block(s, n, state[1], inverse_temperature, C(upstream * state[0]), C(0), result);
    } else {
      std::fill(result, result + n, C(0));
    }
    if (to > from) {
      exp_block(s + from, to - from, state[1], inverse_temperature, result + from);
      const C* const c = coefficient + at + from - own_begin;
      C* const own = result + from;
#pragma omp simd
      // c is 0 all along an empty row, whose exponentials, relative to no maximum, mean nothing.
      for (int64_t i = 0; i < to - from; ++i) {
        const C g = upstream * c[i] * own[i];
        own[i] = c[i] == 0 || s[from + i] == kNegInf<C> ? C(0) : g;
      }
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
