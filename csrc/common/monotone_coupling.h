// The monotone coupling of two weighted point sets on a line, one pair at a time: cost, the values' gradient and both
// potentials. Derivation: wassrank/reference/wasserstein_1d.py. In double whatever the values' type.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "common/wasserstein_1d.h"

namespace wassrank {

// One side in rising order, at least one point. height: running masses, 1 from the last point with mass on. slope and
// potential are written where gradients are wanted.
template <class C>
struct LineSide {
  const C* x;
  const double* height;
  int64_t points;
  double *slope, *potential;
};

// The staircase of cells, from (0, 0) up. Between two steps lies mass; a step closes a point of one side, or, where
// running masses tie, all points of both sides that end at that height.
template <bool kGradients, class Ground, class C>
class Staircase {
 public:
  Staircase(const LineSide<C>& u, const LineSide<C>& v, const Ground& ground) : u_(u), v_(v), ground_(ground) {}

  // W_p^p.
  double climb() {
    distance_ = between(0, 0);
    ground_cost_ = ground_.of(distance_);
    if constexpr (kGradients) {
      u_.potential[0] = phi_ = 0;
      v_.potential[0] = psi_ = ground_cost_;
    }
    while (true) {
      const double F = u_.height[i_], G = v_.height[j_];
      if (std::abs(F - G) <= kTiedMasses) {
        ship(std::max(F, G));
        if (close_both()) return cost_;
      } else {
        ship(std::min(F, G));
        F < G ? close(u_, i_, slope_u_, phi_) : close(v_, j_, slope_v_, psi_);
      }
    }
  }

 private:
  double between(int64_t i, int64_t j) const { return static_cast<double>(u_.x[i]) - static_cast<double>(v_.x[j]); }
  double cost_of(int64_t i, int64_t j) const { return ground_.of(between(i, j)); }

  // What lies up to `height`, in the cell reached.
  void ship(double height) {
    const double mass = height - height_;
    height_ = height;
    cost_ += mass * ground_cost_;
    if constexpr (kGradients) {
      const double slope = mass * ground_.slope(distance_);
      slope_u_ += slope;
      slope_v_ -= slope;
    }
  }

  // Never past a side's last point: its height is 1, which ties with the other's end.
  void close(const LineSide<C>& side, int64_t& at, double& slope, double& potential) {
    if constexpr (kGradients) {
      side.slope[at] = slope;
      slope = 0;
    }
    ++at;
    const double before = ground_cost_;
    distance_ = between(i_, j_);
    ground_cost_ = ground_.of(distance_);
    if constexpr (kGradients) side.potential[at] = potential += ground_cost_ - before;
  }

  // Potentials rise by the mean of what they do when all of u's points are closed first and when all of v's are.
  // Returns whether these were the last.
  bool close_both() {
    const int64_t end_u = behind_tie(u_, i_), end_v = behind_tie(v_, j_);
    const bool done = end_u == u_.points;  // and so is v
    const int64_t i = done ? end_u - 1 : end_u, j = done ? end_v - 1 : end_v;
    if constexpr (kGradients) {
      u_.slope[i_] = slope_u_;
      v_.slope[j_] = slope_v_;
      slope_u_ = slope_v_ = 0;
      for (int64_t k = i_ + 1; k < end_u; ++k) u_.slope[k] = 0;
      for (int64_t k = j_ + 1; k < end_v; ++k) v_.slope[k] = 0;
      for (int64_t k = i_; k < i; ++k) {
        const double first = cost_of(k + 1, j_) - cost_of(k, j_), second = cost_of(k + 1, j) - cost_of(k, j);
        u_.potential[k + 1] = phi_ += 0.5 * (first + second);
      }
      for (int64_t k = j_; k < j; ++k) {
        const double first = cost_of(i, k + 1) - cost_of(i, k), second = cost_of(i_, k + 1) - cost_of(i_, k);
        v_.potential[k + 1] = psi_ += 0.5 * (first + second);
      }
    }
    i_ = i;
    j_ = j;
    distance_ = between(i_, j_);
    ground_cost_ = ground_.of(distance_);
    return done;
  }

  int64_t behind_tie(const LineSide<C>& side, int64_t from) const {
    int64_t end = from + 1;
    while (end < side.points && side.height[end] <= height_ + kTiedMasses) ++end;
    return end;
  }

  const LineSide<C> u_, v_;
  const Ground ground_;
  int64_t i_ = 0, j_ = 0;
  double height_ = 0, distance_ = 0, ground_cost_ = 0, cost_ = 0;
  double slope_u_ = 0, slope_v_ = 0, phi_ = 0, psi_ = 0;
};

template <bool kGradients, class Ground, class C>
double couple(const LineSide<C>& u, const LineSide<C>& v, const Ground& ground) {
  return Staircase<kGradients, Ground, C>(u, v, ground).climb();
}

// The same for as many points on either side, all of one mass: the k-th goes to the k-th. slope: u's; v's is -slope.
template <class Ground, class C>
double couple_in_pairs(const C* x, const C* y, int64_t points, const Ground& ground, double* slope) {
  double cost = 0;
  const double mass = 1.0 / static_cast<double>(points);
  if (slope) {
#pragma omp simd
    for (int64_t k = 0; k < points; ++k) slope[k] = mass * ground.slope(static_cast<double>(x[k]) - y[k]);
  }
#pragma omp simd reduction(+ : cost)
  for (int64_t k = 0; k < points; ++k) cost += ground.of(static_cast<double>(x[k]) - y[k]);
  return mass * cost;
}

}  // namespace wassrank
