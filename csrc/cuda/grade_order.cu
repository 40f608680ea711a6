// The order of each row's values, a block a row: CUB's radix sort of (key, place), stable since it moves digit by
// digit.
//
// A block holds all of its row in registers, so rows are no longer than that (longest_order). Longer ones, and packed
// lists, whose lengths only the device knows, need a sort of several launches and a workspace: torch has one
// (wassrank/functional/grade_order.py), and an order is not wanted so often that a second would pay.
#include <cub/block/block_radix_sort.cuh>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/sort_key.h"
#include "cuda/intrinsics.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "cuda/shapes.cuh"
#include "cuda/types.cuh"

namespace wassrank::cuda {
namespace {

// Rows to be put in order, of float64, or of any other type, which is then brought to float as it is read. Strides are
// columns, or 0 for one row that all have.
struct OrderedRows {
  const void* values;
  int64_t stride;
  const bool* mask;  // false: as at infinity; null: all true
  int64_t mask_stride;
  Dtype dtype;
  int columns;
  int32_t* order;

  template <class C>
  __device__ C value(int64_t row, int column) const {
    if (mask && !mask[row * mask_stride + column]) return kInf<C>;
    const int64_t at = row * stride + column;
    if constexpr (sizeof(C) == 8) {
      return static_cast<const double*>(values)[at];
    } else {
      if (dtype == Dtype::float16) return widen(static_cast<const Half*>(values)[at]);
      if (dtype == Dtype::bfloat16) return widen(static_cast<const BFloat16*>(values)[at]);
      return static_cast<const float*>(values)[at];
    }
  }
};

// Thread t has the row's values from t * items on, and afterwards the places at ranks t, t + threads, ...
template <class C, int threads, int items>
__global__ void __launch_bounds__(threads) order_kernel(const OrderedRows rows) {
  using Key = decltype(sort_key(C{}));
  using Sort = cub::BlockRadixSort<Key, threads, items, int32_t>;
  auto& memory = *reinterpret_cast<typename Sort::TempStorage*>(dynamic_shared());
  const int columns = rows.columns;
  int32_t* const order = rows.order + static_cast<int64_t>(blockIdx.x) * columns;
  const int thread = static_cast<int>(threadIdx.x);
  Key key[items];
  int32_t place[items];
#pragma unroll
  for (int i = 0; i < items; ++i) {
    place[i] = thread * items + i;
    // What is beyond the row sorts as NaN and, being behind it, behind the row's own NaNs.
    key[i] = place[i] < columns ? sort_key(rows.value<C>(blockIdx.x, place[i])) : static_cast<Key>(-1);
  }
  Sort(memory).SortBlockedToStriped(key, place);
#pragma unroll
  for (int i = 0; i < items; ++i) {
    const int rank = i * threads + thread;
    if (rank < columns) order[rank] = place[i];
  }
}

// A launch of one size of block.
template <class C, int threads, int items>
struct Tier {
  static Shape shape(int64_t rows) {
    using Key = decltype(sort_key(C{}));
    return {
        {blocks_of(rows)}, {threads}, sizeof(typename cub::BlockRadixSort<Key, threads, items, int32_t>::TempStorage)};
  }
  static const char* run(const OrderedRows& rows, int64_t count, void* stream) {
    return launch(order_kernel<C, threads, items>, shape(count), stream, rows);
  }
};

// Calls body with the smallest tier that holds a row. A block's shared memory must hold its keys: 48 KiB.
template <class C, class Body>
auto with_tier(int64_t columns, Body body) {
  if (columns <= 128) return body(Tier<C, 32, 4>{});
  if (columns <= 1024) return body(Tier<C, 128, 8>{});
  if (columns <= 4096) return body(Tier<C, 256, 16>{});
  return body(Tier<C, longest_order(sizeof(C) == 8) / 16, 16>{});
}

// Calls body(tier) for rows there are, or returns `none`; the sizes are checked either way.
template <class Result, class Body>
Result with_form(bool is_double, int64_t rows, int64_t columns, Result none, Body body) {
  if (columns > longest_order(is_double)) {
    throw std::invalid_argument("rows of " + std::to_string(columns) + " values: CUDA's grade_order sorts up to " +
                                std::to_string(longest_order(is_double)));
  }
  if (rows == 0 || columns == 0) return none;
  return is_double ? with_tier<double>(columns, body) : with_tier<float>(columns, body);
}

const char* order(const OrderedRows& rows, int64_t count, int64_t columns, void* stream) {
  return with_form(rows.dtype == Dtype::float64, count, columns, static_cast<const char*>(nullptr),
                   [&](auto tier) { return tier.run(rows, count, stream); });
}

}  // namespace

// Bytes: a value read and a place written for each. Operations: a digit of 4 bits after the other, for each a count, a
// scan over the block and an exchange through shared memory, whose largest part are the keys: no other temporary.
const char* grade_order(const GradeOrder& args, void* stream) {
  const auto columns = static_cast<int>(args.columns);
  return order(
      {args.values, columns, nullptr, 0, args.is_double ? Dtype::float64 : Dtype::float32, columns, args.order},
      args.rows, args.columns, stream);
}

// The same and a flag for each where there is a mask.
const char* point_order(const PointRows& side, int64_t pairs, Dtype dtype, int32_t* places, void* stream) {
  const auto columns = static_cast<int>(side.columns);
  return order({side.values, side.values_shared ? 0 : columns, side.mask, side.mask_shared ? 0 : columns, dtype,
                columns, places},
               side.orders(pairs), side.columns, stream);
}

std::vector<Launch> grade_order_launches(bool is_double, int64_t rows, int64_t columns) {
  return with_form(is_double, rows, columns, std::vector<Launch>{},
                   [&](auto tier) { return std::vector<Launch>{{"order_kernel", tier.shape(rows)}}; });
}

}  // namespace wassrank::cuda
