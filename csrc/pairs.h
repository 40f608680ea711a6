// Tensors of wassrank::wasserstein_1d as its kernels are told of them.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>
#include <optional>
#include <tuple>

#include "common/wasserstein_1d.h"
#include "tensors.h"

namespace wassrank {

// One side of the pairs, but for what the kernels write.
inline PointRows point_rows(const char* name, const Tensor& values, const std::optional<Tensor>& weights,
                            const std::optional<Tensor>& mask, const std::optional<Tensor>& offsets, int64_t pairs) {
  check_contiguous(values);
  STD_TORCH_CHECK(values.dim() == (offsets ? 1 : 2), "wassrank: ", name, " values are [pairs, n]; packed [T]");
  PointRows side{};
  side.values = values.data_ptr();
  side.columns = values.size(values.dim() - 1);
  STD_TORCH_CHECK(side.columns < int64_t{1} << 31, "wassrank: places are counted in 32 bits");
  // Whether there is one row for all pairs.
  const auto is_shared = [&](const Tensor& tensor) {
    check_contiguous(tensor);
    STD_TORCH_CHECK(tensor.dim() == values.dim() && tensor.size(tensor.dim() - 1) == side.columns, "wassrank: ", name,
                    " weights or mask do not have the shape of its values");
    const int64_t rows = offsets ? pairs : tensor.size(0);
    STD_TORCH_CHECK(rows == pairs || rows == 1, "wassrank: ", name, " rows are neither one nor as many as pairs");
    return rows != pairs;
  };
  side.values_shared = is_shared(values);
  if (weights) {
    STD_TORCH_CHECK(weights->scalar_type() == computing(values), "wassrank: weights are of the computing dtype");
    side.weights = weights->data_ptr();
    side.weights_shared = is_shared(*weights);
  }
  if (mask) {
    STD_TORCH_CHECK(mask->scalar_type() == ScalarType::Bool, "wassrank: mask is of bools");
    side.mask = static_cast<const bool*>(mask->data_ptr());
    side.mask_shared = is_shared(*mask);
  }
  if (offsets) {
    check_elements("offsets", *offsets, ScalarType::Long, pairs + 1);
    side.offsets = static_cast<const int64_t*>(offsets->data_ptr());
    if (values.is_cpu()) check_offsets({.offsets = side.offsets, .Q = pairs, .N = side.columns});
  }
  return side;
}

// What either side of the pairs is given as.
struct PointInputs {
  const Tensor& values;
  const std::optional<Tensor>&weights, &mask, &offsets;
};
using PairOutputs = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

// Calls run(args) with all that the kernels are told.
template <class RunPairs>
PairOutputs couple_pairs(const PointInputs& u, const PointInputs& v, int64_t pairs, int64_t wanted, double p,
                         RunPairs run) {
  const Tensor& u_values = u.values;
  STD_TORCH_CHECK(u_values.scalar_type() == v.values.scalar_type(), "wassrank: both sides' values have one dtype");
  Wasserstein1d args{};
  args.u = point_rows("u", u_values, u.weights, u.mask, u.offsets, pairs);
  args.v = point_rows("v", v.values, v.weights, v.mask, v.offsets, pairs);
  args.pairs = pairs;
  args.dtype = dtype_of(u_values);
  args.p = p;
  const ScalarType dtype = computing(u_values);
  const auto room = [&](const PointRows& side, int bit) {
    if ((wanted >> bit & 1) == 0) return torch::stable::new_empty(u_values, {0}, dtype);
    if (side.offsets) return torch::stable::new_empty(u_values, {side.columns}, dtype);
    return torch::stable::new_empty(u_values, {pairs, side.columns}, dtype);
  };
  const auto address = [&](const Tensor& of, int bit) { return (wanted >> bit & 1) != 0 ? of.data_ptr() : nullptr; };
  const Tensor loss = torch::stable::new_empty(u_values, {pairs}, dtype);
  const Tensor u_slope = room(args.u, 0), v_slope = room(args.v, 1);
  const Tensor u_potential = room(args.u, 2), v_potential = room(args.v, 3);
  STD_TORCH_CHECK((!(wanted & 4) || u.weights) && (!(wanted & 8) || v.weights),
                  "wassrank: weights that are not given have no gradient");
  args.loss = loss.data_ptr();
  args.u.slope = address(u_slope, 0);
  args.v.slope = address(v_slope, 1);
  args.u.potential = address(u_potential, 2);
  args.v.potential = address(v_potential, 3);
  run(args);
  return {loss, u_slope, v_slope, u_potential, v_potential};
}

}  // namespace wassrank
