// The row losses for labels that are any floats, on CUDA, forward and backward: wassrank/ops/sorted_losses.py has the
// formulas and says what is kept between the passes.
//
// Forward: a team of threads a row, one warp or a block, sweeps its scores (sorted_row.cuh), walks its points in order
// (sorted_transport.cuh) and scatters coefficients to the passages; one block adds the rows up. What the walk keeps of
// each point lies in shared memory, or in a workspace where the row is too long for that. Backward: each thread writes
// columns of its own, as on the level path. No atomics: the same bits each run.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <type_traits>
#include <vector>

#include "common/sorted_rows.h"
#include "cuda/columns.cuh"
#include "cuda/gradient.cuh"
#include "cuda/intrinsics.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"
#include "cuda/rows.cuh"
#include "cuda/scaled_exp.cuh"
#include "cuda/shapes.cuh"
#include "cuda/sorted_row.cuh"
#include "cuda/sorted_transport.cuh"
#include "cuda/team_work.cuh"
#include "cuda/types.cuh"

namespace wassrank::cuda {
namespace {

// A row of up to so many points, 8 a lane, is one warp's: with more, a block's barriers cost less than what they save.
constexpr int64_t kWarpPoints = 8 * kWarp;

// The largest block, and how many a multiprocessor is to hold: with 128 registers a thread two, so that one has work
// while the other waits at a barrier; doubles take more registers.
constexpr int kMaxThreads = kMaxForwardThreads / 2;
template <class S>
constexpr int kForwardBlocks = sizeof(S) == 8 ? 1 : 2;
template <class S>
constexpr int kBackwardBlocks = sizeof(S) == 8 ? 2 : 3;

// What a kernel gets without asking, 48 KiB, and what it keeps of points there.
constexpr size_t kSharedBytes = 48 << 10;

// Where rows are too long for shared memory, and equally long, blocks stride over them: as many as keep the workspace
// to so much, yet no fewer than fill a part of the chip, and no more than two for each of a B200's 148 multiprocessors.
constexpr size_t kWorkspaceBytes = size_t{256} << 20;
constexpr int64_t kLeastBlocks = 32, kMostBlocks = 2 * 148;

// Where the points of a team's row are kept: in shared memory if they are no more than `capacity`, or else in the
// workspace, which has room for `points`.
struct LineMemory {
  int capacity;
  unsigned char* workspace;
  int64_t points;
};

template <class S>
constexpr double kTie = kTieUlps * std::numeric_limits<Computing<S>>::epsilon();

template <class C>
__device__ Line<C> line_of(const LineMemory& memory, const Rows& rows, int64_t row_index, int points,
                           unsigned char* shared) {
  if (points <= memory.capacity) {
    return {shared, static_cast<int64_t>(memory.capacity) * blockDim.y,
            static_cast<int64_t>(memory.capacity) * threadIdx.y};
  }
  // Lists have a place each, one point longer than they are. Rows have their block's.
  const int64_t first = rows.offsets ? rows.offsets[row_index] + row_index : blockIdx.x * (rows.K + 1);
  return {memory.workspace, memory.points, first};
}

// What a row comes to, whose points' potentials are still to be found.
struct Verdict {
  bool walks;                   // the transport is to be found
  bool counts;                  // there is something to compare for one of the losses
  double weight, factor;        // factor: the weight, or NaN
  double loss;                  // of InfoNCE and KL, without the weight
  double slope, push;           // c = slope * (potential - its mean) + push
  double of_positive, of_gain;  // b = of_positive [is a positive] + of_gain * gain
};

template <class C>
__device__ Verdict judge(const SortedForward& args, const RowFacts<C>& row, int64_t row_index) {
  const Terms& terms = args.terms;
  const double t = args.rows.temperature;
  const bool asks = row.any() && row.total != 0 && (terms.wasserstein != 0 || terms.kl != 0);
  const bool pulls = row.any() && terms.info_nce != 0 && row.positives > 0;
  // A row with a label that is no number counts, and is NaN.
  Verdict to{.counts = asks || pulls || row.stray};
  if (!to.counts) return to;
  const bool finite = std::abs(row.Z) < kInf<double> && (!asks || std::abs(row.total) < kInf<double>) && !row.stray;
  to.walks = asks && finite && terms.wasserstein != 0;
  to.weight = args.weight ? static_cast<const C*>(args.weight)[row_index] : 1;
  to.factor = finite ? to.weight : kNaN<double>;
  const double per_loss = to.factor / t;
  to.slope = per_loss * terms.wasserstein / row.Z;
  if (!finite) to.push = per_loss;
  if (pulls) {
    to.loss += terms.info_nce * (std::log(row.Z) - row.positives_shift / (t * row.positives));
    to.push += per_loss * terms.info_nce / row.Z;
    to.of_positive = -per_loss * terms.info_nce / row.positives;
  }
  if (asks && terms.kl != 0) {
    const double cross = (row.entropy - row.cross / t) / row.total;
    to.loss += terms.kl * (std::log(row.Z) - std::log(row.total) + cross);
    to.push += per_loss * terms.kl / row.Z;
    to.of_gain = -per_loss * terms.kl / row.total;
  }
  return to;
}

// What a team has in shared memory for its row, beside points.
template <class C>
struct alignas(16) TeamMemory {
  RowFacts<C> facts;
  Verdict verdict;
};

// One row, from its scores to its loss and what the backward is to know.
template <class S>
__device__ void forward_row(const SortedForward& args, const ScaledExp<Computing<S>>& scaled_exp,
                            const RowOutputs<Computing<S>>& outputs, const LineMemory& memory, int64_t row_index,
                            const Team& team, TeamWork& work, TeamMemory<Computing<S>>& shared,
                            unsigned char* shared_points) {
  using C = Computing<S>;
  const Row<S> row(args.rows, row_index);
  const SortedRow<S> sorted(args, row, row_index, scaled_exp, shared.facts);
  sorted.add_up(team, work);
  const Verdict& verdict = shared.verdict;
  if (team.thread == 0) shared.verdict = judge(args, shared.facts, row_index);
  work.sync();

  const int points = sorted.points();
  const Line<C> line = line_of<C>(memory, args.rows, row_index, points, shared_points);
  Transported transported{};
  if (verdict.walks) {
    const auto point = [&](int rank) { return sorted.point(rank); };
    transported = args.p == 1 ? line_distance(point, points, kTie<S>, team, work, line.phi)
                              : line_transport(point, points, args.p, kTie<S>, team, work, line);
  }

  C* const state = static_cast<C*>(args.state) + SortedState::width * row_index;
  C* const coefficient = static_cast<C*>(args.coefficient) + row.own_offset;
  C* const constant = args.constant ? static_cast<C*>(args.constant) + row.own_offset : nullptr;
  // A thread comes by the points whose potentials it wrote. They stay in double until their mean is taken off.
  for_each_run(points, team, [&](int first) {
    for (int rank = first; rank < first + kRun && rank < points; ++rank) {
      double c = verdict.push;
      if (verdict.walks) c += verdict.slope * (line.phi[rank] - transported.mean_potential);
      if (sorted.is_others(rank)) {
        state[SortedState::others_c] = static_cast<C>(c);
        continue;
      }
      const int n = sorted.column(rank);
      const C score = row.score(n);
      const bool real = score != -kInf<C>;
      coefficient[n] = real ? static_cast<C>(c) : C(0);
      if (!constant) continue;
      double b = 0;
      if (verdict.of_gain != 0) b += verdict.of_gain * sorted.gain(n, score);
      if (verdict.of_positive != 0 && sorted.is_positive(n, score)) b += verdict.of_positive;
      constant[n] = real ? static_cast<C>(b) : C(0);
    }
  });
  if (team.thread == 0) {
    const RowFacts<C>& facts = shared.facts;
    const bool given = args.target_kind == Target::given;
    const double of_others = facts.any_others ? verdict.of_gain : 0;
    if (!facts.any_others) state[SortedState::others_c] = 0;
    state[SortedState::others_b] = static_cast<C>(given ? 0 : of_others * facts.one_other);
    state[SortedState::others_f] = static_cast<C>(given ? of_others : 0);
    state[SortedState::max] = verdict.counts ? facts.max : C(0);
    const double loss = verdict.loss + args.terms.wasserstein * transported.cost;
    outputs.set(row_index, verdict.factor * loss, verdict.weight);
    if (row_index == 0 && args.reduction == Reduction::none) *static_cast<C*>(args.scale) = 1;
  }
}

// blockDim = (team, rows a block).
template <class S>
__global__ void __launch_bounds__(kMaxThreads, kForwardBlocks<S>)
    sorted_forward_kernel(const __grid_constant__ SortedForward args, const ScaledExp<Computing<S>> scaled_exp,
                          const RowOutputs<Computing<S>> outputs, const LineMemory memory) {
  const Team team{static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x)};
  using Memory = TeamMemory<Computing<S>>;
  unsigned char* shared = dynamic_shared();
  Memory& memory_of_team = reinterpret_cast<Memory*>(shared)[threadIdx.y];
  shared += blockDim.y * sizeof(Memory);
  TeamWork work(team, shared);
  shared += TeamWork::bytes(team.threads);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  // Only blocks of one row come by another. What they have in shared memory is kept apart by the team's barriers.
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.y;
  for (int64_t row_index = first; row_index < args.rows.Q; row_index += step) {
    forward_row<S>(args, scaled_exp, outputs, memory, row_index, team, work, memory_of_team, shared);
  }
}

struct ForwardPlan {
  Shape shape;
  LineMemory memory;
  size_t workspace_bytes;
};

template <class S>
std::optional<ForwardPlan> forward_plan(const Rows& rows, bool is_distance, const Tuning& tuning) {
  if (rows.Q == 0) return std::nullopt;
  const int64_t columns = usual_columns(rows), points = (rows.offsets ? columns : rows.K) + 1;
  const int64_t slots = (all_are_own(rows) ? points : columns) / Row<S>::kWidth + 1;
  const bool is_short = points <= kWarpPoints && slots <= tuning.warp_slots;
  int threads = is_short ? tuning.short_row_threads : kWarp;
  const auto is_small = [&] {
    return int64_t{threads} * tuning.slots_per_thread < slots || int64_t{threads} * kRun < points;
  };
  while (!is_short && threads < tuning.max_team && is_small()) threads *= 2;
  threads = std::min(threads, kMaxThreads);
  const size_t point_bytes = Line<Computing<S>>::bytes_a_point(is_distance);
  constexpr size_t kTeamBytes = sizeof(TeamMemory<Computing<S>>);
  // No more short rows a block than fit its shared memory, so that only blocks of one row use the workspace.
  while (is_short && !rows.offsets && threads / kWarp * (points * point_bytes + kTeamBytes) > kSharedBytes)
    threads /= 2;
  const unsigned team = is_short ? kWarp : threads, rows_per_block = threads / team;

  // Lists differ in length: there is room for some that are longer than most.
  const int64_t most = rows.offsets ? rows.N + 1 : points, wanted = rows.offsets ? std::min(most, 4 * points) : most;
  const size_t beside = TeamWork::bytes(team) + rows_per_block * kTeamBytes;
  const int64_t fit = (kSharedBytes - beside) / (rows_per_block * point_bytes);
  ForwardPlan plan{.shape = {{blocks_of(rows, rows_per_block)}, {team, rows_per_block}}, .memory = {}};
  if (rows.offsets || wanted <= fit) plan.memory.capacity = static_cast<int>(std::min(wanted, fit));
  if (most > plan.memory.capacity) {
    if (rows.offsets) {
      plan.memory.points = rows.N + rows.Q;
    } else {
      const auto hold = static_cast<int64_t>(kWorkspaceBytes / (points * point_bytes));
      const int64_t blocks = std::min(rows.Q, std::clamp(hold, kLeastBlocks, kMostBlocks));
      plan.shape.grid.x = static_cast<unsigned>(blocks);
      plan.memory.points = blocks * points;
    }
  }
  plan.shape.shared_bytes = beside + rows_per_block * plan.memory.capacity * point_bytes;
  plan.workspace_bytes = plan.memory.points * point_bytes;
  return plan;
}

// Bytes: Q * N scores (Q * K if other queries' are excluded), the mask and a given target once; own passages' scores
// and labels (and what is given to them, and the coordinates) again from the cache, in two sweeps and two gathers; Q *
// K places, twice; Q * K coefficients (twice that where terms are affine) and Q * 6 numbers written. The largest
// temporary is what is kept of each point: 8 bytes for p = 1, else 24 and a coordinate of C, for the rows in flight;
// in shared memory, or else in the workspace, which is then some 256 MiB at most, or 32 rows; of packed lists, whose
// lengths only the device knows, all of them have a place there, once there may be one too long for shared memory.
// Floating-point operations: 6 a score, 3 more for each affine sum; for an own passage twice its e and gain (10 each),
// and in double some 40 for p = 1, or else 60, six |d|^p and three binary searches.
template <class S>
const char* forward(const SortedForward& args, const Tuning& tuning, void* stream) {
  const RowOutputs<Computing<S>> outputs(args);
  if (const auto plan = forward_plan<S>(args.rows, args.p == 1, tuning)) {
    LineMemory memory = plan->memory;
    memory.workspace = static_cast<unsigned char*>(args.lines);
    if (const char* error = launch(sorted_forward_kernel<S>, plan->shape, stream, args,
                                   ScaledExp<Computing<S>>(args.rows.temperature), outputs, memory)) {
      return error;
    }
  }
  return reduce(args, outputs, stream);
}

// The row's own passages in hand with coefficients of their own.
template <class C, class Hand>
struct OwnPassages {
  C score[Hand::count][Hand::width];
  Loaded<C, Hand> c, b;
};

template <class S>
__global__ void __launch_bounds__(kMaxBackwardThreads, kBackwardBlocks<S>)
    sorted_backward_kernel(const __grid_constant__ SortedBackward args, const ScaledExp<Computing<S>> scaled_exp) {
  using C = Computing<S>;
  const Rows& rows = args.rows;
  const int64_t row_index = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row_index >= rows.Q) return;

  const Row<S> row(rows, row_index);
  const Team team{static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x), static_cast<int>(blockIdx.y),
                  static_cast<int>(gridDim.y)};
  const C* const state = static_cast<const C*>(args.state) + SortedState::width * row_index;
  const Upstream<C> upstream(args, row_index);
  const Coefficients<C> others{upstream(state[SortedState::others_c]), upstream(state[SortedState::others_b])};
  const C f = args.target ? upstream(state[SortedState::others_f]) : C(0);
  const GradientWriter<S, true> writer(args, row, scaled_exp, state[SortedState::max], f);
  writer.write_others(team, others.c != 0 || others.b != 0 || f != 0, others);

  const C* const c = static_cast<const C*>(args.coefficient) + row.own_offset;
  const C* const b = args.constant ? static_cast<const C*>(args.constant) + row.own_offset : nullptr;
  walk<Row<S>::kLabelledSlots, Row<S>::kWidth>(
      row.own_stretch(), team,
      [&](const auto& hand) {
        OwnPassages<C, std::decay_t<decltype(hand)>> passages;
        row.load_scores(hand, passages.score);
        passages.c.load(hand, c, 0);
        if (b) passages.b.load(hand, b, 0);
        return passages;
      },
      [&](const auto& hand, const auto& passages) {
        writer.write(hand, passages.score, nullptr, [&](int u, int w) {
          return Coefficients<C>{upstream(passages.c.piece[u][w]), b ? upstream(passages.b.piece[u][w]) : C(0)};
        });
      });
}

// Bytes: Q * N scores (own passages' alone if others' are excluded), the mask, Q * K coefficients (twice that where
// terms are affine) and, where listwise KL has it for other queries' passages, a given target read; Q * N gradients
// written. No temporaries. Floating-point operations: 7 a score, two more for a given target.
template <class S>
const char* backward(const SortedBackward& args, const Tuning& tuning, void* stream) {
  const auto shape = backward_shape<S>(args.rows, tuning);
  if (!shape) return nullptr;
  return launch(sorted_backward_kernel<S>, *shape, stream, args, ScaledExp<Computing<S>>(args.rows.temperature));
}

}  // namespace

const char* sorted_losses_forward(const SortedForward& args, const Tuning& tuning, void* stream) {
  return with_stored_type(args.rows.dtype,
                          [&](auto stored) { return forward<decltype(stored)>(args, tuning, stream); });
}

size_t sorted_losses_workspace(const Rows& rows, double p, const Tuning& tuning) {
  return with_stored_type(rows.dtype, [&](auto stored) {
    const auto plan = forward_plan<decltype(stored)>(rows, p == 1, tuning);
    return plan ? plan->workspace_bytes : 0;
  });
}

const char* sorted_losses_backward(const SortedBackward& args, const Tuning& tuning, void* stream) {
  return with_stored_type(args.rows.dtype,
                          [&](auto stored) { return backward<decltype(stored)>(args, tuning, stream); });
}

std::vector<Launch> sorted_losses_launches(const Rows& rows, double p, Reduction reduction, const Tuning& tuning) {
  return with_stored_type(rows.dtype, [&](auto stored) {
    using S = decltype(stored);
    std::vector<Launch> launches;
    if (const auto plan = forward_plan<S>(rows, p == 1, tuning))
      launches.push_back({"sorted_forward_kernel", plan->shape});
    if (const auto shape = reduce_shape(rows.Q, reduction)) launches.push_back({"reduce_kernel", *shape});
    if (const auto shape = backward_shape<S>(rows, tuning)) launches.push_back({"sorted_backward_kernel", *shape});
    return launches;
  });
}

}  // namespace wassrank::cuda
