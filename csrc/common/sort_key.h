// Floats as unsigned integers that sort as the floats do.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/rows.h"

namespace wassrank {

// NaN of either sign behind everything, -0 as 0.
WASSRANK_HOST_DEVICE inline uint32_t sort_key(float x) {
  if (x != x) return ~0u;
  x += 0.0f;  // -0 as 0
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits >> 31 ? ~bits : bits | (1u << 31);
}
WASSRANK_HOST_DEVICE inline uint64_t sort_key(double x) {
  if (x != x) return ~0ull;
  x += 0.0;
  uint64_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits >> 63 ? ~bits : bits | (1ull << 63);
}

// And back.
WASSRANK_HOST_DEVICE inline float of_sort_key(uint32_t key) {
  const uint32_t bits = key >> 31 ? key & ~(1u << 31) : ~key;
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
WASSRANK_HOST_DEVICE inline double of_sort_key(uint64_t key) {
  const uint64_t bits = key >> 63 ? key & ~(1ull << 63) : ~key;
  double x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

}  // namespace wassrank
