// Grade-axis Wasserstein on CUDA: level path, forward and backward. Formulas: wassrank/ops/grade_wasserstein.py (what
// is kept between the passes) and wassrank/reference/transport.py (cost and potential).
//
// One read of the scores each way. Forward: a team of threads a row gathers level sums (level_sums.cuh), its first warp
// makes cost and coefficients of them, and one block adds the rows up. Backward: each thread writes columns of its own.
// No atomics: the same bits each run.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/columns.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "cuda/level_sums.cuh"
#include "cuda/level_transport.cuh"
#include "cuda/reduce.cuh"
#include "cuda/rows.cuh"
#include "cuda/scaled_exp.cuh"
#include "cuda/types.cuh"
#include "cuda/warp.cuh"

namespace wassrank::cuda {
namespace {

// A block's bins: those of 512 threads at 8 grades of float. Four such blocks fit an A100's 164 KiB, five an H100's
// 228, more than their registers allow; and with the rest it stays below the 48 KiB that a kernel gets without asking.
constexpr size_t kBinBytes = 36 << 10;

// CUDA's limits. In y the kernels go on in strides of the grid.
constexpr int64_t kMaxGridX = (int64_t{1} << 31) - 1;
constexpr int64_t kMaxGridY = 65535;

// Blocks of `rows_per_block` rows for all of them.
unsigned blocks_of(const Rows& rows, int64_t rows_per_block) {
  if (rows.N >= kMaxColumns) {
    throw std::invalid_argument("rows of " + std::to_string(rows.N) + " scores: 2^30 or more are not supported");
  }
  const int64_t blocks = (rows.Q + rows_per_block - 1) / rows_per_block;
  if (blocks > kMaxGridX) {
    throw std::invalid_argument(std::to_string(rows.Q) + " rows need more than CUDA's 2^31 - 1 blocks: pass fewer");
  }
  return static_cast<unsigned>(blocks);
}

template <class C>
constexpr double kTie = kTieUlps * std::numeric_limits<C>::epsilon();

// What the forward writes besides the state: each row's loss and, if the rows are to be reduced, weight.
template <class C>
struct RowOutputs {
  C* losses;
  C* weights;
};

// The row's sums -> its loss, and the coefficients the backward needs. For the first warp of a team.
template <class C>
__device__ void finish(const GradeWassersteinForward& args, const LevelTables& tables, const RowOutputs<C>& outputs,
                       int64_t row, const LevelSums<C>& sums) {
  const int levels = args.rows.levels, lane = threadIdx.x % kWarp;
  C* const state = static_cast<C*>(args.state) + row * (levels + 1);

  const int highest = warp_highest(sums.share > 0);
  const int below = highest > lane ? highest - lane : 0;
  const double share = args.target_kind == Target::given
                           ? sums.share
                           : sums.share * tables.gain[args.target_kind == Target::softmax ? below : lane];
  const double Z = warp_sum(sums.mass), target_total = warp_sum(share);

  // No passage takes part, or none has a gain: such a row counts for nothing.
  const bool empty = target_total == 0;
  double weight = 0, cost = 0, coefficient = 0;
  if (!empty) {
    const double m = sums.mass / Z;
    const Transport transport = level_transport(m, share / target_total, levels, tables, kTie<C>, lane);
    const double mean_potential = warp_sum(m * transport.potential);
    weight = args.weight ? static_cast<const C*>(args.weight)[row] : 1;
    const bool finite = Z < kInf<double> && target_total < kInf<double> && target_total > -kInf<double>;  // and no NaN
    const double factor = finite ? weight / (args.rows.temperature * Z) : kNaN<double>;
    coefficient = factor * (transport.potential - mean_potential);
    cost = finite ? weight * transport.cost : kNaN<double>;
  }
  if (lane < levels) state[lane] = static_cast<C>(coefficient);
  if (lane == 0) {
    state[levels] = empty ? C(0) : sums.max;
    outputs.losses[row] = static_cast<C>(cost);
    if (outputs.weights) outputs.weights[row] = static_cast<C>(weight);
    if (row == 0 && args.reduction == Reduction::none) *static_cast<C*>(args.scale) = 1;
  }
}

// blockDim = (team, rows a block); a team is one warp, or the whole block.
template <class S>
__global__ void __launch_bounds__(kMaxForwardThreads, sizeof(S) < 8 ? 2 : 1)
    forward_kernel(const __grid_constant__ GradeWassersteinForward args, const __grid_constant__ LevelTables tables,
                   const ScaledExp<Computing<S>> scaled_exp, const RowOutputs<Computing<S>> outputs) {
  using C = Computing<S>;
  const Rows& rows = args.rows;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row >= rows.Q) return;  // a warp as a whole, in a block that has no barriers

  const Row<S> scores(rows, row);
  const Team team{static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x)};
  const LevelSumsMemory<C> memory(dynamic_shared(), blockDim.x * blockDim.y, rows.levels);
  const bool given = args.target_kind == Target::given, any_others = !all_are_own(rows);
  LevelPass<S> pass(scores, team, scaled_exp, given ? 0 : 1, memory);
  if (any_others) pass.add_others(rows.in_batch);
  pass.add_own();
  if (given) {
    const bool for_all = args.target_width == rows.N;  // otherwise others are given nothing
    const C* const target = static_cast<const C*>(args.target) + (for_all ? row * rows.N : scores.own_offset);
    if (any_others && for_all) pass.add_given_to_others(rows.in_batch, target);
    pass.add_given_to_own(target);
  }
  LevelSums<C> sums;
  if (pass.finish(sums)) finish(args, tables, outputs, row, sums);
}

template <class S>
std::optional<Shape> forward_shape(const Rows& rows, const Tuning& tuning) {
  using Memory = LevelSumsMemory<Computing<S>>;
  if (rows.Q == 0) return std::nullopt;
  const int64_t slots = (all_are_own(rows) ? rows.K : rows.N) / Row<S>::kWidth + 1;
  const bool is_short = slots <= tuning.warp_slots;
  int threads = is_short ? tuning.short_row_threads : kWarp;
  while (!is_short && threads < tuning.max_team && int64_t{threads} * tuning.slots_per_thread < slots) threads *= 2;
  while (Memory::bin_bytes(threads, rows.levels) > kBinBytes) threads /= 2;
  const unsigned team = is_short ? kWarp : threads, rows_per_block = threads / team;
  return Shape{{blocks_of(rows, rows_per_block)}, {team, rows_per_block}, Memory::bytes(threads, rows.levels)};
}

// Bytes: Q * N scores (Q * K if other queries' are excluded), Q * K labels, the mask, and with a given target that and
// the scores again (from the cache), read; Q * (levels + 3) numbers of C written.
// Floating-point operations: 6 a score (maximum, minimum, difference, scaling, exponential, sum), one more for an own
// passage's share, 1 a score for a given target, and (in double) 40 * 32 a row, or (60 + 8 * levels) * 32 if p != 1.
template <class S>
const char* forward(const GradeWassersteinForward& args, const Tuning& tuning, void* stream) {
  using C = Computing<S>;
  const Rows& rows = args.rows;
  C* const workspace = static_cast<C*>(args.workspace);
  const bool per_row = args.reduction == Reduction::none;
  const RowOutputs<C> outputs{per_row ? static_cast<C*>(args.loss) : workspace, per_row ? nullptr : workspace + rows.Q};
  const char* error = nullptr;
  if (const auto shape = forward_shape<S>(rows, tuning)) {
    error = launch(forward_kernel<S>, *shape, stream, args, LevelTables(args), ScaledExp<C>(rows.temperature), outputs);
  }
  if (const auto shape = reduce_shape(rows.Q, args.reduction); shape && !error) {
    C* const loss = per_row ? nullptr : static_cast<C*>(args.loss);
    error = launch(reduce_kernel<C>, *shape, stream, outputs.losses, outputs.weights, rows.Q,
                   args.reduction == Reduction::mean, loss, static_cast<C*>(args.scale));
  }
  return error;
}

// blockDim = (threads a row, rows a block), gridDim.y = chunks of a row. A level's coefficient is in the lane of its
// number, level 0's in the remaining lanes too.
template <class S>
__global__ void __launch_bounds__(kMaxBackwardThreads, sizeof(S) < 8 ? 4 : 2)
    backward_kernel(const __grid_constant__ GradeWassersteinBackward args, const ScaledExp<Computing<S>> scaled_exp) {
  using C = Computing<S>;
  const Rows& rows = args.rows;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row >= rows.Q) return;

  const int levels = rows.levels, lane = threadIdx.x % kWarp;
  const C* const state = static_cast<const C*>(args.state) + row * (levels + 1);
  const C own_state = state[lane < levels ? lane : 0], max = state[levels];
  const C upstream =
      static_cast<const C*>(args.grad_loss)[args.grad_per_row ? row : 0] * *static_cast<const C*>(args.scale);
  const C coefficient = upstream * own_state;
  // Rows without coefficients have no maximum either: s - 0 could overflow.
  const bool any = __any_sync(kAllLanes, own_state != 0);

  const Row<S> scores(rows, row);
  const Team team{static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x), static_cast<int>(blockIdx.y),
                  static_cast<int>(gridDim.y)};
  S* const gradient = static_cast<S*>(args.grad_scores) + row * rows.N;
  // factor(u, w): the coefficient of that column.
  const auto write = [&](const auto& hand, const auto& score, auto factor) {
    using Hand = std::decay_t<decltype(hand)>;
#pragma unroll
    for (int u = 0; u < Hand::count; ++u) {
      S result[Hand::width];
#pragma unroll
      for (int w = 0; w < Hand::width; ++w) {
        const C g = factor(u, w) * scaled_exp(score[u][w] - max);
        result[w] = narrow<S>(any && score[u][w] != -kInf<C> ? g : C(0));
      }
      Run<S, Hand::width> run;
      run.assign(result);
      if (hand.has(u)) run.store(gradient + hand.column(u));
    }
  };

  const bool excluded = rows.in_batch == kExcluded;
  const C others = __shfl_sync(kAllLanes, coefficient, excluded ? 0 : rows.in_batch);
  walk<Row<S>::kSlots, Row<S>::kWidth>(
      scores.other_stretches(), team,
      [&](const auto& hand) {
        Passages<C, std::decay_t<decltype(hand)>> passages;
        if (excluded) {
          for_each(passages.score, [&](int u, int w, C) { passages.score[u][w] = -kInf<C>; });
        } else {
          scores.load_scores(hand, passages.score);
        }
        return passages;
      },
      [&](const auto& hand, const auto& passages) { write(hand, passages.score, [&](int, int) { return others; }); });
  walk<Row<S>::kLabelledSlots, Row<S>::kWidth>(
      scores.own_stretch(), team,
      [&](const auto& hand) {
        Passages<C, std::decay_t<decltype(hand)>> passages;
        scores.load_scores(hand, passages.score);
        scores.load_levels(hand, passages.level);
        return passages;
      },
      [&](const auto& hand, const auto& passages) {
        // A label that is no grade finds level 0: its passage takes no part, or all the row's coefficients are NaN.
        write(hand, passages.score,
              [&](int u, int w) { return __shfl_sync(kAllLanes, coefficient, passages.level[u][w] % kWarp); });
      });
}

template <class S>
std::optional<Shape> backward_shape(const Rows& rows, const Tuning& tuning) {
  if (rows.Q == 0 || rows.N == 0) return std::nullopt;
  const int64_t slots = rows.N / Row<S>::kWidth + 1;
  const int slots_at_a_time = all_are_own(rows) ? Row<S>::kLabelledSlots : Row<S>::kSlots;
  int team = kWarp;
  while (team < tuning.backward_threads && team * slots_at_a_time < slots) team *= 2;
  const unsigned rows_per_block = tuning.backward_threads / team;
  const int64_t round = team * slots_at_a_time;
  const auto chunks = static_cast<unsigned>(std::min(kMaxGridY, (slots + round - 1) / round));
  return Shape{{blocks_of(rows, rows_per_block), chunks}, {static_cast<unsigned>(team), rows_per_block}};
}

// Bytes: what the forward read, without a target, and Q * (levels + 1) numbers of state read; Q * N gradients written.
// Floating-point operations: 4 a score (difference, scaling, exponential, product).
template <class S>
const char* backward(const GradeWassersteinBackward& args, const Tuning& tuning, void* stream) {
  const auto shape = backward_shape<S>(args.rows, tuning);
  if (!shape) return nullptr;
  return launch(backward_kernel<S>, *shape, stream, args, ScaledExp<Computing<S>>(args.rows.temperature));
}

}  // namespace

const char* grade_wasserstein_forward(const GradeWassersteinForward& args, const Tuning& tuning, void* stream) {
  return with_stored_type(args.rows.dtype,
                          [&](auto stored) { return forward<decltype(stored)>(args, tuning, stream); });
}

const char* grade_wasserstein_backward(const GradeWassersteinBackward& args, const Tuning& tuning, void* stream) {
  return with_stored_type(args.rows.dtype,
                          [&](auto stored) { return backward<decltype(stored)>(args, tuning, stream); });
}

std::vector<Launch> grade_wasserstein_launches(const Rows& rows, Reduction reduction, const Tuning& tuning) {
  return with_stored_type(rows.dtype, [&](auto stored) {
    using S = decltype(stored);
    std::vector<Launch> launches;
    const auto add = [&](const char* kernel, const std::optional<Shape>& shape) {
      if (shape) launches.push_back({kernel, *shape});
    };
    add("forward_kernel", forward_shape<S>(rows, tuning));
    add("reduce_kernel", reduce_shape(rows.Q, reduction));
    add("backward_kernel", backward_shape<S>(rows, tuning));
    return launches;
  });
}

}  // namespace wassrank::cuda
