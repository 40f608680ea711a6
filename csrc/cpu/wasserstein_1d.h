// W_p^p of pairs of weighted point sets on a line, and what its backward scales. Pairs run in parallel, each on one
// thread: both sides are sorted, then one walk over their running masses. Formulas: wassrank/ops/wasserstein_1d.py.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <optional>
#include <type_traits>
#include <vector>

#include "common/ground.h"
#include "common/monotone_coupling.h"
#include "cpu/grade_order.h"
#include "cpu/kernels.h"
#include "cpu/share.h"
#include "cpu/simd.h"

namespace wassrank::cpu::WASSRANK_ISA {

// A side's points that take part, in rising order, and where each stands in its row.
template <class C>
struct SortedPoints {
  std::vector<C> x;
  std::vector<int32_t> place;

  int64_t count() const { return x.size(); }
  bool is_finite() const { return std::isfinite(x.front()) && std::isfinite(x.back()); }
};

// A thread's room for one side of a pair.
template <class C>
struct SideScratch {
  SortedPoints<C> points;
  std::vector<double> height, slope, potential;
  double total = 0;  // of the weights

  void hold(int64_t n, bool gradients) {
    height.resize(n);
    if (!gradients) return;
    slope.resize(n);
    potential.resize(n);
  }
};

template <class S, class C>
class Wasserstein1dPass {
 public:
  explicit Wasserstein1dPass(const Wasserstein1d& args) : args_(args) {}

  std::optional<PairRefusal> run(ParallelFor parallel_for) {
    if (args_.pairs == 0) return std::nullopt;
    Sorter sorter;
    std::optional<SortedPoints<C>> shared_u, shared_v;
    if (args_.u.order_shared()) sorter.sort(args_.u, 0, shared_u.emplace());
    if (args_.v.order_shared()) sorter.sort(args_.v, 0, shared_v.emplace());

    const int64_t points = size(args_.u) + size(args_.v);
    parallel_for(args_.pairs, rows_a_thread(points, args_.pairs), [&](int64_t first, int64_t last) {
      Sorter own_sorter;
      SideScratch<C> u, v;
      for (int64_t pair = first; pair < last; ++pair) {
        if (!shared_u) own_sorter.sort(args_.u, pair, u.points);
        if (!shared_v) own_sorter.sort(args_.v, pair, v.points);
        static_cast<C*>(args_.loss)[pair] =
            static_cast<C>(compute(pair, shared_u ? *shared_u : u.points, shared_v ? *shared_v : v.points, u, v));
      }
    });
    const int64_t refusal = refusal_.load();
    if (refusal == kNone) return std::nullopt;
    return PairRefusal{static_cast<PairRefusal::What>(refusal & 3), (refusal & 4) != 0, refusal >> 3};
  }

 private:
  using Entry = std::conditional_t<std::is_same_v<C, float>, FloatEntry, DoubleEntry>;

  struct Sorter {
    std::vector<Entry> entries, other;
    std::vector<C> wide;

    void sort(const PointRows& side, int64_t pair, SortedPoints<C>& to) {
      const int64_t n = side.points(pair);
      const S* const stored = static_cast<const S*>(side.values) + side.begin(pair, side.values_shared);
      const bool* const mask = side.mask ? side.mask + side.begin(pair, side.mask_shared) : nullptr;
      const C* values;
      if constexpr (std::is_same_v<S, C>) {
        values = stored;
      } else {
        wide.resize(n);
        widen(stored, wide.data(), n);
        values = wide.data();
      }
      entries.resize(n);
      int64_t count = n;
      if (mask) {
        count = 0;
        for (int64_t i = 0; i < n; ++i) {
          entries[count] = Entry(values[i], i);
          count += mask[i];
        }
        entries.resize(count);
      } else {
        Entry* const all = entries.data();
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) all[i] = Entry(values[i], i);
      }
      sort_entries(entries, other);
      to.x.resize(count);
      to.place.resize(count);
      C* const x = to.x.data();
      int32_t* const place = to.place.data();
      const Entry* const from = entries.data();
#pragma omp simd
      for (int64_t k = 0; k < count; ++k) {
        x[k] = of_sort_key(from[k].key());
        place[k] = from[k].place();
      }
    }
  };

  int64_t size(const PointRows& side) const { return side.offsets ? side.columns : args_.pairs * side.columns; }

  double compute(int64_t pair, const SortedPoints<C>& x, const SortedPoints<C>& y, SideScratch<C>& u,
                 SideScratch<C>& v) {
    const bool ok = is_proper(args_.u, pair, x, u) & is_proper(args_.v, pair, y, v);
    if (!ok) return 0;
    if (x.count() == 0 || y.count() == 0) return write_all(pair, x, y, 0), 0;
    if (!x.is_finite() || !y.is_finite()) {
      constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
      return write_all(pair, x, y, kNaN), kNaN;
    }
    return with_ground(args_.p, [&](auto ground) { return distance(pair, x, y, u, v, ground); });
  }

  template <class Ground>
  double distance(int64_t pair, const SortedPoints<C>& x, const SortedPoints<C>& y, SideScratch<C>& u,
                  SideScratch<C>& v, const Ground& ground) {
    const bool slopes = args_.u.slope || args_.v.slope;
    const bool gradients = slopes || args_.u.potential || args_.v.potential;
    u.hold(x.count(), gradients);
    v.hold(y.count(), gradients);
    if (!args_.u.weights && !args_.v.weights && x.count() == y.count()) {
      const double cost = couple_in_pairs(x.x.data(), y.x.data(), x.count(), ground, slopes ? u.slope.data() : nullptr);
      scatter(args_.u, pair, x, args_.u.slope, [&](int64_t k) { return u.slope[k]; });
      scatter(args_.v, pair, y, args_.v.slope, [&](int64_t k) { return -u.slope[k]; });
      return cost;
    }
    set_heights(args_.u, u, x.count());
    set_heights(args_.v, v, y.count());
    const LineSide<C> first{x.x.data(), u.height.data(), x.count(), u.slope.data(), u.potential.data()};
    const LineSide<C> second{y.x.data(), v.height.data(), y.count(), v.slope.data(), v.potential.data()};
    if (!gradients) return couple<false>(first, second, ground);
    const double cost = couple<true>(first, second, ground);
    write_gradients(args_.u, pair, x, u);
    write_gradients(args_.v, pair, y, v);
    return cost;
  }

  // Running weights in `heights`, their sum in `total`; false where there is something to refuse.
  bool is_proper(const PointRows& side, int64_t pair, const SortedPoints<C>& points, SideScratch<C>& to) {
    const int64_t n = points.count();
    if (n == 0) return true;
    if (std::isnan(points.x.back())) return refuse(side, pair, PairRefusal::nan_value);
    if (!side.weights) return true;
    const C* const weights = static_cast<const C*>(side.weights) + side.begin(pair, side.weights_shared);
    to.height.resize(n);
    double sum = 0;
    bool proper = true;
    for (int64_t k = 0; k < n; ++k) {
      const C weight = weights[points.place[k]];
      proper &= weight >= 0 && weight < std::numeric_limits<C>::infinity();
      to.height[k] = sum += weight;
    }
    to.total = sum;
    if (!proper) return refuse(side, pair, PairRefusal::improper_weight);
    return sum > 0 || refuse(side, pair, PairRefusal::massless);
  }

  // From running weights to running masses.
  static void set_heights(const PointRows& side, SideScratch<C>& to, int64_t n) {
    double* const height = to.height.data();
    if (!side.weights) {
#pragma omp simd
      for (int64_t k = 0; k < n; ++k) height[k] = static_cast<double>(k + 1) / static_cast<double>(n);
      return;
    }
    int64_t last = n - 1;
    while (last > 0 && height[last - 1] == to.total) --last;
    const double total = to.total;
#pragma omp simd
    for (int64_t k = 0; k < last; ++k) height[k] /= total;
    std::fill(height + last, height + n, 1.0);
  }

  static void write_gradients(const PointRows& side, int64_t pair, const SortedPoints<C>& points,
                              const SideScratch<C>& from) {
    scatter(side, pair, points, side.slope, [&](int64_t k) { return from.slope[k]; });
    if (!side.potential) return;
    double mean = from.potential[0] * from.height[0];
    const int64_t n = points.count();
#pragma omp simd reduction(+ : mean)
    for (int64_t k = 1; k < n; ++k) mean += from.potential[k] * (from.height[k] - from.height[k - 1]);
    const double scale = 1 / from.total;
    scatter(side, pair, points, side.potential, [&](int64_t k) { return scale * (from.potential[k] - mean); });
  }

  // What `of` says of each point in order goes to the point's place, 0 to those that take no part.
  template <class Of>
  static void scatter(const PointRows& side, int64_t pair, const SortedPoints<C>& points, void* all, Of of) {
    if (!all) return;
    C* const out = static_cast<C*>(all) + side.begin(pair);
    const int64_t n = side.points(pair), count = points.count();
    if (count < n) std::fill(out, out + n, C(0));
    const int32_t* const place = points.place.data();
    for (int64_t k = 0; k < count; ++k) out[place[k]] = static_cast<C>(of(k));
  }

  void write_all(int64_t pair, const SortedPoints<C>& x, const SortedPoints<C>& y, double value) const {
    for (void* out : {args_.u.slope, args_.u.potential}) scatter(args_.u, pair, x, out, [=](int64_t) { return value; });
    for (void* out : {args_.v.slope, args_.v.potential}) scatter(args_.v, pair, y, out, [=](int64_t) { return value; });
  }

  // Keeps the first pair's, whichever thread meets it when.
  bool refuse(const PointRows& side, int64_t pair, PairRefusal::What what) {
    const int64_t code = pair << 3 | (&side == &args_.v) << 2 | what;
    int64_t before = refusal_.load();
    while (code < before && !refusal_.compare_exchange_weak(before, code)) {
    }
    return false;
  }

  static constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
  const Wasserstein1d& args_;
  std::atomic<int64_t> refusal_ = kNone;
};

}  // namespace wassrank::cpu::WASSRANK_ISA
