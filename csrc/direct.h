// The level losses and the 1-D distance on the CPU, called from Python with addresses instead of tensors. Going through
// torch's dispatcher, with some twenty arguments boxed, costs a small step more than its kernels do
// (wassrank/ops/direct.py, which makes sure of everything that bindings.cpp checks).
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "common/rows.h"
#include "cpu/kernels.h"

namespace wassrank::direct {

using Address = std::uintptr_t;

template <class T = void>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

inline Rows rows_of(Address scores, Address labels, Address mask, Address offsets, int64_t Q, int64_t N, int64_t K,
                    int dtype, int label_bytes, bool label_signed, int64_t mask_stride, int in_batch, int levels,
                    double temperature) {
  return {
      .scores = at(scores),
      .labels = at(labels),
      .mask = at<const bool>(mask),
      .mask_stride = mask_stride,
      .offsets = at<const int64_t>(offsets),
      .Q = Q,
      .N = N,
      .K = K,
      .first = 0,
      .stride = N,
      .dtype = static_cast<Dtype>(dtype),
      .label_bytes = label_bytes,
      .label_signed = label_signed,
      .in_batch = in_batch,
      .levels = levels,
      .temperature = temperature,
  };
}

// What a label that is no grade is answered with.
inline void refuse(int64_t stray, int levels) {
  throw std::invalid_argument("labels hold grade " + std::to_string(stray) +
                              ", but grades must lie in 0 ... num_levels-1 = " + std::to_string(levels - 1) +
                              ": pass a larger num_levels, and mark padding with mask, not with a label");
}

template <cpu::ParallelFor parallel_for>
void level_losses(Address scores, Address labels, Address target, Address mask, Address weight,
                  Address label_temperatures, Address positives, Address offsets, Address position, int64_t Q,
                  int64_t N, int64_t K, int dtype, int label_bytes, bool label_signed, int64_t mask_stride,
                  int64_t target_width, double wasserstein, double info_nce, double kl, int target_kind, int reduction,
                  int in_batch, int levels, double p, double temperature, double label_temperature, Address loss,
                  Address state, Address scale) {
  LevelLossesForward args{};
  args.rows = rows_of(scores, labels, mask, offsets, Q, N, K, dtype, label_bytes, label_signed, mask_stride, in_batch,
                      levels, temperature);
  args.terms = {wasserstein, info_nce, kl};
  args.target_kind = static_cast<Target>(target_kind);
  args.target = at(target);
  args.target_width = target_width;
  args.weight = at(weight);
  args.label_temperatures = at(label_temperatures);
  args.positives = at<const int64_t>(positives);
  args.position = at<const double>(position);
  args.reduction = static_cast<Reduction>(reduction);
  args.p = p;
  args.label_temperature = label_temperature;
  args.loss = at(loss);
  args.state = at(state);
  args.scale = at(scale);
  if (const auto stray = cpu::kernels().level_losses_forward(args, parallel_for)) refuse(*stray, levels);
}

template <cpu::ParallelFor parallel_for>
void level_losses_backward(Address grad_loss, Address scores, Address labels, Address target, Address mask,
                           Address positives, Address offsets, Address state, Address scale, int64_t Q, int64_t N,
                           int64_t K, int dtype, int label_bytes, bool label_signed, int64_t mask_stride,
                           int64_t target_width, bool affine, bool grad_per_row, int in_batch, int levels,
                           double temperature, Address grad_scores) {
  LevelLossesBackward args{};
  args.rows = rows_of(scores, labels, mask, offsets, Q, N, K, dtype, label_bytes, label_signed, mask_stride, in_batch,
                      levels, temperature);
  args.affine = affine;
  args.target = at(target);
  args.target_width = target_width;
  args.positives = at<const int64_t>(positives);
  args.grad_loss = at(grad_loss);
  args.grad_per_row = grad_per_row;
  args.state = at(state);
  args.scale = at(scale);
  args.grad_scores = at(grad_scores);
  cpu::kernels().level_losses_backward(args, parallel_for);
}

// A batch of the level losses whose scores come tile by tile; wassrank/embeddings/native_tiles.py. `first` is the place
// of row 0 among all queries.
struct LevelTiles {
  LevelLossesForward forward{};
  LevelLossesBackward backward{};
};

inline LevelTiles level_tiles(Address labels, Address target, Address mask, Address weight, Address label_temperatures,
                              Address positives, Address position, Address state, int64_t Q, int64_t N, int64_t K,
                              int64_t first, int dtype, int label_bytes, bool label_signed, int64_t mask_stride,
                              int64_t target_width, double wasserstein, double info_nce, double kl, int target_kind,
                              int in_batch, int levels, double p, double temperature, double label_temperature) {
  LevelTiles tiles;
  LevelLossesForward& args = tiles.forward;
  args.rows = rows_of(0, labels, mask, 0, Q, N, K, dtype, label_bytes, label_signed, mask_stride, in_batch, levels,
                      temperature);
  args.rows.first = first;
  args.terms = {wasserstein, info_nce, kl};
  args.target_kind = static_cast<Target>(target_kind);
  args.target = at(target);
  args.target_width = target_width;
  args.weight = at(weight);
  args.label_temperatures = at(label_temperatures);
  args.positives = at<const int64_t>(positives);
  args.position = at<const double>(position);
  args.p = p;
  args.label_temperature = label_temperature;
  args.state = at(state);
  tiles.backward.rows = args.rows;
  tiles.backward.affine = args.terms.affine();
  tiles.backward.target = kl != 0 ? args.target : nullptr;
  tiles.backward.target_width = target_width;
  tiles.backward.positives = info_nce != 0 ? args.positives : nullptr;
  tiles.backward.state = args.state;
  return tiles;
}

inline cpu::ScoreTile score_tile(Address scores, int64_t stride, int64_t row, int64_t rows, int64_t column,
                                 int64_t columns) {
  return {at(scores), stride, row, rows, column, columns};
}

template <cpu::ParallelFor parallel_for>
void gather_tile(const LevelTiles& tiles, Address sums, Address scores, int64_t stride, int64_t row, int64_t rows,
                 int64_t column, int64_t columns) {
  const cpu::ScoreTile tile = score_tile(scores, stride, row, rows, column, columns);
  const auto stray = cpu::kernels().gather_tile(tiles.forward, tile, at<double>(sums), parallel_for);
  if (stray) refuse(*stray, tiles.forward.rows.levels);
}

template <cpu::ParallelFor parallel_for>
void finish_tiles(const LevelTiles& tiles, Address sums, Address losses, Address weights) {
  cpu::kernels().finish_tiles(tiles.forward, at<double>(sums), at<double>(losses), at<double>(weights), parallel_for);
}

// In the scores' place. grad_loss [Q] and scale [].
template <cpu::ParallelFor parallel_for>
void tile_gradient(const LevelTiles& tiles, Address grad_loss, Address scale, Address scores, int64_t stride,
                   int64_t row, int64_t rows, int64_t column, int64_t columns) {
  LevelLossesBackward args = tiles.backward;
  args.grad_loss = at(grad_loss);
  args.grad_per_row = true;
  args.scale = at(scale);
  cpu::kernels().tile_gradient(args, score_tile(scores, stride, row, rows, column, columns), parallel_for);
}

// What a pair of point sets that is none is answered with.
inline void refuse(const cpu::PairRefusal& refusal) {
  const std::string side = refusal.of_v ? "v" : "u", row = " row " + std::to_string(refusal.pair);
  switch (refusal.what) {
    case cpu::PairRefusal::nan_value:
      throw std::invalid_argument(side + "_values'" + row + " holds NaN: leave points out with " + side + "_mask");
    case cpu::PairRefusal::improper_weight:
      throw std::invalid_argument(side + "_weights'" + row + " holds a weight that is negative, NaN or infinite");
    case cpu::PairRefusal::massless:
      throw std::invalid_argument(side + "_weights'" + row + " has no mass to normalise: all its weights are 0");
  }
}

template <cpu::ParallelFor parallel_for>
void wasserstein_1d(Address u_values, Address v_values, Address u_weights, Address v_weights, Address u_mask,
                    Address v_mask, Address u_offsets, Address v_offsets, int64_t u_columns, int64_t v_columns,
                    int shared, int64_t pairs, int dtype, double p, Address loss, Address u_slope, Address v_slope,
                    Address u_potential, Address v_potential) {
  Wasserstein1d args{};
  // Bit k of `shared`: of the k-th tensor there is one row for all pairs.
  args.u = {at(u_values),      at(u_weights),      at<const bool>(u_mask),       (shared & 1) != 0,
            (shared & 4) != 0, (shared & 16) != 0, at<const int64_t>(u_offsets), u_columns,
            at(u_slope),       at(u_potential)};
  args.v = {at(v_values),      at(v_weights),      at<const bool>(v_mask),       (shared & 2) != 0,
            (shared & 8) != 0, (shared & 32) != 0, at<const int64_t>(v_offsets), v_columns,
            at(v_slope),       at(v_potential)};
  args.pairs = pairs;
  args.dtype = static_cast<Dtype>(dtype);
  args.p = p;
  args.loss = at(loss);
  if (const auto refusal = cpu::kernels().wasserstein_1d(args, parallel_for)) refuse(*refusal);
}

}  // namespace wassrank::direct
