// Stands in for CUB's header on simt.h: the one collective csrc/cuda uses, its outcome and its barriers, not its way.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <numeric>

namespace cub {

template <class Key, int threads, int items, class Value>
class BlockRadixSort {
 public:
  struct TempStorage {
    Key keys[threads * items];
    Value values[threads * items];
    int order[threads * items];
  };

  explicit BlockRadixSort(TempStorage& memory) : memory_(memory) {}

  // Thread t brings items t * items ..., and gets those of ranks t, t + threads, ...
  void SortBlockedToStriped(Key (&key)[items], Value (&value)[items]) {
    const int thread = static_cast<int>(threadIdx.x);
    for (int i = 0; i < items; ++i) {
      memory_.keys[thread * items + i] = key[i];
      memory_.values[thread * items + i] = value[i];
    }
    __syncthreads();
    if (thread == 0) {
      int* const order = memory_.order;
      std::iota(order, order + threads * items, 0);
      std::stable_sort(order, order + threads * items,
                       [this](int a, int b) { return memory_.keys[a] < memory_.keys[b]; });
    }
    __syncthreads();
    for (int i = 0; i < items; ++i) {
      const int from = memory_.order[i * threads + thread];
      key[i] = memory_.keys[from];
      value[i] = memory_.values[from];
    }
  }

 private:
  TempStorage& memory_;
};

}  // namespace cub
