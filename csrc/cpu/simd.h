// Loops over blocks of scores, written so that the compiler turns them into vector code for whatever instruction set
// the including file is compiled for. C is the type computed in: float, or double for float64 scores.
//
// This header is compiled several times with different flags; everything lives in a namespace named after the
// instruction set, so that no two versions of a function share a name.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "common/rows.h"

namespace wassrank::cpu::WASSRANK_ISA {

// Scores handled at a time: 8 KiB of float, so that a block read from memory stays in the first-level cache for the
// passes over it (maximum, exponentials, levels).
constexpr int64_t kBlock = 2048;

// Fewer passages than this are added to their levels one by one.
constexpr int64_t kFewPassages = 64;

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

template <class C>
constexpr C kNegInf = -std::numeric_limits<C>::infinity();

// e^x for x <= 0, NaN for NaN, exactly 0 below the normal range. Range reduction x = k ln2 + r (Cody & Waite), |r| <=
// ln2/2, polynomials through the Chebyshev nodes of that interval: relative error 1e-8 (float) and 3e-17 (double)
// before rounding. Inlined always: a loop around a call is no vector code.
[[gnu::always_inline]] inline float exp_nonpositive(float x) {
  constexpr float kRound = 0x1.8p23f;  // adding it leaves the rounded integer in the low bits
  const float shifted = x * 0x1.715476p0f + kRound;
  const float k = shifted - kRound;
  float r = x - k * 0x1.63p-1f;  // ln2 in two parts; the first has so few bits that k times it is exact
  r = r - k * -2.12194440e-4f;
  float q = 0.001392618359f;
  q = q * r + 0.008363179053f;
  q = q * r + 0.04166655462f;
  q = q * r + 0.1666657699f;
  q = q * r + 0.5f;
  const float e = (q * r) * r + r + 1.0f;
  const float power = std::bit_cast<float>((std::bit_cast<uint32_t>(shifted) << 23) + 0x3f800000u);
  return x < -87.3f ? 0.0f : e * power;
}

// 2^k e^r for |r| <= ln2/2, where `shifted` is k + kDoubleRound.
constexpr double kDoubleRound = 0x1.8p52;  // adding it leaves the rounded integer in the low bits
[[gnu::always_inline]] inline double scaled_exp_near_zero(double shifted, double r) {
  double q = 2.509555467711111e-8;
  q = q * r + 2.7613806861538288e-7;
  q = q * r + 2.7557280067016980e-6;
  q = q * r + 2.4801536388690768e-5;
  q = q * r + 1.9841269854338611e-4;
  q = q * r + 1.3888888905881542e-3;
  q = q * r + 8.3333333333321557e-3;
  q = q * r + 4.1666666666651355e-2;
  q = q * r + 1.6666666666666667e-1;
  q = q * r + 0.5;
  const double e = (q * r) * r + r + 1.0;
  return e * std::bit_cast<double>((std::bit_cast<uint64_t>(shifted) << 52) + 0x3ff0000000000000u);
}

[[gnu::always_inline]] inline double exp_nonpositive(double x) {
  const double shifted = x * 0x1.71547652b82fep0 + kDoubleRound;
  const double k = shifted - kDoubleRound;
  double r = x - k * 0x1.62e42fee00000p-1;
  r = r - k * 1.9082149292705878e-10;
  const double power = scaled_exp_near_zero(shifted, r);
  return x < -708.0 ? 0.0 : power;
}

// 2^x, exact for integers; 0 below the normal range, infinite from 1023.5 on.
[[gnu::always_inline]] inline double exp2_of(double x) {
  const double shifted = x + kDoubleRound;
  const double power = scaled_exp_near_zero(shifted, (x - (shifted - kDoubleRound)) * 0.69314718055994530942);
  const double not_small = x < -1022.0 ? 0.0 : power;
  return x >= 1023.5 ? std::numeric_limits<double>::infinity() : not_small;
}

// log x of a positive, finite, normal x; some number for any other. x = 2^k m with m
// around 1, log m = 2 atanh(z), z = (m - 1) / (m + 1), |z| <= 0.172: the first term left out is below rounding.
template <class C>
C log_positive(C x) {
  using Bits = std::conditional_t<sizeof(C) == 4, int32_t, int64_t>;
  constexpr int kMantissa = std::numeric_limits<C>::digits - 1;
  constexpr Bits kRootHalf = std::bit_cast<Bits>(C(0.70710678118654752440));
  const Bits bits = std::bit_cast<Bits>(x), exponent = (bits - kRootHalf) >> kMantissa;
  const C m = std::bit_cast<C>(bits - (exponent << kMantissa));
  const C z = (m - 1) / (m + 1), z2 = z * z;
  constexpr int kTerms = sizeof(C) == 4 ? 5 : 10;
  C sum = 0;
#pragma GCC unroll 10
  for (int i = kTerms; i >= 1; --i) sum = (sum + C(1) / C(2 * i + 1)) * z2;
  return static_cast<C>(exponent) * C(0.69314718055994530942) + 2 * (z + z * sum);
}

// ---- loads and stores: a block of stored scores as C ----

inline void widen(const double* from, double* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = from[i];
}
inline void widen(const float* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = from[i];
}
inline void widen(const BFloat16* from, float* to, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = std::bit_cast<float>(static_cast<uint32_t>(from[i].bits) << 16);
}
inline float widen(Half h) {
  const uint32_t sign = static_cast<uint32_t>(h.bits & 0x8000) << 16, rest = h.bits & 0x7fff;
  if (rest >= 0x7c00) return std::bit_cast<float>(sign | 0x7f800000u | (rest << 13));  // inf, NaN
  // Exponent and mantissa in place, then the bias of 15 made 127 by a product, which also makes subnormals right.
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(std::bit_cast<float>(rest << 13) * 0x1p112f));
}
inline void widen(const Half* from, float* to, int64_t n) {
  int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= n; i += 8) {
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
  }
#endif
  for (; i < n; ++i) to[i] = widen(from[i]);
}

inline BFloat16 narrow_bfloat16(float x) {  // to nearest, ties to even
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return {static_cast<uint16_t>(x != x ? 0x7fc0 : rounded)};
}
inline Half narrow_half(float x) {  // to nearest, ties to even
  const uint32_t bits = std::bit_cast<uint32_t>(x), sign = (bits >> 16) & 0x8000;
  const float magnitude = std::bit_cast<float>(bits & 0x7fffffff);
  if (x != x) return {static_cast<uint16_t>(sign | 0x7e00)};
  if (magnitude >= 65520.0f) return {static_cast<uint16_t>(sign | 0x7c00)};
  if (magnitude < 0x1p-14f) {  // subnormal: adding 0.5 leaves the rounded multiple of 2^-24 in the low bits
    return {static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(magnitude + 0.5f) - 0x3f000000u))};
  }
  const uint32_t m = bits & 0x7fffffff;
  return {static_cast<uint16_t>(sign | ((m + 0xfff + ((m >> 13) & 1) - (112u << 23)) >> 13))};
}
inline void narrow(const double* from, double* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = from[i];
}
inline void narrow(const float* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = from[i];
}
inline void narrow(const float* from, BFloat16* to, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = narrow_bfloat16(from[i]);
}
inline void narrow(const float* from, Half* to, int64_t n) {
  int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= n; i += 8) {
    const __m128i half = _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), half);
  }
#endif
  for (; i < n; ++i) to[i] = narrow_half(from[i]);
}

// Scores [begin, begin + n) of a row as C, -inf where masked; `buffer` is used only where a copy is needed.
template <class S, class C>
const C* load_scores(const Rows& rows, int64_t row, int64_t begin, int64_t n, C* buffer) {
  const S* stored = static_cast<const S*>(rows.scores) + rows.scores_begin(row) + begin;
  if constexpr (std::is_same_v<S, C>) {
    if (!rows.mask) return stored;
  }
  widen(stored, buffer, n);
  if (rows.mask) {
    const bool* mask = rows.mask + rows.mask_begin(row) + begin;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) buffer[i] = mask[i] ? buffer[i] : kNegInf<C>;
  }
  return buffer;
}

// ---- one pass over a block ----

template <class C>
struct Top {
  C max;         // of what is no NaN
  int64_t real;  // how many are not -inf
};

template <class C>
Top<C> top_of(const C* s, int64_t n) {
  C max = kNegInf<C>, min = std::numeric_limits<C>::infinity();
#pragma omp simd reduction(max : max) reduction(min : min)
  for (int64_t i = 0; i < n; ++i) {
    max = s[i] > max ? s[i] : max;
    min = s[i] < min ? s[i] : min;
  }
  if (min > kNegInf<C>) return {max, n};
  int64_t real = 0;
#pragma omp simd reduction(+ : real)
  for (int64_t i = 0; i < n; ++i) real += s[i] != kNegInf<C>;
  return {max, real};
}

template <class C>
int64_t count_real(const C* s, int64_t n) {
  int64_t real = 0;
#pragma omp simd reduction(+ : real)
  for (int64_t i = 0; i < n; ++i) real += s[i] != kNegInf<C>;
  return real;
}

template <class C>
C sum_of(const C* x, int64_t n) {
  C sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += x[i];
  return sum;
}

// out[i] = f(in[i]) for an f that is many instructions long. The last few elements go through a full vector of their
// own: done one by one they would cost as much as a hundred others.
template <class C, class F>
void map_block(const C* in, int64_t n, C* out, F f) {
  constexpr int64_t kLanes = 64 / sizeof(C);
  const int64_t whole = n / kLanes * kLanes;
#pragma omp simd
  for (int64_t i = 0; i < whole; ++i) out[i] = f(in[i]);
  if (whole == n) return;
  C rest[kLanes] = {};
  for (int64_t i = whole; i < n; ++i) rest[i - whole] = in[i];
#pragma omp simd
  for (int64_t i = 0; i < kLanes; ++i) rest[i] = f(rest[i]);
  for (int64_t i = whole; i < n; ++i) out[i] = rest[i - whole];
}

// e^{(s - max) / temperature} of every score, 0 where s is -inf.
template <class C>
void exp_block(const C* s, int64_t n, C max, C inverse_temperature, C* e) {
  map_block(s, n, e, [=](C x) { return exp_nonpositive((x - max) * inverse_temperature); });
}

// factor * exp(...) + constant, exactly 0 where the passage takes no part even if the factor is NaN.
template <class C>
void scaled_exp_block(const C* s, int64_t n, C max, C inverse_temperature, C factor, C constant, C* out) {
  map_block(s, n, out, [=](C x) {
    const C e = factor * exp_nonpositive((x - max) * inverse_temperature) + constant;
    return x == kNegInf<C> ? C(0) : e;
  });
}

// x[i] = s[i] - max, 0 where the passage takes no part.
template <class C>
void shift_block(const C* s, int64_t n, C max, C* x) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) x[i] = s[i] == kNegInf<C> ? C(0) : s[i] - max;
}

// values[i] where the passage takes part, else 0.
template <class C>
void keep_real(const C* s, const C* values, int64_t n, C* kept) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) kept[i] = s[i] == kNegInf<C> ? C(0) : values[i];
}

// out[i] += factor * values[i] where the passage takes part.
template <class C>
void add_scaled(const C* s, const C* values, int64_t n, C factor, C* out) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) out[i] += s[i] == kNegInf<C> ? C(0) : factor * values[i];
}

template <class C>
C dot(const C* a, const C* b, int64_t n) {
  C sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// Sum of x log x, with 0 log 0 = 0.
template <class C>
C sum_x_log_x(const C* x, int64_t n) {
  C sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += x[i] * log_positive(x[i]);
  return sum;
}

template <bool kCounted, class C>
void add_one_by_one(const int32_t* level, const C* values, int64_t n, double* sum, double* count) {
  for (int64_t i = 0; i < n; ++i) {
    sum[level[i]] += values[i];
    if constexpr (kCounted) count[level[i]] += 1;
  }
}

// sum[level[i]] += values[i] and, where `count` is wanted, count[level[i]] += 1, for levels below kLevel..., with one
// vector register of sums a level: a sweep of its own for each level would wait for its one sum at every step.
template <bool kCounted, class C, int... kLevel>
void add_by_level(const int32_t* level, const C* values, int64_t n, double* sum, double* count,
                  std::integer_sequence<int, kLevel...>) {
  constexpr int kLanes = 64 / sizeof(C);
  using Index = std::conditional_t<sizeof(C) == 4, int32_t, int64_t>;
  typedef C Values __attribute__((vector_size(64)));
  typedef Index Indices __attribute__((vector_size(64)));
  typedef int32_t Stored __attribute__((vector_size(kLanes * sizeof(int32_t))));
  Values sums[] = {(static_cast<void>(kLevel), Values{})...};
  Indices counts[] = {(static_cast<void>(kLevel), Indices{})...};
  const int64_t whole = n / kLanes * kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) {
    Values some;
    Stored stored;
    std::memcpy(&some, values + i, sizeof some);
    std::memcpy(&stored, level + i, sizeof stored);
    const Indices levels = __builtin_convertvector(stored, Indices);
    ((sums[kLevel] += levels == kLevel ? some : Values{}), ...);
    if constexpr (kCounted) ((counts[kLevel] -= levels == kLevel), ...);  // a true comparison is -1
  }
  for (int l = 0; l < static_cast<int>(sizeof...(kLevel)); ++l) {
    C total = 0;
    Index passages = 0;
    for (int lane = 0; lane < kLanes; ++lane) {
      total += sums[l][lane];
      if constexpr (kCounted) passages += counts[l][lane];
    }
    sum[l] += total;
    if constexpr (kCounted) count[l] += passages;
  }
  add_one_by_one<kCounted>(level + whole, values + whole, n - whole, sum, count);
}

template <bool kCounted, class C>
void add_by_level(const int32_t* level, const C* values, int64_t n, int levels, double* sum, double* count) {
  if (n >= kFewPassages && levels <= 4) {
    return add_by_level<kCounted>(level, values, n, sum, count, std::make_integer_sequence<int, 4>{});
  }
  if (n >= kFewPassages && levels <= 8) {
    return add_by_level<kCounted>(level, values, n, sum, count, std::make_integer_sequence<int, 8>{});
  }
  add_one_by_one<kCounted>(level, values, n, sum, count);
}

// out[i] = factor[level[i]] * out[i] + constant[level[i]] for levels below kLevels, without a gather: a chain of
// selects is faster for few levels. Exactly 0 where the passage takes no part. Without kAffine every constant is 0.
template <bool kAffine, class C, int... kLevel>
void apply_by_level(const C* s, const int32_t* level, int64_t n, const C* factor, const C* constant, C* out,
                    std::integer_sequence<int, kLevel...>) {
  const C factors[] = {factor[kLevel]...};
  const C constants[] = {(kAffine ? constant[kLevel] : C(0))...};
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    C f = 0, b = 0;
    ((f = level[i] == kLevel ? factors[kLevel] : f), ...);
    if constexpr (kAffine) ((b = level[i] == kLevel ? constants[kLevel] : b), ...);
    out[i] = s[i] == kNegInf<C> ? C(0) : f * out[i] + b;
  }
}

template <bool kAffine, class C>
void apply_by_level(const C* s, const int32_t* level, int64_t n, int levels, const C* factor, const C* constant,
                    C* out) {
  if (levels <= 4) {
    return apply_by_level<kAffine>(s, level, n, factor, constant, out, std::make_integer_sequence<int, 4>{});
  }
  if (levels <= 8) {
    return apply_by_level<kAffine>(s, level, n, factor, constant, out, std::make_integer_sequence<int, 8>{});
  }
  for (int64_t i = 0; i < n; ++i) {
    const C value = factor[level[i]] * out[i] + (kAffine ? constant[level[i]] : C(0));
    out[i] = s[i] == kNegInf<C> ? C(0) : value;
  }
}

}  // namespace wassrank::cpu::WASSRANK_ISA
