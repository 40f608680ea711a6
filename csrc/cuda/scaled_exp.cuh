// e^{(s - max) / temperature}, one function for both ways: the backward's exponentials must match the forward's Z.
#pragma once

#include <cmath>

#include "common/rows.h"
#include "cuda/intrinsics.cuh"

namespace wassrank::cuda {

// Called with a difference of scores: taking the difference after dividing would lose it at low temperatures.
template <class C>
struct ScaledExp;

template <>
struct ScaledExp<float> {
  float factor;
  WASSRANK_HOST_DEVICE explicit ScaledExp(double temperature)
      : factor(static_cast<float>(1.4426950408889634 / temperature)) {}  // log2(e)
  __device__ float operator()(float difference) const { return exp2_flushed(difference * factor); }
};

template <>
struct ScaledExp<double> {
  double factor;
  WASSRANK_HOST_DEVICE explicit ScaledExp(double temperature) : factor(1 / temperature) {}
  __device__ double operator()(double difference) const { return std::exp(difference * factor); }
};

}  // namespace wassrank::cuda
