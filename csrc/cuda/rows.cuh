// A row of scores and what belongs to its columns: mask, grades, given target, the positive's place.
#pragma once

#include <cstdint>

#include "common/rows.h"
#include "cuda/columns.cuh"
#include "cuda/types.cuh"

namespace wassrank::cuda {

// Whether only columns whose levels the labels give are looked at.
__host__ __device__ inline bool all_are_own(const Rows& rows) { return rows.K == rows.N || rows.in_batch == kExcluded; }

// What memory holds for the columns in hand.
template <class T, class Hand>
struct Loaded {
  Run<T, Hand::width> piece[Hand::count];

  template <bool aligned = false>
  __device__ void load(const Hand& hand, const T* row, T otherwise) {
#pragma unroll
    for (int u = 0; u < Hand::count; ++u) {
      if (!hand.has(u)) {
        piece[u].fill(otherwise);
      } else if constexpr (aligned) {
        piece[u].load_aligned(row + hand.column(u));
      } else {
        piece[u].load(row + hand.column(u));
      }
    }
  }
};

// The passages in hand.
template <class C, class Hand>
struct Passages {
  C score[Hand::count][Hand::width];             // -inf: takes no part
  Run<uint8_t, Hand::width> level[Hand::count];  // rows.levels: the label is no grade
};

// Calls body(u, w, x[u][w]).
template <class C, int count, int width, class Body>
__device__ void for_each(const C (&x)[count][width], Body body) {
#pragma unroll
  for (int u = 0; u < count; ++u) {
#pragma unroll
    for (int w = 0; w < width; ++w) body(u, w, x[u][w]);
  }
}

template <class S>
struct Row {
  using C = Computing<S>;
  static constexpr int kWidth = 16 / sizeof(S);  // columns a slot
  // Slots a thread has in hand at a time. 32 bytes from each of 1024 threads hide an H200's memory latency (4.8 TB/s
  // times 0.7 us over 132 multiprocessors: 25 KB). With labels, which may take 64 bytes more, what the registers hold.
  static constexpr int kSlots = 2, kLabelledSlots = kWidth < 8 ? 2 : 1;

  const Rows& rows;
  int64_t begin;  // column n is element begin + n of scores, gradient and, if given to all, target
  const S* scores;
  const uint8_t* mask;  // null if there is none
  int64_t own_offset;   // labels and own passages' targets: column n's is at own_offset + n
  Columns own;
  int shift;  // columns from the 16-byte boundary at or before the row's start to that start

  __device__ Row(const Rows& rows, int64_t row)
      : rows(rows),
        begin(rows.begin(row)),
        scores(static_cast<const S*>(rows.scores) + begin),
        mask(rows.mask ? reinterpret_cast<const uint8_t*>(rows.mask) + rows.mask_begin(row) : nullptr),
        own_offset(rows.labels_begin(row) - rows.own_begin(row)),
        own{static_cast<int>(rows.own_begin(row)), static_cast<int>(rows.own_end(row))},
        shift(static_cast<int>(reinterpret_cast<uintptr_t>(scores) % 16 / sizeof(S))) {}

  __device__ Columns all() const { return rows.K == rows.N ? own : Columns{0, static_cast<int>(rows.N)}; }
  __device__ Stretch<kWidth> own_stretch() const { return {own, shift}; }
  __device__ StretchesAround<kWidth> other_stretches() const { return {all(), own, shift}; }

  template <class Hand>
  __device__ void load_scores(const Hand& hand, C (&score)[Hand::count][Hand::width]) const {
    Loaded<S, Hand> stored;
    Loaded<uint8_t, Hand> real;
    stored.template load<true>(hand, scores, negative_infinity<S>());  // slots are cut to the scores' alignment
    if (mask) real.load(hand, mask, 0);                                // before anything waits for the scores
    for_each(score, [&](int u, int w, C) { score[u][w] = widen(stored.piece[u], w); });
    if (mask) for_each(score, [&](int u, int w, C s) { score[u][w] = real.piece[u][w] ? s : -kInf<C>; });
  }

  template <class Hand>
  __device__ Passages<C, Hand> load_passages(const Hand& hand) const {  // without their levels
    Passages<C, Hand> passages;
    load_scores(hand, passages.score);
    return passages;
  }

  __device__ C score(int column) const {
    C score[1][1];
    load_scores(EdgeInHand{column, true}, score);
    return score[0][0];
  }

  // Of the row's own columns. Read as unsigned: a negative label is then too large to be a grade, as it should be.
  template <class Hand>
  __device__ void load_levels(const Hand& hand, Run<uint8_t, Hand::width> (&level)[Hand::count]) const {
    switch (rows.label_bytes) {
      case 8: return load_levels_of<uint64_t>(hand, level);
      case 4: return load_levels_of<uint32_t>(hand, level);
      case 2: return load_levels_of<uint16_t>(hand, level);
      default: return load_levels_of<uint8_t>(hand, level);
    }
  }

  // A passage's column from its place among the row's own; -1 if it is none of them.
  __device__ int own_column(int64_t place) const {
    return place >= 0 && place < own.end - own.begin ? own.begin + static_cast<int>(place) : -1;
  }

 private:
  template <class L, class Hand>
  __device__ void load_levels_of(const Hand& hand, Run<uint8_t, Hand::width> (&level)[Hand::count]) const {
    Loaded<L, Hand> label;
    label.load(hand, static_cast<const L*>(rows.labels) + own_offset, 0);
    const L end = static_cast<L>(rows.levels);
#pragma unroll
    for (int u = 0; u < Hand::count; ++u) {
      uint8_t clipped[Hand::width];
#pragma unroll
      for (int w = 0; w < Hand::width; ++w) {
        const L value = label.piece[u][w];
        clipped[w] = static_cast<uint8_t>(value < end ? value : end);
      }
      level[u].assign(clipped);
    }
  }
};

}  // namespace wassrank::cuda
