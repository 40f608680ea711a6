// What the threads of a row's team, one warp or a block of several, find out together: sums, maxima and running sums,
// in a fixed order. Every thread of the team must call, with as many numbers as the others.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstddef>

#include "cuda/columns.cuh"
#include "cuda/warp.cuh"

namespace wassrank::cuda {

class TeamWork {
 public:
  static constexpr int kMost = 8;  // numbers at a time

  __host__ __device__ static size_t bytes(int threads) {
    return threads == kWarp ? 0 : 2 * threads / kWarp * kMost * sizeof(double);
  }
  // memory: bytes() of the block's, aligned to 8; a single warp needs none.
  __device__ TeamWork(const Team& team, unsigned char* memory)
      : memory_(reinterpret_cast<double*>(memory)),
        warps_(team.threads / kWarp),
        warp_(team.thread / kWarp),
        lane_(team.thread % kWarp) {}

  // What one thread wrote to memory before, all may read after.
  __device__ void sync() const {
    if (warps_ == 1) {
      __syncwarp();
    } else {
      __syncthreads();
    }
  }

  // In every thread: x[i] over the team's threads.
  template <int n>
  __device__ void sum(double (&x)[n]) {
    combine(x, Plus{});
  }
  template <int n>
  __device__ void max(double (&x)[n]) {
    combine(x, Max{});
  }

  // Running sums: in every thread `so_far` and the x of all threads before it; `so_far` moves on by everyone's x.
  template <int n>
  __device__ void run(double (&x)[n], double (&so_far)[n]) {
    run(x, so_far, Plus{});
  }
  // Running maxima of numbers none of which is negative.
  template <int n>
  __device__ void run_max(double (&x)[n], double (&so_far)[n]) {
    run(x, so_far, Max{});
  }

 private:
  struct Plus {
    __device__ double operator()(double a, double b) const { return a + b; }
  };
  struct Max {
    __device__ double operator()(double a, double b) const { return std::fmax(a, b); }
  };

  template <int n, class Op>
  __device__ void run(double (&x)[n], double (&so_far)[n], Op op) {
    double own[n];  // of the thread's warp
#pragma unroll
    for (int i = 0; i < n; ++i) {
      const double upto = warp_running(x[i], lane_, op);
      x[i] = warp_shift_up(upto, 0.0, lane_);
      own[i] = __shfl_sync(kAllLanes, upto, kWarp - 1);
    }
    double before = 0, all = 0;
    if (warps_ > 1) {
      const double* const of_warps = exchange(own);
      if (lane_ < n) {
        for (int w = 0; w < warps_; ++w) {
          if (w == warp_) before = all;
          all = op(all, of_warps[w * n + lane_]);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < n; ++i) {
      if (warps_ > 1) {
        x[i] = op(x[i], __shfl_sync(kAllLanes, before, i));
        own[i] = __shfl_sync(kAllLanes, all, i);
      }
      x[i] = op(x[i], so_far[i]);
      so_far[i] = op(so_far[i], own[i]);
    }
  }

  template <int n, class Op>
  __device__ void combine(double (&x)[n], Op op) {
#pragma unroll
    for (int i = 0; i < n; ++i) {
#pragma unroll
      for (int distance = kWarp / 2; distance >= 1; distance /= 2) {
        x[i] = op(x[i], __shfl_xor_sync(kAllLanes, x[i], distance));
      }
    }
    if (warps_ == 1) return;
    const double* const of_warps = exchange(x);
    double all = 0;
    if (lane_ < n) {
      all = of_warps[lane_];
      for (int w = 1; w < warps_; ++w) all = op(all, of_warps[w * n + lane_]);
    }
#pragma unroll
    for (int i = 0; i < n; ++i) x[i] = __shfl_sync(kAllLanes, all, i);
  }

  // Every warp leaves its numbers, [warp][n], for all to see. Two places in turns: a barrier lies between the reads of
  // one and its next writes, so one barrier a time will do.
  template <int n>
  __device__ const double* exchange(const double (&x)[n]) {
    static_assert(n <= kMost);
    double* const of_warps = memory_ + turn_ * warps_ * kMost;
    turn_ ^= 1;
    if (lane_ == 0) {
#pragma unroll
      for (int i = 0; i < n; ++i) of_warps[warp_ * n + i] = x[i];
    }
    __syncthreads();
    return of_warps;
  }

  double* const memory_;
  const int warps_, warp_, lane_;
  int turn_ = 0;
};

}  // namespace wassrank::cuda
