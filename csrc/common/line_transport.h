// Transport between two mass vectors on points of a line in rising order, one row at a time: cost and the source's
// potential. Derivation: wassrank/reference/transport.py. In double whatever the scores' type.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "common/level_transport.h"

namespace wassrank {

// |d|^p.
struct Distance {
  static double of(double d) { return std::abs(d); }
};
struct Square {
  static double of(double d) { return d * d; }
};
struct Power {
  double p;
  double of(double d) const { return std::pow(std::abs(d), p); }
};

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

// W_p^p for any p.
template <class Ground>
double line_transport(const double* x, const double* m, const double* t, int64_t points, Ground ground, double tie,
                      double* phi) {
  int64_t first = 0, last = 0;  // the ends of the target
  while (first + 1 < points && !(t[first] > 0)) ++first;
  for (int64_t i = first; i < points; ++i) {
    if (t[i] > 0) last = i;
  }
  last = std::max(first, last);

  // Quantiles of F in the target: `below` is the first point with G >= F - slack, `above` the first with G > F + slack.
  phi[0] = 0;
  double F = 0, G_below = t[first], G_above = t[first];
  int64_t below = first, above = first;
  for (int64_t i = 0; i + 1 < points; ++i) {
    F += m[i];
    const double slack = tie_slack(F, tie);
    while (below < last && G_below < F - slack) G_below += t[++below];
    while (above < last && G_above <= F + slack) G_above += t[++above];
    const double left = ground.of(x[i + 1] - x[below]) - ground.of(x[i] - x[below]);
    const double right = above == below ? left : ground.of(x[i + 1] - x[above]) - ground.of(x[i] - x[above]);
    phi[i + 1] = phi[i] + 0.5 * (left + right);
  }

  // The monotone coupling, walked from the bottom: each step ships the smaller of what is left on either side.
  double cost = 0, supply = m[0], demand = t[0];
  for (int64_t j = 0, k = 0;;) {
    const double moved = std::min(supply, demand);
    if (moved > 0) cost += moved * ground.of(x[j] - x[k]);
    supply -= moved;
    demand -= moved;
    if (supply <= demand) {
      if (++j == points) break;
      supply = m[j];
    } else {
      if (++k == points) break;
      demand = t[k];
    }
  }
  return cost;
}

}  // namespace wassrank
