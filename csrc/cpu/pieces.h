// Which of a row's columns are its own passages, which of them is named as positive, and where its given target stands.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/rows.h"

namespace wassrank::cpu::WASSRANK_ISA {

// The row's own passages among columns [column, column + n), counted from `column`; before and behind them stand other
// queries'.
struct OwnPiece {
  int64_t begin, end;
};
inline OwnPiece own_piece(const Rows& rows, int64_t row, int64_t column, int64_t n) {
  return {std::clamp<int64_t>(rows.own_begin(row) - column, 0, n),
          std::clamp<int64_t>(rows.own_end(row) - column, 0, n)};
}

// The column of the row's named positive; -1 for none.
inline int64_t named_positive(const Rows& rows, const int64_t* positives, int64_t row) {
  const int64_t begin = rows.own_begin(row), own = rows.own_end(row) - begin;
  return positives && positives[row] >= 0 && positives[row] < own ? begin + positives[row] : -1;
}

// The given target from a column on: for `width` K only the row's own passages have one; null for others.
template <class C>
const C* target_at(const void* target, int64_t width, const Rows& rows, int64_t row, int64_t column) {
  const C* all = static_cast<const C*>(target);
  if (width == rows.N) return all + rows.begin(row) + column;
  const bool own = column >= rows.own_begin(row) && column < rows.own_end(row);
  return own ? all + row * width + column - rows.own_begin(row) : nullptr;
}

}  // namespace wassrank::cpu::WASSRANK_ISA
