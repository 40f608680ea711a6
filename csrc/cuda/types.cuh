// The types scores are stored in, the type each is computed in, and 16-byte moves of either.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "common/rows.h"
#include "cuda/intrinsics.cuh"

namespace wassrank::cuda {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// C of common/rows.h.
template <class S>
using Computing = std::conditional_t<std::is_same_v<S, double>, double, float>;

template <class C>
constexpr C kInf = std::numeric_limits<C>::infinity();
template <class C>
constexpr C kNaN = std::numeric_limits<C>::quiet_NaN();

__device__ inline double widen(double x) { return x; }
__device__ inline float widen(float x) { return x; }
__device__ inline float widen(Half x) { return float_of_half(x.bits); }
__device__ inline float widen(BFloat16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }

// To nearest, ties to even.
template <class S>
__device__ S narrow(Computing<S> x) {
  if constexpr (std::is_same_v<S, Half>)
    return {half_of_float(x)};
  else if constexpr (std::is_same_v<S, BFloat16>)
    return {bfloat16_of_float(x)};
  else
    return x;
}

template <class S>
__device__ S negative_infinity() {
  if constexpr (std::is_same_v<S, Half>)
    return {0xfc00};
  else if constexpr (std::is_same_v<S, BFloat16>)
    return {0xff80};
  else
    return -kInf<S>;
}

// Calls body with a value of the stored type.
template <class Body>
auto with_stored_type(Dtype dtype, Body body) {
  switch (dtype) {
    case Dtype::float64: return body(double{});
    case Dtype::float16: return body(Half{});
    case Dtype::bfloat16: return body(BFloat16{});
    default: return body(float{});
  }
}

// `width` neighbours in memory, as words: taken apart only when looked at, since that waits for the load, and with it
// would whatever is to be loaded next. Indices must be known at compile time, or the run lands in local memory.
template <class T, int width>
struct Run {
  static constexpr int kBytes = width * sizeof(T);
  static constexpr int kAlignment = kBytes < 16 ? kBytes : 16;  // of the widest moves that make it up
  using Word = std::conditional_t<
      width == 1, T,
      std::conditional_t<
          kAlignment == 16, uint4,
          std::conditional_t<kAlignment == 8, uint2, std::conditional_t<kAlignment == 4, uint32_t, uint16_t>>>>;
  static constexpr int kWords = kBytes / sizeof(Word);
  static_assert(kWords * sizeof(Word) == kBytes);
  Word words[kWords];

  __device__ static bool aligned(const T* at) {
    return width == 1 || reinterpret_cast<uintptr_t>(at) % kAlignment == 0;
  }

  __device__ void load_aligned(const T* from) {
#pragma unroll
    for (int i = 0; i < kWords; ++i) words[i] = reinterpret_cast<const Word*>(from)[i];
  }

  __device__ void load(const T* from) {
    if (aligned(from)) {
      load_aligned(from);
    } else {
      T values[width];
#pragma unroll
      for (int i = 0; i < width; ++i) values[i] = from[i];
      assign(values);
    }
  }

  __device__ void store(T* to) const {
    if (aligned(to)) {
#pragma unroll
      for (int i = 0; i < kWords; ++i) reinterpret_cast<Word*>(to)[i] = words[i];
    } else {
#pragma unroll
      for (int i = 0; i < width; ++i) to[i] = (*this)[i];
    }
  }

  __device__ T operator[](int i) const {
    T values[width];
    __builtin_memcpy(values, words, kBytes);
    return values[i];
  }
  __device__ void assign(const T (&values)[width]) { __builtin_memcpy(words, values, kBytes); }
  __device__ void fill(T value) {
    T values[width];
#pragma unroll
    for (int i = 0; i < width; ++i) values[i] = value;
    assign(values);
  }
};

template <class S, int width>
__device__ Computing<S> widen(const Run<S, width>& run, int i) {
  if constexpr (std::is_same_v<S, BFloat16> && width % 2 == 0) {
    // One instruction from a word of two, where going through 16 bits takes two.
    uint32_t pairs[width / 2];
    __builtin_memcpy(pairs, run.words, sizeof pairs);
    return __uint_as_float(i % 2 == 0 ? pairs[i / 2] << 16 : pairs[i / 2] & 0xffff0000u);
  } else {
    return widen(run[i]);
  }
}

}  // namespace wassrank::cuda
