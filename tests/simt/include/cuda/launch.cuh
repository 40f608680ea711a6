// csrc/cuda/launch.cuh for simt.h.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

namespace wassrank::cuda {

struct Shape {
  dim3 grid, block;
  size_t shared_bytes = 0;
};

template <class... Parameters, class... Args>
const char* launch(void (*kernel)(Parameters...), const Shape& shape, void*, const Args&... args) {
  simt::run(kernel, shape.grid, shape.block, shape.shared_bytes, args...);
  return nullptr;
}

}  // namespace wassrank::cuda
