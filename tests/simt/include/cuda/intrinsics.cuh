// csrc/cuda/intrinsics.cuh for simt.h: what the PTX instructions give, but for the last bits of ex2.approx.
#pragma once

#include <cuda_runtime.h>

#include <bit>
#include <cmath>
#include <cstdint>

namespace wassrank::cuda {

inline float exp2_flushed(float x) { return x < -126 ? 0.0f : std::exp2(x); }

inline float float_of_half(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const float magnitude = exponent == 31  ? (fraction ? NAN : INFINITY)
                          : exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                                          : std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
  return bits & 0x8000 ? -magnitude : magnitude;
}

// To nearest, ties to even: counted in steps of the result's binade, so that a carry runs into the exponent by itself.
inline uint16_t half_of_float(float x) {
  if (x != x) return 0x7fff;
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  const float magnitude = std::fabs(x);
  if (magnitude >= 65520) return sign | 0x7c00;
  int exponent = -13;  // magnitude < 2^exponent; subnormals share the lowest binade's step
  if (magnitude >= 0x1p-14f) std::frexp(magnitude, &exponent);
  const int steps = static_cast<int>(std::nearbyint(std::ldexp(magnitude, 11 - exponent)));
  return static_cast<uint16_t>(sign | (((exponent + 13) << 10) + steps));
}

inline uint16_t bfloat16_of_float(float x) {
  if (x != x) return 0x7fff;
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline unsigned char* dynamic_shared() { return simt::self().block->shared.get(); }

}  // namespace wassrank::cuda
