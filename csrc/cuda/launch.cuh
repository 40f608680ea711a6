// How a kernel is launched. The only file with <<<>>>, which is no C++: tests/simt puts another in its place.
#pragma once

#include <cuda_runtime.h>

#include "cuda/kernels.h"

namespace wassrank::cuda {

// Queues kernel(args...) on `stream`; returns nullptr, or what went wrong in words.
template <class... Parameters, class... Args>
const char* launch(void (*kernel)(Parameters...), const Shape& shape, void* stream, const Args&... args) {
  const auto [grid, block, shared_bytes] = shape;
  kernel<<<dim3(grid.x, grid.y, grid.z), dim3(block.x, block.y, block.z), shared_bytes,
           static_cast<cudaStream_t>(stream)>>>(args...);
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace wassrank::cuda
