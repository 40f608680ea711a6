// Transport between two mass vectors on the grades 0 … L-1, one row at a time: cost and the source's potential.
// Derivation: wassrank/reference/transport.py. In double whatever the scores' type: L numbers a row cost nothing, and
// the difference of running masses is where precision would go.
#pragma once

#include <algorithm>
#include <cmath>

#include "common/rows.h"

namespace wassrank {

// |d|^p for every distance between two grades.
struct GroundCost {
  double of[kMaxLevels];
  bool is_distance;  // p == 1

  GroundCost(double p, int levels) : is_distance(p == 1) {
    for (int d = 0; d < levels; ++d) of[d] = is_distance ? d : std::pow(static_cast<double>(d), p);
  }
  double operator()(int j, int k) const { return of[j > k ? j - k : k - j]; }
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
      cost += std::abs(gap);
      const double slack = tie_slack(F, tie);
      phi[l + 1] = phi[l] - (gap > slack ? 1 : gap < -slack ? -1 : 0);
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
