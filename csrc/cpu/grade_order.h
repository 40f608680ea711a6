// The order of each row's values: a stable sort of places.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "common/sort_key.h"
#include "common/sorted_rows.h"
#include "cpu/kernels.h"
#include "cpu/share.h"

namespace wassrank::cpu::WASSRANK_ISA {

template <class Key>
struct Entry {
  Key key;
  int32_t place;
};

// Stable: insertion for a few, else least significant byte first, bytes that all have in common skipped.
template <class Key>
void sort_entries(std::vector<Entry<Key>>& entries, std::vector<Entry<Key>>& other) {
  const size_t n = entries.size();
  constexpr size_t kFew = 32;
  if (n <= kFew) {
    for (size_t i = 1; i < n; ++i) {
      const Entry<Key> entry = entries[i];
      size_t at = i;
      for (; at > 0 && entries[at - 1].key > entry.key; --at) entries[at] = entries[at - 1];
      entries[at] = entry;
    }
    return;
  }
  constexpr int kBytes = sizeof(Key);
  uint32_t counts[kBytes][256] = {};
  for (const Entry<Key>& entry : entries) {
    for (int b = 0; b < kBytes; ++b) ++counts[b][entry.key >> (8 * b) & 0xff];
  }
  other.resize(n);
  for (int b = 0; b < kBytes; ++b) {
    uint32_t* count = counts[b];
    if (count[entries[0].key >> (8 * b) & 0xff] == n) continue;
    uint32_t begin = 0;
    for (int digit = 0; digit < 256; ++digit) begin += std::exchange(count[digit], begin);
    for (const Entry<Key>& entry : entries) other[count[entry.key >> (8 * b) & 0xff]++] = entry;
    entries.swap(other);
  }
}

template <class C>
void order_rows(const GradeOrder& args, ParallelFor parallel_for) {
  using Key = decltype(sort_key(C{}));
  const int64_t total = args.offsets ? args.columns : args.rows * args.columns;
  parallel_for(args.rows, rows_a_thread(total, args.rows), [&](int64_t first, int64_t last) {
    std::vector<Entry<Key>> entries, other;
    for (int64_t row = first; row < last; ++row) {
      const int64_t begin = args.offsets ? args.offsets[row] : row * args.columns;
      const int64_t n = args.offsets ? args.offsets[row + 1] - begin : args.columns;
      const C* const values = static_cast<const C*>(args.values) + begin;
      entries.resize(n);
      for (int64_t i = 0; i < n; ++i) entries[i] = {sort_key(values[i]), static_cast<int32_t>(i)};
      sort_entries(entries, other);
      for (int64_t i = 0; i < n; ++i) args.order[begin + i] = entries[i].place;
    }
  });
}

}  // namespace wassrank::cpu::WASSRANK_ISA
