// W_p^p of pairs of weighted point sets on a line and what its backward scales, on CUDA: wassrank/ops/wasserstein_1d.py
// has the formulas.
//
// A team of threads a pair, one warp or a block, with both sides' orders given: it lines both sides up
// (sorted_points.cuh), climbs the staircase of their coupling (monotone_coupling.cuh) and scatters what the points have
// come to. What it keeps of each point lies in shared memory, or in a workspace where the pair is too long for that.
// Sides of equally many points that all weigh alike are coupled point by point, which takes neither heights nor memory.
// No atomics: the same bits each run.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/wasserstein_1d.h"
#include "cuda/columns.cuh"
#include "cuda/ground.cuh"
#include "cuda/intrinsics.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "cuda/monotone_coupling.cuh"
#include "cuda/shapes.cuh"
#include "cuda/sorted_points.cuh"
#include "cuda/team_work.cuh"
#include "cuda/types.cuh"

namespace wassrank::cuda {
namespace {

// A pair of up to so many points, both sides' together, is one warp's: kCells a lane.
constexpr int64_t kWarpPoints = kCells * kWarp;
constexpr int kMaxThreads = 512;

// What every GPU since sm_75 gives a block that asks: two sides of 1024 float32 points with all gradients.
constexpr size_t kSharedBytes = 64 << 10;

// Where pairs are too long for shared memory, and equally long, blocks stride over them: as many as keep the workspace
// to so much, yet no fewer than fill a part of the chip, and no more than two for each of a B200's 148 multiprocessors.
constexpr size_t kWorkspaceBytes = size_t{256} << 20;
constexpr int64_t kLeastBlocks = 32, kMostBlocks = 2 * 148;

// What is kept of each point beside its height and its value.
struct Kept {
  bool slopes, rises;

  explicit Kept(const Wasserstein1d& args)
      : slopes(args.u.slope || args.v.slope), rises(args.u.potential || args.v.potential) {}
  WASSRANK_HOST_DEVICE int numbers() const { return 1 + slopes + rises; }
  template <class C>
  size_t bytes_a_point() const {
    return numbers() * sizeof(double) + sizeof(C);
  }
};

// Where the points of a team's pair are kept, u's before v's: in shared memory if they are no more than `capacity`, or
// else in the workspace, which has room for `points`. There a pair of packed points has its own place, u_stride times
// where its u begins and v_stride times where its v does; other pairs have their block's.
struct LineMemory {
  Kept kept;
  int capacity;
  unsigned char* workspace;
  int64_t points, u_stride, v_stride;
};

// Those of a pair whose points are the ones from `first` on of the `room` that memory at `base`, aligned to 8, has.
template <class C>
__device__ PairLines<C> lines_at(unsigned char* base, int64_t room, int64_t first, const Kept& kept) {
  double* const numbers = reinterpret_cast<double*>(base);
  double* const height = numbers + first;
  return {height, kept.slopes ? height + room : nullptr, kept.rises ? height + (1 + kept.slopes) * room : nullptr,
          reinterpret_cast<C*>(numbers + kept.numbers() * room) + first};
}
template <class C>
__device__ PairLines<C> lines_of(const LineMemory& memory, const Wasserstein1d& args, int64_t pair, int64_t points,
                                 unsigned char* shared) {
  if (points <= memory.capacity) {
    const int64_t capacity = memory.capacity;
    return lines_at<C>(shared, capacity * blockDim.y, capacity * threadIdx.y, memory.kept);
  }
  const bool packed = args.u.offsets || args.v.offsets;
  const int64_t first =
      packed ? memory.u_stride * args.u.begin(pair) + memory.v_stride * args.v.begin(pair) : blockIdx.x * points;
  return lines_at<C>(memory.workspace, memory.points, first, memory.kept);
}

// Calls body(rank, place) for the side's points, each with one thread.
template <class S, class Body>
__device__ void for_each_point(const SortedPoints<S>& side, const Team& team, Body body) {
  for (int rank = team.thread; rank < side.points; rank += team.threads) body(rank, side.place(rank));
}

// All gradients of the side's points that take part; 0 for the others.
template <class S>
__device__ void write_all(const SortedPoints<S>& side, const Team& team, double value) {
  for_each_point(side, team, [&](int, int place) {
    const double of = side.takes_part(place) ? value : 0;
    if (side.wants_slope()) side.set_slope(place, of);
    if (side.wants_potential()) side.set_potential(place, of);
  });
}

// A point's slope is a difference of running sums in double. Theirs are no larger than the p mean |d|^(p - 1) of the
// pair, and rounding leaves about 2^-53 of that for each level of the trees that add them up and each cell of a run:
// far below a float; of a slope in double it is 1e-16 times the number of points, relative to their mean.
template <class S>
__device__ void write_gradients(const SortedPoints<S>& side, const PairLines<Computing<S>>& lines, int begin,
                                const SideFacts& facts, double sign, double mean, const Team& team) {
  const auto before = [begin](const double* running, int rank) { return rank > 0 ? running[begin + rank - 1] : 0; };
  for_each_point(side, team, [&](int rank, int place) {
    const bool real = rank < facts.count;
    if (side.wants_slope()) {
      side.set_slope(place, real ? sign * (lines.slope[begin + rank] - before(lines.slope, rank)) : 0);
    }
    if (side.wants_potential()) {
      side.set_potential(place, real ? (before(lines.rise, rank) - mean) / facts.total : 0);
    }
  });
}

template <class S>
__device__ double couple(const Wasserstein1d& args, const SortedPoints<S>& u, const SortedPoints<S>& v,
                         const PairLines<Computing<S>>& lines, const Team& team, TeamWork& work) {
  const int begin_v = u.points;
  const SideFacts of_u = line_up(u, team, work, lines.height, lines.x);
  const SideFacts of_v = line_up(v, team, work, lines.height + begin_v, lines.x + begin_v);
  work.sync();
  const bool empty = of_u.count == 0 || of_v.count == 0;
  if (empty || !of_u.proper || !of_v.proper) {
    const double value = empty ? 0 : kNaN<double>;
    write_all(u, team, value);
    write_all(v, team, value);
    return value;
  }
  const Ground ground(args.p);
  const Staircase<Computing<S>> staircase(lines, {0, of_u.count}, {begin_v, begin_v + of_v.count}, ground);
  const Coupled coupled = staircase.climb(team, work);
  write_gradients(u, lines, 0, of_u, 1, coupled.mean_phi, team);
  write_gradients(v, lines, begin_v, of_v, -1, coupled.mean_psi, team);
  return coupled.cost;
}

// Calls body(team, work, pair, the team's shared memory) for the team's pairs. blockDim = (team, pairs a block).
template <class Body>
__device__ void for_each_pair(int64_t pairs, Body body) {
  const Team team{static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x)};
  unsigned char* const shared = dynamic_shared();
  TeamWork work(team, shared);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  // Only blocks of one pair come by another. What they have in shared memory is kept apart by the team's barriers.
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.y;
  for (int64_t pair = first; pair < pairs; pair += step) body(team, work, pair, shared + TeamWork::bytes(team.threads));
}

template <class S>
__global__ void __launch_bounds__(kMaxThreads, 1)
    coupled_kernel(const __grid_constant__ SortedPairs args, const LineMemory memory) {
  for_each_pair(args.pairs, [&](const Team& team, TeamWork& work, int64_t pair, unsigned char* shared) {
    const SortedPoints<S> u(args.u, args.u_order, pair), v(args.v, args.v_order, pair);
    const auto lines = lines_of<Computing<S>>(memory, args, pair, int64_t{u.points} + v.points, shared);
    const double loss = couple<S>(args, u, v, lines, team, work);
    if (team.thread == 0) static_cast<Computing<S>*>(args.loss)[pair] = static_cast<Computing<S>>(loss);
  });
}

// The k-th point of the one side goes to the k-th of the other.
template <class S>
__global__ void __launch_bounds__(kMaxThreads, 1) paired_kernel(const __grid_constant__ SortedPairs args) {
  for_each_pair(args.pairs, [&](const Team& team, TeamWork& work, int64_t pair, unsigned char*) {
    const SortedPoints<S> u(args.u, args.u_order, pair), v(args.v, args.v_order, pair);
    const Ground ground(args.p);
    const double mass = 1 / static_cast<double>(u.points);
    double sums[2] = {};  // of costs; of pairs without a distance
    for_each_point(u, team, [&](int rank, int place) {
      const int other = v.place(rank);
      const double x = u.value(place), y = v.value(other);
      const double cost = ground.of(x - y);
      sums[0] += cost;
      if (!(std::abs(x) < kInf<double>) || !(std::abs(y) < kInf<double>)) sums[1] += 1;
      const double slope = mass * ground.slope(x - y, cost);
      if (u.wants_slope()) u.set_slope(place, slope);
      if (v.wants_slope()) v.set_slope(other, -slope);
    });
    work.sum(sums);
    const bool proper = sums[1] == 0;
    if (!proper) {  // each thread once more writes what it has written
      write_all(u, team, kNaN<double>);
      write_all(v, team, kNaN<double>);
    }
    const double loss = !proper ? kNaN<double> : u.points > 0 ? mass * sums[0] : 0;
    if (team.thread == 0) static_cast<Computing<S>*>(args.loss)[pair] = static_cast<Computing<S>>(loss);
  });
}

// Whether the k-th point of the one side goes to the k-th of the other in all pairs, as far as the host can know.
bool is_paired(const Wasserstein1d& args) {
  const auto is_whole = [](const PointRows& side) { return !side.weights && !side.mask && !side.offsets; };
  return is_whole(args.u) && is_whole(args.v) && args.u.columns == args.v.columns;
}

// A side's points, of packed ones the mean of the pairs'.
int64_t usual_points(const PointRows& side, int64_t pairs) {
  return side.offsets ? (side.columns + pairs - 1) / pairs : side.columns;
}
int64_t all_points(const PointRows& side, int64_t pairs) { return side.offsets ? side.columns : pairs * side.columns; }

// Sets where pairs that are too long for shared memory are kept, of which one side at least is packed. Each point may
// have its own place. But if every one of many short lists meets a row of the same m points, few of them do not fit: it
// takes lists of more than `spare`, so that as many places as they have points, times 1 + m / spare, are enough for
// them and their rows.
void place_packed(const Wasserstein1d& args, LineMemory& memory) {
  const int64_t u = all_points(args.u, args.pairs), v = all_points(args.v, args.pairs);
  memory.u_stride = memory.v_stride = 1;
  memory.points = u + v;
  if (args.u.offsets && args.v.offsets) return;
  const bool u_packed = args.u.offsets;
  const int64_t m = u_packed ? args.v.columns : args.u.columns, spare = memory.capacity - m;
  if (spare <= 0) return;
  const int64_t stride = 1 + (m + spare - 1) / spare, points = stride * (u_packed ? u : v);
  if (points >= memory.points) return;
  memory.u_stride = u_packed ? stride : 0;
  memory.v_stride = u_packed ? 0 : stride;
  memory.points = points;
}

struct WalkPlan {
  Shape shape;
  bool paired;
  LineMemory memory;
  size_t workspace_bytes;
};

template <class C>
std::optional<WalkPlan> walk_plan(const Wasserstein1d& args, const Tuning& tuning) {
  for (const PointRows& side : {args.u, args.v}) {
    if (!side.offsets && side.columns >= kMaxColumns) {
      throw std::invalid_argument("sides of " + std::to_string(side.columns) +
                                  " points: 2^30 or more are not supported");
    }
  }
  if (args.pairs == 0) return std::nullopt;
  const int64_t points = usual_points(args.u, args.pairs) + usual_points(args.v, args.pairs);
  const bool paired = is_paired(args), packed = args.u.offsets || args.v.offsets, is_short = points <= kWarpPoints;
  WalkPlan plan{.shape = {}, .paired = paired, .memory = {.kept = Kept(args)}, .workspace_bytes = 0};
  const size_t point_bytes = paired ? 0 : plan.memory.kept.bytes_a_point<C>();
  int threads = is_short ? tuning.short_row_threads : kWarp;
  while (!is_short && threads < tuning.max_team && int64_t{threads} * kCells < points) threads *= 2;
  threads = std::min(threads, kMaxThreads);
  // No more short pairs a block than fit its shared memory, so that only blocks of one pair use the workspace.
  while (is_short && !packed && threads / kWarp * points * point_bytes > kSharedBytes) threads /= 2;
  const unsigned team = is_short ? kWarp : threads, pairs_per_block = threads / team;
  const size_t beside = TeamWork::bytes(team);
  plan.shape = {{blocks_of(args.pairs, pairs_per_block)}, {team, pairs_per_block}, beside};
  if (paired) return plan;

  // Packed pairs differ in length: there is room for some that are longer than most.
  const int64_t most = args.u.columns + args.v.columns, wanted = packed ? std::min(most, 4 * points) : most;
  const int64_t fit = (kSharedBytes - beside) / (pairs_per_block * point_bytes);
  if (packed || wanted <= fit) plan.memory.capacity = static_cast<int>(std::min(wanted, fit));
  if (most > plan.memory.capacity) {
    if (packed) {
      place_packed(args, plan.memory);
    } else {
      const auto hold = static_cast<int64_t>(kWorkspaceBytes / (points * point_bytes));
      const int64_t blocks = std::min(args.pairs, std::clamp(hold, kLeastBlocks, kMostBlocks));
      plan.shape.grid.x = static_cast<unsigned>(blocks);
      plan.memory.points = blocks * points;
    }
  }
  plan.shape.shared_bytes += pairs_per_block * plan.memory.capacity * point_bytes;
  plan.workspace_bytes = plan.memory.points * point_bytes;
  return plan;
}

// Bytes: of every point its place, its value, its weight and whether it takes part, read; its place again; its slope
// and its potential written. The largest temporary is what is kept of each point, 8 bytes and a value of C, 8 more for
// slopes and 8 for potentials, for the pairs in flight; in shared memory, or else in the workspace, which is then some
// 256 MiB at most, or 32 pairs; of packed sides, whose lengths only the device knows, all points that may be too
// many for shared memory have a place there. Floating-point operations in double, of a point: two running
// sums and a division for its height; for its cell a |d|^p, a slope, two more |d|^p for potentials, running sums of
// these; an eighth of a binary search.
template <class S>
const char* walk(const SortedPairs& args, const Tuning& tuning, void* stream) {
  const auto plan = walk_plan<Computing<S>>(args, tuning);
  if (!plan) return nullptr;
  if (plan->paired) return launch(paired_kernel<S>, plan->shape, stream, args);
  LineMemory memory = plan->memory;
  memory.workspace = static_cast<unsigned char*>(args.lines);
  return launch(coupled_kernel<S>, plan->shape, stream, args, memory);
}

}  // namespace

const char* wasserstein_1d(const SortedPairs& args, const Tuning& tuning, void* stream) {
  return with_stored_type(args.dtype, [&](auto stored) { return walk<decltype(stored)>(args, tuning, stream); });
}

size_t wasserstein_1d_workspace(const Wasserstein1d& args, const Tuning& tuning) {
  return with_stored_type(args.dtype, [&](auto stored) {
    const auto plan = walk_plan<Computing<decltype(stored)>>(args, tuning);
    return plan ? plan->workspace_bytes : 0;
  });
}

std::vector<Launch> wasserstein_1d_launches(const Wasserstein1d& args, const Tuning& tuning) {
  return with_stored_type(args.dtype, [&](auto stored) {
    std::vector<Launch> launches;
    if (const auto plan = walk_plan<Computing<decltype(stored)>>(args, tuning)) {
      launches.push_back({plan->paired ? "paired_kernel" : "coupled_kernel", plan->shape});
    }
    return launches;
  });
}

}  // namespace wassrank::cuda
