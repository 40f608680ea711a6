// What C++ has no word for: instructions of the GPU's own, and a block's dynamic shared memory. tests/simt puts the
// same functions in plain C++ in this file's place.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace wassrank::cuda {

// 2^x within 2 ulp, 0 below the normal range. exp2f() spends three more instructions on subnormal results.
__device__ inline float exp2_flushed(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ inline float float_of_half(uint16_t bits) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(bits));
  return y;
}

// To nearest, ties to even.
__device__ inline uint16_t half_of_float(float x) {
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}

__device__ inline uint16_t bfloat16_of_float(float x) {
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}

// The shared memory the launch asked for.
__device__ inline unsigned char* dynamic_shared() {
  extern __shared__ uint4 shared[];  // of a type that is aligned to 16 bytes
  return reinterpret_cast<unsigned char*>(shared);
}

}  // namespace wassrank::cuda
