// How the scores of a batch are shared among threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/rows.h"
#include "cpu/kernels.h"

namespace wassrank::cpu::WASSRANK_ISA {

// Longer rows are cut into chunks of this size, wherever they lie, so that the bits of a result do not depend on the
// number of threads.
constexpr int64_t kChunk = 1 << 15;

// Scores a thread should get at least: below this, waking one costs more than it saves.
constexpr int64_t kGrainScores = 1 << 13;

// A row costs about as much beside its scores as this many scores do.
constexpr int64_t kRowScores = 128;

// Calls body(row, begin, end) for all rows' columns, chunk by chunk.
//
// Rows lie one behind the other on a line; a thread has an equal stretch of it and takes the chunks that begin there.
// So a few long rows are shared as evenly as many short ones, and neither costs a task for each.
template <class Body>
void for_each_chunk(const Rows& rows, ParallelFor parallel_for, Body body) {
  const auto place = [&](int64_t row) { return rows.begin(row) + row * kRowScores; };
  parallel_for(place(rows.Q), kGrainScores, [&](int64_t first, int64_t last) {
    int64_t row = 0;  // the row in which `first` lies
    for (int64_t above = rows.Q; above - row > 1;) {
      const int64_t middle = row + (above - row) / 2;
      (place(middle) <= first ? row : above) = middle;
    }
    for (; row < rows.Q && place(row) < last; ++row) {
      const int64_t columns = rows.columns(row), before = std::max<int64_t>(0, first - place(row));
      int64_t begin = (before + kChunk - 1) / kChunk * kChunk;
      // An empty row has one chunk too, an empty one.
      for (; (begin < columns || begin == 0) && place(row) + begin < last; begin += kChunk) {
        body(row, begin, std::min(begin + kChunk, columns));
      }
    }
  });
}

// Rows a thread should get at least, where each is computed whole.
inline int64_t rows_a_thread(int64_t scores, int64_t rows) {
  return std::max<int64_t>(1, kGrainScores * rows / std::max<int64_t>(1, scores));
}

}  // namespace wassrank::cpu::WASSRANK_ISA
