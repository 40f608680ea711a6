// Labels of any integer type as levels.
#pragma once

#include <cstdint>

#include "common/rows.h"

namespace wassrank::cpu::WASSRANK_ISA {

// Calls body(labels) with the labels as a pointer to their type.
template <class Body>
inline __attribute__((always_inline)) auto with_labels(const Rows& rows, const Body& body) {
  switch (rows.label_bytes) {
    case 8: return body(static_cast<const int64_t*>(rows.labels));
    case 4: return body(static_cast<const int32_t*>(rows.labels));
    case 2: return body(static_cast<const int16_t*>(rows.labels));
    default:
      return rows.label_signed ? body(static_cast<const int8_t*>(rows.labels))
                               : body(static_cast<const uint8_t*>(rows.labels));
  }
}

// Where the label of one of a row's own passages stands.
inline int64_t label_place(const Rows& rows, int64_t row, int64_t column) {
  return rows.labels_begin(row) + column - rows.own_begin(row);
}

inline int64_t label_at(const Rows& rows, int64_t row, int64_t column) {
  return with_labels(rows, [&](auto labels) { return static_cast<int64_t>(labels[label_place(rows, row, column)]); });
}

// Levels of the row's own passages in columns [column, column + n), all of which the labels cover.
inline void load_levels(const Rows& rows, int64_t row, int64_t column, int64_t n, int32_t* level) {
  with_labels(rows, [&](auto labels) {
    const auto from = labels + label_place(rows, row, column);
    for (int64_t i = 0; i < n; ++i) {
      // Wide labels are clipped, not wrapped: 2^32 must not look like 0.
      if constexpr (sizeof(*from) == 8) {
        level[i] = static_cast<int32_t>(from[i] < -1 ? -1 : from[i] > kMaxLevels ? kMaxLevels : from[i]);
      } else {
        level[i] = static_cast<int32_t>(from[i]);
      }
    }
  });
}

}  // namespace wassrank::cpu::WASSRANK_ISA
