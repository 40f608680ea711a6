// The order of each row's values: a stable sort of places.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "common/sort_key.h"
#include "common/sorted_rows.h"
#include "cpu/kernels.h"
#include "cpu/share.h"

namespace wassrank::cpu::WASSRANK_ISA {

// A value's key and its place. A float's fit one word, which is moved at once.
struct FloatEntry {
  using Key = uint32_t;
  uint64_t word;
  FloatEntry() = default;
  FloatEntry(float x, int64_t place) : word(static_cast<uint64_t>(sort_key(x)) << 32 | static_cast<uint32_t>(place)) {}
  Key key() const { return static_cast<Key>(word >> 32); }
  int32_t place() const { return static_cast<int32_t>(word); }
};
struct DoubleEntry {
  using Key = uint64_t;
  Key key_;
  int32_t place_;
  DoubleEntry() = default;
  DoubleEntry(double x, int64_t place) : key_(sort_key(x)), place_(static_cast<int32_t>(place)) {}
  Key key() const { return key_; }
  int32_t place() const { return place_; }
};

// Up to so many, comparing each with each is faster than a pass over a table of counts.
constexpr int64_t kMostRanked = 128;

// Stable; few steps where nearly all are in order. False if it gave up after `steps`, with some out of order still.
template <class Entry>
bool insert_in_order(std::vector<Entry>& entries, int64_t steps) {
  const int64_t n = entries.size();
  for (int64_t i = 1; i < n; ++i) {
    if (entries[i - 1].key() <= entries[i].key()) continue;
    const Entry entry = entries[i];
    int64_t at = i;
    for (; at > 0 && entries[at - 1].key() > entry.key(); --at) entries[at] = entries[at - 1];
    entries[at] = entry;
    if ((steps -= i - at) < 0) return false;
  }
  return true;
}

// Stable; each entry's rank is how many others come before it, counted for a vector of entries at a time.
template <class Entry>
void rank_sort(std::vector<Entry>& entries, std::vector<Entry>& other) {
  using Key = typename Entry::Key;
  typedef Key Keys __attribute__((vector_size(64)));
  constexpr int64_t kLanes = 64 / sizeof(Key);
  const int64_t n = entries.size();
  alignas(64) Key keys[kMostRanked + kLanes], ranks[kMostRanked + kLanes];
  for (int64_t i = 0; i < n; ++i) keys[i] = entries[i].key();
  std::fill(keys + n, keys + n + kLanes, Key{0});  // the last vector's rest
  Key sum = 0;
  for (int64_t block = 0; block < n; block += kLanes) {
    Keys own, before = {};
    std::memcpy(&own, keys + block, sizeof own);
    for (int64_t j = 0; j < n; ++j) before -= reinterpret_cast<Keys>(keys[j] < own);
    std::memcpy(ranks + block, &before, sizeof before);
  }
  for (int64_t i = 0; i < n; ++i) sum += ranks[i];
  if (sum != static_cast<Key>(n * (n - 1) / 2)) {  // some are equal
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < i; ++j) ranks[i] += keys[j] == keys[i];
    }
  }
  other.resize(n);
  for (int64_t i = 0; i < n; ++i) other[ranks[i]] = entries[i];
  entries.swap(other);
}

// Bits of the key that radix_sort leaves to the end: few entries have all the others in common.
constexpr int kLeastBits = 8;

// By the key's upper bits, digit after digit from the least significant; digits that all have in common are skipped.
template <int kDigitBits, class Entry>
void radix_sort(std::vector<Entry>& entries, std::vector<Entry>& other) {
  constexpr int kBits = 8 * sizeof(typename Entry::Key) - kLeastBits;
  constexpr int kDigits = (kBits + kDigitBits - 1) / kDigitBits;
  constexpr uint32_t kMask = (1u << kDigitBits) - 1;
  const auto digit = [](const Entry& entry, int d) {
    return static_cast<uint32_t>(entry.key() >> (kLeastBits + kDigitBits * d)) & kMask;
  };
  uint32_t counts[kDigits][kMask + 1] = {};
  for (const Entry& entry : entries) {
    for (int d = 0; d < kDigits; ++d) ++counts[d][digit(entry, d)];
  }
  other.resize(entries.size());
  for (int d = 0; d < kDigits; ++d) {
    uint32_t* count = counts[d];
    if (count[digit(entries[0], d)] == entries.size()) continue;
    uint32_t begin = 0;
    for (uint32_t i = 0; i <= kMask; ++i) begin += std::exchange(count[i], begin);
    for (const Entry& entry : entries) other[count[digit(entry, d)]++] = entry;
    entries.swap(other);
  }
}

// Stable.
template <class Entry>
void sort_entries(std::vector<Entry>& entries, std::vector<Entry>& other) {
  // Up to so many are inserted one by one; from so many on, fewer passes are worth 32 KiB of counts.
  constexpr int64_t kFew = 12, kMany = 4096;
  const int64_t n = entries.size();
  if (n > kFew && n <= kMostRanked) return rank_sort(entries, other);
  if (n > kFew) n < kMany ? radix_sort<8>(entries, other) : radix_sort<12>(entries, other);
  if (insert_in_order(entries, 4 * std::max<int64_t>(n, 1024))) return;
  // Many have their upper bits in common.
  std::stable_sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.key() < b.key(); });
}

// The places of `n` values in order, in `order`; the other two are room to work in.
template <class C, class Entry>
const int32_t* order_row(const C* values, int64_t n, std::vector<Entry>& entries, std::vector<Entry>& other,
                         std::vector<int32_t>& order) {
  entries.resize(n);
  for (int64_t i = 0; i < n; ++i) entries[i] = Entry(values[i], i);
  sort_entries(entries, other);
  order.resize(n);
  for (int64_t i = 0; i < n; ++i) order[i] = entries[i].place();
  return order.data();
}

template <class C, class Entry>
void order_rows(const GradeOrder& args, ParallelFor parallel_for) {
  const int64_t total = args.offsets ? args.columns : args.rows * args.columns;
  parallel_for(args.rows, rows_a_thread(total, args.rows), [&](int64_t first, int64_t last) {
    std::vector<Entry> entries, other;
    std::vector<int32_t> order;
    for (int64_t row = first; row < last; ++row) {
      const int64_t begin = args.offsets ? args.offsets[row] : row * args.columns;
      const int64_t n = args.offsets ? args.offsets[row + 1] - begin : args.columns;
      const C* const values = static_cast<const C*>(args.values) + begin;
      const int32_t* const found = order_row(values, n, entries, other, order);
      std::copy(found, found + n, args.order + begin);
    }
  });
}

}  // namespace wassrank::cpu::WASSRANK_ISA
