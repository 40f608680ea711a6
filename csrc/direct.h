// The level losses on the CPU, called from Python with addresses instead of tensors. Going through torch's dispatcher,
// with some twenty arguments boxed, costs a small step more than its kernels do (wassrank/ops/direct.py, which makes
// sure of everything that bindings.cpp checks).
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

}  // namespace wassrank::direct
