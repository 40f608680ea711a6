// Transport between two mass vectors on the levels 0 … L-1, one row at a time: cost and the source's potential.
// Derivation: wassrank/reference/transport.py. In double whatever the scores' type: L numbers a row cost nothing, and
// the difference of running masses is where precision would go.
#pragma once

#include <algorithm>
#include <cmath>

#include "common/rows.h"

namespace wassrank {

// d^p, d >= 0.
inline double ground_cost(double d, double p) { return p == 1 ? d : p == 2 ? d * d : std::pow(d, p); }

// |x_j - x_k|^p between the coordinates of any two levels.
struct GroundCost {
  double between[kMaxLevels][kMaxLevels];
  double step[kMaxLevels] = {};  // x_{l+1} - x_l
  bool is_distance;              // p == 1

  // position: the levels' coordinates, rising; null: 0, 1, 2, ...
  GroundCost(double p, int levels, const double* position) : is_distance(p == 1) {
    const auto at = [position](int l) { return position ? position[l] : l; };
    for (int l = 0; l + 1 < levels; ++l) step[l] = at(l + 1) - at(l);
    if (is_distance) return;  // the steps are all it takes
    for (int j = 0; j < levels; ++j) {
      for (int k = 0; k <= j; ++k) between[j][k] = between[k][j] = ground_cost(at(j) - at(k), p);
    }
  }
  double operator()(int j, int k) const { return between[j][k]; }
};

// Within this, a running mass F and one of the target's count as equal (reference: `slack`).
WASSRANK_HOST_DEVICE inline double tie_slack(double F, double tie) {
  const double smaller = F < 1 - F ? F : 1 - F;
  return tie * (smaller > 0 ? smaller : 0) + kRounding;
}

// m, t: masses of `levels` levels, each summing to one. Writes the potential (phi[0] = 0) and returns W_p^p.
inline double level_transport(const double* m, const double* t, int levels, const GroundCost& ground, double tie,
                              double* phi) {
  int last = 0;  // the highest level the target reaches
  for (int l = 0; l < levels; ++l) {
    if (t[l] > 0) last = l;
  }

  phi[0] = 0;
  double cost = 0, F = 0;
  if (ground.is_distance) {
    double gap = 0;  // F_l - G_l, summed from differences so that it keeps the masses' relative precision
    for (int l = 0; l + 1 < levels; ++l) {
      F += m[l];
      gap += m[l] - t[l];
      cost += ground.step[l] * std::abs(gap);
      const double slack = tie_slack(F, tie);
      const int sign = gap > slack ? 1 : gap < -slack ? -1 : 0;
      phi[l + 1] = phi[l] - sign * ground.step[l];
    }
    return cost;
  }

  // Quantiles of F_l in the target: `below` is the first level with G >= F_l - slack, `above` the first with G > F_l +
  // slack.
  double G_below = t[0], G_above = t[0];
  int below = 0, above = 0;
  for (int l = 0; l + 1 < levels; ++l) {
    F += m[l];
    const double slack = tie_slack(F, tie);
    while (below < last && G_below < F - slack) G_below += t[++below];
    while (above < last && G_above <= F + slack) G_above += t[++above];
    const double left = ground(l + 1, below) - ground(l, below);
    const double right = ground(l + 1, above) - ground(l, above);
    phi[l + 1] = phi[l] + 0.5 * (left + right);
  }

  // The monotone coupling, walked from the bottom: each step ships the smaller of what is left on either side.
  int j = 0, k = 0;
  double supply = m[0], demand = t[0];
  while (true) {
    const double moved = std::min(supply, demand);
    cost += moved * ground(j, k);
    supply -= moved;
    demand -= moved;
    if (supply <= demand) {
      if (++j == levels) break;
      supply = m[j];
    } else {
      if (++k == levels) break;
      demand = t[k];
    }
  }
  return cost;
}

}  // namespace wassrank
