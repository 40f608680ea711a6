// Row losses -> the batch's loss, in a fixed order and in double.
#pragma once

#include <cstdint>
#include <optional>

#include "common/rows.h"
#include "cuda/intrinsics.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "cuda/warp.cuh"

namespace wassrank::cuda {

constexpr int kReduceThreads = 512;

// loss = sum of losses, over the sum of weights for Reduction::mean; scale is what each row's gradient is multiplied
// with. `loss` may be null.
template <class C>
__global__ void __launch_bounds__(kReduceThreads)
    reduce_kernel(const C* losses, const C* weights, int64_t rows, bool mean, C* loss, C* scale) {
  constexpr int kWarps = kReduceThreads / kWarp;
  double sum = 0, weight = 0;
  for (int64_t row = threadIdx.x; row < rows; row += kReduceThreads) {
    sum += losses[row];
    weight += weights[row];
  }
  sum = warp_sum(sum);
  weight = warp_sum(weight);
  double* const sums = reinterpret_cast<double*>(dynamic_shared());
  double* const warp_weights = sums + kWarps;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  if (lane == 0) {
    sums[warp] = sum;
    warp_weights[warp] = weight;
  }
  __syncthreads();
  if (warp != 0) return;
  sum = warp_sum(lane < kWarps ? sums[lane] : 0.0);
  weight = warp_sum(lane < kWarps ? warp_weights[lane] : 0.0);
  const double factor = mean && weight != 0 ? 1 / weight : 1;
  if (lane == 0) {
    if (loss) *loss = static_cast<C>(sum * factor);
    *scale = static_cast<C>(factor);
  }
}

// What a forward writes besides the state: each row's loss and, if the rows are to be reduced, weight.
template <class C>
struct RowOutputs {
  C* losses;
  C* weights;

  explicit RowOutputs(const RowLossesForward& args) : losses(static_cast<C*>(args.loss)), weights(nullptr) {
    if (args.reduction == Reduction::none) return;
    losses = static_cast<C*>(args.workspace);
    weights = losses + args.rows.Q;
  }

  __device__ void set(int64_t row, double loss, double weight) const {
    losses[row] = static_cast<C>(loss);
    if (weights) weights[row] = static_cast<C>(weight);
  }
};

// Reads 2 * rows numbers and adds them. One block: a few thousand rows take less time than a second launch would.
// Without a reduction the rows' losses are the result, and only an empty batch's scale is left to write.
inline std::optional<Shape> reduce_shape(int64_t rows, Reduction reduction) {
  if (reduction == Reduction::none && rows > 0) return std::nullopt;
  return Shape{{1}, {kReduceThreads}, 2 * kReduceThreads / kWarp * sizeof(double)};
}

// After a kernel that set them.
template <class C>
const char* reduce(const RowLossesForward& args, const RowOutputs<C>& outputs, void* stream) {
  const auto shape = reduce_shape(args.rows.Q, args.reduction);
  if (!shape) return nullptr;
  C* const loss = args.reduction == Reduction::none ? nullptr : static_cast<C*>(args.loss);
  return launch(reduce_kernel<C>, *shape, stream, outputs.losses, outputs.weights, args.rows.Q,
                args.reduction == Reduction::mean, loss, static_cast<C*>(args.scale));
}

}  // namespace wassrank::cuda
