// The level losses where a row's scores come piece by piece, as the scores of embeddings do: each tile of scores is
// added to its rows' sums, which lie between tiles in the caller's memory, and later takes its gradient.
#pragma once

#include <cstring>
#include <optional>
#include <tuple>

#include "cpu/kernels.h"
#include "cpu/level_losses_backward.h"
#include "cpu/level_losses_forward.h"
#include "cpu/row_sums.h"

namespace wassrank::cpu::WASSRANK_ISA {

// A row's sums as LevelTiles::sums_width(levels) doubles.
class StoredSums {
 public:
  StoredSums(double* sums, int levels) : sums_(sums), slots_(levels + 1) {}

  RowSums load() const {
    RowSums row;
    std::tie(row.max, row.named, row.target_logit, row.target_log) = std::tie(sums_[0], sums_[1], sums_[2], sums_[3]);
    double* const to[] = {row.mass, row.count, row.target, row.logit};
    for (int k = 0; k < 4; ++k) std::memcpy(to[k], sums_ + 4 + k * slots_, slots_ * sizeof(double));
    return row;
  }

  void store(const RowSums& row) const {
    std::tie(sums_[0], sums_[1], sums_[2], sums_[3]) = std::tie(row.max, row.named, row.target_logit, row.target_log);
    const double* const from[] = {row.mass, row.count, row.target, row.logit};
    for (int k = 0; k < 4; ++k) std::memcpy(sums_ + 4 + k * slots_, from[k], slots_ * sizeof(double));
  }

 private:
  double* const sums_;
  const int slots_;
};

// Rows that see only a tile of their scores: its first element is that of (tile.row, tile.column).
template <class C>
Rows rows_of_tile(Rows rows, const ScoreTile& tile) {
  rows.stride = tile.stride;
  rows.scores = static_cast<const C*>(tile.scores) - (tile.row * tile.stride + tile.column);
  return rows;
}

template <class C, class Body>
void for_each_tile_row(const ScoreTile& tile, ParallelFor parallel_for, Body body) {
  const int64_t grain = rows_a_thread(tile.rows * (tile.columns + kRowScores), tile.rows);
  parallel_for(tile.rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = tile.row + begin; row < tile.row + end; ++row)
      body(row, tile.column, tile.column + tile.columns);
  });
}

// A grade out of range, if a passage of the tile that takes part has one.
template <class C>
std::optional<int64_t> gather_tile(const LevelLossesForward& args, const ScoreTile& tile, double* sums,
                                   ParallelFor parallel_for) {
  LevelLossesForward of_tile = args;
  of_tile.rows = rows_of_tile<C>(args.rows, tile);
  Forward<C, C> pass(of_tile);
  for_each_tile_row<C>(tile, parallel_for, [&](int64_t row, int64_t begin, int64_t end) {
    const StoredSums stored(sums + row * sums_width(args.rows.levels), args.rows.levels);
    RowSums of_row = stored.load();
    pass.accumulate(row, begin, end, of_row);
    stored.store(of_row);
  });
  return pass.stray();
}

template <class C>
void finish_tiles(const LevelLossesForward& args, double* sums, double* losses, double* weights,
                  ParallelFor parallel_for) {
  const Forward<C, C> pass(args);
  parallel_for(args.rows.Q, rows_a_thread(args.rows.Q * kRowScores, args.rows.Q), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const StoredSums stored(sums + row * sums_width(args.rows.levels), args.rows.levels);
      const RowTotal total = pass.finish(row, stored.load());
      losses[row] = total.weighted_loss;
      weights[row] = total.weight;
    }
  });
}

// In the scores' place.
template <class C>
void tile_gradient(const LevelLossesBackward& args, const ScoreTile& tile, ParallelFor parallel_for) {
  LevelLossesBackward of_tile = args;
  of_tile.rows = rows_of_tile<C>(args.rows, tile);
  of_tile.grad_scores = const_cast<void*>(of_tile.rows.scores);
  const Backward<C, C> pass(of_tile);
  for_each_tile_row<C>(tile, parallel_for,
                       [&](int64_t row, int64_t begin, int64_t end) { pass.columns(row, begin, end); });
}

}  // namespace wassrank::cpu::WASSRANK_ISA
