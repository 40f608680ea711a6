// |d|^p, what carrying mass over a distance costs, and its derivative: csrc/common/ground.h without pow(), which would
// be a call, with a stack.
#pragma once

#include <cuda_runtime.h>

#include <cmath>

namespace wassrank::cuda {

// |d|^p for p other than 1.
class GroundCost1D {
 public:
  __device__ explicit GroundCost1D(double p) : p_(p) {}
  __device__ double operator()(double d) const {
    return p_ == 2 ? d * d : std::exp(p_ * std::log(std::abs(d)));  // of 0: 0
  }

 private:
  const double p_;
};

// For any p. Which form it takes is the same for all threads.
class Ground {
 public:
  __device__ explicit Ground(double p) : p_(p) {}
  __device__ double of(double d) const { return p_ == 1 ? std::abs(d) : GroundCost1D(p_)(d); }
  // Its derivative, where it is `cost`: a division takes less time and less code than a second logarithm.
  __device__ double slope(double d, double cost) const {
    if (p_ == 1) return static_cast<double>((d > 0) - (d < 0));
    return p_ == 2 ? 2 * d : cost == 0 ? 0 : p_ * cost / d;
  }

 private:
  const double p_;
};

}  // namespace wassrank::cuda
