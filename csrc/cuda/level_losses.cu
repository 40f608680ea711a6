// Weighted sums of the losses on grades on CUDA, forward and backward: wassrank/ops/level_losses.py has the formulas
// and says what is kept between the passes.
//
// One read of the scores each way. Forward: a team of threads a row gathers level sums (level_sums.cuh), its first warp
// makes loss and coefficients of them (an epilogue for each loss), and one block adds the rows up. Backward: each
// thread writes columns of its own. No atomics: the same bits each run.
//
// Kernels are compiled for plain terms and for affine ones (common/rows.h). Wasserstein alone is plain, and pays
// nothing for what the others need.
#include <cmath>
#include <cstdint>
#include <optional>
#include <type_traits>
#include <vector>

#include "cuda/columns.cuh"
#include "cuda/grade_wasserstein.cuh"
#include "cuda/gradient.cuh"
#include "cuda/info_nce.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "cuda/level_sums.cuh"
#include "cuda/level_tables.cuh"
#include "cuda/listwise_kl.cuh"
#include "cuda/reduce.cuh"
#include "cuda/row_loss.cuh"
#include "cuda/rows.cuh"
#include "cuda/scaled_exp.cuh"
#include "cuda/shapes.cuh"
#include "cuda/types.cuh"
#include "cuda/warp.cuh"

namespace wassrank::cuda {
namespace {

// A block's bins: those of 512 threads at 8 grades of float, where terms are affine of 128. Four blocks of such size
// fit an A100's 164 KiB, five an H100's 228, more than their registers allow; and with the rest it stays below the 48
// KiB that a kernel gets without asking.
constexpr size_t kBinBytes = 36 << 10;

// The largest blocks, and how many of them a multiprocessor is to hold: with 64 registers a thread 32 warps, with the
// 80 that affine terms take 24.
template <bool affine>
constexpr int kMaxThreads = affine ? kMaxForwardThreads / 2 : kMaxForwardThreads;
template <class S, bool affine>
constexpr int kForwardBlocks = sizeof(S) == 8 ? 1 : (affine ? 3 : 2);
template <class S, bool affine>
constexpr int kBackwardBlocks = sizeof(S) == 8 ? 2 : (affine ? 3 : 4);

// The row's sums -> its loss, and the coefficients the backward needs. For the first warp of a team.
template <class S, bool affine>
__device__ void finish(const LevelLossesForward& args, const LevelTables& tables,
                       const RowOutputs<Computing<S>>& outputs, int64_t row_index, const Row<S>& row,
                       const LevelSums<Computing<S>, affine>& sums) {
  using C = Computing<S>;
  const int levels = args.rows.levels, lane = threadIdx.x % kWarp;

  Sums<double, affine> all = sums.level;
  if constexpr (affine) {
    if (lane == args.rows.in_batch) all.add(sums.others, Shift<C>{});
  }
  const double Z = warp_sum(all.mass);
  const RowTarget target = row_target<C>(args, tables, row_index, all, lane);
  const bool asked = target.total != 0;  // otherwise no passage takes part, or none has a gain

  // Wasserstein, which takes the most registers, comes last, when the others' sums are done with.
  RowLoss found;
  Pull pull;
  if constexpr (affine) {
    if (args.terms.info_nce != 0) pull = add_info_nce(args, row, row_index, sums, Z, found);
    if (args.terms.kl != 0 && asked) add_listwise_kl(args, all, Z, sums.given, target, found);
  }
  if (args.terms.wasserstein != 0 && asked) add_grade_wasserstein<C>(args, tables, all.mass, Z, target, found);

  const double weight = !found.counts ? 0 : args.weight ? static_cast<const C*>(args.weight)[row_index] : 1;
  const bool finite = Z < kInf<double> && target.total < kInf<double> && target.total > -kInf<double>;  // and no NaN
  const double factor = found.counts && !finite ? kNaN<double> : weight;
  const StateLayout layout{levels, affine};
  C* const state = static_cast<C*>(args.state) + row_index * layout.width();
  const auto keep = [&](int at, double value) { state[at] = static_cast<C>(value * factor); };
  if constexpr (affine) {
    const double others = __shfl_sync(kAllLanes, found.b, args.rows.in_batch % kWarp);
    const double positive = __shfl_sync(kAllLanes, found.b, pull.level % kWarp) - pull.size;
    if (lane < levels) {
      keep(lane, found.c);
      keep(layout.constant(lane), found.b - (pull.of_level ? pull.size : 0));
    }
    if (lane == 0) {
      keep(layout.others(), others);
      keep(layout.positive(), positive);
      keep(layout.target_factor(), found.f);
    }
  } else if (lane < levels) {
    keep(lane, found.c);
  }
  if (lane == 0) {
    state[layout.max()] = found.counts ? sums.max : C(0);
    outputs.set(row_index, found.loss * factor, weight);
    if (row_index == 0 && args.reduction == Reduction::none) *static_cast<C*>(args.scale) = 1;
  }
}

// blockDim = (team, rows a block); a team is one warp, or the whole block.
template <class S, bool affine>
__global__ void __launch_bounds__(kMaxThreads<affine>, kForwardBlocks<S, affine>)
    forward_kernel(const __grid_constant__ LevelLossesForward args, const __grid_constant__ LevelTables tables,
                   const ScaledExp<Computing<S>> scaled_exp, const RowOutputs<Computing<S>> outputs) {
  using C = Computing<S>;
  const Rows& rows = args.rows;
  const int64_t row_index = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row_index >= rows.Q) return;  // a warp as a whole, in a block that has no barriers

  const Row<S> row(rows, row_index);
  const Team team{static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x)};
  const LevelSumsMemory<C, affine> memory(dynamic_shared(), blockDim.x * blockDim.y, rows.levels);
  const bool given = args.target_kind == Target::given, any_others = !all_are_own(rows);
  LevelPass<S, affine> pass(row, team, scaled_exp, given ? 0 : 1, memory);
  if (any_others) pass.add_others(rows.in_batch);
  pass.add_own();
  if (given) {
    const bool for_all = args.target_width == rows.N;  // otherwise others are given nothing
    const C* const target = static_cast<const C*>(args.target) + (for_all ? row.begin : row.own_offset);
    if (any_others && for_all) pass.add_given_to_others(rows.in_batch, target);
    pass.add_given_to_own(target);
  }
  LevelSums<C, affine> sums;
  if (pass.finish(sums)) finish<S, affine>(args, tables, outputs, row_index, row, sums);
}

template <class S, bool affine>
std::optional<Shape> forward_shape(const Rows& rows, const Tuning& tuning) {
  using Memory = LevelSumsMemory<Computing<S>, affine>;
  if (rows.Q == 0) return std::nullopt;
  const int64_t columns = rows.offsets ? usual_columns(rows) : all_are_own(rows) ? rows.K : rows.N;
  const int64_t slots = columns / Row<S>::kWidth + 1;
  const bool is_short = slots <= tuning.warp_slots;
  int threads = is_short ? tuning.short_row_threads : kWarp;
  while (!is_short && threads < tuning.max_team && int64_t{threads} * tuning.slots_per_thread < slots) threads *= 2;
  while (threads > kMaxThreads<affine> || Memory::bin_bytes(threads, rows.levels) > kBinBytes) threads /= 2;
  const unsigned team = is_short ? kWarp : threads, rows_per_block = threads / team;
  return Shape{{blocks_of(rows, rows_per_block)}, {team, rows_per_block}, Memory::bytes(threads, rows.levels)};
}

// Bytes: Q * N scores (Q * K if other queries' are excluded), Q * K labels, the mask, and with a given target that and
// the scores again (from the cache), read; the state and 2 * Q numbers of C written.
// Floating-point operations: 6 a score (maximum, minimum, difference, scaling, exponential, sum), one more for an own
// passage's share and one for an affine sum, 1 a score for a given target, and (in double) 40 * 32 a row for each loss,
// or (60 + 8 * levels) * 32 for Wasserstein if p != 1.
template <class S, bool affine>
const char* forward(const LevelLossesForward& args, const Tuning& tuning, void* stream) {
  using C = Computing<S>;
  const RowOutputs<C> outputs(args);
  if (const auto shape = forward_shape<S, affine>(args.rows, tuning)) {
    if (const char* error = launch(forward_kernel<S, affine>, *shape, stream, args, LevelTables(args),
                                   ScaledExp<C>(args.rows.temperature), outputs)) {
      return error;
    }
  }
  return reduce(args, outputs, stream);
}

// A level's coefficients are in the lane of its number, level 0's in the remaining lanes too.
template <class S, bool affine>
__global__ void __launch_bounds__(kMaxBackwardThreads, kBackwardBlocks<S, affine>)
    backward_kernel(const __grid_constant__ LevelLossesBackward args, const ScaledExp<Computing<S>> scaled_exp) {
  using C = Computing<S>;
  const Rows& rows = args.rows;
  const int64_t row_index = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row_index >= rows.Q) return;

  const int levels = rows.levels, lane = threadIdx.x % kWarp;
  const StateLayout layout{levels, affine};
  const C* const state = static_cast<const C*>(args.state) + row_index * layout.width();
  const Upstream<C> upstream(args, row_index);
  const int level = lane < levels ? lane : 0;
  const Coefficients<C> of_level{upstream(state[level]), affine ? upstream(state[layout.constant(level)]) : C(0)};

  const Row<S> row(rows, row_index);
  const Team team{static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x), static_cast<int>(blockIdx.y),
                  static_cast<int>(gridDim.y)};
  const C f = affine ? upstream(state[layout.target_factor()]) : C(0);
  const GradientWriter<S, affine> writer(args, row, scaled_exp, state[layout.max()], f);
  const bool excluded = rows.in_batch == kExcluded;
  Coefficients<C> others{__shfl_sync(kAllLanes, of_level.c, excluded ? 0 : rows.in_batch)};
  if constexpr (affine) others.b = upstream(state[layout.others()]);
  writer.write_others(team, !excluded, others);

  int positive = -1;  // its column
  C b_of_positive{};
  if constexpr (affine) {
    if (args.positives) positive = row.own_column(args.positives[row_index]);
    b_of_positive = upstream(state[layout.positive()]);
  }
  walk<Row<S>::kLabelledSlots, Row<S>::kWidth>(
      row.own_stretch(), team,
      [&](const auto& hand) {
        auto passages = row.load_passages(hand);
        row.load_levels(hand, passages.level);
        return passages;
      },
      [&](const auto& hand, const auto& passages) {
        // A label that is no grade finds level 0: its passage takes no part, or all the row's coefficients are NaN.
        writer.write(hand, passages.score, writer.target(), [&](int u, int w) {
          const int from = passages.level[u][w] % kWarp;
          Coefficients<C> of{__shfl_sync(kAllLanes, of_level.c, from)};
          if constexpr (affine) {
            of.b = __shfl_sync(kAllLanes, of_level.b, from);
            if (hand.column(u) + w == positive) of.b = b_of_positive;
          }
          return of;
        });
      });
}

// Bytes: what the forward read, a target only where listwise KL has it, and the state; Q * N gradients written.
// Floating-point operations: 4 a score (difference, scaling, exponential, product), one more where terms are affine,
// two more for a given target.
template <class S, bool affine>
const char* backward(const LevelLossesBackward& args, const Tuning& tuning, void* stream) {
  const auto shape = backward_shape<S>(args.rows, tuning);
  if (!shape) return nullptr;
  return launch(backward_kernel<S, affine>, *shape, stream, args, ScaledExp<Computing<S>>(args.rows.temperature));
}

// Calls body with a value of the stored type, and whether terms are affine as a type.
template <class Body>
auto with_form(Dtype dtype, bool affine, Body body) {
  return with_stored_type(
      dtype, [&](auto stored) { return affine ? body(stored, std::true_type{}) : body(stored, std::false_type{}); });
}

}  // namespace

const char* level_losses_forward(const LevelLossesForward& args, const Tuning& tuning, void* stream) {
  return with_form(args.rows.dtype, args.terms.affine(),
                   [&](auto stored, auto affine) { return forward<decltype(stored), affine>(args, tuning, stream); });
}

const char* level_losses_backward(const LevelLossesBackward& args, const Tuning& tuning, void* stream) {
  return with_form(args.rows.dtype, args.affine,
                   [&](auto stored, auto affine) { return backward<decltype(stored), affine>(args, tuning, stream); });
}

std::vector<Launch> level_losses_launches(const Rows& rows, bool affine, Reduction reduction, const Tuning& tuning) {
  return with_form(rows.dtype, affine, [&](auto stored, auto is_affine) {
    using S = decltype(stored);
    std::vector<Launch> launches;
    const auto add = [&](const char* kernel, const std::optional<Shape>& shape) {
      if (shape) launches.push_back({kernel, *shape});
    };
    add("forward_kernel", forward_shape<S, is_affine>(rows, tuning));
    add("reduce_kernel", reduce_shape(rows.Q, reduction));
    add("backward_kernel", backward_shape<S>(rows, tuning));
    return launches;
  });
}

}  // namespace wassrank::cuda
