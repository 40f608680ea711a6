// Vectors of double as wide as the instruction set's own: of wider ones the compiler keeps none in registers.
#pragma once

#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

#include "cpu/simd.h"

namespace wassrank::cpu::WASSRANK_ISA {

#if defined(__AVX512F__)
constexpr int64_t kLanes = 8;
#elif defined(__AVX__)
constexpr int64_t kLanes = 4;
#else
constexpr int64_t kLanes = 2;
#endif
typedef double Lanes __attribute__((vector_size(kLanes * sizeof(double))));

inline Lanes load_lanes(const double* from) {
  Lanes some;
  std::memcpy(&some, from, sizeof some);
  return some;
}
inline void store_lanes(const Lanes& some, double* to) { std::memcpy(to, &some, sizeof some); }

// Memory that begins where a cache line does: vectors then lie in one line each.
template <class T>
struct LineAllocator {
  using value_type = T;
  static constexpr std::align_val_t kLine{64};

  T* allocate(std::size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), kLine)); }
  void deallocate(T* from, std::size_t) { ::operator delete(from, kLine); }
  bool operator==(const LineAllocator&) const { return true; }
};
using AlignedDoubles = std::vector<double, LineAllocator<double>>;

}  // namespace wassrank::cpu::WASSRANK_ISA
