// A binary search.
#pragma once

#include <cuda_runtime.h>

namespace wassrank::cuda {

// The first of [from, to) at which `reached` holds, as it then does at all behind; `to` if there is none.
template <class Reached>
__device__ int first_where(int from, int to, Reached reached) {
  while (from < to) {
    const int middle = from + (to - from) / 2;
    if (reached(middle)) {
      to = middle;
    } else {
      from = middle + 1;
    }
  }
  return from;
}

}  // namespace wassrank::cuda
