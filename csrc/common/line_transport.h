// Transport between two mass vectors on points of a line in rising order, one row at a time: cost and the source's
// potential. Derivation: wassrank/reference/transport.py. In double whatever the scores' type.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "common/ground.h"
#include "common/level_transport.h"

namespace wassrank {

// W_1: x, m, t of `points` points, each side's masses summing to one. Writes the potential (phi[0] = 0).
inline double line_distance(const double* x, const double* m, const double* t, int64_t points, double tie,
                            double* phi) {
  phi[0] = 0;
  double cost = 0, F = 0, gap = 0;  // gap: F - G, summed from differences so that it keeps the masses' precision
  for (int64_t i = 0; i + 1 < points; ++i) {
    const double step = x[i + 1] - x[i];
    F += m[i];
    gap += m[i] - t[i];
    const double size = std::abs(gap);
    cost += size * step;
    phi[i + 1] = phi[i] - (size > tie_slack(F, tie) ? std::copysign(step, gap) : 0);
  }
  return cost;
}

// A thread's room for line_transport, each as long as the points.
struct LineScratch {
  double *F, *G;
  int32_t* quantile;
};

// The last point with mass.
inline int64_t last_with_mass(const double* masses, int64_t points) {
  int64_t last = points - 1;
  while (last > 0 && !(masses[last] > 0)) --last;
  return last;
}

// Running masses of both sides as heights, 1 from the side's last point with mass on and less below it.
inline void heights(const double* m, const double* t, int64_t points, int64_t last_source, int64_t last_target,
                    double* F, double* G) {
  constexpr double kBelowOne = 1 - 0x1p-53;
  double source = 0, target = 0;
  for (int64_t i = 0; i < points; ++i) {
    source += m[i];
    target += t[i];
    F[i] = std::min(source, kBelowOne);
    G[i] = std::min(target, kBelowOne);
  }
  std::fill(F + last_source, F + points, 1.0);
  std::fill(G + last_target, G + points, 1.0);
}

// The monotone coupling, height by height: each step goes up to where the next point, of either side, has given away
// its mass; the source's comes first where both have. Which side that is nobody can predict, so a step has no branch.
template <class Ground>
class CouplingWalk {
 public:
  // After `steps` of the steps.
  CouplingWalk(const double* x, const LineScratch& at, Ground ground, int64_t steps, int64_t last_source,
               int64_t last_target)
      : x_(x), F_(at.F), G_(at.G), quantile_(at.quantile), ground_(ground) {
    // The source's share of the first `steps`: as many points as come before the target's in each other's place.
    int64_t least = std::max<int64_t>(0, steps - last_target), most = std::min(steps, last_source);
    while (least < most) {
      const int64_t middle = (least + most) / 2;
      if (F_[middle] <= G_[steps - middle - 1]) {
        least = middle + 1;
      } else {
        most = middle;
      }
    }
    j_ = least;
    k_ = steps - least;
    from_ = std::max(j_ > 0 ? F_[j_ - 1] : 0.0, k_ > 0 ? G_[k_ - 1] : 0.0);
  }

  void step() {
    const bool source_ends = F_[j_] <= G_[k_];
    const double height = source_ends ? F_[j_] : G_[k_];
    cost_ += (height - from_) * ground_.of(x_[j_] - x_[k_]);
    from_ = height;
    quantile_[j_] = static_cast<int32_t>(k_);  // the first target point with G >= F, once the source point ends
    j_ += source_ends;
    k_ += !source_ends;
  }
  double cost() const { return cost_; }
  int64_t source_point() const { return j_; }

 private:
  const double *x_, *F_, *G_;
  int32_t* quantile_;
  Ground ground_;
  int64_t j_, k_;
  double from_, cost_ = 0;
};

// W_p^p for any p; arguments and potential as for line_distance.
template <class Ground>
double line_transport(const double* x, const double* m, const double* t, int64_t points, Ground ground, double tie,
                      double* phi, const LineScratch& scratch) {
  const auto [F, G, quantile] = scratch;
  const int64_t last_source = last_with_mass(m, points), last_target = last_with_mass(t, points);
  heights(m, t, points, last_source, last_target, F, G);

  // A step waits for the one before. So four walks take turns, from a quarter of the way each.
  const int64_t steps = last_source + last_target + 1, quarter = steps / 4;
  const auto walk_from = [&](int64_t step) {
    return CouplingWalk<Ground>(x, scratch, ground, step, last_source, last_target);
  };
  CouplingWalk<Ground> walks[] = {walk_from(0), walk_from(quarter), walk_from(2 * quarter), walk_from(3 * quarter)};
  for (int64_t step = 0; step < quarter; ++step) {
    for (CouplingWalk<Ground>& walk : walks) walk.step();
  }
  // Where a walk ends the next one began, and may have seen that source point's end before.
  for (int i = 0; quarter > 0 && i < 3; ++i) {
    int32_t& reached = quantile[walks[i].source_point()];
    while (G[reached] < F[walks[i].source_point()]) ++reached;
  }
  for (int64_t step = 4 * quarter; step < steps; ++step) walks[3].step();
  const double cost = walks[0].cost() + walks[1].cost() + walks[2].cost() + walks[3].cost();
  std::fill(quantile + last_source, quantile + points, static_cast<int32_t>(last_target));

  // Quantiles of F in the target: `below` is the first point with G >= F - slack, `above` the first with G > F + slack,
  // both within the points that have mass.
  int64_t first = 0;
  while (first < last_target && !(t[first] > 0)) ++first;
  phi[0] = 0;
  int64_t below = first, above = first;
  for (int64_t i = 0; i + 1 < points; ++i) {
    const double slack = tie_slack(F[i], tie);
    int64_t at = std::max<int64_t>(quantile[i], first);
    const bool tied = G[at] <= F[i] + slack || (at > first && G[at - 1] >= F[i] - slack);
    double increment = ground.of(x[i + 1] - x[at]) - ground.of(x[i] - x[at]);
    if (tied) {
      while (below < last_target && G[below] < F[i] - slack) ++below;
      while (above < last_target && G[above] <= F[i] + slack) ++above;
      const double left = ground.of(x[i + 1] - x[below]) - ground.of(x[i] - x[below]);
      const double right = ground.of(x[i + 1] - x[above]) - ground.of(x[i] - x[above]);
      increment = 0.5 * (left + right);
    }
    phi[i + 1] = phi[i] + increment;
  }
  return cost;
}

}  // namespace wassrank
