// The monotone coupling of two weighted point sets on a line, a team of threads a pair: csrc/common/monotone_coupling.h
// with its walk turned into merge-path searches and running sums. Derivation: wassrank/reference/wasserstein_1d.py.
//
// The staircase has a cell for each point of either side, which closes it, so all threads have as much to do whatever
// the weights. It is dealt out in rounds, in which each thread has a run of neighbouring cells.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/wasserstein_1d.h"
#include "cuda/ground.cuh"
#include "cuda/search.cuh"
#include "cuda/team_work.cuh"

namespace wassrank::cuda {

// Cells a thread has at a time, at most: the search for the first of them and the team's exchange are paid once for
// all.
constexpr int kCells = 8;

// A pair's points in rising order, u's and behind them v's, of which there may be more than take part. What is kept of
// a point are running sums as they are when its cell closes: of the staircase's slopes, and of its own side's
// potential's steps, so that the next point's potential is what the point's says. Null where they are not wanted.
template <class C>
struct PairLines {
  double *height, *slope, *rise;
  C* x;
};

// Where a side's points that take part lie: [begin, end).
struct SideRange {
  int begin, end;
};

// The same in every thread of the team.
struct Coupled {
  double cost;                // W_p^p
  double mean_phi, mean_psi;  // <m, phi> and <n, psi>, of potentials whose first is 0
};

// Of a pair with a point on either side.
template <class C>
class Staircase {
 public:
  __device__ Staircase(const PairLines<C>& lines, SideRange u, SideRange v, const Ground& ground)
      : lines_(lines), u_(u), v_(v), ground_(ground) {}

  __device__ Coupled climb(const Team& team, TeamWork& work) const {
    double result[3] = {}, slope[1] = {}, rise[2] = {};
    const int64_t cells = int64_t{u_.end - u_.begin} + v_.end - v_.begin;
    const int64_t a_thread = (cells + team.threads - 1) / team.threads, hand = a_thread < kCells ? a_thread : kCells;
    for (int64_t start = 0; start < cells; start += hand * team.threads) {
      const int64_t first = least(start + hand * team.thread, cells), end = least(first + hand, cells);
      const int i = u_.begin + closed_before(first), j = static_cast<int>(v_.begin + first - (i - u_.begin));
      const Stretch own = walk(i, j, static_cast<int>(end - first), result);
      if (lines_.slope) {
        double before[1] = {own.slope};
        work.run(before, slope);
        add(lines_.slope, i, own.end_u, before[0]);
        add(lines_.slope, j, own.end_v, before[0]);
      }
      if (lines_.rise) {
        double before[2] = {own.phi, own.psi};
        work.run(before, rise);
        add(lines_.rise, i, own.end_u, before[0]);
        add(lines_.rise, j, own.end_v, before[1]);
        result[1] += own.mass * before[0];
        result[2] += own.mass * before[1];
      }
    }
    work.sum(result);
    work.sync();
    return {result[0], result[1], result[2]};
  }

 private:
  // What a run of cells adds up to, and the first points that it leaves open.
  struct Stretch {
    double mass, slope, phi, psi;
    int end_u, end_v;
  };

  __device__ static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
  __device__ double before(const SideRange& side, int i) const { return i > side.begin ? lines_.height[i - 1] : 0; }
  __device__ double distance(int i, int k) const {
    return static_cast<double>(lines_.x[i]) - static_cast<double>(lines_.x[k]);
  }
  __device__ static void add(double* to, int first, int end, double x) {
    for (int i = first; i < end; ++i) to[i] += x;
  }

  // How many of u's points close before cell `cell`; at a tie u's close first.
  __device__ int closed_before(int64_t cell) const {
    const int64_t others = cell - (v_.end - v_.begin);
    const double *const F = lines_.height + u_.begin, *const G = lines_.height + v_.begin;
    return first_where(others > 0 ? static_cast<int>(others) : 0, static_cast<int>(least(cell, u_.end - u_.begin)),
                       [&](int i) { return F[i] > G[cell - 1 - i]; });
  }

  // The cells from (i, j) on, running sums counted from there. Whichever side a cell closes, threads do the same.
  __device__ Stretch walk(int i, int j, int cells, double (&result)[3]) const {
    const double* const heights = lines_.height;
    Stretch own{};
    double height = std::fmax(before(u_, i), before(v_, j));
#pragma unroll 1
    for (int cell = 0; cell < cells; ++cell) {
      const bool closes_u = j == v_.end || (i < u_.end && heights[i] <= heights[j]);
      const int closing = closes_u ? i : j, open = closes_u ? j : i;
      const double top = heights[closing], mass = top - height;
      height = top;
      if (mass > 0) {  // then there are points left on both sides
        const double d = distance(i, j), cost = ground_.of(d);
        result[0] += mass * cost;
        if (lines_.slope) own.slope += mass * ground_.slope(d, cost);
        own.mass += mass;
        result[1] += mass * own.phi;
        result[2] += mass * own.psi;
      }
      if (lines_.slope) lines_.slope[closing] = own.slope;
      if (lines_.rise) {
        const double rise = step(closing, closes_u ? u_.end : v_.end, open, closes_u ? v_ : u_, top);
        own.phi += closes_u ? rise : 0;
        own.psi += closes_u ? 0 : rise;
        lines_.rise[closing] = closes_u ? own.phi : own.psi;
      }
      i += closes_u;
      j += !closes_u;
    }
    own.end_u = i;
    own.end_v = j;
    return own;
  }

  // Of the potential from point i to the next, if there is one before `end`: the mean of what it is when all points of
  // the other side that tie with i have closed before it, and when none has. open: the other's first that has not, near
  // which both are; nobody searches unless there is a tie.
  __device__ double step(int i, int end, int open, SideRange other, double height) const {
    if (i + 1 == end) return 0;
    const double* const heights = lines_.height;
    const int last = other.end - 1;
    int below = open < last ? open : last, above = below;
    const auto reaches = [&](int k) { return heights[k] >= height - kTiedMasses; };
    const auto is_above = [&](int k) { return heights[k] > height + kTiedMasses; };
    if (below > other.begin && reaches(below - 1)) below = first_where(other.begin, below - 1, reaches);
    if (above < last && !is_above(above)) above = first_where(above + 1, last, is_above);
    double rises = 0;
#pragma unroll 1
    for (int k = below;; k = above) {
      rises += ground_.of(distance(i + 1, k)) - ground_.of(distance(i, k));
      if (k == above) break;
    }
    return below == above ? rises : 0.5 * rises;
  }

  const PairLines<C>& lines_;
  const SideRange u_, v_;
  const Ground& ground_;
};

}  // namespace wassrank::cuda
