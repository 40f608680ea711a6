// Sums, maxima and running sums over a warp, all lanes taking part, in a fixed order.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

namespace wassrank::cuda {

constexpr int kWarp = 32;
constexpr uint32_t kAllLanes = 0xffffffff;

// Every lane gets the same sum, over the lanes whose numbers agree with its own modulo `period`, a power of two.
template <class T>
__device__ T warp_sum(T x, int period = 1) {
#pragma unroll
  for (int distance = kWarp / 2; distance >= 1; distance /= 2) {
    if (distance >= period) x += __shfl_xor_sync(kAllLanes, x, distance);
  }
  return x;
}

// Every lane gets the sum over the `lanes` neighbours it is one of, a power of two.
template <class T>
__device__ T neighbours_sum(T x, int lanes) {
  for (int distance = lanes / 2; distance >= 1; distance /= 2) x += __shfl_xor_sync(kAllLanes, x, distance);
  return x;
}

template <class T>
__device__ T warp_max(T x) {
#pragma unroll
  for (int distance = kWarp / 2; distance >= 1; distance /= 2) {
    x = std::fmax(x, __shfl_xor_sync(kAllLanes, x, distance));
  }
  return x;
}

// x of lanes 0 ... lane, brought together by `op`.
template <class T, class Op>
__device__ T warp_running(T x, int lane, Op op) {
#pragma unroll
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const T below = __shfl_up_sync(kAllLanes, x, distance);
    if (lane >= distance) x = op(x, below);
  }
  return x;
}
template <class T>
__device__ T warp_running_sum(T x, int lane) {
  return warp_running(x, lane, [](T a, T b) { return a + b; });
}

// x of the lane below, `bottom` in lane 0.
template <class T>
__device__ T warp_shift_up(T x, T bottom, int lane) {
  const T below = __shfl_up_sync(kAllLanes, x, 1);
  return lane == 0 ? bottom : below;
}

// The highest lane where `condition` holds, or 0.
__device__ inline int warp_highest(bool condition) {
  const uint32_t lanes = __ballot_sync(kAllLanes, condition);
  return lanes == 0 ? 0 : kWarp - 1 - __clz(static_cast<int>(lanes));
}

}  // namespace wassrank::cuda
