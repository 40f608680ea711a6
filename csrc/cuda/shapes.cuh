// How many threads and blocks a batch of rows takes: what the row losses' kernels have in common.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>

#include "common/rows.h"
#include "cuda/columns.cuh"
#include "cuda/kernels.h"
#include "cuda/rows.cuh"
#include "cuda/tuning.h"
#include "cuda/warp.cuh"

namespace wassrank::cuda {

// CUDA's limits. In y the kernels go on in strides of the grid.
constexpr int64_t kMaxGridX = (int64_t{1} << 31) - 1;
constexpr int64_t kMaxGridY = 65535;

// Columns that a row has; packed lists on average. Where lists begin only the device knows, and to wait for it would
// take longer than what there is to gain: all get teams that suit their mean length. A list that is longer keeps its
// team at work for longer, one that is shorter leaves threads idle.
inline int64_t usual_columns(const Rows& rows) { return rows.offsets ? (rows.N + rows.Q - 1) / rows.Q : rows.N; }

// Blocks of `rows_per_block` rows for all of them.
inline unsigned blocks_of(int64_t rows, int64_t rows_per_block = 1) {
  const int64_t blocks = (rows + rows_per_block - 1) / rows_per_block;
  if (blocks > kMaxGridX) {
    throw std::invalid_argument(std::to_string(rows) + " rows need more than CUDA's 2^31 - 1 blocks: pass fewer");
  }
  return static_cast<unsigned>(blocks);
}
inline unsigned blocks_of(const Rows& rows, int64_t rows_per_block) {
  if (!rows.offsets && rows.N >= kMaxColumns) {
    throw std::invalid_argument("rows of " + std::to_string(rows.N) + " scores: 2^30 or more are not supported");
  }
  return blocks_of(rows.Q, rows_per_block);
}

// Of a kernel in which each thread writes columns of its own. blockDim = (threads a row, rows a block), gridDim.y =
// chunks of a row.
template <class S>
std::optional<Shape> backward_shape(const Rows& rows, const Tuning& tuning) {
  if (rows.Q == 0 || rows.N == 0) return std::nullopt;
  const int64_t slots = usual_columns(rows) / Row<S>::kWidth + 1;
  const int slots_at_a_time = all_are_own(rows) ? Row<S>::kLabelledSlots : Row<S>::kSlots;
  int team = kWarp;
  while (team < tuning.backward_threads && team * slots_at_a_time < slots) team *= 2;
  const unsigned rows_per_block = tuning.backward_threads / team;
  const int64_t round = team * slots_at_a_time;
  const auto chunks = static_cast<unsigned>(std::min(kMaxGridY, (slots + round - 1) / round));
  return Shape{{blocks_of(rows, rows_per_block), chunks}, {static_cast<unsigned>(team), rows_per_block}};
}

}  // namespace wassrank::cuda
