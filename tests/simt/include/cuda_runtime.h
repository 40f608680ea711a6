// Stands in for CUDA's header where csrc/cuda is compiled as C++ for simt.h: the part of the language the kernels use.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "simt.h"

#define __global__
#define __device__
#define __host__
#define __grid_constant__
#define __launch_bounds__(...)

struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};

#define threadIdx (::simt::self().thread_index)
#define blockIdx (::simt::self().block_index)
#define blockDim (::simt::self().block_size)
#define gridDim (::simt::self().grid_size)

inline void __syncthreads() { simt::self().block->barrier.wait(true); }
inline void __syncwarp() { simt::self().warp->barrier.wait(true); }

template <class T>
T __shfl_sync(unsigned mask, T value, int lane) {
  simt::check_mask(mask);
  return simt::collective(value, [&](auto of) { return of(lane & (simt::kWarp - 1)); });
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits) {
  return __shfl_sync(mask, value, simt::self().lane ^ bits);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, int distance) {
  return __shfl_sync(mask, value, simt::self().lane < distance ? simt::self().lane : simt::self().lane - distance);
}
inline uint32_t __ballot_sync(unsigned mask, bool condition) {
  simt::check_mask(mask);
  return simt::collective(condition, [](auto of) {
    uint32_t lanes = 0;
    for (int lane = 0; lane < simt::kWarp; ++lane) lanes |= static_cast<uint32_t>(of(lane)) << lane;
    return lanes;
  });
}
inline bool __any_sync(unsigned mask, bool condition) { return __ballot_sync(mask, condition) != 0; }

inline int __clz(int x) { return std::countl_zero(static_cast<uint32_t>(x)); }
inline float __uint_as_float(uint32_t bits) { return std::bit_cast<float>(bits); }
