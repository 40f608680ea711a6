// csrc/cuda/launch.cuh for simt.h.
#pragma once

#include <cuda_runtime.h>

#include "cuda/kernels.h"

namespace wassrank::cuda {

template <class... Parameters, class... Args>
const char* launch(void (*kernel)(Parameters...), const Shape& shape, void*, const Args&... args) {
  const auto index = [](const Extent& of) { return simt::Index{of.x, of.y, of.z}; };
  simt::run(kernel, index(shape.grid), index(shape.block), shape.shared_bytes, args...);
  return nullptr;
}

}  // namespace wassrank::cuda
