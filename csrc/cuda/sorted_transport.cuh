// Transport between two mass vectors on points of a line in rising order, a team of threads a row:
// csrc/common/line_transport.h with its walks turned into running sums and searches. Derivation:
// wassrank/reference/transport.py.
//
// The points are dealt out in rounds, in which each thread has a run of neighbours: what is within a run is summed by
// the thread, and the team exchanges once a round.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "common/level_transport.h"
#include "cuda/columns.cuh"
#include "cuda/ground.cuh"
#include "cuda/search.cuh"
#include "cuda/team_work.cuh"

namespace wassrank::cuda {

// Neighbouring points a thread has at a time: two gathers are then under way at once. With four, registers spill.
constexpr int kRun = 2;

// Calls body(first) for the first points of the calling thread's runs; a team's threads stay together.
template <class Body>
__device__ void for_each_run(int points, const Team& team, Body body) {
  for (int start = 0; start < points; start += kRun * team.threads) body(start + kRun * team.thread);
}

struct Point {
  double x = 0, m = 0, t = 0;  // coordinate, shares of the two masses
};

// What is kept of a row's points, in their order: the source's potential and, for p other than 1, running masses F of
// the source and G of the target and coordinates.
template <class C>
struct Line {
  double *phi, *F, *G;
  C* x;

  static __host__ __device__ size_t bytes_a_point(bool is_distance) {
    return is_distance ? sizeof(double) : 3 * sizeof(double) + sizeof(C);
  }
  // Its points are those from `first` on of the `points` that memory at `base`, aligned to 8, has room for. (F, G and x
  // lie beyond that memory's end if they are not kept.)
  __device__ Line(unsigned char* base, int64_t points, int64_t first)
      : phi(reinterpret_cast<double*>(base) + first), F(phi + points), G(F + points), x(nullptr) {
    x = reinterpret_cast<C*>(reinterpret_cast<double*>(base) + 3 * points) + first;
  }
};

// The same in every thread of the team.
struct Transported {
  double cost;            // W_p^p
  double mean_potential;  // <m, phi>
};

// W_1. point(i): the ith of `points`.
template <class PointAt>
__device__ Transported line_distance(PointAt point, int points, double tie, const Team& team, TeamWork& work,
                                     double* phi) {
  double masses[2] = {};  // so far: of the target, and of the source less that
  double potential[1] = {};
  double result[2] = {};
  for_each_run(points, team, [&](int first) {
    Point at[kRun + 1];
    double run[2] = {};
#pragma unroll
    for (int i = 0; i <= kRun; ++i) {
      if (first + i < points) at[i] = point(first + i);
      if (i == kRun) break;
      run[0] += at[i].t;
      run[1] += at[i].m - at[i].t;
    }
    work.run(run, masses);
    // F - G is summed from differences so that it keeps the masses' relative precision.
    double G = run[0], gap = run[1], step[kRun], rise[1] = {};
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      G += at[i].t;
      gap += at[i].m - at[i].t;
      const double width = first + i + 1 < points ? at[i + 1].x - at[i].x : 0, size = std::abs(gap);
      result[0] += size * width;
      step[i] = size > tie_slack(G + gap, tie) ? std::copysign(width, -gap) : 0;
      rise[0] += step[i];
    }
    work.run(rise, potential);
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      if (first + i >= points) break;
      phi[first + i] = rise[0];
      result[1] += at[i].m * rise[0];
      rise[0] += step[i];
    }
  });
  work.sum(result);
  return {result[0], result[1]};
}

// The ends of a row's masses.
struct Ends {
  int first_target, last_target, last_source;
};

// Running masses and coordinates, for every thread to look at.
template <class C, class PointAt>
__device__ Ends line_up(PointAt point, int points, const Team& team, TeamWork& work, const Line<C>& line) {
  double masses[2] = {};
  double ends[3] = {-static_cast<double>(points - 1), 0, 0};  // less the first, so that all are maxima
  for_each_run(points, team, [&](int first) {
    Point at[kRun];
    double run[2] = {};
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      if (first + i < points) at[i] = point(first + i);
      run[0] += at[i].t;
      run[1] += at[i].m - at[i].t;
    }
    work.run(run, masses);
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      if (first + i >= points) break;
      run[0] += at[i].t;
      run[1] += at[i].m - at[i].t;
      line.G[first + i] = run[0];
      line.F[first + i] = run[0] + run[1];
      line.x[first + i] = static_cast<C>(at[i].x);
      if (at[i].t > 0) ends[0] = std::fmax(ends[0], -static_cast<double>(first + i));
      if (at[i].t > 0) ends[1] = std::fmax(ends[1], static_cast<double>(first + i));
      if (at[i].m > 0) ends[2] = std::fmax(ends[2], static_cast<double>(first + i));
    }
  });
  work.max(ends);
  work.sync();
  return {static_cast<int>(-ends[0]), static_cast<int>(ends[1]), static_cast<int>(ends[2])};
}

// What point i of a line-up has to do with the other side's points.
template <class C>
class Coupling {
 public:
  __device__ Coupling(const Line<C>& line, const Ends& ends, int points, double p, double tie)
      : line_(line), ends_(ends), points_(points), ground_(p), tie_(tie) {}

  // The cost of two stretches of heights: the one that ends at F_i and the one that ends at G_i. Each goes down to the
  // next lower among all running masses of both sides, and on it both quantiles are constant. The union of all points'
  // stretches is [0, 1]; where an F meets a G the latter's has no length.
  // Sets `step` to that of the potential from point i to the next.
  __device__ double cost(int i, double& step) const {
    const double *F = line_.F, *G = line_.G;
    const double height = F[i], slack = tie_slack(height, tie_);
    // Quantiles of F_i in the target: `below` is the first point with G >= F_i - slack, `above` the first with G > F_i
    // + slack.
    const int below = first_where(ends_.first_target, ends_.last_target, [&](int k) { return G[k] >= height - slack; });
    const int above = first_where(below, ends_.last_target, [&](int k) { return G[k] > height + slack; });
    step = i + 1 < points_ ? 0.5 * (difference(i, below) + difference(i, above)) : 0;

    const int k = first_where(below, points_, [&](int k) { return G[k] >= height; });
    double cost = stretch(height, before(F, i), before(G, k), i, k < ends_.last_target ? k : ends_.last_target);
    if (G[i] > before(G, i)) {
      const int j = first_where(0, points_, [&](int j) { return F[j] > G[i]; });
      cost += stretch(G[i], before(G, i), before(F, j), i, j < ends_.last_source ? j : ends_.last_source);
    }
    return cost;
  }

 private:
  __device__ static double before(const double* running, int i) { return i > 0 ? running[i - 1] : 0; }
  __device__ double x(int i) const { return line_.x[i]; }
  __device__ double difference(int i, int k) const { return ground_(x(i + 1) - x(k)) - ground_(x(i) - x(k)); }
  __device__ double stretch(double height, double a, double b, int i, int k) const {
    const double length = height - std::fmax(a, b);
    return length > 0 ? length * ground_(x(i) - x(k)) : 0;
  }

  const Line<C>& line_;
  const Ends& ends_;
  const int points_;
  const GroundCost1D ground_;
  const double tie_;
};

// W_p^p for any p.
template <class C, class PointAt>
__device__ Transported line_transport(PointAt point, int points, double p, double tie, const Team& team, TeamWork& work,
                                      const Line<C>& line) {
  const Ends ends = line_up(point, points, team, work, line);
  const Coupling<C> coupling(line, ends, points, p, tie);
  double potential[1] = {}, result[2] = {};
  for_each_run(points, team, [&](int first) {
    const int end = first + kRun < points ? first + kRun : points;
    double rise[1] = {};
#pragma unroll 1
    for (int i = first; i < end; ++i) {
      double step;
      result[0] += coupling.cost(i, step);
      line.phi[i] = rise[0];  // from the run's first point
      rise[0] += step;
    }
    work.run(rise, potential);
#pragma unroll 1
    for (int i = first; i < end; ++i) {
      line.phi[i] += rise[0];
      result[1] += (line.F[i] - (i > 0 ? line.F[i - 1] : 0)) * line.phi[i];
    }
  });
  work.sum(result);
  return {result[0], result[1]};
}

}  // namespace wassrank::cuda
